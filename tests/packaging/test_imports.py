"""The shape of the package: imports go one way and do no work, nothing is eval'd."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

import binas

PACKAGE = Path(binas.__file__).parent
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
ORDER = [
    "errors",
    "registry",
    "config",
    "plugins",
    "run",
    "binarize",
    "kernels",
    "ops",
    "arch",
    "models",
    "data",
    "engine",
    "profile",
    "draw",
    "train",
    "search",
    "evolve",
    "report",
    "deploy",
    "registries",
    "testing",
    "recipe",
    "cli",
    "__main__",
]
"""Rooms from the ground up; a module imports from its own room and from those before it."""
HEAVY = ("matplotlib", "sklearn", "skimage", "tensorboard", "torchvision", "networkx", "graphviz", "optuna")
PURE = [
    "arch.network",
    "arch.sample",
    "binarize",
    "ops",
    "ops.check",
    "config",
    "registry",
    "plugins",
    "data.config",
    "search.config",
    "evolve.config",
    "train.stage",
    "recipe",
    "cli.main",
    "cli.session",
]
"""Modules that every command needs, and that none of the heavy libraries may slow down."""


def name_of(path: Path) -> str:
    """`arch.cell` for binas/arch/cell.py, `arch` for its __init__.py, an empty word for the package's own."""
    parts = list(path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> list[tuple[int, str]]:
    """Line and room of everything that a module imports from the package, inside functions too."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import; write the whole name"
            module = node.module or ""
            names = [f"binas.{alias.name}" for alias in node.names] if module == "binas" else [module]
        found += [(node.lineno, name.split(".")[1]) for name in names if name.startswith("binas.")]
    return [(line, room) for line, room in found if not room.startswith("__version")]


def ids(path: Path) -> str:
    return name_of(path) or "binas"


def test_every_room_has_its_place() -> None:
    rooms = {name_of(path).split(".")[0] for path in MODULES} - {""}
    assert rooms <= set(ORDER), f"give {sorted(rooms - set(ORDER))} a place in ORDER and in DESIGN"
    assert {"binarize", "ops", "arch", "config"} <= rooms


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_imports_go_one_way(path: Path) -> None:
    room = name_of(path).split(".")[0]
    level = ORDER.index(room) if room else -1
    upward = [
        f"{path}:{line}: imports binas.{other}"
        for line, other in imported(path)
        if ORDER.index(other) > level
    ]
    assert not upward, f"{room} stands below:\n" + "\n".join(upward)


def test_an_upward_import_would_be_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        "import binas.cli\nfrom binas import __version__, search\n"
        "def f():\n    from binas.arch.cell import Cell\n    import torch\n"
    )
    assert imported(path) == [(1, "cli"), (2, "search"), (4, "arch")]


def forbidden(text: str) -> list[str]:
    """What could run what stands in a file: eval, exec, compile, pickle and its like, torch.load of all."""
    found = []
    for node in ast.walk(ast.parse(text)):
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
            if any(alias.name == "*" for alias in node.names):
                found.append(f"{node.lineno}: import *")
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("eval", "exec", "compile", "__import__"):
                found.append(f"{node.lineno}: {called}")
            only_tensors = any(
                k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords
            )
            if called == "torch.load" and not only_tensors:
                found.append(f"{node.lineno}: torch.load without weights_only=True")
            if called in ("yaml.unsafe_load", "yaml.full_load"):
                found.append(f"{node.lineno}: {called}")
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{node.lineno}: bare except")
        elif isinstance(node, ast.Global):
            found.append(f"{node.lineno}: global")
        roots = {module.split(".")[0] for module in modules}
        found += [
            f"{node.lineno}: {root}"
            for root in roots & {"pickle", "dill", "marshal", "shelve", "cloudpickle"}
        ]
    return found


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_nothing_that_stands_in_a_file_is_run(path: Path) -> None:
    assert forbidden(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')",
        "exec('1')",
        "import pickle",
        "from pickle import loads",
        "import dill as d",
        "torch.load('a')",
        "torch.load('a', weights_only=False)",
        "try:\n  f()\nexcept:\n  pass",
        "def f():\n  global a",
        "from os import *",
        "__import__('os')",
        "yaml.unsafe_load('')",
    ],
)
def test_a_forbidden_thing_would_be_seen(text: str) -> None:
    assert forbidden(text) != []


@pytest.mark.parametrize(
    "text", ["model.eval()", "ast.literal_eval('1')", "torch.load(p, weights_only=True)"]
)
def test_what_only_looks_forbidden_is_fine(text: str) -> None:
    assert forbidden(text) == []


@pytest.mark.parametrize("path", MODULES, ids=ids)
def test_every_module_says_what_it_is_and_owes_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree) or not tree.body, f"{path} has no docstring"
    comments = [t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type == tokenize.COMMENT]
    owed = [f"{path}:{t.start[0]}" for t in comments if any(w in t.string for w in ("TODO", "FIXME", "XXX"))]
    assert not owed


def top_level_work(text: str) -> list[str]:
    """Calls that a module makes while it is imported as statements of their own, other than registering."""
    calls = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            calls.append(ast.unparse(node.value.func))
        if isinstance(node, ast.With | ast.While | ast.Try):
            calls.append(type(node).__name__)
    return calls


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__main__.py"], ids=ids)
def test_importing_does_no_work(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    work = [c for c in top_level_work(text) if not c.rsplit(".", 1)[-1].startswith(("register", "add_"))]
    assert not work, f"{path}: at import it runs {work}"


def run_python(code: str, folder: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_loads_no_heavy_library_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Each of PURE in one fresh process, in an empty folder; random state and default type stay."""
    code = f"""
import importlib, random, sys
import torch
def state():
    kept = random.getstate(), torch.get_rng_state().tolist()
    return *kept, torch.get_default_dtype(), torch.get_num_threads()
before = state()
path = list(sys.path)
for name in {PURE!r}:
    importlib.import_module("binas." + name)
    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
    assert not loaded, (name, loaded)
assert before == state() and sys.path == path
"""
    assert run_python(code, tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_help_does_not_wait_for_torch(tmp_path: Path) -> None:
    heavy = ("torch", *HEAVY)
    code = f"import sys, binas.cli.main; print([name for name in {heavy!r} if name in sys.modules])"
    assert run_python(code, tmp_path) == "[]"
