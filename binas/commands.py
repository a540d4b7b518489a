"""What each command does: reads its files, calls the room that knows how, prints what a person wants."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

from binas.arch.genotype import Genotype, read_genotype
from binas.arch.network import genotype_space
from binas.config import describe, dump, find_file, shipped_names
from binas.errors import UserError
from binas.evolving import run_evolve as run_evolve
from binas.models import MODELS
from binas.ops import OPS
from binas.plugins import PluginRecord, load_plugin, load_plugins, require_plugins
from binas.recipe import Recipe, load_recipe
from binas.run.device import pick_device
from binas.run.distributed import is_first_rank
from binas.run.progress import say
from binas.session import (
    REGISTRIES,
    Overrides,
    begin_run,
    device_and_data,
    loaded_plugins,
    of_all_ranks,
    on_all_ranks,
    open_run,
    plugin_words,
    provenance,
)


def recipe_keys() -> str:
    """Every key of a recipe, for the help."""
    lines = ["keys of a recipe, each also as --key VALUE (a number picks one of a list):"]
    for key, default, text in describe(Recipe):
        shown = f" (default: {default})" if default else ""
        lines.append(f"  --{key}{shown}" + (f"\n        {text}" if text else ""))
    lines.append(f"\nshipped recipes: {', '.join(shipped_names('configs'))}")
    lines.append(f"shipped search spaces: {', '.join(shipped_names('search_spaces'))}")
    return "\n".join(lines)


@on_all_ranks
def run_search(options: Namespace, overrides: Overrides) -> int:
    """binas search"""
    from binas.search.search import Search

    if options.strategy:
        overrides["search.strategy"] = options.strategy
    if options.micro_batch:
        overrides["search.micro_batch"] = options.micro_batch
    recipe, resumed = open_run("search", options, overrides, options.config or options.recipe)
    if recipe.model is not None:
        raise UserError(f"model: {recipe.model.name}: is for binas retrain; leave it out to search")
    if options.print_config:
        say(dump(recipe).rstrip("\n"))
        return 0
    plugins = loaded_plugins(options, recipe, resumed)
    _check_own_operations(recipe)
    device, data = device_and_data(recipe)
    search = Search(
        recipe.space, of_all_ranks(recipe.search, resumed), data, recipe.seed, device, plugins,
        provenance(recipe, data), recipe.tensorboard, recipe.distributed,
    )  # fmt: skip
    with begin_run("search", recipe, resumed, options, device, data.split_hashes) as folder:
        genotype = search.run(folder)
        if not is_first_rank():
            return 0
        file = folder.path / "genotype.json"
        drawing = _draw_beside(genotype, folder.path)
        rule = "drawn at random" if recipe.search.strategy == "random" else f"{recipe.search.recommend} epoch"
        say(f"recommended genotype {genotype.hash()} ({rule}): {file}\ndrawn: {drawing}")
        words = ["binas", "retrain", "--config", str(folder.config), "--genotype", str(file)]
        name = ["--name", f"{recipe.name}_retrain"]
        say(f"next: {shlex.join([*words, *name, *plugin_words(options, recipe)])}")
    return 0


@on_all_ranks
def run_retrain(options: Namespace, overrides: Overrides) -> int:
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
    recipe, resumed = open_run("retrain", options, overrides, options.config, start)
    _check_one_network(file, recipe, resumed is not None)
    if options.print_config:
        say(dump(recipe).rstrip("\n"))
        return 0
    plugins = loaded_plugins(options, recipe, resumed)
    genotype: Genotype | None = None
    if recipe.model is None:
        file = file if resumed is None else resumed.path / "genotype.json"
        genotype = _genotype_to_train(file, recipe, plugins)
        recipe = recipe.model_copy(update={"space": genotype_space(genotype)})
    device, data = device_and_data(recipe)
    what = genotype or recipe.model
    assert what is not None
    retraining = Retraining(
        what, of_all_ranks(recipe.retrain, resumed), data, recipe.seed, device, recipe.tensorboard, plugins,
        recipe.distributed,
    )  # fmt: skip
    with begin_run("retrain", recipe, resumed, options, device, data.split_hashes, genotype) as folder:
        results = retraining.run(folder)
        folder.add_to_manifest(results=results)
        checkpoint = folder.best if recipe.retrain.keep == "best" else folder.checkpoint
        say(f"trained {results['epochs']} epochs: {checkpoint}")
        words = ["binas", "eval", str(checkpoint), *plugin_words(options, recipe)]
        say(f"next: {shlex.join(words)}")
    return 0


def run_eval(options: Namespace, overrides: Overrides) -> int:
    """binas eval"""
    from binas.train.evaluation import evaluate_checkpoint, evaluate_ensemble, result_words

    files = [Path(file) for file in options.checkpoint]
    if len(files) > 1 and not options.ensemble:
        raise UserError(f"eval: {len(files)} checkpoints: add --ensemble to take them as one, or give one")
    plugins = load_plugins(options.plugins, REGISTRIES)
    root = Path(options.data_root) if options.data_root else None
    where = (options.split, pick_device(options.device), plugins, root)
    result = evaluate_ensemble(files, *where) if options.ensemble else evaluate_checkpoint(files[0], *where)
    print(json.dumps(result) if options.json else result_words(result))
    return 0


def run_squeeze(options: Namespace, overrides: Overrides) -> int:
    """binas squeeze"""
    from binas.train.squeeze import squeeze_file

    plugins = load_plugins(options.plugins, REGISTRIES)
    print(squeeze_file(Path(options.checkpoint), options.init_channels, Path(options.output), plugins))
    return 0


def run_check(options: Namespace, overrides: Overrides) -> int:
    """binas check"""
    from binas.data.batches import Batches
    from binas.train.check import check_network, real_layers
    from binas.train.evaluation import open_training_data
    from binas.train.model_file import load_model

    path = Path(options.checkpoint)
    network, structure, _ = load_model(path, load_plugins(options.plugins, REGISTRIES))
    data = open_training_data(structure, path, Path(options.data_root) if options.data_root else None)
    device = pick_device(options.device)
    images, _ = next(Batches(data.train(), 32, device, data.mean, data.std).epoch(0, shuffle=False))
    reports = check_network(network.to(device), images)
    for report in reports:
        print(f"{report.verdict():<10} {report.name}: {report.words()}")
    print("\nreal-valued parameters:")
    for name, kind, count, why in real_layers(network):
        print(f"  {name} ({kind}, {count} parameters): {why}")
    failed = [report.name for report in reports if not report.is_as_declared]
    print(f"\nstage '{structure.stage.name}': {structure.stage.precision_words()}")
    if failed or not reports:
        print(f"not binary: {len(failed)} of {len(reports)} binary convolutions saw other values")
        return 1
    padded = sum(report.pads_with_zero for report in reports)
    wider = [report.name for report in reports if not report.is_binary]
    if wider:
        print(
            f"as declared, but not binary: {len(wider)} of {len(reports)} convolutions have more than two"
            f" levels, or a half that a rule keeps real; {padded} see 0 from padding"
        )
        return 0
    print(
        f"binary: each of {len(reports)} convolutions reads two values, {padded} of them a third one, 0, from"
        " padding; two values in a filter"
    )
    return 0


def run_profile(options: Namespace, overrides: Overrides) -> int:
    """binas profile"""
    from binas.profiling import profile_file

    return profile_file(options, load_plugins(options.plugins, REGISTRIES), overrides)


def run_draw(options: Namespace, overrides: Overrides) -> int:
    """binas draw"""
    from binas.draw.render import draw

    load_plugins(options.plugins, REGISTRIES)
    genotype = read_genotype(find_file(options.genotype, "genotypes"), OPS)
    print(draw(genotype, options.output))
    return 0


def run_ops(options: Namespace, overrides: Overrides) -> int:
    """binas ops"""
    from binas.ops.check import check_op
    from binas.ops.contract import describe_op

    load_plugins(options.plugins, REGISTRIES)
    if options.action == "check":
        if not options.target:
            raise UserError("ops check: what? Give your file and the name in it: my_ops.py:my_op")
        target, op = _check_target(options.target)
        for line in check_op(op):
            print(f"ok  {line}")
        print(f"{target} keeps the contract of an operation")
        return 0
    rows = [{"name": name, "summary": describe_op(name), "from": Path(OPS.origin(name)).name} for name in OPS]
    if options.json:
        print(json.dumps(rows))
        return 0
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        origin = f" [{row['from']}]" if row["from"] else ""
        print(f"{row['name']:<{width}}  {row['summary']}{origin}")
    return 0


def run_binarizers(options: Namespace, overrides: Overrides) -> int:
    """binas binarizers"""
    from binas.binarize.catalogue import rows, to_line
    from binas.binarize.check import check_binarizer

    load_plugins(options.plugins, REGISTRIES)
    if options.action == "check":
        if not options.target:
            raise UserError("binarizers check: what? Give a name, or your file: my_binarizers.py")
        for kind, name in _check_binarizers(options.target):
            for line in check_binarizer(kind, name):
                print(f"ok  {line}")
            print(f"{name} keeps the contract of a binarizer ({kind})")
        return 0
    table = list(rows())
    print(json.dumps(table) if options.json else "\n".join(map(to_line, table)))
    return 0


def run_models(options: Namespace, overrides: Overrides) -> int:
    """binas models"""
    from binas.models.listing import model_lines, model_rows

    names = [options.name] if options.name else list(MODELS)
    print(json.dumps(model_rows(names)) if options.json else "\n".join(model_lines(names)))
    return 0


def run_data(options: Namespace, overrides: Overrides) -> int:
    """binas data"""
    from binas.data.opening import open_data
    from binas.data.sheet import save_grid, summarize

    recipe = load_recipe(options.config or options.recipe, overrides)
    loaded_plugins(options, recipe)
    data = open_data(recipe.data)
    print(summarize(data))
    save_grid(data, Path(options.output))
    print(f"grid of training images: {options.output}")
    return 0


def run_import_legacy(options: Namespace, overrides: Overrides) -> int:
    """binas import"""
    from binas.arch.legacy import import_genotype
    from binas.arch.space import load_space
    from binas.config import read_text
    from binas.run.files import write_atomic

    default = {"darts": "darts_binary", "bnas": "bnas", "bats": "bats"}.get(options.names, "binas")
    space = load_space(options.space or default)
    path = Path(options.file)
    genotype = import_genotype(read_text(path), options.names, str(path), space.model_dump(mode="json"))
    write_atomic(Path(options.output), genotype.to_json())
    print(f"{options.output}: genotype {genotype.hash()} of space '{space.name}'")
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


def _genotype_to_train(file: str | Path, recipe: Recipe, plugins: tuple[PluginRecord, ...]) -> Genotype:
    path = find_file(file, "genotypes")
    genotype = read_genotype(path, OPS)
    require_plugins(genotype.plugins, plugins, str(path))
    space = recipe.space
    if "space" not in recipe.model_fields_set:
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


def _check_own_operations(recipe: Recipe) -> None:
    """Stops before any training where a user's own operation gives a wrong shape."""
    from binas.ops.check import check_shape

    for name in recipe.space.operations:
        if name in OPS and OPS.origin(name):
            try:
                check_shape(name, recipe.space.supernet.init_channels)
            except UserError as error:
                raise UserError(
                    f"operation '{name}' of {Path(OPS.origin(name)).name}: {error}"
                    "; binas ops check tells more"
                ) from error


