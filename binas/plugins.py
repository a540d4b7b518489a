"""Loading of users' own files: operations and other entries that live outside the package.

A file is loaded only when the user names it (in a call, on the command line, or by `plugins:` in the user's
own config) or an installed package announces it as an entry point of the group `binas`. A name that stands
in a genotype or checkpoint is never imported: it is held against what the user has named.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import Field

from binas.config import Config
from binas.errors import UserError
from binas.registry import Registry

ENTRY_POINTS = "binas"
PREFIX = "binas_plugin_"
"""Begins the names of the modules that users' files become."""
RECORD = "__binas_record__"
"""The attribute of such a module that holds what was registered when it was loaded."""


class PluginRecord(Config):
    """A plug-in file that a genotype or checkpoint needs: its name, its hash, what it registers."""

    file: str
    """Name of the file, without its folder: a path in a data file is never imported."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Hash of the file's content."""
    operations: tuple[str, ...] = ()
    """Names that it registers."""


def load_plugins(
    files: Iterable[str | Path], registries: Sequence[Registry[Any]]
) -> tuple[PluginRecord, ...]:
    """The records of the named files and of installed entry points, loaded into the registries."""
    records = [load_plugin(Path(file), registries)[1] for file in dict.fromkeys(map(str, files))]
    for entry_point in metadata.entry_points(group=ENTRY_POINTS):
        origin = f"entry point {entry_point.name} of {entry_point.dist.name if entry_point.dist else '?'}"
        known = [name for registry in registries for name in registry.names_from(origin)]
        with contextlib.ExitStack() as stack:
            if not known:
                for registry in registries:
                    stack.enter_context(registry.loading_from(origin))
            module = _guarded(entry_point.load, origin)
        file = getattr(sys.modules[getattr(module, "__module__", None) or module.__name__], "__file__", None)
        if file:
            records.append(_record(Path(file), origin, registries))
    return tuple(records)


def load_plugin(file: Path, registries: Sequence[Registry[Any]]) -> tuple[ModuleType, PluginRecord]:
    """The module of a user's file and its record; what it registered before is forgotten first.

    A file that has not changed since it was loaded is not run again.

    Raises:
        UserError: the file is missing or raises while it is loaded; names the file and the line.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such plug-in file; give the path of your own file", hint="plugins")
    origin = str(file.resolve())
    name = f"{PREFIX}{hashlib.sha256(origin.encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file}: is not a Python file; a plug-in's name ends with .py")
    known = sys.modules.get(name)
    if known is not None and vars(known).get(RECORD) == (record := _record(file, origin, registries)):
        return known, record
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader
    with contextlib.ExitStack() as stack:
        for registry in registries:
            stack.enter_context(registry.loading_from(origin))
        sys.modules[name] = module
        _guarded(lambda: loader.exec_module(module), str(file))
    record = _record(file, origin, registries)
    setattr(module, RECORD, record)
    return module, record


def records_for(names: Iterable[str], plugins: Iterable[PluginRecord]) -> tuple[PluginRecord, ...]:
    """The plug-ins that these names come from."""
    wanted = set(names)
    return tuple(plugin for plugin in plugins if wanted & set(plugin.operations))


def require_plugins(needed: Iterable[PluginRecord], given: Iterable[PluginRecord], source: str) -> None:
    """Raises a `UserError` naming the plug-in file that `source` needs and that is missing or changed."""
    by_hash = {plugin.sha256 for plugin in given}
    by_name = {plugin.file for plugin in given}
    for plugin in needed:
        if plugin.sha256 in by_hash:
            continue
        what = plugin.file
        if plugin.operations:
            what += f" (it registers {', '.join(plugin.operations)})"
        if plugin.file in by_name:
            raise UserError(
                f"{source}: the plug-in {what} has changed since: its hash is not"
                f" {plugin.sha256[:12]}…; give the file as it was, or search again with the new one"
            )
        raise UserError(
            f"{source}: needs the plug-in {what}; it is never loaded by itself: name your copy",
            hint="plugin_copy",
        )


def plugin_error_text(error: Exception) -> str:
    """What an error says where it went through a user's own file: file, line, kind; else nothing."""
    installed = {entry_point.module for entry_point in metadata.entry_points(group=ENTRY_POINTS)}
    names = [name for name in list(sys.modules) if name.startswith(PREFIX) or name in installed]
    files = {getattr(sys.modules[name], "__file__", None) for name in names}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in files:
            where = f"line {frame.lineno}, in {frame.name}"
            return f"{frame.filename}: {where}: the plug-in raised {type(error).__name__}: {error}"
    return ""


def _record(file: Path, origin: str, registries: Sequence[Registry[Any]]) -> PluginRecord:
    names = [name for registry in registries for name in registry.names_from(origin)]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    name = file.parent.name if file.name == "__init__.py" else file.name
    return PluginRecord(file=name, sha256=digest, operations=tuple(names))


def _guarded(load: Any, source: str) -> Any:
    try:
        return load()
    except UserError as error:
        raise UserError(f"{source}: {error}", hint=error.hint) from None
    except (Exception, SystemExit) as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{source}: raised {type(error).__name__} while it was loaded"
            f" ({Path(frame.filename).name}, line {frame.lineno}): {error}"
        ) from error
