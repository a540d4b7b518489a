"""The joint search: architecture, channel pruning and bits of a network of inverted bottlenecks.

Genes of stage s and its block b: `depth.s`; `kernel.s.b`, `width.s.b`, `kept.s.b`; and the bits
`pointwise_weight.s.b`, `pointwise_activation.s.b`, `depthwise_weight.s.b`, `depthwise_activation.s.b`.

Wang et al., APQ, arXiv:2006.08509; Cai et al., Once-for-All, arXiv:1908.09791.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from binas.data.open_data import Data
from binas.errors import UserError
from binas.evolve.config import JointConfig
from binas.evolve.problems.genome import Gene, GeneChoice, Genome, GenomeSpace
from binas.evolve.problems.problem import Problem, Variant
from binas.models import ModelChoice
from binas.models.mobilenet_v2 import BlockOptions, InvertedBlock, InvertedOptions, StageBlocks, block_inputs
from binas.plugins import PluginRecord
from binas.train.stage import StageConfig

BITS = ("pointwise_weight", "pointwise_activation", "depthwise_weight", "depthwise_activation")
"""Kinds of genes that say a precision."""
MIDDLE = ("width", "kept")
"""Kinds of genes that say how many middle channels a block has."""


class JointProblem(Problem):
    """The genomes of the joint search. The shared network is real-valued: its genomes' bits are not heeded.

    Args:
        config: the choices.
        what: the network at its deepest; kernels, widths and bits of its own are not heeded.
        data: the images.
        stages: of the training; the last one decides the cost.
        plugins: those that are loaded.
    Raises:
        UserError: it has no option `stages`, is real-valued, or has a stage of fewer blocks than any of the
            depths.
    """

    def __init__(
        self,
        config: JointConfig,
        what: Variant,
        data: Data,
        stages: Sequence[StageConfig],
        *,
        plugins: tuple[PluginRecord, ...] = (),
    ) -> None:
        options = what.options() if isinstance(what, ModelChoice) else None
        if not isinstance(what, ModelChoice) or not isinstance(options, InvertedOptions):
            raise UserError("evolve.search: joint: is for a published network with an option 'stages'")
        if options.real:
            raise UserError(
                "model.real: true leaves no bits to search; leave it out, or set evolve.joint.bits: [real]"
            )
        self.options, self.choice = options, what
        self.genes = tuple(_genes(config, options))
        self.place = {gene.name: place for place, gene in enumerate(self.genes)}
        self._where = [_stage_and_block(gene) for gene in self.genes]
        self._middles = list(self._same_middles())
        space = GenomeSpace(self.genes, self.canonical, self.is_active)
        super().__init__(space, self._choice, _references(space), data, stages, plugins=plugins)

    def is_active(self, genome: Genome) -> tuple[bool, ...]:
        """For each gene whether it says anything: those of blocks beyond a stage's depth do not."""
        return tuple(block is None or block < self._depth(genome, stage) for stage, block in self._where)

    def canonical(self, genome: Genome) -> Genome:
        """The genome with first choices where nothing is said, and the least width for as many channels."""
        places = list(genome)
        for place, active in enumerate(self.is_active(genome)):
            if not active:
                places[place] = 0
        for width, kept, pairs in self._middles:
            places[width], places[kept] = pairs[places[width], places[kept]]
        return tuple(places)

    def shared_variant(self, genome: Genome) -> Variant:
        """The same architecture, real-valued."""
        values = self.space.params(genome)
        return self._network({**values, **{gene.name: "real" for gene in self.genes if gene.kind in BITS}})

    def shared_kinds(self) -> tuple[str, ...]:
        """Kinds of genes that the shared network uses: all but the bits."""
        return tuple(kind for kind in super().shared_kinds() if kind not in BITS)

    def architecture(self, genome: Genome) -> Genome:
        """The genome of the same architecture with the first choice of all bits: one for all precisions."""
        kinds = zip(self.space.kinds, genome, strict=True)
        return self.canonical(tuple(0 if kind in BITS else place for kind, place in kinds))

    def blocks(self, genome: Genome) -> dict[str, Hashable]:
        """The blocks, by their choices of kernel, width and pruning."""
        found: dict[str, tuple[int, ...]] = {}
        rows = zip(self.space.kinds, self._where, genome, self.is_active(genome), strict=True)
        for kind, (stage, block), place, says in rows:
            if block is not None and says and kind not in BITS:
                path = f"stages.{stage}.{block}"
                found[path] = (*found.get(path, ()), place)
        return dict(found)

    def prepare(self, shared: nn.Module, kinds: Collection[str]) -> None:
        """Puts the most important middle channels of every block first, before slices of them are drawn."""
        if set(kinds) & set(MIDDLE):
            for block in shared.modules():
                if isinstance(block, InvertedBlock):
                    sort_middle(block)

    def _same_middles(self) -> Iterator[tuple[int, int, dict[tuple[int, int], tuple[int, int]]]]:
        """For each block the places of its genes of width and pruning, and for every pair of their choices
        the first pair that gives as many channels."""
        inputs_of = block_inputs(self.options)
        for width, gene in enumerate(self.genes):
            stage, block = self._where[width]
            if gene.kind != "width" or block is None:
                continue
            kept, inputs = self.place[f"kept.{stage}.{block}"], inputs_of[stage][block]
            first: dict[int, tuple[int, int]] = {}
            pairs = {}
            for w, expansion in enumerate(self.genes[width].choices):
                for k, part in enumerate(self.genes[kept].choices):
                    pairs[w, k] = first.setdefault(_middle(expansion, part, inputs), (w, k))
            yield width, kept, pairs

    def _depth(self, genome: Genome, stage: int) -> int:
        place = self.place.get(f"depth.{stage}")
        if place is None:
            return 1
        return int(self.genes[place].choices[genome[place]])

    def _choice(self, values: tuple[GeneChoice, ...]) -> Variant:
        return self._network(dict(zip(self.place, values, strict=True)))

    def _network(self, values: dict[str, GeneChoice]) -> Variant:
        stages = []
        for s, stage in enumerate(self.options.stages):
            depth = int(values.get(f"depth.{s}", 1))
            blocks = [_block(values, s, b, block) for b, block in enumerate(stage.blocks[:depth])]
            stages.append({"channels": stage.channels, "stride": stage.stride, "blocks": blocks})
        given = {key: value for key, value in (self.choice.model_extra or {}).items() if key != "stages"}
        return ModelChoice.model_validate({"name": self.choice.name, **given, "stages": stages})


