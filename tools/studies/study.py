"""The format of a study: questions as files, each a few named variants of one recipe for each network.

A folder holds `networks.yaml`, the recipe and the small size of each network, and one file for each question.
A variant lays dotted overrides over the network's recipe, as the command line does, or splits its training
into stages. Everything is read and built before anything is trained, so that mistakes are told at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from binas.config import Config, build, read_mapping, with_override
from binas.errors import UserError
from binas.recipe import Recipe, load_recipe
from binas.registry import nearest
from tools.measuring.measured import CHECKOUT, NOT_MEASURED, machine_name

NETWORKS_FILE = "networks.yaml"
Overrides = dict[str, Any]


class SizeEntry(Config):
    """A size of a network's training."""

    words: str
    """What tables say of it."""
    changes: Overrides = {}
    """Dotted overrides of the recipe."""


class NetworkEntry(Config):
    """A network of the study: the recipe of its full layout, and what makes it small."""

    recipe: str
    """Name or file of a recipe with a `model` and one stage."""
    title: str
    """What tables call it."""
    sizes: dict[str, SizeEntry] = Field(min_length=1)
    """By name; --size chooses."""


class Networks(Config):
    """The file `networks.yaml`."""

    networks: dict[str, NetworkEntry] = Field(min_length=1)
    """By the names that questions use."""


class StagePart(Config):
    """A part of a variant's training: the recipe's stage with changes, for a share of its epochs."""

    name: str
    """Of the stage."""
    share: float = Field(gt=0, le=1)
    """Of the epochs of the recipe's one stage."""
    changes: Overrides = {}
    """Dotted overrides inside the stage, e.g. optimizer.learning_rate."""
    only: dict[str, Overrides] = {}
    """More of them for some networks, by name."""


class Variant(Config):
    """One answer that a question compares."""

    words: str
    """What the table calls it."""
    changes: Overrides = {}
    """Dotted overrides of the recipe."""
    only: dict[str, Overrides] = {}
    """More of them for some networks, by name."""
    sizes: dict[str, Overrides] = {}
    """More of them for some sizes, by name."""
    stages: tuple[StagePart, ...] = ()
    """In place of the recipe's one stage; empty: that stage."""
    paper: dict[str, float] = {}
    """The paper's own test error in percent, by network."""


class Question(Config):
    """The file of a question."""

    title: str
    """As a question."""
    source: str
    """Where in the paper its figures stand."""
    notes: str = ""
    """What else a reader of the table has to know."""
    networks: tuple[str, ...] = Field(min_length=1)
    """Which of `networks.yaml`."""
    columns: tuple[Literal["flips", "epochs_to", "positive_share", "gap"], ...] = ()
    """Columns beside accuracies: flip ratio, epochs to 75 and 80 % in validation, share of +1 after pools,
    gap to the variant that trains on."""
    picture: bool = False
    """Whether its accuracy curves are drawn."""
    changes: Overrides = {}
    """Dotted overrides of the recipe for all variants."""
    variants: dict[str, Variant] = Field(min_length=1)
    """By name."""


@dataclass(frozen=True)
class Planned:
    """One variant of one network, ready to run with any seed."""

    question: str
    variant: str
    network: str
    recipe: Recipe

    def settings(self) -> str:
        """A short hash of what is studied; equal ones are one run."""
        left_out = NOT_MEASURED | {"seed", "space", "search"}
        # without defaults, so that a key that is new in recipes leaves finished rows what they are
        kept = self.recipe.model_dump(mode="json", exclude=left_out, exclude_defaults=True)
        for stage in kept["retrain"]["stages"]:
            stage.pop("name")  # it changes random draws, and nothing that is studied
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:12]

    def key(self, seed: int) -> str:
        """The words that name a run in the rows."""
        return f"{self.network}/{self.settings()}/seed{seed}"


@dataclass(frozen=True)
class Study:
    """A folder of questions, read and checked.

    Args:
        questions: by the names of their files.
        networks: by name.
        planned: all variants, in the order of files and of variants in them.
    """

    questions: Mapping[str, Question]
    networks: Mapping[str, NetworkEntry]
    planned: tuple[Planned, ...]
    size: str


