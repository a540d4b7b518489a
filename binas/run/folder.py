"""The run folder: where a search or a retraining keeps its config, manifest, metrics and checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import torch

from binas.config import Config, dump, load, read_text
from binas.errors import UserError
from binas.run.files import TEMPORARY, cannot_write, sweep_temporaries, write_atomic
from binas.run.lock import LOCK_FILE, FolderLock
from binas.run.manifest import describe_process, describe_run, now
from binas.run.metrics import METRICS_FILE, TENSORBOARD_FOLDER

ConfigT = TypeVar("ConfigT", bound=Config)

FORMAT = "binas-run"
VERSION = 1
MANIFEST_FILE = "manifest.json"


class RunFolder:
    """A folder that this process alone writes to until `close`; use it in a `with` block.

    Made by `create`, `resume` or `follow`, never directly.
    """

    def __init__(self, path: Path, kind: str, lock: FolderLock | None) -> None:
        self.path = path
        self.kind = kind
        self._lock = lock

    @classmethod
    def create(cls, path: str | Path, kind: str, *, overwrite: bool = False) -> Self:
        """A new, empty run folder.

        Args:
            kind: what is run: "search" or "retrain".
            overwrite: empty a folder that binas made; never one that it did not.

        Raises:
            UserError: the folder exists already, is not ours, is in use, or cannot be made.
        """
        path = Path(path)
        _check_replaceable(path, overwrite)
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock = FolderLock(path)
        except OSError as error:
            raise cannot_write(path, error) from None
        try:
            _check_replaceable(path, overwrite)  # another process may have been faster
            _empty(path)
            folder = cls(path, kind, lock)
            folder._write_manifest({"format": FORMAT, "version": VERSION, "kind": kind})
        except BaseException:
            lock.release()
            raise
        return folder

    @classmethod
    def begin(
        cls,
        path: str | Path,
        kind: str,
        config: Config,
        *,
        seed: int,
        device: torch.device,
        splits: Mapping[str, str],
        plugins: Iterable[Mapping[str, Any]] = (),
        genotype: str | None = None,
        overwrite: bool = False,
        **more: Any,
    ) -> Self:
        """A new run folder with everything in it that going on needs; the configuration comes last.

        Args:
            path, kind, overwrite: as of `create`.
            config: the resolved recipe.
            genotype: what is trained, as JSON text; None where it is no genotype.
            seed, device, splits, plugins, more: as of `write_manifest`.
        """
        folder = cls.create(path, kind, overwrite=overwrite)
        if genotype is not None:
            write_atomic(folder.path / "genotype.json", genotype)
        folder.write_manifest(seed=seed, device=device, splits=splits, plugins=plugins, **more)
        folder.write_config(config)
        return folder

    @staticmethod
    def check_free(path: str | Path, *, overwrite: bool = False) -> None:
        """Raises what `create` would raise for a folder that exists, before anything is begun or emptied."""
        _check_replaceable(Path(path), overwrite)

    @classmethod
    def resume(cls, path: str | Path, kind: str) -> Self:
        """The run folder of an interrupted run; the manifest records that it was resumed.

        `checkpoint` may not exist yet, if the run was stopped early: such a run starts again.

        Raises:
            UserError: there is no run folder of that kind, or another process writes to it.
        """
        path = Path(path)
        _check_kind(path, kind)
        try:
            lock = FolderLock(path)
        except OSError as error:
            raise cannot_write(path, error) from None
        try:
            sweep_temporaries(path)
            folder = cls(path, kind, lock)
            manifest = folder.read_manifest()
            resumed = [*manifest.get("resumed", []), {"time": now(), **describe_process()}]
            folder._write_manifest({**manifest, "resumed": resumed})
        except BaseException:
            lock.release()
            raise
        return folder

    @classmethod
    def follow(cls, path: str | Path, kind: str, *, resumed: bool = False) -> Self:
        """The run folder that another rank writes to; here it is only read.

        Args:
            resumed: it must be there already.
        Raises:
            UserError: there is no run folder of that kind.
        """
        if resumed:
            _check_kind(Path(path), kind)
        return cls(Path(path), kind, None)

    @property
    def is_written_here(self) -> bool:
        """Whether this process writes to it, as every one does that is not a rank behind the first."""
        return self._lock is not None

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """Versions, machine, seed, data splits."""
        return self.path / MANIFEST_FILE

    @property
    def metrics(self) -> Path:
        """One JSON line a step."""
        return self.path / METRICS_FILE

    @property
    def checkpoint(self) -> Path:
        """The latest state to go on from."""
        return self.path / "checkpoint.pt"

    @property
    def best(self) -> Path:
        """The network of the best validation epoch, where a retraining keeps it."""
        return self.path / "best.pt"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / TENSORBOARD_FOLDER

    def write_config(self, config: Config) -> None:
        """Writes the resolved configuration."""
        if self.is_written_here:
            write_atomic(self.config, dump(config))

    def read_config(self, model: type[ConfigT]) -> ConfigT:
        """The configuration that the run was started with."""
        return load(model, self.config)

    def write_manifest(
        self,
        *,
        seed: int,
        device: torch.device,
        splits: Mapping[str, str] | None = None,
        plugins: Iterable[Mapping[str, Any]] = (),
        **more: Any,
    ) -> None:
        """Records what the run is made of; `more` takes any further JSON values."""
        about = describe_run(seed=seed, device=device, splits=splits, plugins=plugins)
        self._write_manifest({**self.read_manifest(), **about, **more})

    def add_to_manifest(self, **more: Any) -> None:
        """Adds JSON values to the manifest, such as the time when the run ended."""
        if self.is_written_here:
            self._write_manifest({**self.read_manifest(), **more})

    def read_manifest(self) -> dict[str, Any]:
        """The manifest as it stands."""
        return read_manifest(self.path)

    def close(self) -> None:
        """Lets other processes write to the folder."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        write_atomic(self.manifest, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def read_manifest(path: str | Path) -> dict[str, Any]:
    """The manifest of a run folder, with a clear error if the folder is not one."""
    file = Path(path) / MANIFEST_FILE
    try:
        manifest = json.loads(read_text(file))
    except (ValueError, RecursionError):
        raise UserError(f"{file}: is damaged: it is not JSON") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise UserError(f"{path}: is not a run folder of binas: {MANIFEST_FILE} is of another program")
    version = manifest.get("version")
    if type(version) is not int or version > VERSION:
        raise UserError(
            f"{file}: version {version!r} is newer than this binas reads ({VERSION}); update binas"
        )
    return manifest


