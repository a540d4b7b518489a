"""Files are old or new, never half: also on a full disk, without permission and after a kill."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from binas.errors import UserError
from binas.run.files import atomic_path, sha256_of, sweep_temporaries, write_atomic


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB, where the test may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize(
    "data", ["été\n", b"\x00\xff", memoryview(b"abc"), ""], ids=["text", "bytes", "view", "empty"]
)
def test_written_whole(tmp_path: Path, data: str | bytes) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomic(path, "before")
    write_atomic(path, data)
    assert path.read_bytes() == (data.encode() if isinstance(data, str) else bytes(data))
    assert names(path.parent) == ["file"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    write_atomic(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    write_atomic(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


def test_an_error_in_the_block_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")
    with pytest.raises(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_error_of_another_file_is_not_blamed_on_this_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "file"):
        (tmp_path / "other").read_text()


def test_full_disk_keeps_the_old_file(small_disk: Path) -> None:
    path = small_disk / "file"
    write_atomic(path, b"o" * 100_000)
    with pytest.raises(UserError, match=r"file: cannot be written: No space left.*free some space"):
        write_atomic(path, b"n" * 200_000)
    assert path.read_bytes() == b"o" * 100_000
    assert names(small_disk) == ["file"]
    write_atomic(path, b"n" * 100_000)


def test_read_only_disk(small_disk: Path) -> None:
    write_atomic(small_disk / "file", "old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(
        UserError, match=r"file: cannot be written: Read-only file system; choose a folder on"
    ):
        write_atomic(small_disk / "file", "new")
    with pytest.raises(UserError, match="Read-only"):
        write_atomic(small_disk / "new" / "file", "new")
    assert (small_disk / "file").read_text() == "old"


def test_limit_on_file_size_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(UserError, match=r"File too large; .*ulimit"):
            write_atomic(path, b"n" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"inside: cannot be written: .*a part of this path is a file"):
        write_atomic(tmp_path / "file" / "inside", "x")
    with pytest.raises(UserError, match="is a folder"):
        write_atomic(tmp_path, "x")
    with pytest.raises(UserError, match="shorter name"):
        write_atomic(tmp_path / ("n" * 300), "x")
    with pytest.raises(UserError, match="not a regular file"):
        write_atomic("/dev/null", "x")
    assert not Path("/dev/null").is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match="change the folder's permissions"):
        write_atomic(tmp_path / "file", "x")


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256_of(tmp_path / "file").startswith("ba7816bf8f01cfea")
    with pytest.raises(UserError, match="missing: cannot be read: No such file"):
        sha256_of(tmp_path / "missing")


KILLED = """
import sys
from binas.run.files import write_atomic
for number in range(1_000_000):
    write_atomic(sys.argv[1], f"{number}\\n" * 40_000)
    print(number, flush=True)
"""


def test_killed_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for rounds in range(10):
        writer = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        for _ in range(rounds + 1):
            writer.stdout.readline()
        writer.kill()
        writer.communicate()
        lines = path.read_text().splitlines()
        assert len(lines) == 40_000
        assert len(set(lines)) == 1
    sweep_temporaries(tmp_path)
    assert names(tmp_path) == ["file"]
