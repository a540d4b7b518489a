"""Published networks of searched cells: BNAS A to H and Mini, BATS, EBNAS.

Kim et al., BNAS, arXiv:2002.06963; Bulat et al., BATS, arXiv:2003.01711; EBNAS, github.com/sscckk/EBNAS.
The cells lie in `genotypes/`; what their released networks do otherwise than the search space's cell is
put right here, by name.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from binas.arch.cell import Cell
from binas.arch.genotype import Genotype, read_cells
from binas.arch.network import Network, genotype_space
from binas.arch.stem import WHY_STEM, ImageNetStem
from binas.binarize import Binarization, BinarizerSpec
from binas.config import find_file
from binas.errors import UserError
from binas.models.layers import average_pool, binary_conv
from binas.models.model_registry import ModelOptions, Task, register_models
from binas.ops import OPS
from binas.ops.convolutions import BinaryConv
from binas.ops.parameter_free import padded_to_even

BNAS_PAPER = "Kim et al., BNAS, arXiv:2002.06963"
BATS_PAPER = "Bulat et al., BATS, arXiv:2003.01711"


class CellOptions(ModelOptions):
    """Options of networks of cells."""

    num_cells: int = Field(ge=1, le=1000)
    """Cells in a row."""
    init_channels: int = Field(ge=1, le=65_536)
    """Channels of an operation in the first cell; doubled by each of the two reductions."""
    stem: Literal["cifar", "imagenet"] = "cifar"
    """cifar: one 3×3 convolution; imagenet: three of stride 2."""


class BnasOptions(CellOptions):
    """Options of BNAS networks."""

    zeroise: bool = True
    """The cell with zeroise (CIFAR-10), or the one without (ImageNet)."""


class GroupedCellOptions(CellOptions):
    """Options of networks whose cells have group convolutions."""

    groups: int = Field(ge=1)
    """Groups of the convolutions in cells; it divides init_channels."""
    shuffle: bool = False
    """Whether a channel shuffle follows them; BATS reports no gain from it."""


class ReleasedNetwork(Network):
    """A network whose layers differ from those of its genotype's space, see `follow_released`."""


def network_of(
    genotype: Genotype, options: CellOptions, task: Task, kind: type[Network] = Network
) -> Network:
    """The network of a genotype with these options, built as the space says."""
    space = genotype_space(genotype)
    changes = {key: getattr(options, key) for key in ("num_cells", "init_channels", "stem")}
    settings = type(space.network).model_validate({**space.network.model_dump(), **changes})
    return kind(
        genotype,
        task.in_channels,
        task.num_classes,
        settings=settings,
        binarizations=task.binarizations,
        auxiliary=task.auxiliary,
    )


def bnas(options: BnasOptions, task: Task) -> nn.Module:
    """BNAS: cells with inter-cell skips, real-valued where a reduction halves the size.

    Shape: (N, C, H, W) -> (N, num_classes).
    Reference: github.com/gistvision/bnas, src/model.py, src/model_imagenet.py and README. The sizes of Mini
        and B are from memory.
    Deviation: weights of convolutions are centred in forward only, see the binarizer `xnor`; the last
        convolutions are binary too, which the released code leaves real by a wrong count.
    """
    name = "bnas_latest_cell_zeroise" if options.zeroise else "bnas_latest_cell"
    return network_of(read_cells(find_file(name, "genotypes"), OPS), options, task)


