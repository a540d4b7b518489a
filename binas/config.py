"""YAML files to validated, typed, frozen models and back; knows no field of its own.

A component declares its settings as a subclass of `Config` beside its code. Files are plain YAML 1.2
scalars (`3e-4` is a number, `no` is a word), every key may be replaced by a dotted override
(`search.phases.0.epochs=3`), and whatever is wrong is told with file, key and nearest valid key.
"""

from __future__ import annotations

import inspect
import json
import operator
import os
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    ModelWrapValidatorHandler,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo

from binas.errors import UserError
from binas.registry import Registry, nearest

ModelT = TypeVar("ModelT", bound="Config")


class Config(BaseModel):
    """Base of every settings model: frozen, no unknown keys, the string under a field is its help."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, use_attribute_docstrings=True
    )

    def unused_keys(self) -> Iterator[tuple[str, str]]:
        """Keys that are set though what is chosen beside them never reads them, each with what was chosen."""
        return iter(())

    def is_set(self, key: str) -> bool:
        """Whether a key, dotted where it lies deeper, differs from its default."""
        head, _, rest = key.partition(".")
        value, field = getattr(self, head), type(self).model_fields[head]
        default = field.get_default(call_default_factory=True, validated_data={})
        if not rest:
            return bool(value != default)
        return bool(operator.attrgetter(rest)(value) != operator.attrgetter(rest)(default))


def name_and_options(value: Any) -> Any:
    """A word as a mapping with that name; anything else as it is.

    An override inside a word, `key.tau=5` on `key: gumbel`, arrives as a change to a base.
    """
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, Mapping):
        base = value.get("base")
        if base is not None and value.get("name", base) == base:
            return {key: v for key, v in value.items() if key != "base"} | {"name": base}
    return value


class NamedOptions(Config):
    """A registered name and its options, flat beside it: `gumbel`, or `{name: gumbel, tau: 10}`.

    In Python the entry itself is taken too: a class, a function, or an instance, which has its options
    already. A subclass says in `registry` what its names stand for. Names and options are checked when the
    entry is asked for, since a user's own file may be loaded after the settings are read.
    """

    model_config = ConfigDict(extra="allow")

    registry: ClassVar[Registry[Any]]
    """What a name stands for."""
    name: str
    """Registered name."""
    _given: Any = PrivateAttr(default=None)

    @model_validator(mode="wrap")
    @classmethod
    def _any_spelling(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(value, str | Mapping):
            return handler(name_and_options(value))
        if isinstance(value, NamedOptions) or not (callable(value) or hasattr(value, "__dict__")):
            return handler(value)
        registered = next((name for name in cls.registry if cls.registry[name] is value), None)
        shown = value if isinstance(value, type) or inspect.isroutine(value) else type(value)
        found = handler({"name": registered or shown.__name__})
        found._given = None if registered else value
        return found

    @model_serializer(mode="wrap")
    def _word_without_options(self, handler: SerializerFunctionWrapHandler) -> Any:
        return handler(self) if self.options else self.name

    @property
    def options(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})

    @property
    def entry(self) -> Any:
        """What the name stands for.

        Raises:
            UserError: nothing is registered by that name.
        """
        if self._given is not None:
            return self._given
        if self.name not in self.registry:
            known = nearest(self.name, self.registry)
            raise UserError(f"unknown {self.registry.kind} '{self.name}';{known}", hint="plugins")
        return self.registry[self.name]

    def build(self, *arguments: Any) -> Any:
        """The entry called with these arguments and the options; an instance that was given, as it is.

        Raises:
            UserError: the name or an option is unknown, or an option's value does not fit.
        """
        entry = self.entry
        if not (isinstance(entry, type) or inspect.isroutine(entry)):
            return entry
        return call_named(self.registry.kind, self.name, entry, self.options, *arguments)

    def check(self, num_arguments: int = 0) -> None:
        """Raises a `UserError` where the name or an option is unknown, or a value does not fit."""
        entry = self.entry
        if isinstance(entry, type) or inspect.isroutine(entry):
            checked_options(self.registry.kind, self.name, entry, self.options, num_arguments=num_arguments)


def option_parameters(entry: Callable[..., Any], num_arguments: int = 0) -> dict[str, inspect.Parameter]:
    """The options that an entry takes after its first arguments, by name, with their types resolved."""
    parameters = list(inspect.signature(entry).parameters.values())
    function = entry.__init__ if isinstance(entry, type) else entry  # type: ignore[misc]
    return {
        one.name: one.replace(annotation=_resolved(one, getattr(function, "__globals__", {})))
        for one in parameters[num_arguments:]
        if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }


def _resolved(parameter: inspect.Parameter, names: dict[str, Any]) -> Any:
    """A parameter's type where it can be found; any, where it has none or one for checkers only."""
    if parameter.annotation is parameter.empty:
        return Any
    holder = type("holder", (), {"__annotations__": {"it": parameter.annotation}})
    try:
        return typing.get_type_hints(holder, names)["it"]
    except NameError:
        return Any


