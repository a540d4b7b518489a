"""Supernets of single paths: a step computes the network of one genotype, with weights that all share.

Nothing but what the genotype has is computed: the edges that are in it with one operation each, or the
first channels, the inner kernels and the blocks that it takes from a larger chain.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from binas.arch.cell import global_average
from binas.arch.genotype import CELL_KINDS, ZEROISE, AnyGenotype, Genotype, cell_edges
from binas.arch.kinds import AnySpace, genotype_network
from binas.arch.macro_genotype import Block, MacroGenotype, MacroStem, PlacedBlock
from binas.arch.macro_network import Half, MacroBlock, channels_last, stem_of
from binas.arch.macro_space import MacroSpace, StageChoices
from binas.arch.slices import conv_part, leading, tensors
from binas.arch.space import NetworkSettings, SearchSpace
from binas.arch.supernet import Supernet
from binas.binarize import BinaryConv2d, set_precision
from binas.errors import UserError
from binas.ops.nonlinearities import build_nonlinearity


class PathSupernet(nn.Module):
    """Weights that the networks of all genotypes of a space share.

    Shape: (N, in_channels, H, W), a genotype -> (N, num_classes).
    Reference: Guo et al., Single Path One-Shot, arXiv:1904.00420, sec. 3.
    """

    in_channels: int
    num_classes: int

    def network(self, genotype: AnyGenotype) -> nn.Module:
        """The genotype's own network, with a copy of the weights that it has here."""
        raise NotImplementedError


def path_supernet(
    space: AnySpace,
    in_channels: int,
    num_classes: int,
    *,
    binarize_activations: bool = True,
    binarize_weights: bool = False,
) -> PathSupernet:
    """A supernet of single paths with fresh weights, over a space of either kind.

    Args:
        binarize_activations, binarize_weights: what is binary in its steps.
    """
    kind = MacroSupernet if isinstance(space, MacroSpace) else CellSupernet
    supernet = kind(space, in_channels, num_classes)  # type: ignore[arg-type]
    set_precision(supernet, binarize_activations, binarize_weights)
    return supernet


def proxy_settings(space: AnySpace) -> NetworkSettings | None:
    """Depth and width at which genotypes are compared: the supernet's; all else as in the network.

    None for a macro space, whose genotypes say their sizes themselves.
    """
    if isinstance(space, MacroSpace):
        return None
    sizes = {
        key: getattr(space.supernet, key)
        for key in ("init_channels", "num_cells", "reductions", "widths", "stem", "stem_multiplier")
    }
    return space.network.model_copy(update=sizes)


def proxy_network(genotype: AnyGenotype, space: AnySpace, in_channels: int, num_classes: int) -> nn.Module:
    """A genotype's network with fresh weights, of the size at which genotypes are compared."""
    return genotype_network(genotype, in_channels, num_classes, settings=proxy_settings(space))