@torch.no_grad()
def sort_middle(block: InvertedBlock) -> None:
    """Orders a block's middle channels by the sum of |w| that leads on from them, the largest first.

    What the block computes stays the same. Reference: Once-for-All, arXiv:1908.09791, sec. 3.3 (width).
    """
    modules = dict(block.named_children())
    if "expand" not in modules:
        return
    last = modules["project"].get_parameter("weight")
    order = last.abs().sum(dim=(0, 2, 3)).argsort(descending=True, stable=True)
    last.copy_(last[:, order].clone())
    for name in ("expand", "depthwise_norm", "depthwise", "project_norm"):
        for tensor in (*modules[name].parameters(recurse=False), *modules[name].buffers(recurse=False)):
            if tensor.dim():
                tensor.copy_(tensor[order].clone())


def _genes(config: JointConfig, options: InvertedOptions) -> Iterator[Gene]:
    for s, stage in enumerate(options.stages):
        if len(stage.blocks) > 1:
            yield Gene(f"depth.{s}", _depths(config, s, stage))
    for s, stage in enumerate(options.stages):
        deepest = _depths(config, s, stage)[-1] if len(stage.blocks) > 1 else 1
        for b, block in enumerate(stage.blocks[:deepest]):
            yield Gene(f"kernel.{s}.{b}", config.kernels)
            if block.expands:
                yield Gene(f"width.{s}.{b}", config.expansions)
                yield Gene(f"kept.{s}.{b}", config.kept)
            for kind in BITS:
                yield Gene(f"{kind}.{s}.{b}", config.bits)


def _depths(config: JointConfig, place: int, stage: StageBlocks) -> tuple[int, ...]:
    count = len(stage.blocks)
    depths = tuple(depth for depth in config.depths if depth <= count)
    if not depths:
        raise UserError(
            f"evolve.joint.depths: stage {place} of the network has only {count} blocks; add a number up to"
            f" {count}"
        )
    return depths


def _references(space: GenomeSpace) -> dict[str, Genome]:
    """The largest networks of one precision in all layers: of the least and of the most bits."""
    found = {}
    bits = next(gene.choices for gene, kind in zip(space.genes, space.kinds, strict=True) if kind in BITS)
    for place in (0, len(bits) - 1):
        genome = (
            len(gene.choices) - 1 if kind not in BITS else place
            for gene, kind in zip(space.genes, space.kinds, strict=True)
        )
        words = "real" if bits[place] == "real" else f"{bits[place]} bit{'s' * (bits[place] != 1)}"
        found[f"largest, {words}"] = space.canonical(tuple(genome))
    return found


def _middle(width: GeneChoice, kept: GeneChoice, inputs: int) -> int:
    return BlockOptions(expansion=float(width), kept=float(kept)).middle(inputs)


def _block(values: dict[str, GeneChoice], stage: int, place: int, block: BlockOptions) -> dict[str, Any]:
    def value(kind: str, otherwise: Any) -> Any:
        return values.get(f"{kind}.{stage}.{place}", otherwise)

    return {
        "kernel": value("kernel", block.kernel),
        "expansion": value("width", block.expansion),
        "kept": value("kept", block.kept),
        "bits": {kind: value(kind, "real") for kind in BITS},
    }


def _stage_and_block(gene: Gene) -> tuple[int, int | None]:
    _, stage, *block = gene.name.split(".")
    return int(stage), int(block[0]) if block else None
