"""Squeezing: channels that a sparsity penalty has made superfluous are taken out of a trained network.

A wide network is trained with `batch_norm_sparsity`; here its least important channels go, and a smaller
network with the weights of the others is written, together with a map of what was kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from binas.arch.macro_network import MacroNetwork
from binas.arch.network import Network
from binas.binarize import binary_convolutions
from binas.errors import UserError
from binas.ops.parameter_free import FactorisedSkip
from binas.plugins import PluginRecord
from binas.run.checkpoint import save_checkpoint
from binas.run.files import write_atomic
from binas.train.model_file import KIND, ModelStructure, load_model

STEM = "stem"


@dataclass(frozen=True)
class Axis:
    """The channels along one dimension of a tensor: those of a place, maybe several times, maybe a part.

    Args:
        place: `stem`, or `level N`: all cells after N reductions share their channels.
        size: channels of the place.
        repeats: how often they stand one after another (a cell's output: once for each node).
        part: first and last + 1 of the channels, where a layer gives only some.
    """

    place: str
    size: int
    repeats: int = 1
    part: tuple[int, int] | None = None

    @property
    def length(self) -> int:
        """Entries of the dimension."""
        return self.repeats * self.size if self.part is None else self.part[1] - self.part[0]

    def positions(self, kept: Mapping[str, Sequence[int]]) -> list[int]:
        """The entries that stay, ascending, when those channels of each place do."""
        channels = kept[self.place]
        if self.part is not None:
            first, end = self.part
            return [channel - first for channel in channels if first <= channel < end]
        return [repeat * self.size + channel for repeat in range(self.repeats) for channel in channels]


class ChannelPlan:
    """Which channels every tensor of a genotype's network has along which dimension.

    Cells between two reductions share their channels, because skips and pools keep a channel's number.

    Args:
        network: the network.
    Raises:
        UserError: channels of such a network cannot be taken out.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.nodes = network.space.num_nodes
        if network.space.inter_cell_skip and network.space.reduction_skip == "avg_pool":
            raise UserError("squeeze: a space with reduction_skip: avg_pool repeats channels; none can go")
        if not isinstance(network.stem, nn.Sequential):
            raise UserError("squeeze: stem: imagenet is not squeezed; use a network with stem: cifar")
        self.levels: list[str] = []
        level = 0
        for plan in network.plans:
            level += plan.kind == "reduce"
            self.levels.append(f"level {level}")
        self.sizes = {STEM: network.plans[0].input_channels[1]}
        self.sizes |= {name: plan.channels for name, plan in zip(self.levels, network.plans, strict=True)}
        self.unit = self._unit()

    def _unit(self) -> int:
        """How many neighbouring channels stay or go together: a group of the group convolutions."""
        found = set()
        for name, conv in binary_convolutions(self.network):
            if 1 < conv.groups < conv.in_channels:
                grouping = self.network.space.grouping
                if grouping.channels_per_group is None or grouping.shuffle:
                    raise UserError(
                        f"squeeze: '{name}' is a group convolution with a fixed number of groups or a"
                        " shuffle; only grouping.channels_per_group without shuffle can be squeezed"
                    )
                found.add(grouping.channels_per_group)
        return found.pop() if found else 1

    def axes(self, name: str) -> tuple[Axis | None, Axis | None]:
        """What enters and what leaves the module that a tensor belongs to."""
        parts = name.split(".")
        if parts[0] == "cells":
            return self._in_cell(int(parts[1]), parts)
        if parts[0] == "stem":
            return None, Axis(STEM, self.sizes[STEM])
        position = self.network.auxiliary_position if parts[0] == "auxiliary" else len(self.levels) - 1
        return self._output(position), None

    def _in_cell(self, index: int, parts: list[str]) -> tuple[Axis, Axis]:
        place = self.levels[index]
        own = Axis(place, self.sizes[place])
        if parts[2] == "preprocess":
            return self._output(index - 2 + int(parts[3])), own
        if parts[2] == "skip":
            return self._output(index - 1), self._output(index)
        if parts[2] == "edges" and parts[5] in ("first", "second"):
            operation = self.network.get_submodule(".".join(parts[:5]))
            if isinstance(operation, FactorisedSkip):
                half = (own.size + 1) // 2
                return own, Axis(place, own.size, 1, (0, half) if parts[5] == "first" else (half, own.size))
        return own, own

    def _output(self, index: int) -> Axis:
        if index < 0:
            return Axis(STEM, self.sizes[STEM])
        return Axis(self.levels[index], self.sizes[self.levels[index]], self.nodes)

    def importance(self) -> dict[str, Tensor]:
        """For each place, the sum of |scale| of all batch-norms over each channel."""
        total = {place: torch.zeros(size) for place, size in self.sizes.items()}
        for name, module in self.network.named_modules():
            if not isinstance(module, _BatchNorm) or not module.affine or name.startswith(("stem", "aux")):
                continue
            axis = self.axes(f"{name}.weight")[0]
            if axis is not None and axis.part is None and axis.length == module.num_features:
                magnitude = module.weight.detach().abs().cpu().view(axis.repeats, axis.size)
                total[axis.place] += magnitude.sum(dim=0)
        return total

    def choose(self, init_channels: int) -> dict[str, list[int]]:
        """The most important channels of each place, as many as a network of that width has."""
        width = self.network.settings.init_channels
        if init_channels % self.unit:
            raise UserError(
                f"squeeze: {init_channels} channels of the first cell is not a multiple of {self.unit}, the"
                " channels of a group; give a number that is",
                hint="init_channels",
            )
        kept: dict[str, list[int]] = {}
        for place, scores in self.importance().items():
            size = self.sizes[place]
            # strided skips give their channels in two halves, each by a convolution of its own
            halves = 2 if place not in (STEM, "level 0") else 1
            count = size * init_channels // width // halves
            unit = 1 if place == STEM else self.unit
            kept[place] = []
            for half, part in enumerate(scores.view(halves, -1)):
                best = part.view(-1, unit).sum(dim=1).argsort(descending=True, stable=True)[: count // unit]
                first = half * (size // halves)
                units = sorted(best.tolist())
                kept[place] += [first + one * unit + inside for one in units for inside in range(unit)]
        return kept


def squeezed(
    network: nn.Module, structure: ModelStructure, init_channels: int
) -> tuple[nn.Module, ModelStructure, dict[str, Any]]:
    """A narrower network with the weights of the most important channels, its structure, and a map.

    What remains computes what it did, less what the others contributed: batch-norms keep their statistics,
    so it is to be trained on.

    Args:
        network: a trained network of a genotype.
        structure: its own.
        init_channels: width of the new one.
    Returns: the map has `init_channels` before and after, and the kept channels of stem and of each cell.
    Reference: the squeezing of Liu et al., Widening and Squeezing, arXiv:2002.00555, by batch-norm scales as
        in Liu et al., Network Slimming, arXiv:1708.06519.
    Deviation: the same share of channels goes everywhere, so that the result is a network of the same
        genotype; the paper's own criterion was not at hand.
    Raises:
        UserError: the network is none of a genotype, has no batch-norm scales, or cannot be narrowed so.
    """
    if isinstance(network, MacroNetwork):
        raise UserError(
            "squeeze: narrows all cells of a network alike; a macro genotype (kind: macro) says the channels"
            " of each stage: write narrower ones into it and train it, from a space that has them"
        )
    if not isinstance(network, Network) or structure.settings is None:
        raise UserError(
            "squeeze: works on networks of a genotype; a published one is made narrow by its options"
        )
    before = structure.settings.init_channels
    if structure.settings.widths is not None:
        raise UserError(
            "squeeze: its cells have widths of their own (retrain.network.widths); set these anew"
        )
    if not structure.settings.batch_norm_affine:
        raise UserError(
            "squeeze: its batch-norms have no scales to tell channels by; train it with"
            " retrain.network.batch_norm_affine: true and a stage's batch_norm_sparsity"
        )
    if not 1 <= init_channels <= before:
        raise UserError(
            f"squeeze: {init_channels} channels of the first cell: the network has {before};"
            f" give 1 to {before}",
            hint="init_channels",
        )
    plan = ChannelPlan(network)
    kept = plan.choose(init_channels)
    settings = structure.settings.model_copy(update={"init_channels": init_channels})
    small_structure = structure.model_copy(update={"settings": settings})
    small = small_structure.build_network()
    shapes = {name: tensor.shape for name, tensor in small.state_dict().items()}
    small.load_state_dict(
        {name: _cut(name, tensor, shapes[name], plan, kept) for name, tensor in network.state_dict().items()}
    )
    channels = {
        "stem": kept[STEM],
        **{f"cells.{index}": kept[level] for index, level in enumerate(plan.levels)},
    }
    return small.eval(), small_structure, {"init_channels": [before, init_channels], "kept": channels}


def _cut(
    name: str, tensor: Tensor, shape: torch.Size, plan: ChannelPlan, kept: Mapping[str, Sequence[int]]
) -> Tensor:
    entering, leaving = plan.axes(name)
    reads = "activation_binarizers" in name or name.split(".")[-2] in ("norm", "0")
    for dim, (old, new) in enumerate(zip(tensor.shape, shape, strict=True)):
        if old == new:
            continue
        order = (entering, leaving) if dim == 1 or reads else (leaving, entering)
        axis = next((a for a in order if a is not None and a.length == old), None)
        positions = [] if axis is None else axis.positions(kept)
        if len(positions) != new:
            raise UserError(
                f"squeeze: '{name}' is {tuple(tensor.shape)} and would be {tuple(shape)}; which of its"
                " channels go is not known for this operation or binarizer"
            )
        tensor = tensor.index_select(dim, torch.tensor(positions, device=tensor.device))
    return tensor


def squeeze_file(path: Path, init_channels: int, output: Path, plugins: tuple[PluginRecord, ...]) -> str:
    """Squeezes the network of a checkpoint into a new checkpoint with a map beside it; gives what was done.

    The new file is evaluated, checked and profiled like any other, and trained on as the
    `initial_checkpoint` of a stage.
    """
    network, structure, checkpoint = load_model(path, plugins)
    small, small_structure, channels = squeezed(network, structure, init_channels)
    map_file = output.with_suffix(".json")
    for file in (output, map_file):
        if file.exists():
            raise UserError(f"squeeze: {file} is there already; name another one", hint="output")
    state = {"model": small.state_dict(), "position": checkpoint.state["position"]}
    save_checkpoint(output, KIND, small_structure.model_dump(mode="json"), state)
    document = {"format": "binas-squeeze", "version": 1, "from": path.name, **channels}
    write_atomic(map_file, json.dumps(document, indent=1) + "\n")
    before, after = (sum(p.numel() for p in model.parameters()) for model in (network, small))
    return (
        f"{output}: {init_channels} of {channels['init_channels'][0]} channels, {after} of {before}"
        f" parameters; kept channels: {map_file}"
    )
