"""Files that are either old or new, never half: written aside, flushed to the disk, then moved in place.

Whatever the disk refuses (full, read-only, not permitted) is told with the path and the remedy, and the
file that was there before stays as it was.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from binas.errors import UserError

TEMPORARY = ".binas-tmp"

_REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder, then resume the run",
    errno.EDQUOT: "free some of your quota or choose another folder, then resume the run",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f) or choose another folder",
    errno.EROFS: "choose a folder on a disk that can be written to",
    errno.EACCES: "change the folder's permissions or choose a folder of your own",
    errno.EPERM: "change the folder's permissions or choose a folder of your own",
    errno.ENOTDIR: "a part of this path is a file; choose another path",
    errno.EEXIST: "a part of this path is a file; choose another path",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def cannot_write(path: Path, error: OSError) -> UserError:
    """The user's version of what the operating system said when it refused to write `path`."""
    reason = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "check the disk or choose another folder")
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return UserError(f"{path}: cannot be written: {reason}; {remedy}", hint="resume" if is_full else "")


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` that takes its place when the block ends without an error.

    Missing folders are made. A link is followed, so that the file behind it is replaced.

    Raises:
        UserError: `path` cannot be written; nothing has changed.
    """
    path = Path(path)
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}{TEMPORARY}")
    try:
        _check_target(path, target)
        target.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)) in (
            temporary,
            target,
            *target.parents,
        ):
            raise cannot_write(path, error) from None
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()
    with suppress(OSError):  # some file systems refuse to flush a folder; the file itself is safe
        _flush(target.parent)


def write_atomic(path: str | Path, data: str | bytes | memoryview) -> None:
    """Replaces the content of a file as a whole; text is written as UTF-8."""
    content = data.encode() if isinstance(data, str) else data
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


class AppendedFile:
    """A file that grows by whole pieces: one that does not fit on the disk leaves nothing behind."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise cannot_write(path, error) from None

    def append(self, piece: bytes) -> None:
        """Hands a piece to the operating system, so that it survives the end of this process."""
        end = self._file.seek(0, os.SEEK_END)
        try:
            written = self._file.write(piece)
            while written < len(piece):  # a full disk takes what fits; the next write says why
                written += self._file.write(piece[written:])
        except OSError as error:
            self._file.truncate(end)
            raise cannot_write(self.path, error) from None

    def sync(self) -> None:
        """Waits until everything is on the disk, where it survives the end of the machine."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise cannot_write(self.path, error) from None

    def close(self) -> None:
        """Closes the file; closing twice does nothing."""
        self._file.close()


def picture_ending(path: Path, endings: Sequence[str]) -> str:
    """The ending of a picture's file name, in lower case.

    Raises:
        UserError: it is none of `endings`.
    """
    ending = path.suffix.removeprefix(".").lower()
    if ending not in endings:
        raise UserError(f"{path}: cannot draw '{path.suffix}'; end the name in .{', .'.join(endings)}")
    return ending


def sweep_temporaries(folder: Path) -> None:
    """Removes what writers that were killed have left in a folder; the caller holds its lock."""
    for left in folder.rglob(f".*{TEMPORARY}"):
        with suppress(OSError):
            left.unlink()


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's content, as hexadecimal digits."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _check_target(path: Path, target: Path) -> None:
    # moving a file onto a device such as /dev/null would replace the device itself
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: is a folder; name a file")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is not a regular file; name a file in a folder")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
