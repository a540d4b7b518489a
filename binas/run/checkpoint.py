"""Checkpoints: one file of plain values and tensors, the structure first, then the state.

The structure (cells, operations left per edge) says what to build; the state is then loaded into it
strictly. Nothing in the file can run code when it is read.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import torch

from binas.errors import UserError
from binas.run.files import write_atomic

FORMAT = "binas-checkpoint"
VERSION = 1
_FIELDS = ("format", "version", "kind", "structure", "state")
_ZIP_MAGIC = b"PK\x03\x04"


class Checkpoint(NamedTuple):
    """What a checkpoint file holds: what it is of, what to build, what to load into it."""

    kind: str
    structure: dict[str, Any]
    state: dict[str, Any]


def save_checkpoint(path: str | Path, kind: str, structure: dict[str, Any], state: dict[str, Any]) -> None:
    """Writes a checkpoint in place of the one before, which stays whole if the disk refuses.

    Raises:
        TypeError: a value is neither plain nor a tensor; names its place.
        UserError: the file cannot be written.
    """
    document = {
        "format": FORMAT,
        "version": VERSION,
        "kind": kind,
        "structure": plain(structure, "structure"),
        "state": plain(state, "state"),
    }
    # through memory, because torch turns a full disk into an error that has lost its reason
    buffer = io.BytesIO()
    torch.save(document, buffer)
    write_atomic(path, buffer.getbuffer())


def load_checkpoint(path: str | Path, kind: str | None = None) -> Checkpoint:
    """The checkpoint in a file, its tensors on the CPU.

    Args:
        kind: what it must be of, "search" for example; None takes any.

    Raises:
        UserError: the file is missing, cut off, of another program, kind or newer version, or holds
            anything but plain values and tensors.
    """
    document = _read(Path(path))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(f"{path}: is not a binas checkpoint; give the checkpoint.pt of a run folder")
    version = document.get("version")
    if type(version) is int and version > VERSION:
        raise UserError(
            f"{path}: was written by a newer binas (checkpoint version {version}, this one reads up to"
            f" {VERSION}); update binas"
        )
    types = [type(document.get(field)) for field in _FIELDS]
    if version != VERSION or tuple(document) != _FIELDS or types != [str, int, str, dict, dict]:
        raise UserError(f"{path}: is damaged: it lacks parts of a binas checkpoint; train again")
    try:
        checkpoint = Checkpoint(
            document["kind"], plain(document["structure"], "structure"), plain(document["state"], "state")
        )
    except TypeError as error:
        raise UserError(f"{path}: is not a binas checkpoint: {error}") from None
    if kind is not None and checkpoint.kind != kind:
        raise UserError(
            f"{path}: is the checkpoint of a {checkpoint.kind}, not of a {kind};"
            f" give the checkpoint.pt of a {kind} run"
        )
    return checkpoint


def plain(value: Any, where: str = "checkpoint") -> Any:
    """A copy of nested dicts and lists, tensors detached; anything else in them is a `TypeError`."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, torch.Tensor):
        return _plain_tensor(value, where)
    if type(value) is list:
        return [plain(item, f"{where}.{position}") for position, item in enumerate(value)]
    if isinstance(value, dict):  # a state_dict is an OrderedDict
        for key in value:
            if type(key) is not str:
                raise TypeError(f"{where}: key {key!r} is not a str")
        return {key: plain(item, f"{where}.{key}") for key, item in value.items()}
    raise TypeError(f"{where}: a {type(value).__name__} is neither a plain value nor a tensor")


def _plain_tensor(value: torch.Tensor, where: str) -> torch.Tensor:
    if type(value) not in (torch.Tensor, torch.nn.Parameter):
        raise TypeError(f"{where}: a {type(value).__name__} is not a plain tensor")
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise TypeError(f"{where}: a sparse, quantized or meta tensor is not a plain tensor")
    tensor = value.detach()
    # the whole storage would be written for a small view of a large tensor
    is_view = tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()
    return tensor.clone() if is_view else tensor


def _read(path: Path) -> Any:
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; give the checkpoint.pt in it") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; give the checkpoint.pt of a run folder") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    if not content:
        raise UserError(f"{path}: is cut off: it is empty; copy it again or train again")
    if not content.startswith(_ZIP_MAGIC[: len(content)]):
        raise UserError(f"{path}: is not a binas checkpoint; give the checkpoint.pt of a run folder")
    if not _is_whole(content):
        raise UserError(f"{path}: is cut off or damaged; copy it again or train again")
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types for a file that others have made
        raise UserError(
            f"{path}: holds something other than plain values and tensors ({type(error).__name__}); it was"
            " not loaded, as it may be hostile"
        ) from None


def _is_whole(content: bytes) -> bool:
    """Whether every part of the archive has the checksum that was written with it."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.testzip() is None
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError):
        return False
