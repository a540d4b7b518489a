"""Evaluation of a trained network, or of several as one, from checkpoints alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from binas.data.batches import Batches
from binas.data.datasets import DATASETS
from binas.data.image_set import Images
from binas.data.open_data import Data, open_data
from binas.engine.loop import evaluate, evaluation_batches
from binas.errors import UserError
from binas.plugins import PluginRecord, require_plugins
from binas.train.model_file import ModelStructure, load_model
from binas.train.parts.teacher import Ensemble


def evaluate_checkpoint(
    path: Path,
    split: str,
    device: torch.device,
    *,
    plugins: tuple[PluginRecord, ...] = (),
    root: Path | None = None,
) -> dict[str, Any]:
    """Loss and accuracy of the network in a checkpoint.

    Args:
        path: a retrain checkpoint.
        split: `test`, or `validation`: the images that retraining kept aside.
        root: where the images lie, if not where they lay in training.
    Raises:
        UserError: the images are not those that the checkpoint was trained and split on.
    """
    network, structure, checkpoint = load_model(path, plugins)
    batches, images = _batches(structure, path, split, device, root)
    result = evaluate(network.to(device), batches, structure.stage.loss)
    return {
        "split": split,
        "images": images,
        **result,
        "stage": structure.stage.name,
        "precision": structure.stage.format_precision(),
        "epochs": checkpoint.state["position"].get("step"),
        **structure.identity(),
    }


def evaluate_ensemble(
    paths: Sequence[Path],
    split: str,
    device: torch.device,
    *,
    plugins: tuple[PluginRecord, ...] = (),
    root: Path | None = None,
) -> dict[str, Any]:
    """Loss and accuracy of several networks as one, the mean of their logits, and the accuracy of each.

    Args:
        paths: retrain checkpoints of the same images and splits; the rest as of `evaluate_checkpoint`.
    Raises:
        UserError: two of them are of other images, classes or splits.
    """
    found = [load_model(path, plugins) for path in paths]
    first = found[0][1]
    for path, (_, structure, _) in zip(paths, found, strict=True):
        for key in ("class_names", "in_channels", "image_size", "mean", "std", "split_hashes"):
            if getattr(structure, key) != getattr(first, key):
                raise UserError(
                    f"{path}: its {key.replace('_', ' ')} differ from those of {paths[0]}; an ensemble is of"
                    " networks that were trained on the same images and splits"
                )
    batches, images = _batches(first, paths[0], split, device, root)
    networks = [network.to(device) for network, _, _ in found]
    members = [evaluate(network, batches, first.stage.loss)["accuracy"] for network in networks]
    result = evaluate(Ensemble(networks).to(device), batches, first.stage.loss)
    return {"split": split, "images": images, **result, "networks": len(paths), "members": members}


def format_result(result: Mapping[str, Any]) -> str:
    """What was measured, for a person."""
    measured = (
        f"{result['split']} accuracy {result['accuracy']:.4f}, loss {result['loss']:.4f} on"
        f" {result['images']} images"
    )
    if "members" in result:
        alone = ", ".join(f"{accuracy:.4f}" for accuracy in result["members"])
        return f"{measured}, mean of {result['networks']} networks; each alone: {alone}"
    what = next(f"{key} {result[key]}" for key in ("genotype", "model") if key in result)
    return (
        f"{measured}\nnetwork: {result['precision']}, stage '{result['stage']}', {result['epochs']} epochs,"
        f" {what}"
    )


def _batches(
    structure: ModelStructure, path: Path, split: str, device: torch.device, root: Path | None
) -> tuple[Batches, int]:
    data = open_training_data(structure, path, root)
    images = data.test() if split == "test" else training_images(structure, data)[1]
    if not len(images):
        raise UserError(f"{path}: retraining kept no validation images (retrain.validation_fraction: 0)")
    return evaluation_batches(images, data, device), len(images)


def training_images(structure: ModelStructure, data: Data) -> tuple[Images, Images]:
    """The images that a network was trained on, and those that were kept for validation."""
    return data.retrain(structure.validation_fraction, structure.validation_images == "last")


def open_training_data(structure: ModelStructure, path: Path, root: Path | None) -> Data:
    """The images that a network was trained on, their splits checked against the recorded hashes."""
    config = structure.data
    if config.name not in DATASETS:
        require_plugins(structure.data_plugins, (), str(path))
    if root is not None:
        config = config.model_copy(update={"root": root})
    try:
        data = open_data(config)
    except UserError as error:
        raise UserError(
            f"{path}: its images cannot be opened: {error}; if they have moved, name their folder",
            hint=error.hint or "data_root",
        ) from None
    for split, recorded in structure.split_hashes.items():
        if data.split_hashes[split] != recorded:
            raise UserError(
                f"{path}: the {split} split of '{data.name}' is not the one that the network was trained"
                " with (its hash differs); restore the images, or name their folder",
                hint="data_root",
            )
    return data
