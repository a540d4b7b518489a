"""The two kinds of search space and genotype, cell and macro, told apart in one place.

Whatever takes both asks here; what one kind alone can do says so by `cells_only` or `cell_space`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, Tag
from torch import nn

from binas.arch.genotype import AnyGenotype, Genotype
from binas.arch.macro_network import MacroNetwork, check_member
from binas.arch.macro_space import MacroSpace
from binas.arch.network import Network, genotype_space
from binas.arch.space import NetworkSettings, SearchSpace, space_mapping
from binas.binarize import Binarization, LayerRule
from binas.config import build
from binas.errors import UserError

AnySpace = SearchSpace | MacroSpace
"""A search space of either kind."""


def _kind(value: Any) -> str:
    kind = value.get("kind", "cell") if isinstance(value, Mapping) else getattr(value, "kind", "cell")
    return "MacroSpace" if kind == "macro" else "SearchSpace"


def _whole(value: Any) -> Any:
    if isinstance(value, SearchSpace | MacroSpace):
        return value
    mapping = space_mapping(value)
    kind = mapping.get("kind", "cell")
    if kind not in ("cell", "macro"):
        raise UserError(f"space: kind: {kind!r:.80} is none; a space says cell or macro")
    return mapping if kind == "macro" else {key: inner for key, inner in mapping.items() if key != "kind"}


SpaceField = Annotated[
    Annotated[SearchSpace, Tag("SearchSpace")] | Annotated[MacroSpace, Tag("MacroSpace")],
    Discriminator(_kind),
    BeforeValidator(_whole),
]
"""A search space in settings: its name, its file, a mapping, or changes to a `base`."""


def load_any_space(value: str | Mapping[str, Any], source: str = "") -> AnySpace:
    """The search space, of either kind, given by name, path or mapping."""
    mapping = _whole(value)
    model: type[SearchSpace] | type[MacroSpace] = (
        MacroSpace if mapping.get("kind") == "macro" else SearchSpace
    )
    return build(model, mapping, source or (value if isinstance(value, str) else "space"))


def cell_space(space: AnySpace, why: str) -> SearchSpace:
    """The space where it is one of cells.

    Args:
        why: what needs cells, and what to do instead.
    Raises:
        UserError: it is a macro space.
    """
    if isinstance(space, MacroSpace):
        raise UserError(f"space '{space.name}' is a macro space (kind: macro); {why}")
    return space


def space_of(genotype: AnyGenotype) -> AnySpace:
    """The search space that a genotype carries, checked against what it chose.

    Raises:
        UserError: there is none, or the genotype is none of it.
    """
    if isinstance(genotype, Genotype):
        return genotype_space(genotype)
    if not genotype.space:
        raise UserError("genotype: key 'space' is empty; it holds the search space or the name of one")
    named = genotype.space
    space = load_any_space(named["name"] if set(named) == {"name"} else named, "genotype: space")
    if not isinstance(space, MacroSpace):
        raise UserError(
            f"genotype: kind: macro, but its space '{space.name}' is one of cells; it is of another space"
        )
    check_member(genotype, space)
    return space


def genotype_network(
    genotype: AnyGenotype,
    in_channels: int,
    num_classes: int,
    *,
    settings: NetworkSettings | None = None,
    binarizations: tuple[Binarization, ...] = (),
    auxiliary: bool = False,
    layers: tuple[tuple[LayerRule, ...], ...] = (),
) -> nn.Module:
    """The network of a genotype of either kind, with fresh weights; see `Network` and `MacroNetwork`.

    Args:
        settings, auxiliary: for cells.
    """
    if isinstance(genotype, Genotype):
        return Network(
            genotype,
            in_channels,
            num_classes,
            settings=settings,
            binarizations=binarizations,
            auxiliary=auxiliary,
            layers=layers,
        )
    space = space_of(genotype)
    assert isinstance(space, MacroSpace)
    return MacroNetwork(genotype, in_channels, num_classes, space, binarizations=binarizations, layers=layers)
