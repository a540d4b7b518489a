"""What is too heavy for every change: slow tests, the oldest torch, other Pythons. `make ci-extra`.

    python tools/ci_extra.py [--only PART] [--row]

Each part runs whole, its result and its time are printed; with all parts a row with date and host is added
to `benchmarks/ci_extra.md`. A part that cannot be installed here is told as such, with the reason.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tools.measuring.measured import CHECKOUT, machine_words

TABLE = CHECKOUT / "benchmarks" / "ci_extra.md"
HEADER = """\
# What is run before a change is called done

`make ci-extra`: slow tests of the default environment, and the quick rooms with the oldest torch that is
supported and with other Pythons. A row a run.

| date | part | result | minutes | host |
| --- | --- | --- | --- | --- |
"""
ROOMS = [
    "tests/arch",
    "tests/binarize",
    "tests/kernels",
    "tests/ops",
    "tests/engine",
    "tests/search",
    "tests/run",
]
"""What another torch or Python can break; the commands run there too."""
OTHERS = [*ROOMS, "tests/commands/test_cli.py", "tests/packaging/test_imports.py"]


def pytest(python: Path, *options: str) -> str:
    """The last line of a test run."""
    command = [str(python), "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", *options]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    print("\n".join(failed), flush=True)
    return (lines or [done.stderr.strip()[-200:]])[-1].strip("= ")


def slow() -> str:
    """The tests marked slow."""
    return pytest(Path(sys.executable), "-m", "slow")


def in_environment(name: str, python: str, *packages: str) -> str:
    """The quick rooms in an environment of their own, `.venv-NAME`, which is removed afterwards."""
    found = shutil.which(python)
    if found is None:
        return f"not run: no {python} here"
    folder = CHECKOUT / f".venv-{name}"
    own = folder / "bin" / "python"
    try:
        made = subprocess.run([found, "-m", "venv", str(folder)], capture_output=True)
        if made.returncode:
            return f"not run: {python} is here in name only"
        install = [str(own), "-m", "pip", "install", "--quiet", "--editable", ".[dev]", *packages]
        done = subprocess.run(install, cwd=CHECKOUT, capture_output=True, text=True)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return f"not run: cannot be installed: {(errors or ['?'])[0].removeprefix('ERROR: ')[:150]}"
        versions = "import sys, torch; print('Python', sys.version.split()[0] + ', torch', torch.__version__)"
        told = subprocess.run([str(own), "-c", versions], capture_output=True, text=True).stdout.strip()
        return f"{pytest(own, *OTHERS)} ({told})"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def oldest_torch() -> str:
    """The oldest torch that is supported, on the oldest Python."""
    return in_environment("oldest", "python3.11", "torch==2.11.*", "torchvision==0.26.*")


def python_313() -> str:
    """The newest Python that all dependencies have wheels for."""
    return in_environment("313", "python3.13")


PARTS: dict[str, Callable[[], str]] = {"slow": slow, "oldest torch": oldest_torch, "python 3.13": python_313}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="a part; may be repeated")
    parser.add_argument("--row", action="store_true", help="add rows for --only too")
    args = parser.parse_args()
    today = datetime.date.today().isoformat()
    status = 0
    for name in args.only or PARTS:
        print(f"{name} …", flush=True)
        begun = time.monotonic()
        result = PARTS[name]()
        minutes = (time.monotonic() - begun) / 60
        print(f"{name}: {result}, {minutes:.1f} min", flush=True)
        status |= "failed" in result or "error" in result
        if args.row or not args.only:
            text = TABLE.read_text(encoding="utf-8") if TABLE.exists() else HEADER
            row = f"| {today} | {name} | {result} | {minutes:.1f} | {machine_words()} |\n"
            TABLE.write_text(text + row, encoding="utf-8")
    return status


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