class CellSupernet(PathSupernet):
    """All operations on all edges of a space of cells; a path runs those that a genotype has.

    Args:
        space: of cells.
        in_channels, num_classes: of the data.
    """

    def __init__(self, space: SearchSpace, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.space, self.in_channels, self.num_classes = space, in_channels, num_classes
        settings = proxy_settings(space)
        self.whole = Supernet(space, in_channels, num_classes, settings=settings)

    def forward(self, x: Tensor, genotype: Genotype) -> Tensor:
        """See `PathSupernet`."""
        return self.whole.run(x, paths=paths_of(genotype, self.space))

    def network(self, genotype: AnyGenotype) -> nn.Module:
        """See `PathSupernet`."""
        network = proxy_network(genotype, self.space, self.in_channels, self.num_classes)
        source = tensors(self.whole)
        _take(network, {name: source[name] for name in tensors(network) if name in source})
        return network


def paths_of(genotype: Genotype, space: SearchSpace) -> dict[str, list[int]]:
    """For each cell kind and edge the column of the operation that a genotype runs there, −1 for none."""
    pruned = genotype.pruned()
    columns = {name: column for column, name in enumerate(space.operations)}
    paths = {}
    for kind in CELL_KINDS:
        chosen = {(edge.node, edge.source): edge.op for edge in pruned.cell(kind) if edge.op != ZEROISE}
        ops = [chosen.get(ends) for ends in cell_edges(space.num_nodes)]
        paths[kind] = [-1 if op is None else columns[op] for op in ops]
    return paths


class MacroSupernet(PathSupernet):
    """A chain with every choice at its largest; a path computes with slices of its weights.

    A genotype's block has the first channels and the middle of the kernel of the block at its place, of a
    convolution in groups each output's own connections, and of the activations the one that it names.

    Args:
        space: a macro space.
        in_channels, num_classes: of the data.
    Reference: Yu and Huang, Universally Slimmable Networks, arXiv:1903.05134 (first channels); Lin et al.,
        NAS-BNN, arXiv:2408.15484.
    Deviation: kernels are the middle of the largest one, without NAS-BNN's learned transforms.
    """

    def __init__(self, space: MacroSpace, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.space, self.in_channels, self.num_classes = space, in_channels, num_classes
        widest = max(space.stem.channels)
        self.stem = stem_of(MacroStem(channels=widest), in_channels)
        self.stages = nn.ModuleList()
        for choices in space.stages:
            blocks = nn.ModuleList()
            for _ in range(max(choices.depth)):
                blocks.append(_WidestBlock(choices, widest, space))
                widest = max(choices.channels)
            self.stages.append(blocks)
        self.classifier = nn.Linear(widest, num_classes)
        self._parts: dict[object, nn.Module] = {}

    def forward(self, x: Tensor, genotype: MacroGenotype) -> Tensor:
        """See `PathSupernet`."""
        stem = genotype.stem
        part = self._part(stem, lambda: stem_of(stem, self.in_channels))
        whole = tensors(self.stem)
        x = channels_last(functional_call(part, _leading(whole, tensors(part)), (x,)))
        for place in genotype.blocks():
            block = self._block(place)
            x = functional_call(block, self._tensors(place, block), (x,))
        weight = self.classifier.weight[:, : x.shape[1]]
        return nn.functional.linear(global_average(x), weight, self.classifier.bias)

    def network(self, genotype: AnyGenotype) -> nn.Module:
        """See `PathSupernet`."""
        assert isinstance(genotype, MacroGenotype)
        network = proxy_network(genotype, self.space, self.in_channels, self.num_classes)
        own = dict(network.named_modules())
        found: dict[str, Tensor] = {}
        for path in ("stem", "classifier"):
            parts = _leading(tensors(getattr(self, path)), tensors(own[path]))
            found |= {f"{path}.{name}": tensor for name, tensor in parts.items()}
        for place in genotype.blocks():
            parts = self._tensors(place, own[place.name])
            found |= {f"{place.name}.{name}": tensor for name, tensor in parts.items()}
        _take(network, found)
        return network

    def _tensors(self, place: PlacedBlock, block: nn.Module) -> dict[str, Tensor]:
        """What a block at its place computes with, as views where they can be."""
        widest = self.get_submodule(f"stages.{place.stage}.{place.position}")
        source, modules = tensors(widest), dict(block.named_modules())
        found = {}
        for name, tensor in tensors(block).items():
            owner, _, leaf = name.rpartition(".")
            half, _, rest = name.partition(".activation.")
            shared = f"{half}.activations.{place.block.activation}.{rest}" if rest else name
            conv = modules[owner]
            part: Tensor | None
            if leaf == "weight" and isinstance(conv, BinaryConv2d):
                whole = widest.get_submodule(owner)
                assert isinstance(whole, BinaryConv2d)
                part = conv_part(source[shared], conv, whole)
            else:
                part = leading(source[shared], tensor) if shared in source else None
            if part is None:
                raise UserError(
                    f"space '{self.space.name}': '{place.name}.{name}' of a genotype has no part in shared"
                    " weights; use binarizers that hold nothing whose shape depends on groups or kernels"
                )
            found[name] = part
        return found

    def _block(self, place: PlacedBlock) -> nn.Module:
        key = (place.block.model_dump_json(), place.in_channels, place.out_channels, place.stride)
        return self._part(key, lambda: _built(place, self.space, self._precision()))

    def _precision(self) -> tuple[bool, bool]:
        conv = next(module for module in self.modules() if isinstance(module, BinaryConv2d))
        return conv.binarize_activations, conv.binarize_weights

    def _part(self, key: object, build: object) -> nn.Module:
        # what has no weights of its own is kept beside the modules, or it would stand in the state
        if key not in self._parts:
            self._parts[key] = build()  # type: ignore[operator]
        return self._parts[key].train(self.training)


class _WidestHalf(nn.Module):
    """The largest of what a half of a block can be, with all of its activations."""

    def __init__(self, half: Half, activations: tuple[str, ...]) -> None:
        super().__init__()
        channels = half.conv.out_channels
        self.conv, self.norm, self.shortcut = half.conv, half.norm, half.shortcut
        self.activations = nn.ModuleDict({name: build_nonlinearity(name, channels) for name in activations})


class _WidestBlock(nn.Module):
    """The largest of what a block can be."""

    def __init__(self, choices: StageChoices, in_channels: int, space: MacroSpace) -> None:
        super().__init__()
        skip = "real" if "real" in choices.skip else choices.skip[0]
        chosen = Block(kernel_size=max(choices.kernel_size), activation=choices.activation[0], skip=skip)
        # in stride 2 or a new width lies all that a shortcut can hold
        place = PlacedBlock(0, 0, chosen, in_channels, max(choices.channels), max(choices.stride))
        block = MacroBlock(place, (space.binarization,))
        for name, half in block.named_children():
            assert isinstance(half, Half)
            self.add_module(name, _WidestHalf(half, choices.activation))


def _built(place: PlacedBlock, space: MacroSpace, precision: tuple[bool, bool]) -> nn.Module:
    block = MacroBlock(place, (space.binarization,))
    set_precision(block, *precision)
    return block


def _leading(shared: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {name: leading(shared[name], tensor) for name, tensor in like.items()}
    return {name: part for name, part in found.items() if part is not None}


@torch.no_grad()
def _take(network: nn.Module, found: Mapping[str, Tensor]) -> None:
    """Copies what is there by name; what only the network's binarizers have starts afresh."""
    own = tensors(network)
    for name, tensor in found.items():
        own[name].copy_(tensor)