def checked_options(
    kind: str,
    name: str,
    entry: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    num_arguments: int = 0,
    typed: bool = True,
) -> dict[str, Any]:
    """The options of an entry, each of the type that the entry's signature says.

    Args:
        kind, name: what the entry is, for errors.
        num_arguments: its first parameters that are no options.
        typed: False leaves the values to the entry, where it checks them itself.
    Raises:
        UserError: one is unknown, missing or does not fit.
    """
    known = option_parameters(entry, num_arguments)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(entry).parameters.values())
    checked = {}
    for option, value in options.items():
        if option not in known and not takes_any:
            raise UserError(f"{kind} '{name}': unknown option '{option}';{nearest(option, known)}")
        try:
            checked[option] = (
                _of_type(known[option].annotation, value) if option in known and typed else value
            )
        except ValidationError as error:
            message = error.errors()[0]["msg"]
            raise UserError(f"{kind} '{name}': option '{option}': {message} (given: {value!r})") from None
    missing = [one for one, p in known.items() if p.default is p.empty and one not in options]
    if missing:
        raise UserError(f"{kind} '{name}': option '{missing[0]}' is missing")
    return checked


def call_named(
    kind: str,
    name: str,
    entry: Callable[..., Any],
    options: Mapping[str, Any],
    *arguments: Any,
    typed: bool = True,
) -> Any:
    """The entry called with these arguments and its options, once they are checked; see `checked_options`."""
    checked = checked_options(kind, name, entry, options, num_arguments=len(arguments), typed=typed)
    try:
        return entry(*arguments, **checked)
    except (TypeError, ValueError) as error:
        shown = f" with options {dict(options)}" if options else ""
        raise UserError(f"{kind} '{name}'{shown}: {error}") from error


def _of_type(annotation: Any, value: Any) -> Any:
    """The value as that type, by the rules of JSON: a list is a tuple, a word a path, no word a number."""
    adapter: TypeAdapter[Any] = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        return adapter.validate_python(value)
    checked = adapter.validate_json(text, strict=True)
    return value if isinstance(value, int | float) else checked  # 2 stays 2 where messages show a number


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2, and without duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is not a word", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key '{key}' stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes every word that YAML 1.1 or 1.2 would read as something else."""