def load_study(folder: Path, size: str = "small", chosen: tuple[str, ...] = ()) -> Study:
    """The study in a folder.

    Args:
        size: which of the sizes in `networks.yaml`.
        chosen: names of questions; empty: all.
    Raises:
        UserError: a file is missing or wrong, or a variant's recipe is; told with file and key.
    """
    file = folder / NETWORKS_FILE
    networks = build(Networks, read_mapping(file), str(file)).networks
    known = sorted(path.stem for path in folder.glob("*.yaml") if path.name != NETWORKS_FILE)
    for name, entry in networks.items():
        if size not in entry.sizes:
            raise UserError(f"{file}: networks.{name}.sizes: no '{size}';{nearest(size, entry.sizes)}")
    for name in chosen:
        if name not in known:
            raise UserError(f"{folder}: no question '{name}';{nearest(name, known)}")
    questions, planned = {}, []
    for name in chosen or known:
        path = folder / f"{name}.yaml"
        questions[name] = question = build(Question, read_mapping(path), str(path))
        _check_networks(question, networks, path)
        for network in question.networks:
            for variant, settings in question.variants.items():
                try:
                    recipe = variant_recipe(network, networks[network], question, settings, size)
                except UserError as error:
                    raise UserError(f"{path}: variants.{variant}: {error}") from None
                planned.append(Planned(name, variant, network, recipe))
    return Study(questions, networks, tuple(planned), size)


def variant_recipe(
    name: str, network: NetworkEntry, question: Question, variant: Variant, size: str
) -> Recipe:
    """The recipe of a network's variant."""
    overrides = {
        **network.sizes[size].changes,
        **question.changes,
        **variant.changes,
        **variant.only.get(name, {}),
        **variant.sizes.get(size, {}),
    }
    recipe = load_recipe(network.recipe, overrides)
    if recipe.model is None or len(recipe.retrain.stages) != 1:
        raise UserError(f"{network.recipe}: a study needs a recipe with a model and one stage")
    if not variant.stages:
        return recipe
    whole = recipe.retrain.stages[0]
    stages = []
    for part in variant.stages:
        stage: Any = whole.model_dump(mode="json")
        stage |= {"name": part.name, "epochs": max(1, round(part.share * whole.epochs))}
        for key, value in {**part.changes, **part.only.get(name, {})}.items():
            stage = with_override(stage, key, value)
        stages.append(stage)
    # the parts are of the changed stage already; a change to stages.0 would fall on the first of them again
    rest = {key: value for key, value in overrides.items() if not key.startswith("retrain.stages.")}
    return load_recipe(network.recipe, {**rest, "retrain.stages": stages})


def _check_networks(question: Question, networks: Mapping[str, NetworkEntry], path: Path) -> None:
    named = [("networks", name) for name in question.networks]
    for key, variant in question.variants.items():
        named += [(f"variants.{key}.only", name) for name in variant.only]
        named += [(f"variants.{key}.paper", name) for name in variant.paper]
        named += [(f"variants.{key}.stages.only", name) for part in variant.stages for name in part.only]
    sizes = {size for network in networks.values() for size in network.sizes}
    for key, variant in question.variants.items():
        for size in variant.sizes:
            if size not in sizes:
                raise UserError(f"{path}: variants.{key}.sizes: unknown size '{size}';{nearest(size, sizes)}")
    for key, name in named:
        if name not in networks:
            raise UserError(f"{path}: {key}: unknown network '{name}';{nearest(name, networks)}")


def study_parser(description: str | None, folder: Path, out: Path) -> argparse.ArgumentParser:
    """The options that the tools of all studies have.

    Args:
        folder: its questions.
        out: where its runs go.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--study", metavar="FOLDER", type=Path, default=folder, help="other questions")
    parser.add_argument("--questions", nargs="+", default=(), metavar="NAME", help="only these")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--size", default="small", help="small, tiny, or full: the papers' layouts and epochs"
    )
    parser.add_argument("--out", type=Path, default=out, help="folders of runs")
    parser.add_argument("--machine", default=machine_name(), help="in the names of the table's files")
    parser.add_argument("--benchmarks", type=Path, default=CHECKOUT / "benchmarks", help="where tables go")
    parser.add_argument("--table", action="store_true", help="write the table from the rows, train nothing")
    return parser