def bats(options: GroupedCellOptions, task: Task) -> nn.Module:
    """BATS: cells of group convolutions, each with an identity skip, PReLU, no inter-cell skips.

    Shape: (N, C, H, W) -> (N, num_classes).
    Reference: the cell is read from fig. 3 of the paper; layers as in
        github.com/1adrianb/binary-networks-pytorch, bnn/models/bats.py: convolution, batch-norm and ReLU
        in the stem, factorised reduction of the input that is twice as large, PReLU after preprocessing.
    Deviation: no skip around preprocessing; no shuffle by default, the released code shuffles 4 groups.
    """
    genotype = read_cells(find_file("bats", "genotypes"), OPS)
    network = network_of(regrouped(genotype, options, {}), options, task, ReleasedNetwork)
    groups = max(1, options.init_channels // 20)
    follow_released(network, task, (groups, groups), SkippedConv, second_norm=False)
    return network


def ebnas(options: GroupedCellOptions, task: Task) -> nn.Module:
    """EBNAS: cells of convolutions in 14 groups, batch-norm on both sides, a skip and PReLU around them.

    Shape: (N, C, H, W) -> (N, num_classes).
    Reference: github.com/sscckk/EBNAS, genotypes.py, model.py, operations_eval.py, train_cifar10.py.
    """
    names = {
        f"binary_{kind}conv_{size}": f"binary_{kind}group_conv_{size}"
        for kind in ("", "dilated_")
        for size in ("3x3", "5x5")
    }
    genotype = read_cells(find_file("ebnas", "genotypes"), OPS)
    network = network_of(regrouped(genotype, options, names), options, task, ReleasedNetwork)
    follow_released(network, task, (4, 2), NormedConv, second_norm=True)
    return network


def regrouped(genotype: Genotype, options: GroupedCellOptions, names: dict[str, str]) -> Genotype:
    """The genotype in a space of group convolutions with PReLU and without inter-cell skips.

    Args:
        names: what stands in place of an operation.
    Raises:
        UserError: the groups do not divide the channels.
    """
    if options.init_channels % options.groups:
        raise UserError(
            f"model: groups: {options.groups} does not divide the {options.init_channels} init_channels;"
            " change one of them"
        )
    space = genotype_space(genotype)
    changed: dict[str, Any] = {
        **space.model_dump(mode="json"),
        "operations": [names.get(name, name) for name in space.operations],
        "inter_cell_skip": False,
        "activation": "prelu",
        "grouping": {"channels_per_group": None, "groups": options.groups, "shuffle": options.shuffle},
    }
    cells = {
        kind: tuple(edge._replace(op=names.get(edge.op, edge.op)) for edge in genotype.cell(kind))
        for kind in ("normal", "reduce")
    }
    return genotype.model_copy(update={"space": changed, **cells})


def follow_released(
    network: Network, task: Task, stem_groups: tuple[int, int], operation: type[nn.Module], second_norm: bool
) -> None:
    """Replace what the released networks of BATS and EBNAS have otherwise than the search space's cell.

    Args:
        stem_groups: of the second and third convolution of a stem for ImageNet.
        operation: what a convolution on an edge becomes.
        second_norm: whether a batch-norm follows the convolutions of the preprocessing.
    """
    network.stem = released_stem(network, task, stem_groups)
    for plan, cell in zip(network.plans, network.cells, strict=True):
        assert isinstance(cell, Cell)
        for source, preprocess in cell.preprocess.items():
            assert isinstance(preprocess, nn.Sequential)
            conv: nn.Module = preprocess[1]
            if source == "0" and plan.first_input_stride == 2:
                conv = Factorised(plan.input_channels[0], plan.channels, task)
            norms = [nn.BatchNorm2d(plan.channels)] if second_norm else []
            first = nn.BatchNorm2d(plan.input_channels[int(source)])
            cell.preprocess[source] = nn.Sequential(first, conv, *norms, nn.PReLU(plan.channels))
        for edge in cell.edges.values():
            assert isinstance(edge, nn.ModuleDict)
            for name, module in edge.items():
                if isinstance(module, BinaryConv):
                    edge[name] = operation(module)


def released_stem(network: Network, task: Task, groups: tuple[int, int]) -> nn.Module:
    """Convolution, batch-norm, ReLU, or the stem for ImageNet with groups."""
    settings = network.settings
    if settings.stem == "imagenet":
        if settings.init_channels % max(groups) or settings.init_channels // 2 % groups[0]:
            raise UserError(
                f"model: init_channels: {settings.init_channels} does not divide into the {groups[0]} and"
                f" {groups[1]} groups of the stem; take a multiple of {2 * max(groups)}, or stem: cifar"
            )
        return ImageNetStem(task.in_channels, settings.init_channels, groups)
    conv = nn.Conv2d(task.in_channels, settings.stem_channels, 3, padding=1, bias=False)
    conv.why_real = WHY_STEM  # type: ignore[assignment]
    return nn.Sequential(conv, nn.BatchNorm2d(settings.stem_channels), nn.ReLU())


class Factorised(nn.Module):
    """Two 1×1 binary convolutions of stride 2 on shifted grids, concatenated.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H/2), ceil(W/2)); odd sizes are padded by one.
    """

    def __init__(self, in_channels: int, out_channels: int, task: Task) -> None:
        super().__init__()
        first = (out_channels + 1) // 2
        self.first = binary_conv(task, in_channels, first, 1, 2)
        self.second = binary_conv(task, in_channels, out_channels - first, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        x = padded_to_even(x)
        return torch.cat([self.first(x), self.second(x[:, :, 1:, 1:])], dim=1)


class SkippedConv(nn.Module):
    """An operation of BATS: x + f(x) where it is not strided, f(x) where it is.

    Shape: that of the operation f.
    """

    def __init__(self, operation: BinaryConv) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.operation(x)
        return x + y if y.shape == x.shape else y


class NormedConv(nn.Module):
    """An operation of EBNAS: act(norm(conv(sign(norm(x)))) + x), x pooled where it is strided.

    Shape: that of the operation.
    """

    def __init__(self, operation: BinaryConv) -> None:
        super().__init__()
        channels = operation.conv.out_channels
        self.body = nn.Sequential(operation.norm, operation.conv, operation.shuffle, nn.BatchNorm2d(channels))
        self.pool = average_pool(operation.conv.stride)
        self.activation = operation.activation

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.activation(self.body(x) + self.pool(x))
        return y


register_models(
    bnas,
    {
        "bnas_mini": BnasOptions(num_cells=10, init_channels=24),
        "bnas_a": BnasOptions(num_cells=20, init_channels=36),
        "bnas_b": BnasOptions(num_cells=12, init_channels=64),
        "bnas_c": BnasOptions(num_cells=16, init_channels=108),
        "bnas_d": BnasOptions(num_cells=12, init_channels=64, stem="imagenet", zeroise=False),
        "bnas_e": BnasOptions(num_cells=12, init_channels=68, stem="imagenet", zeroise=False),
        "bnas_f": BnasOptions(num_cells=15, init_channels=68, stem="imagenet", zeroise=False),
        "bnas_g": BnasOptions(num_cells=11, init_channels=74, stem="imagenet", zeroise=False),
        "bnas_h": BnasOptions(num_cells=16, init_channels=128, stem="imagenet", zeroise=False),
    },
    Binarization(
        activation=BinarizerSpec(name="sign", window=1.0), weight=BinarizerSpec(name="xnor", center=True)
    ),
    BNAS_PAPER,
    twin_activation="none",
    has_cells=True,
)
register_models(
    bats,
    {
        "bats_cifar": GroupedCellOptions(num_cells=20, init_channels=36, groups=12),
        "bats_imagenet": GroupedCellOptions(num_cells=14, init_channels=80, groups=16, stem="imagenet"),
        "bats_imagenet_2x": GroupedCellOptions(num_cells=14, init_channels=120, groups=24, stem="imagenet"),
    },
    Binarization(activation=BinarizerSpec(name="sign"), weight=BinarizerSpec(name="xnor_plus_plus")),
    BATS_PAPER,
    twin_activation="none",
    has_cells=True,
)
register_models(
    ebnas,
    {"ebnas": GroupedCellOptions(num_cells=11, init_channels=56, groups=14)},
    Binarization(activation=BinarizerSpec(name="approx_sign"), weight=BinarizerSpec(name="magnitude_aware")),
    "EBNAS, github.com/sscckk/EBNAS",
    twin_activation="none",
    has_cells=True,
)
