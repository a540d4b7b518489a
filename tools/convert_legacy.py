"""Writes the published cells in `genotypes/` from the texts in which their authors gave them.

`python tools/convert_legacy.py [FOLDER]`; run it again after a change of a search space, since every file
carries its space whole.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NamedTuple

from binas.arch.genotype import Genotype
from binas.arch.legacy import import_genotype
from binas.arch.space import SearchSpace
from binas.config import find_file, load

FOLDER = Path(__file__).parents[1] / "genotypes"


class Published(NamedTuple):
    """A cell pair as its authors published it."""

    names: str
    space: str
    paper: str
    source: str
    note: str
    text: str


_BNAS = "Kim, Singh, Choi: Learning Architectures for Binary Networks, ECCV 2020, arXiv:2002.06963"
_BNAS_FILE = "github.com/gistvision/bnas, src/genotypes.py"
_DARTS = "Liu, Simonyan, Yang: DARTS: Differentiable Architecture Search, ICLR 2019, arXiv:1806.09055"
_DARTS_FILE = "github.com/quark0/darts, cnn/genotypes.py"
_PC = "Xu et al.: PC-DARTS: Partial Channel Connections, ICLR 2020, arXiv:1907.05737"
_PC_FILE = "github.com/yuhuixu1993/PC-DARTS, genotypes.py"
_CONTROL = (
    "found for real-valued networks; its separable convolutions are made binary here, its dilated ones"
    " binary and dense, as a control that is known to be bad"
)

PUBLISHED = {
    "bnas_latest_cell": Published(
        "bnas",
        "bnas",
        _BNAS,
        f"{_BNAS_FILE}, latest_cell",
        "used by the authors for ImageNet; no zeroise",
        """latest_cell = Genotype(
        normal=[('bin_conv_3x3', 1), ('bin_dil_conv_3x3', 0), ('bin_conv_3x3', 1), ('bin_conv_3x3', 2),
                ('bin_conv_3x3', 2), ('bin_dil_conv_3x3', 1), ('bin_dil_conv_3x3', 1), ('bin_conv_3x3', 0)],
        normal_concat=range(2, 6),
        reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('bin_conv_3x3', 2),
                ('max_pool_3x3', 0), ('bin_dil_conv_3x3', 3), ('max_pool_3x3', 0), ('bin_dil_conv_3x3', 4)],
        reduce_concat=range(2, 6))""",
    ),
    "bnas_latest_cell_zeroise": Published(
        "bnas",
        "bnas",
        _BNAS,
        f"{_BNAS_FILE}, latest_cell_zeroise",
        "used by the authors for CIFAR-10",
        """latest_cell_zeroise = Genotype(
        normal=[('none', 1), ('bin_dil_conv_3x3', 0), ('bin_conv_3x3', 1), ('none', 2),
                ('none', 2), ('none', 3), ('none', 3), ('none', 4)],
        normal_concat=range(2, 6),
        reduce=[('max_pool_3x3', 0), ('none', 1), ('max_pool_3x3', 0), ('none', 2),
                ('none', 3), ('none', 2), ('none', 3), ('none', 4)],
        reduce_concat=range(2, 6))""",
    ),
    "bats": Published(
        "bats",
        "bats",
        "Bulat, Martinez, Tzimiropoulos: BATS: Binary ArchitecTure Search, ECCV 2020, arXiv:2003.01711",
        "transcribed from Fig. 3 of the paper",
        "not published as code; here sep_conv and dil_conv stand for grouped convolutions",
        """BATS = Genotype(
        normal=[('sep_conv_5x5', 0), ('dil_conv_5x5', 1), ('max_pool_3x3', 0), ('max_pool_3x3', 2),
                ('sep_conv_5x5', 0), ('dil_conv_5x5', 2), ('sep_conv_3x3', 0), ('dil_conv_5x5', 1)],
        normal_concat=range(2, 6),
        reduce=[('max_pool_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_5x5', 0), ('avg_pool_3x3', 1),
                ('sep_conv_5x5', 1), ('max_pool_3x3', 3), ('sep_conv_5x5', 0), ('sep_conv_5x5', 1)],
        reduce_concat=range(2, 6))""",
    ),
    "ebnas": Published(
        "bnas",
        "bnas",
        "EBNAS: efficient binary network design for image classification via neural architecture search",
        "github.com/sscckk/EBNAS, genotypes.py",
        "carries the bnas space; the authors train 11 cells of 56 channels",
        """EBNAS = Genotype(
        normal=[('bin_conv_3x3', 0), ('max_pool_3x3', 1), ('max_pool_3x3', 0), ('max_pool_3x3', 1),
                ('bin_conv_3x3', 1), ('bin_conv_5x5', 0), ('max_pool_3x3', 0), ('bin_dil_conv_3x3', 1)],
        normal_concat=range(2, 6),
        reduce=[('bin_conv_5x5', 0), ('bin_conv_5x5', 1), ('bin_conv_3x3', 1), ('bin_dil_conv_5x5', 2),
                ('bin_dil_conv_5x5', 2), ('bin_conv_3x3', 1), ('max_pool_3x3', 0), ('bin_conv_3x3', 1)],
        reduce_concat=range(2, 6))""",
    ),
    "darts_v1": Published(
        "darts",
        "darts_binary",
        _DARTS,
        f"{_DARTS_FILE}, DARTS_V1",
        f"first order; {_CONTROL}",
        """DARTS_V1 = Genotype(
        normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1),
                ('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)],
        normal_concat=[2, 3, 4, 5],
        reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0),
                ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)],
        reduce_concat=[2, 3, 4, 5])""",
    ),
    "darts_v2": Published(
        "darts",
        "darts_binary",
        _DARTS,
        f"{_DARTS_FILE}, DARTS_V2",
        f"second order; {_CONTROL}",
        """DARTS_V2 = Genotype(
        normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1),
                ('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)],
        normal_concat=[2, 3, 4, 5],
        reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1),
                ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)],
        reduce_concat=[2, 3, 4, 5])""",
    ),
    "pc_darts_cifar": Published(
        "darts",
        "darts_binary",
        _PC,
        f"{_PC_FILE}, PC_DARTS_cifar",
        f"found on CIFAR-10; {_CONTROL}",
        """PC_DARTS_cifar = Genotype(
        normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), ('dil_conv_3x3', 1),
                ('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)],
        normal_concat=range(2, 6),
        reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 2),
                ('sep_conv_3x3', 0), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)],
        reduce_concat=range(2, 6))""",
    ),
    "pc_darts_image": Published(
        "darts",
        "darts_binary",
        _PC,
        f"{_PC_FILE}, PC_DARTS_image",
        f"found on ImageNet; {_CONTROL}",
        """PC_DARTS_image = Genotype(
        normal=[('skip_connect', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 0), ('skip_connect', 1),
                ('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('dil_conv_5x5', 4)],
        normal_concat=range(2, 6),
        reduce=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 2), ('max_pool_3x3', 1),
                ('sep_conv_3x3', 2), ('sep_conv_3x3', 1), ('sep_conv_5x5', 0), ('sep_conv_3x3', 3)],
        reduce_concat=range(2, 6))""",
    ),
}


def convert(name: str) -> Genotype:
    """The published cell of that name with its space and where it comes from."""
    cell = PUBLISHED[name]
    space = load(SearchSpace, find_file(cell.space, "search_spaces")).model_dump(mode="json")
    genotype = import_genotype(cell.text, cell.names, name, space)
    provenance = {"paper": cell.paper, "source": cell.source, "note": cell.note}
    return genotype.model_copy(update={"provenance": provenance})


def main() -> None:
    """Writes every published cell into the folder named on the command line, or into `genotypes/`."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name in PUBLISHED:
        path = folder / f"{name}.json"
        path.write_text(convert(name).to_json(), encoding="utf-8")
        print(path)


if __name__ == "__main__":
    main()