def _refuse_space(overrides: Overrides) -> None:
    for key in overrides:
        if key == "space" or key.startswith("space."):
            instead = key.replace("space.network.", "retrain.network.")
            remedy = f"use --{instead}" if instead != key else "search again with it"
            raise UserError(f"--{key}: retrain takes the space that the genotype carries; {remedy}")


def _recipe_of(genotype: Genotype) -> dict[str, Any]:
    recipe = genotype.provenance.get("recipe")
    if not isinstance(recipe, dict):
        return {}
    # a path that stands in a genotype is never imported: the user names plug-ins anew
    return {key: value for key, value in recipe.items() if key != "plugins"}


def _check_target(target: str) -> tuple[str, Any]:
    file, _, name = target.rpartition(":")
    if not file:
        return name, name if name in OPS else OPS[name]
    module, record = load_plugin(Path(file), REGISTRIES)
    if name in record.operations:
        return name, name
    if not hasattr(module, name):
        known = ", ".join(record.operations) or "nothing"
        raise UserError(f"{file}: defines no '{name}'; it registers {known}")
    return name, getattr(module, name)


def _check_binarizers(target: str) -> list[tuple[str, str]]:
    """Kind and name of what is to be checked: a registered name, FILE:NAME, or all that a file registers."""
    from binas.binarize.catalogue import kinds_of

    file, _, name = target.rpartition(":")
    if not file and target.endswith(".py"):
        file, name = target, ""
    names = [name]
    known: list[str] = []
    if file:
        known = list(filter(kinds_of, load_plugin(Path(file), REGISTRIES)[1].operations))
        names = [name] if name else known
    found = [(kind, name) for name in names for kind in kinds_of(name)]
    if not found or (file and name and name not in known):
        raise UserError(
            f"{target}: no such binarizer; "
            + (f"{file} registers {', '.join(known) or 'none'}" if file else "binas binarizers lists all")
            + "; register yours with @ACTIVATION_BINARIZERS.register(NAME) or WEIGHT_BINARIZERS"
        )
    return found


def _draw_beside(genotype: Genotype, folder: Path) -> Path:
    from binas.draw.render import draw

    return draw(genotype, folder / "cells.svg")
