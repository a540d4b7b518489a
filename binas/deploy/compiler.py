"""The C compiler of this machine, and compiled programs kept by what they were made of."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from binas.deploy.c.emit import Program
from binas.errors import UserError

FLAGS = (
    "-O3",
    "-std=c99",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-strict-aliasing",
    "-shared",
    "-fPIC",
)


def find_compiler() -> list[str] | None:
    """The words that call a C compiler: $CC, `cc`, `gcc`, `clang`, or that of the package ziglang."""
    own = os.environ.get("CC", "").split()
    for words in (own, ["cc"], ["gcc"], ["clang"]):
        if words and shutil.which(words[0]):
            return words
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    return None


def cache_folder() -> Path:
    """Where compiled programs are kept: $BINAS_CACHE, or `binas` in the user's folder of caches."""
    if own := os.environ.get("BINAS_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "binas"


def compiled(program: Program, *, arch: str = "-march=native", defines: tuple[str, ...] = ()) -> Path:
    """The shared library of a program, compiled once for each kind of processor.

    Args:
        arch: the compiler's word for the processor; empty: the portable program.
        defines: names that the source asks for, BINAS_PROFILE say.
    Raises:
        UserError: there is no compiler, or it fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise UserError(
            "deploy: no C compiler: install one, or pip install 'binas[deploy]', which brings one"
        )
    command = [*compiler, *FLAGS, *([arch] if arch else []), *(f"-D{name}" for name in defines)]
    key = hashlib.sha256()
    for part in (program.source, " ".join(command), _processor()):
        key.update(part.encode())
    folder = cache_folder()
    library = folder / f"{key.hexdigest()[:24]}.so"
    if library.exists():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as own:
            source = Path(own) / "model.c"
            source.write_text(program.source, encoding="utf-8")
            (Path(own) / "model.h").write_text(program.header, encoding="utf-8")
            made = Path(own) / "model.so"
            done = subprocess.run(
                [*command, "-o", str(made), str(source), "-lm", "-lpthread"], capture_output=True, text=True
            )
            if done.returncode:
                words = next(
                    (line for line in done.stderr.splitlines() if "error" in line), done.stderr[:200]
                )
                raise UserError(f"deploy: {compiler[0]} cannot compile the program: {words}")
            made.replace(library)
    except OSError as error:
        raise UserError(
            f"deploy: {folder}: compiled programs cannot be kept there ({error.strerror}); set BINAS_CACHE to"
            " a folder that can be written"
        ) from None
    return library


def _processor() -> str:
    """What `-march=native` stands for here."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    wanted = ("model name", "flags", "Features")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