def _check_kind(path: Path, kind: str) -> None:
    if not path.is_dir():
        raise UserError(f"{path}: no such run folder to resume; start a new run", hint="begin")
    if not (path / MANIFEST_FILE).is_file():
        raise UserError(f"{path}: is not a run folder of binas (it has no {MANIFEST_FILE})")
    found = read_manifest(path).get("kind")
    if found != kind:
        raise UserError(
            f"{path}: is the folder of a {found} run, not of a {kind} run; resume it as a {found}"
        )


def _check_replaceable(path: Path, overwrite: bool) -> None:
    """Lets pass what does not exist, what is empty, and with `overwrite` what binas made."""
    if not path.exists():
        return
    if not path.is_dir():
        raise UserError(f"{path}: is a file; choose another name for the run folder")
    try:
        if all(_is_leftover(entry) for entry in path.iterdir()):
            return
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not overwrite:
        raise UserError(
            f"{path}: exists already; resume it, overwrite it, or choose another name", hint="exists"
        )
    try:
        read_manifest(path)
    except UserError as error:
        raise UserError(
            f"{path}: was not made by binas, so it is not overwritten; choose another name ({error})"
        ) from None
    for other in path.glob(f"*/**/{MANIFEST_FILE}"):
        raise UserError(f"{path}: holds another run, {other.parent}; move it away or remove it first")


def _is_leftover(entry: Path) -> bool:
    return entry.name == LOCK_FILE or entry.name.endswith(TEMPORARY)


def _empty(path: Path) -> None:
    """Removes everything but the lock, the manifest last: a stop half-way leaves a folder of ours."""
    entries = [entry for entry in path.iterdir() if entry.name != LOCK_FILE]
    try:
        for entry in sorted(entries, key=lambda entry: entry.name == MANIFEST_FILE):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    except OSError as error:
        raise cannot_write(path, error) from None
