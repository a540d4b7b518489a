"""What each command does: reads its files, calls the room that knows how, prints what a person wants."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch

from binas.arch.genotype import Genotype, read_genotype
from binas.binarize import ACTIVATION_BINARIZERS, WEIGHT_BINARIZERS
from binas.config import describe, dump, find_file, load, shipped_names
from binas.data.datasets import DATASETS
from binas.errors import UserError
from binas.ops import OPS
from binas.plugins import PluginRecord, load_plugin, load_plugins, require_plugins
from binas.recipe import Recipe, load_recipe
from binas.run.device import pick_device
from binas.run.folder import RunFolder
from binas.run.progress import say

REGISTRIES = (OPS, ACTIVATION_BINARIZERS, WEIGHT_BINARIZERS, DATASETS)
Overrides = dict[str, Any]


def recipe_keys() -> str:
    """Every key of a recipe, for the help."""
    lines = ["keys of a recipe, each also as --key VALUE (a number picks one of a list):"]
    for key, default, text in describe(Recipe):
        shown = f" (default: {default})" if default else ""
        lines.append(f"  --{key}{shown}" + (f"\n        {text}" if text else ""))
    lines.append(f"\nshipped recipes: {', '.join(shipped_names('configs'))}")
    lines.append(f"shipped search spaces: {', '.join(shipped_names('search_spaces'))}")
    return "\n".join(lines)


def run_search(options: Namespace, overrides: Overrides) -> int:
    """binas search"""
    from binas.data.opening import open_data
    from binas.search.search import Search

    if options.strategy:
        overrides["search.strategy"] = options.strategy
    recipe, folder = _open_run("search", options, overrides, options.config or options.recipe)
    if folder is None:
        return 0
    with folder:
        plugins = _loaded(options, recipe)
        recipe.space.check_operations()
        device, data = _device(recipe), open_data(recipe.data)
        _write_start(folder, recipe, device, data.split_hashes, options)
        provenance = {
            "recipe": recipe.model_dump(mode="json", exclude={"space", "runs"}),
            "split_hashes": data.split_hashes,
            "images": {
                "in_channels": data.channels,
                "image_size": list(data.image_size),
                "num_classes": data.num_classes,
            },
        }
        search = Search(
            recipe.space, recipe.search, data, recipe.seed, device, folder, plugins, provenance, recipe.tensorboard
        )
        genotype = search.run()
        file = folder.path / "genotype.json"
        drawing = _draw_beside(genotype, folder.path)
        say(f"recommended genotype {genotype.hash()} ({recipe.search.recommend} epoch): {file}\ndrawn: {drawing}")
        given = [part for plugin in _plugin_files(options, recipe) for part in ("--plugins", plugin)]
        words = ["binas", "retrain", "--config", str(folder.config), "--genotype", str(file)]
        name = ["--name", f"{recipe.name}_retrain"]
        say(f"next: {shlex.join([*words, *name, *given])}")
    return 0


def run_retrain(options: Namespace, overrides: Overrides) -> int:
    """binas retrain"""
    from binas.data.opening import open_data
    from binas.train.retrain import Retraining

    file = options.genotype or options.genotype_file
    resumed = options.resume is not None
    start: Any = None
    if file is None and not resumed:
        raise UserError("retrain: which genotype? Give --genotype FILE, or the name of a shipped one")
    if file is not None and options.config is None:
        start = _recipe_of(_read_genotype(file, ()))
    if "name" not in overrides and start is not None:
        overrides = {"name": f"{start.get('name', 'run')}_retrain", **overrides}
    recipe, folder = _open_run("retrain", options, overrides, options.config, start)
    if folder is None:
        return 0
    with folder:
        plugins = _loaded(options, recipe)
        kept = folder.path / "genotype.json"
        source = kept if resumed and kept.exists() else file
        if source is None:
            raise UserError(f"{folder.path}: holds no genotype to resume with; give --genotype FILE")
        genotype = _read_genotype(source, plugins)
        device, data = _device(recipe), open_data(recipe.data)
        _write_start(folder, recipe, device, data.split_hashes, options, genotype)
        retraining = Retraining(
            genotype, recipe.retrain, data, recipe.seed, device, folder, recipe.tensorboard
        )
        results = retraining.run()
        folder.add_to_manifest(results=results)
        say(f"trained {results['epochs']} epochs: {folder.checkpoint}")
        given = [part for plugin in _plugin_files(options, recipe) for part in ("--plugins", plugin)]
        say(f"next: {shlex.join(['binas', 'eval', str(folder.checkpoint), *given])}")
    return 0


def run_eval(options: Namespace, overrides: Overrides) -> int:
    """binas eval"""
    from binas.train.evaluation import evaluate_checkpoint

    plugins = load_plugins(options.plugins, REGISTRIES)
    root = Path(options.data_root) if options.data_root else None
    result = evaluate_checkpoint(
        Path(options.checkpoint), options.split, pick_device(options.device), plugins, root
    )
    if options.json:
        print(json.dumps(result))
        return 0
    print(
        f"{result['split']} accuracy {result['accuracy']:.4f}, loss {result['loss']:.4f} on"
        f" {result['images']} images\nnetwork: {result['precision']}, stage '{result['stage']}',"
        f" {result['epochs']} epochs, genotype {result['genotype']}"
    )
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
        print(f"{'binary    ' if report.is_binary else 'NOT BINARY'} {report.name}: {report.words()}")
    print("\nreal-valued, outside the binary convolutions:")
    for name, kind, count, why in real_layers(network):
        print(f"  {name} ({kind}, {count} parameters): {why}")
    failed = [report.name for report in reports if not report.is_binary]
    print(f"\nstage '{structure.stage.name}': {structure.stage.precision_words()}")
    if failed or not reports:
        print(f"not binary: {len(failed)} of {len(reports)} binary convolutions saw other values")
        return 1
    print(f"binary: each of {len(reports)} convolutions saw two values in and two values in a filter")
    return 0


def run_profile(options: Namespace, overrides: Overrides) -> int:
    """binas profile"""
    from binas.profiling import profile_file

    return profile_file(options, load_plugins(options.plugins, REGISTRIES))


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


def run_data(options: Namespace, overrides: Overrides) -> int:
    """binas data"""
    from binas.data.opening import open_data
    from binas.data.sheet import save_grid, summarize

    recipe = load_recipe(options.config or options.recipe, overrides)
    _loaded(options, recipe)
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


def _open_run(
    kind: str, options: Namespace, overrides: Overrides, config: str | None, start: Any = None
) -> tuple[Recipe, RunFolder | None]:
    if options.resume is None or options.print_config:
        recipe = load_recipe(config, overrides, start)
        if options.print_config:
            print(dump(recipe), end="")
            return recipe, None
        return recipe, RunFolder.create(recipe.runs / recipe.name, kind, overwrite=options.overwrite)
    if options.overwrite:
        raise UserError("--resume and --overwrite exclude each other")
    path = Path(options.resume) if options.resume else None
    if path is None:
        recipe = load_recipe(config, overrides, start)
        path = recipe.runs / recipe.name
    elif overrides or config:
        raise UserError(f"--resume {path}: goes on with its own recipe; leave out CONFIG and --key VALUE")
    folder = RunFolder.resume(path, kind)
    if not folder.config.exists():  # killed before it had begun
        folder.close()
        raise UserError(f"{path}: was stopped before it began; start it again with --overwrite")
    return load(Recipe, folder.config), folder


def _write_start(
    folder: RunFolder, recipe: Recipe, device: torch.device, hashes: dict[str, str], options: Namespace,
    genotype: Genotype | None = None,
) -> None:  # fmt: skip
    if options.resume is not None:
        recorded = folder.read_manifest().get("splits", hashes)
        if recorded != hashes:
            raise UserError(f"{folder.path}: the images are not those that the run was started with")
        return
    if genotype is not None:
        from binas.run.files import write_atomic

        write_atomic(folder.path / "genotype.json", genotype.to_json())
    folder.write_manifest(
        seed=recipe.seed, device=device, splits=hashes, plugins=_plugin_files(options, recipe)
    )
    folder.write_config(recipe)


def _device(recipe: Recipe) -> torch.device:
    if recipe.num_threads is not None:
        torch.set_num_threads(recipe.num_threads)
    return pick_device(recipe.device)


def _plugin_files(options: Namespace, recipe: Recipe) -> list[str]:
    return list(dict.fromkeys([*recipe.plugins, *options.plugins]))


def _loaded(options: Namespace, recipe: Recipe) -> tuple[PluginRecord, ...]:
    return load_plugins(_plugin_files(options, recipe), REGISTRIES)


def _read_genotype(file: str | Path, plugins: tuple[PluginRecord, ...]) -> Genotype:
    path = find_file(file, "genotypes")
    genotype = read_genotype(path, OPS)
    if plugins or not genotype.plugins:
        require_plugins(genotype.plugins, plugins, str(path))
    return genotype


def _recipe_of(genotype: Genotype) -> dict[str, Any]:
    recipe = genotype.provenance.get("recipe")
    return dict(recipe) if isinstance(recipe, dict) else {}


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


def _draw_beside(genotype: Genotype, folder: Path) -> Path:
    from binas.draw.render import draw

    return draw(genotype, folder / "cells.svg")
