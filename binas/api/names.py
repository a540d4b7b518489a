"""What there is, by name."""

from __future__ import annotations

import fnmatch

from binas.binarize.catalogue import KINDS
from binas.config import shipped_names
from binas.errors import UserError
from binas.models import MODELS
from binas.ops import OPS


def list_models(pattern: str = "*") -> list[str]:
    """The names of published networks that match a pattern ("react*").

    Example:
        >>> import binas
        >>> "reactnet_a" in binas.list_models("reactnet*")
        True
    """
    return fnmatch.filter(sorted(MODELS), pattern)


def list_operations() -> list[str]:
    """The names of candidate operations, those of loaded plug-ins included."""
    return sorted(OPS)


def list_binarizers(kind: str | None = None) -> list[str]:
    """The names of binarizers: of activations, weights or gradients; None: of all kinds.

    Raises:
        UserError: there is no such kind.
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"kind: '{kind}' is none of {', '.join(KINDS)}")
    return sorted({name for one, registry in KINDS.items() if kind in (None, one) for name in registry})


def list_recipes() -> list[str]:
    """The names of the recipes that travel in the package."""
    return shipped_names("configs")


def list_spaces() -> list[str]:
    """The names of the search spaces that travel in the package."""
    return shipped_names("search_spaces")


def list_genotypes() -> list[str]:
    """The names of the genotypes that travel in the package."""
    return shipped_names("genotypes")
