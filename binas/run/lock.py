"""A lock on a folder that one process holds while it writes there, and that dies with the process."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from binas.errors import UserError

LOCK_FILE = ".lock"
_HELD = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class FolderLock:
    """Holds the lock of a folder from its creation until `release` or the end of the process.

    It is a POSIX record lock: worker processes do not inherit it, so a killed run can be resumed while
    its workers are still going down. A file system without locks is used without one.

    Raises:
        UserError: another process holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        import fcntl  # POSIX only; the rest of the package loads without it

        self._descriptor: int | None = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _NO_LOCKS_HERE:
                return
            owner = os.read(self._descriptor, 32).decode(errors="replace").strip()
            self.release()
            if error.errno not in _HELD:
                raise
            raise UserError(
                f"{folder}: is being written by another process{f' ({owner})' if owner else ''};"
                " wait for it, stop it, or choose another run folder"
            ) from None
        os.truncate(self._descriptor, 0)
        os.write(self._descriptor, f"process {os.getpid()}\n".encode())

    def release(self) -> None:
        """Lets another process write; releasing twice does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
