"""Where a population lies: a journal file for the workers of one host, PostgreSQL for those of several.

Both come with a lock that one worker holds while it takes or finishes a candidate, and that dies with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from binas.errors import UserError
from binas.run.files import cannot_write

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

SCHEMES = ("postgresql", "postgres")
Lock = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class SharedStorage:
    """A storage and its lock.

    Args:
        storage: Optuna's.
        lock: called, gives a context in which no other worker is inside the same.
        words: where it lies, without a password.
        dispose: ends its connections.
    """

    storage: BaseStorage
    lock: Lock
    words: str
    dispose: Callable[[], None] = lambda: None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.dispose()


def open_storage(where: str | Path, study: str) -> SharedStorage:
    """The storage at a path, or behind a `postgresql://user:password@host/database`.

    Args:
        study: the name that the lock is for.
    Raises:
        UserError: it cannot be reached or written, or is of another kind.
    """
    text = str(where)
    scheme = text.partition("://")[0].partition("+")[0] if "://" in text else ""
    if scheme in SCHEMES:
        return _postgresql(text, study)
    if scheme:
        raise UserError(
            f"storage {without_password(text)}: '{scheme}' is not known; give the path of a file for the"
            " workers of one machine, or postgresql://user:password@host/database",
            hint="storage",
        )
    return _journal(Path(text))


def without_password(url: str) -> str:
    """A URL that may be printed."""
    return re.sub(r"(://[^/@:]*):.*@", r"\1:***@", url)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Waits for, then holds the lock of a file made for it; the kernel frees it when a process ends."""
    import fcntl  # POSIX only; the rest of the package loads without it

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        # of the descriptor, not of the process: the threads of a worker keep each other out as well
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _journal(path: Path) -> SharedStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class WriteLock(JournalFileOpenLock):
        """Around each line of the journal; Optuna's own leave a file behind when a worker is killed."""

        def __init__(self) -> None:
            super().__init__(str(path))
            self._held: AbstractContextManager[None] | None = None

        def acquire(self) -> bool:
            held = file_lock(path.with_name(f"{path.name}.write"))
            held.__enter__()
            self._held = held
            return True

        def release(self) -> None:
            held, self._held = self._held, None
            assert held is not None
            held.__exit__(None, None, None)

    def lock() -> AbstractContextManager[None]:
        return file_lock(path.with_name(f"{path.name}.lock"))

    with lock():
        cut_torn_line(path)
        try:
            storage = JournalStorage(JournalFileBackend(str(path), lock_obj=WriteLock()))
        except OSError as error:
            raise cannot_write(path, error) from None
        except (ValueError, KeyError, TypeError, AssertionError):
            raise UserError(
                f"storage {path}: is not a journal of an evolution; name another file", hint="storage"
            ) from None
    return SharedStorage(storage, lock, str(path))


def cut_torn_line(path: Path) -> None:
    """Removes a last line that a killed worker did not finish: the journal is read line by line."""
    if not path.exists():
        return
    with file_lock(path.with_name(f"{path.name}.write")):
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole != len(content):
            os.truncate(path, whole)


def _postgresql(url: str, study: str) -> SharedStorage:
    try:
        import psycopg
    except ImportError:
        raise UserError(
            "storage postgresql://…: needs the package psycopg; install it: pip install 'binas[postgresql]'"
        ) from None
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import SQLAlchemyError

    words = without_password(url)
    rest = url.partition("://")[2]

    def refused(error: Exception) -> UserError:
        reason = " ".join(str(getattr(error, "orig", error)).split())
        return UserError(f"storage {words}: cannot be used: {reason}; check server, database and password")

    @contextmanager
    def lock() -> Iterator[None]:
        # a connection of its own: the server frees the lock when the connection ends, however it ends
        options: dict[str, Any] = {"connect_timeout": 30, "keepalives_idle": 20, "keepalives_interval": 5}
        try:
            connection = psycopg.connect(f"postgresql://{rest}", autocommit=True, **options)
        except psycopg.Error as error:
            raise refused(error) from None
        with connection:
            connection.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (f"binas:{study}",))
            yield

    with lock():
        try:
            # long waits between two candidates: a connection is tried before it is used
            storage = RDBStorage(f"postgresql+psycopg://{rest}", engine_kwargs={"pool_pre_ping": True})
        except SQLAlchemyError as error:
            raise refused(error) from None

    def dispose() -> None:
        storage.remove_session()
        storage.engine.dispose()

    return SharedStorage(storage, lock, words, dispose)