_SCALARS = {
    "tag:yaml.org,2002:bool": (re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    "tag:yaml.org,2002:int": (re.compile(r"^[-+]?[0-9]+$"), "-+0123456789"),
    "tag:yaml.org,2002:float": (
        re.compile(
            r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
            r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
        ),
        "-+0123456789.",
    ),
    "tag:yaml.org,2002:null": (re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
}
_Loader.yaml_implicit_resolvers = {}
for _tag in ("bool", "int", "float", "null"):
    _pattern, _first = _SCALARS[f"tag:yaml.org,2002:{_tag}"]
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, list(_first))


def _decimal(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # PyYAML's own reads 010 as 8


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    # PyYAML folds these three line breaks away unless the text stands in double quotes
    style = '"' if any(mark in value for mark in "\x85\u2028\u2029") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Loader.add_constructor("tag:yaml.org,2002:int", _decimal)
_Dumper.add_representer(str, _text)


def parse_yaml(text: str, source: str) -> Any:
    """The value that a YAML text stands for; `source` names it in errors."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None


def read_text(path: Path) -> str:
    """The text of a user's file, with an error that names it when it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"{path}: cannot be read: {reason}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds."""
    value = parse_yaml(read_text(path), str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no mapping of keys to values")
    return value


def shipped_folder(kind: str) -> resources.abc.Traversable:
    """The folder of files that travel with the package: `configs`, `search_spaces` or `genotypes`."""
    installed = resources.files("binas") / kind
    if installed.is_dir():
        return installed
    return resources.files("binas").joinpath("..", kind)  # a checkout or an editable install


def shipped_names(kind: str) -> list[str]:
    """The names of the shipped files of a kind, without their endings."""
    return sorted(
        Path(entry.name).stem
        for entry in shipped_folder(kind).iterdir()
        if entry.name.endswith((".yaml", ".json"))
    )


def find_file(name: str | Path, kind: str) -> Path:
    """The file a user means by a path or by the name of a shipped file (`demo_digits`)."""
    path = Path(name)
    if path.is_file():
        return path
    for ending in (".yaml", ".json"):
        shipped = shipped_folder(kind).joinpath(f"{path.name.removesuffix(ending)}{ending}")
        if (len(path.parts) == 1 or path.parent.name == kind) and shipped.is_file():
            return Path(os.path.normpath(str(shipped)))
    what = kind.replace("_", " ").removesuffix("s")
    raise UserError(
        f"{name}: no such {what} file, and none is shipped by that name;"
        f"{nearest(path.stem, shipped_names(kind))}"
    )


def parse_override(text: str) -> tuple[str, Any]:
    """`search.lr=3e-4` as the dotted key and the value that YAML reads from its text."""
    key, found, value = text.partition("=")
    if not found or not key:
        raise UserError(f"override '{text}': write it as key.subkey=value")
    return key, parse_yaml(value, f"override '{key}'")


def with_override(data: Any, key: str, value: Any, within: str = "") -> Any:
    """A copy of nested mappings and lists with the value at a dotted key replaced.

    A number steps into a list. A word where a mapping is expected names the file that the mapping is
    based on, so `space.network.num_cells=8` on `space: bnas` gives `{base: bnas, network: …}`.

    Args:
        within: where `data` stands, for errors.
    """
    head, _, rest = key.partition(".")
    whole, inside = f"{within}{key}", f"{within}{head}."
    if isinstance(data, list):
        if not head.isdigit() or int(head) >= len(data):
            raise UserError(f"override '{whole}': '{head}' is none of the {len(data)} positions (from 0)")
        position = int(head)
        inner = with_override(data[position], rest, value, inside) if rest else value
        return [*data[:position], inner, *data[position + 1 :]]
    if data is None:
        data = {}
    elif isinstance(data, str):
        data = {"base": data}
    elif not isinstance(data, dict):
        raise UserError(f"override '{whole}': there is no key inside the value {data!r}")
    inner = with_override(data.get(head), rest, value, inside) if rest else value
    return {**data, head: inner}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it: mappings key by key, everything else replaced whole.

    A mapping whose `name` is another one is replaced whole too: options belong to what is named, so
    `activation: {name: approx_sign}` does not inherit the `window` of `{name: sign, window: 1.0}`.
    """
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            renamed = "name" in value and value["name"] != below.get("name", value["name"])
            result[key] = dict(value) if renamed else merged(below, value)
        else:
            result[key] = value
    return result


def build(model: type[ModelT], data: Any, source: str) -> ModelT:
    """A validated model of that type; every mistake in `data` is told with source and key."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        mistakes = error.errors()
        wrong = {details["loc"][:length] for details in mistakes for length in range(len(details["loc"]))}
        lines = [
            _explain(model, details, source)
            for details in mistakes
            # a list is "too short" as well when what is in it is wrong
            if details["type"] != "too_short" or details["loc"] not in wrong
        ]
        raise UserError("\n".join(dict.fromkeys(lines))) from None
    except UserError as error:  # from a validator that reads another file
        raise UserError(f"{source}: {error}", hint=error.hint) from None


def check_used(config: Config, source: str, within: str = "") -> None:
    """Raises a `UserError` for a key that is set, here or deeper, and that what is chosen never reads."""
    for key, chosen in config.unused_keys():
        raise UserError(f"{source}: {within}{key}: {chosen} does not use it; leave it out")
    for name in type(config).model_fields:
        value = getattr(config, name)
        for place, inner in enumerate(value) if isinstance(value, tuple) else [("", value)]:
            if isinstance(inner, Config):
                check_used(inner, source, f"{within}{name}.{place}{'.' if place != '' else ''}")


def load(model: type[ModelT], path: Path, overrides: Mapping[str, Any] | None = None) -> ModelT:
    """The settings in a YAML file, with dotted overrides applied before validation."""
    data: Any = read_mapping(path)
    for key, value in (overrides or {}).items():
        data = with_override(data, key, value)
    return build(model, data, str(path))


def dump(config: Config) -> str:
    """The YAML text that loads to an equal model."""
    return dump_mapping(config.model_dump(mode="json"))


def dump_mapping(mapping: Mapping[str, Any]) -> str:
    """The YAML text that loads to these plain values."""
    return yaml.dump(dict(mapping), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _explain(model: type[Config], details: Mapping[str, Any], source: str) -> str:
    location = list(details["loc"])
    key = ".".join(str(part) for part in location if _is_key(model, part))
    if details["type"] == "extra_forbidden":
        owner = _model_at(model, location[:-1])
        known = list(owner.model_fields) if owner else []
        return f"{source}: unknown key '{key}';{nearest(str(location[-1]), known)}"
    if details["type"] == "missing":
        return f"{source}: key '{key}' is missing"
    message = details["msg"].removeprefix("Value error, ")
    given = details.get("input")
    shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
    return f"{source}: {key + ': ' if key else ''}{message}{shown}"


def _is_key(model: type[Config], part: Any) -> bool:
    # pydantic adds the names of union members ("SearchSpace", "str") to the location
    return isinstance(part, int) or (str(part).islower() and part not in ("str", "int", "float", "bool"))


def _models_in(annotation: Any) -> Iterator[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        yield annotation
    elif typing.get_origin(annotation) is not None or isinstance(annotation, types.UnionType):
        for inner in typing.get_args(annotation):
            yield from _models_in(inner)


def _model_at(model: type[Config], location: list[Any]) -> type[Config] | None:
    current: type[Config] | None = model
    for part in location:
        if current is None or part not in current.model_fields:
            continue  # a list position, a mapping's key, or the name of a union member
        current = next(_models_in(current.model_fields[part].annotation), None)
    return current


def describe(model: type[Config], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Every key of a model with its default and its help, nested keys dotted, lists as `.0`."""
    for name, field in model.model_fields.items():
        inner = next(_models_in(field.annotation), None)
        is_list = typing.get_origin(field.annotation) in (list, tuple)
        yield f"{prefix}{name}", _default(field, inner), " ".join((field.description or "").split())
        if inner is not None:
            yield from describe(inner, f"{prefix}{name}.{'0.' if is_list else ''}")


def _default(field: FieldInfo, inner: type[Config] | None) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True, validated_data={})
    if inner is not None and default is not None:
        return ""
    return str(default) if isinstance(default, Path) else repr(default)
