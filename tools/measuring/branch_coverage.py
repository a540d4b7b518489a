"""Branches of binas that the default tests run, subprocesses included: a line a room, and one for all.

    make coverage            # or: python tools/measuring/branch_coverage.py [pytest's options]

Loops that numba compiles are not seen; they are left out (their oracles compare results).
Writes `.coverage.json` beside the checkout's `pyproject.toml` and prints the table.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = """\
[run]
branch = true
parallel = true
source_pkgs = binas
patch = subprocess
omit = */loops.py
       */vector_loops.py
       */images_last_loops.py
[paths]
source = binas
         */binas
"""


def main() -> int:
    settings = ROOT / ".coveragerc-measuring"
    settings.write_text(SETTINGS, encoding="utf-8")
    chosen = [f"--rcfile={settings}"]
    coverage = [sys.executable, "-m", "coverage"]
    options = sys.argv[1:] or ["-n", "2", "--dist", "worksteal"]
    try:
        for old in ROOT.glob(".coverage.*"):
            old.unlink()
        run = [*coverage, "run", *chosen, "-m", "pytest", "-q", *options]
        status = subprocess.run(
            run, cwd=ROOT, env={**os.environ, "COVERAGE_RCFILE": str(settings)}
        ).returncode
        subprocess.run([*coverage, "combine", "-q", *chosen], cwd=ROOT, check=True)
        subprocess.run([*coverage, "json", "-q", *chosen, "-o", ".coverage.json"], cwd=ROOT, check=True)
    finally:
        settings.unlink()
    report = json.loads((ROOT / ".coverage.json").read_text(encoding="utf-8"))
    print(table(report))
    return status


def table(report: dict[str, dict[str, dict[str, dict[str, int]]]]) -> str:
    """A line a room: branches there are, branches run, share."""
    found: Counter[str] = Counter()
    run: Counter[str] = Counter()
    for file, about in report["files"].items():
        parts = Path(file).parts
        room = parts[parts.index("binas") + 1].removesuffix(".py")
        for key in (room, "all"):
            found[key] += about["summary"]["num_branches"]
            run[key] += about["summary"]["covered_branches"]
    rooms = [*sorted(key for key in found if key != "all"), "all"]
    return "\n".join(
        f"{key:12} {run[key]:6}/{found[key]:6} {run[key] / max(found[key], 1):6.1%}" for key in rooms
    )


if __name__ == "__main__":
    sys.exit(main())
