"""`binas retrain`: train a genotype or a published network from scratch, stage by stage."""

from __future__ import annotations

import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

from binas.arch.genotype import AnyGenotype, Genotype, read_genotype
from binas.arch.kinds import AnySpace, space_of
from binas.arch.macro_genotype import MacroGenotype
from binas.arch.macro_space import MacroSpace
from binas.arch.network import genotype_space
from binas.cli.arguments import Arguments, run_options
from binas.cli.session import (
    Overrides,
    begin_run,
    device_and_data,
    loaded_plugins,
    of_all_ranks,
    on_all_ranks,
    open_run,
    plugin_flags,
)
from binas.config import dump, find_file
from binas.errors import UserError
from binas.models import MODELS
from binas.ops import OPS
from binas.plugins import PluginRecord, require_plugins
from binas.recipe import Recipe
from binas.run.progress import say

DESCRIPTION = """\
Without --config it uses the recipe that the genotype was searched with.
--model NAME takes a published network in place of a genotype; binas models lists them."""
KEYS = "recipe"


def add_arguments(arguments: Arguments) -> None:
    """What the command takes."""
    arguments.add("genotype_file", nargs="?", metavar="GENOTYPE", help="the same as --genotype")
    arguments.add("--genotype", metavar="FILE", help="a genotype: a JSON file, or the name of a shipped one")
    run_options(arguments)


@on_all_ranks
def run(options: Namespace, overrides: Overrides) -> int:
    """binas retrain"""
    from binas.train.retrain import Retraining

    file = options.genotype or options.genotype_file
    start: Any = None
    if options.micro_batch:
        overrides["retrain.micro_batch"] = options.micro_batch
    if file in MODELS:
        raise UserError(f"{file}: is a published network, not a genotype; name it by --model {file}")
    if options.resume:
        if file:
            raise UserError(f"--resume {options.resume}: goes on with its own genotype; leave out --genotype")
    elif file is not None and options.config is None:
        start = _recipe_of(read_genotype(find_file(file, "genotypes"), OPS))
        overrides = {"name": f"{start.get('name', 'run')}_retrain", **overrides}
    elif options.config is None and "model" in overrides:
        overrides = {"name": str(overrides["model"]), **overrides}
    _refuse_space(overrides)
    recipe, resumed = open_run("retrain", options, overrides, options.config, start=start)
    _check_one_network(file, recipe, resumed is not None)
    if options.print_config:
        say(dump(recipe).rstrip("\n"))
        return 0
    plugins = loaded_plugins(options, recipe, resumed)
    genotype: AnyGenotype | None = None
    if recipe.model is None:
        file = file if resumed is None else resumed.path / "genotype.json"
        genotype = _genotype_to_train(file, recipe, plugins)
        recipe = recipe.model_copy(update={"space": space_of(genotype)})
    device, data = device_and_data(recipe)
    what = genotype or recipe.model
    assert what is not None
    retraining = Retraining(
        what,
        of_all_ranks(recipe.retrain, resumed),
        data,
        seed=recipe.seed,
        device=device,
        tensorboard=recipe.tensorboard,
        plugins=plugins,
        distributed=recipe.distributed,
    )
    with begin_run(
        "retrain", recipe, resumed, options, device, data.split_hashes, plugins, genotype=genotype
    ) as folder:
        results = retraining.run(folder)
        folder.add_to_manifest(results=results)
        checkpoint = folder.best if recipe.retrain.keep == "best" else folder.checkpoint
        say(f"trained {results['epochs']} epochs: {checkpoint}")
        words = ["binas", "eval", str(checkpoint), *plugin_flags(options, recipe)]
        say(f"next: {shlex.join(words)}")
    return 0


def _check_one_network(file: str | None, recipe: Recipe, is_resumed: bool) -> None:
    """Raises a `UserError` where neither a genotype nor a model is named, or both."""
    if file is not None and recipe.model is not None:
        raise UserError(
            f"retrain: --genotype {file} and model: {recipe.model.name} are two networks; leave one out"
        )
    if file is None and recipe.model is None and not is_resumed:
        raise UserError(
            "retrain: which network? Give --genotype FILE or the name of a shipped one, or --model NAME"
            " (binas models lists them)"
        )


def _genotype_to_train(file: str | Path, recipe: Recipe, plugins: tuple[PluginRecord, ...]) -> AnyGenotype:
    path = find_file(file, "genotypes")
    genotype = read_genotype(path, OPS)
    require_plugins(genotype.plugins, plugins, str(path))
    space = recipe.space
    if "space" not in recipe.model_fields_set:
        return genotype
    if not isinstance(genotype, Genotype) or isinstance(space, MacroSpace):
        _check_same_kind(genotype, space, path)
        return genotype
    foreign = sorted(genotype.operations() - set(space.operations))
    if foreign or (space.num_nodes, space.edges_per_node) != (genotype.num_nodes, genotype.edges_per_node):
        what = f"operation '{foreign[0]}' is not in" if foreign else "its nodes and edges are not those of"
        raise UserError(
            f"{path}: is of another space: {what} space '{space.name}' of the recipe; give the recipe that"
            " it was searched with, or one without the key 'space'"
        )
    if genotype_space(genotype).network != space.network:
        say(
            "note: depth and width are those of the genotype's space, not of the recipe's; change them with"
            " retrain.network"
        )
    return genotype


def _check_same_kind(genotype: AnyGenotype, space: AnySpace, path: Path) -> None:
    """Raises a `UserError` where a genotype is none of the recipe's space, one of them being a macro one."""
    if isinstance(genotype, MacroGenotype) and isinstance(space, MacroSpace):
        space.check(genotype)
        return
    kind = "macro" if isinstance(space, MacroSpace) else "cell"
    raise UserError(
        f"{path}: is kind: {genotype.kind}, and space '{space.name}' of the recipe is kind: {kind}; give the"
        " recipe that it was searched with, or one without the key 'space'"
    )


def _refuse_space(overrides: Overrides) -> None:
    for key in overrides:
        if key == "space" or key.startswith("space."):
            instead = key.replace("space.network.", "retrain.network.")
            remedy = f"use --{instead}" if instead != key else "search again with it"
            raise UserError(f"--{key}: retrain takes the space that the genotype carries; {remedy}")


def _recipe_of(genotype: AnyGenotype) -> dict[str, Any]:
    recipe = genotype.provenance.get("recipe")
    if not isinstance(recipe, dict):
        return {}
    # a path that stands in a genotype is never imported: the user names plug-ins anew
    return {key: value for key, value in recipe.items() if key != "plugins"}
