"""How much each layer suffers from being binary: one layer at a time is binarized, the others stay real.

The binary convolutions of a trained network are all switched to real values; then the weights, the
activations or both of each single one are binarized by the stage's own binarization, and loss and accuracy on
the validation images are measured, with the batch-norm statistics as they are and estimated anew on training
images. Nothing is trained in between and nothing is kept.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from binas import __version__
from binas.binarize import BinaryConv2d, binary_convolutions, set_precision
from binas.data.batches import Batches
from binas.engine.batch_norm import batch_norms
from binas.engine.loop import EVALUATION_BATCH_SIZE, evaluate
from binas.errors import UserError
from binas.plugins import PluginRecord
from binas.run.device import device_name
from binas.run.files import write_atomic
from binas.train.evaluation import open_training_data, training_images
from binas.train.model_file import ModelStructure, load_model

PARTS = {"weights": (False, True), "activations": (True, False), "both": (True, True)}
"""What of a layer is binarized: its activations, its weights."""
COLOURS = {"weights": "#0072b2", "activations": "#e69f00", "both": "#009e73"}


@dataclass(frozen=True)
class Sensitivity:
    """What one layer's binarization does.

    Args:
        layer: its name; `none` for the network with all layers real.
        binarized: weights, activations, both or nothing.
        loss, accuracy: on validation images.
        loss_estimated_anew, accuracy_estimated_anew: the same, with batch-norm statistics of training
            images as the changed network sees them.
    """

    layer: str
    binarized: str
    loss: float
    accuracy: float
    loss_estimated_anew: float
    accuracy_estimated_anew: float


def measure_file(
    path: Path,
    parts: Sequence[str],
    num_images: int,
    device: torch.device,
    *,
    plugins: tuple[PluginRecord, ...] = (),
    root: Path | None = None,
) -> tuple[list[Sensitivity], ModelStructure]:
    """The sensitivity of every layer of the network in a checkpoint.

    Args:
        path: a retrain checkpoint.
        parts: what is binarized of each layer: weights, activations, both.
        num_images: training images on which batch-norm statistics are estimated anew.
        device: where the network runs.
        plugins: those that are loaded.
        root: where the images lie, if not where they lay in training.
    Raises:
        UserError: retraining kept no validation images, or the network has no binary convolution.
    """
    network, structure, _ = load_model(path, plugins)
    training, validation = training_images(structure, open_training_data(structure, path, root))
    if not len(validation):
        raise UserError(f"{path}: retraining kept no validation images (retrain.validation_fraction: 0)")
    chosen = training.select(torch.arange(min(num_images, len(training))))
    size = EVALUATION_BATCH_SIZE
    return measure(
        network.to(device),
        structure,
        Batches(chosen, size, device, structure.mean, structure.std),
        Batches(validation, size, device, structure.mean, structure.std),
        parts,
    ), structure


def measure(
    network: nn.Module,
    structure: ModelStructure,
    training: Batches,
    validation: Batches,
    parts: Sequence[str] = tuple(PARTS),
) -> list[Sensitivity]:
    """The sensitivity of every binary convolution, after that of the real-valued network.

    Parts of layers that a rule keeps real are left out.

    Args:
        training: images on which batch-norm statistics are estimated anew.
        validation: images on which loss and accuracy are measured.
    """
    set_precision(
        network,
        binarize_activations=False,
        binarize_weights=False,
        real_activation=structure.stage.real_activation,
    )
    wanted = [
        (name, conv, part)
        for name, conv in binary_convolutions(network)
        for part in parts
        if not (PARTS[part][0] and conv.keeps_real_activations)
        and not (PARTS[part][1] and conv.keeps_real_weights)
    ]
    if not wanted:
        raise UserError("the network has no binary convolution (model.real: false gives them)")

    def figures(layer: str, binarized: str) -> Sensitivity:
        as_it_is = evaluate(network, validation, structure.stage.loss)
        with statistics_estimated_anew(network, training):
            anew = evaluate(network, validation, structure.stage.loss)
        return Sensitivity(
            layer, binarized, as_it_is["loss"], as_it_is["accuracy"], anew["loss"], anew["accuracy"]
        )

    rows = [figures("none", "nothing")]
    for name, conv, part in wanted:
        with only_this_binary(conv, *PARTS[part]):
            rows.append(figures(name, part))
    return rows


@contextmanager
def only_this_binary(conv: BinaryConv2d, activations: bool, weights: bool) -> Iterator[None]:
    """Inside, this layer is binary; afterwards it is real again."""
    conv.binarize_activations, conv.binarize_weights = activations, weights
    try:
        yield
    finally:
        conv.binarize_activations = conv.binarize_weights = False


@contextmanager
@torch.no_grad()
def statistics_estimated_anew(network: nn.Module, batches: Batches) -> Iterator[None]:
    """Inside, batch-norms use the mean statistics of these images; afterwards everything is as before."""
    before = copy.deepcopy(network.state_dict())
    norms = [norm for norm in batch_norms(network) if norm.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    was_training = [module.training for module in network.modules()]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over batches
        norm.train()
    try:
        for images, _ in batches.epoch(0, shuffle=False):
            network(images)
        network.eval()
        yield
    finally:
        network.load_state_dict(before)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in zip(network.modules(), was_training, strict=True):
            module.training = mode


def table(rows: Sequence[Sensitivity]) -> str:
    """A line for each layer and part."""
    columns = ("layer", "binarized", "loss", "accuracy, %", "loss, BN anew", "accuracy, BN anew, %")
    lines = [
        (
            row.layer,
            row.binarized,
            f"{row.loss:.3f}",
            f"{100 * row.accuracy:.1f}",
            f"{row.loss_estimated_anew:.3f}",
            f"{100 * row.accuracy_estimated_anew:.1f}",
        )
        for row in rows
    ]
    rows_of_words = [" | ".join(line) for line in (columns, ("---",) * len(columns), *lines)]
    return "\n".join(f"| {line} |" for line in rows_of_words)


def write_report(rows: Sequence[Sensitivity], structure: ModelStructure, file: Path, path: Path) -> None:
    """Table and bar chart in files: a Markdown page, and a picture beside it."""
    model = structure.identity()
    what = ", ".join(f"{key} {value}" for key, value in model.items())
    binarization = structure.stage.binarization
    scheme = (
        f"{binarization.activation.key} / {binarization.weight.key} (activations / weights)"
        if binarization
        else "the network's own"
    )
    text = (
        "# Sensitivity of layers\n\n"
        "One layer at a time is binarized, the others stay real-valued; nothing is trained in between."
        f" Network: {what}, trained with {structure.stage.format_precision()}; binarizers: {scheme}. Loss and"
        " accuracy are of the validation images, one run; *BN anew*: with batch-norm statistics estimated"
        f" anew on training images.\n\nCheckpoint: `{file}`."
        f" {device_name(torch.device('cpu'))}, torch {torch.__version__}, binas {__version__}.\n\n"
        f"![Loss added by each layer]({path.with_suffix('.png').name})\n\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(rows, path.with_suffix(".png"))
    write_atomic(path, f"{text}{table(rows)}\n")


def draw(rows: Sequence[Sensitivity], path: Path) -> None:
    """Bars of the loss that each layer's binarization adds, as it is and with statistics estimated anew."""
    from matplotlib.figure import Figure

    base, rest = rows[0], rows[1:]
    layers = list(dict.fromkeys(row.layer for row in rest))
    parts = list(dict.fromkeys(row.binarized for row in rest))
    width = 0.8 / len(parts)
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    panels: Any = figure.subplots(2, 1, sharex=True, sharey=True)
    titles = {"loss": "batch-norm statistics as they are", "loss_estimated_anew": "estimated anew"}
    for panel, (key, title) in zip(panels, titles.items(), strict=True):
        for position, part in enumerate(parts):
            mine = [row for row in rest if row.binarized == part]
            places = [layers.index(row.layer) + (position + 0.5) * width - 0.4 for row in mine]
            added = [getattr(row, key) - getattr(base, key) for row in mine]
            panel.bar(places, added, width, label=part, color=COLOURS[part])
        panel.axhline(0, color="black", linewidth=0.8)
        panel.set(title=title, ylabel="loss added")
    panels[1].set_xticks(range(len(layers)), layers)
    panels[1].set_xlabel("layer that is binary")
    panels[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)
