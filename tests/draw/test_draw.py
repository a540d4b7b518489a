"""Drawing: the graph, the layout's promises (nothing runs over a box), every format by both ways."""

from __future__ import annotations

import random
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from binas.arch.genotype import CELL_KINDS, Edge, Genotype, parse_genotype
from binas.config import find_file, shipped_names
from binas.draw.dot import dot_graph
from binas.draw.figure import cell_image, figure
from binas.draw.graph import OUTPUT, category, cell_graph, operation_label, scene
from binas.draw.heatmap import alpha_heatmap
from binas.draw.layout import Layout, place
from binas.draw.render import draw
from binas.errors import UserError

OPERATIONS = (
    "zeroise",
    "skip",
    "max_pool_3x3",
    "binary_conv_3x3",
    "binary_dilated_group_conv_5x5",
    "binary_separable_conv_3x3",
)
NODE_2_DEAD = (
    Edge(2, 0, "zeroise"),
    Edge(2, 1, "zeroise"),
    Edge(3, 2, "skip"),
    Edge(3, 1, "binary_conv_3x3"),
)


def published(name: str) -> Genotype:
    return parse_genotype(find_file(name, "genotypes").read_text(), name)


def random_genotype(num_nodes: int, edges_per_node: int, seed: int) -> Genotype:
    draws = random.Random(seed)

    def cell() -> tuple[Edge, ...]:
        return tuple(
            Edge(node, source, draws.choice(OPERATIONS))
            for node in range(2, 2 + num_nodes)
            for source in draws.sample(range(node), min(edges_per_node, node))
        )

    return Genotype(num_nodes=num_nodes, edges_per_node=edges_per_node, normal=cell(), reduce=cell())


def dead_genotype() -> Genotype:
    return Genotype(num_nodes=2, normal=NODE_2_DEAD, reduce=NODE_2_DEAD)


GENOTYPES = {
    **{name: published(name) for name in shipped_names("genotypes")},
    "dead": dead_genotype(),
    **{
        f"random_{n}_{k}_{s}": random_genotype(n, k, s)
        for n, k, s in [
            (1, 1, 0),
            (1, 2, 0),
            (2, 2, 1),
            (4, 5, 2),
            (7, 1, 3),
            (7, 2, 4),
            (7, 2, 5),
            (9, 3, 6),
        ]
    },
}


@pytest.mark.parametrize(
    ("operation", "said", "kind"),
    [
        ("binary_conv_3x3", "binary conv 3×3", "binary"),
        ("binary_dilated_group_conv_5x5", "binary dilated group conv 5×5", "binary"),
        ("max_pool_3x3", "max pool 3×3", "weightless"),
        ("skip", "skip", "weightless"),
        ("zeroise", "zeroise", "none"),
        ("my_max_mix", "my max mix", "unknown"),
        ("nonbinary_conv", "nonbinary conv", "unknown"),
        ("line\nbreak", "line?break", "unknown"),
    ],
)
def test_words_and_category(operation: str, said: str, kind: str) -> None:
    assert operation_label(operation) == said
    assert category(operation) == kind
    assert category(operation, strided=True) == ("binary" if operation == "skip" else kind)


def test_cell_graph_of_a_cell_with_a_dead_node() -> None:
    graph = cell_graph(dead_genotype(), "normal")
    labels = {node: (data["label"], data["dead"]) for node, data in graph.nodes(data=True)}
    assert labels == {
        0: ("c_{k-2}", False),
        1: ("c_{k-1}", False),
        2: ("node 2", True),
        3: ("node 3", False),
        OUTPUT: ("output", False),
    }
    edges = {
        (source, node): (data["words"], data["category"], data["dead"])
        for source, node, data in graph.edges(data=True)
    }
    assert edges == {
        (0, 2): ("zeroise", "none", False),
        (1, 2): ("zeroise", "none", False),
        (2, 3): ("skip", "weightless", True),
        (1, 3): ("binary conv 3×3", "binary", False),
        (2, OUTPUT): ("", "concat", True),
        (3, OUTPUT): ("", "concat", False),
    }


def test_output_of_a_wholly_zeroised_cell_is_dead() -> None:
    zeros = (Edge(2, 0, "zeroise"), Edge(2, 1, "zeroise"))
    graph = cell_graph(Genotype(num_nodes=1, normal=zeros, reduce=zeros), "reduce")
    assert graph.nodes[OUTPUT]["dead"]


def layouts(genotype: Genotype) -> list[Layout]:
    found = []
    for kind in CELL_KINDS:
        boxes, links = scene(cell_graph(genotype, kind))
        sizes = {box.name: (12.0 + 5 * max(map(len, box.text.split("\n"))), 18.0) for box in boxes}
        found.append(place(boxes, links, sizes))
    return found


@pytest.mark.parametrize("name", GENOTYPES)
def test_no_box_over_another_and_all_inside(name: str) -> None:
    for layout in layouts(GENOTYPES[name]):
        places = list(layout.places.values())
        for index, one in enumerate(places):
            assert one.width / 2 - 0.01 <= one.x <= layout.width - one.width / 2 + 0.01
            assert one.height / 2 <= one.y <= layout.height - one.height / 2
            for other in places[:index]:
                apart = abs(one.x - other.x) >= (one.width + other.width) / 2 + 5
                assert apart or abs(one.y - other.y) >= (one.height + other.height) / 2 + 5


@pytest.mark.parametrize("name", GENOTYPES)
def test_no_line_runs_over_a_box(name: str) -> None:
    for layout in layouts(GENOTYPES[name]):
        for route in layout.routes:
            bends = zip(route[1::2], route[2::2], strict=False)
            curves = [bend(*ends, t) for ends in bends for t in np.linspace(0, 1, 15)]
            inside = [
                (x, y)
                for x, y in [*route[1:-1], *curves]
                for box in layout.places.values()
                if abs(x - box.x) < box.width / 2 - 0.01 and abs(y - box.y) < box.height / 2 - 0.01
            ]
            assert inside == []


def bend(start: tuple[float, float], end: tuple[float, float], t: float) -> tuple[float, float]:
    """A point of the cubic curve that leaves and arrives upright."""
    middle = (start[1] + end[1]) / 2
    weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
    x = (weights[0] + weights[1]) * start[0] + (weights[2] + weights[3]) * end[0]
    return x, weights[0] * start[1] + (weights[1] + weights[2]) * middle + weights[3] * end[1]


@pytest.mark.parametrize("name", ["bats", "bnas_latest_cell_zeroise", "dead", "random_7_2_4"])
def test_texts_of_the_figure_do_not_overlap(name: str) -> None:
    drawing = figure(GENOTYPES[name])
    renderer = drawing.canvas.get_renderer()
    extents = [text.get_window_extent(renderer) for text in drawing.axes[0].texts]
    page = drawing.bbox
    for index, one in enumerate(extents):
        assert page.x0 <= one.x0 <= one.x1 <= page.x1
        assert page.y0 <= one.y0 <= one.y1 <= page.y1
        assert not any(one.overlaps(other) for other in extents[:index])


def test_a_chain_is_drawn_nearly_straight() -> None:
    edges = [Edge(2, 0, "skip"), Edge(3, 2, "skip"), Edge(4, 3, "skip")]
    chain = Genotype(num_nodes=3, edges_per_node=1, normal=edges, reduce=edges)
    layout = layouts(chain)[0]
    straight = [layout.places[name].x for name in ("2", "3", "4")]
    assert max(straight) - min(straight) < 60


def without_dot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = tmp_path / "no_programs"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    assert shutil.which("dot") is None


def check_picture(path: Path, text: str | None = None) -> None:
    content = path.read_bytes()
    match path.suffix:
        case ".png":
            with Image.open(path) as picture:
                picture.load()
                assert min(picture.size) > 200
                assert len(set(picture.convert("RGB").get_flattened_data())) > 10
        case ".svg":
            assert ET.fromstring(content).tag.endswith("svg")
            if text is not None:
                assert text in content.decode()
        case ".pdf":
            assert content.startswith(b"%PDF")
            assert content.rstrip().endswith(b"%%EOF")
        case ".dot":
            assert content.startswith(b"digraph")


@pytest.mark.parametrize("ending", ["svg", "png", "pdf", "dot"])
def test_draw_without_graphviz(ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_dot(monkeypatch, tmp_path)
    path = draw(dead_genotype(), tmp_path / "new folder" / f"cells.{ending}")
    check_picture(path, "binary conv 3×3")
    before = path.read_bytes()
    draw(dead_genotype(), str(path))
    assert path.read_bytes() == before  # no date, no random names
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(shutil.which("dot") is None, reason="the dot program is not installed")
@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
@pytest.mark.parametrize("name", ["bnas_latest_cell_zeroise", "random_7_2_4"])
def test_draw_with_graphviz(ending: str, name: str, tmp_path: Path) -> None:
    path = draw(GENOTYPES[name], tmp_path / f"cells.{ending}")
    check_picture(path, "zeroise")
    if ending == "svg":
        assert "graphviz" in path.read_text().lower()


def test_a_broken_dot_still_gives_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "dot"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert shutil.which("dot") == str(program)
    check_picture(draw(dead_genotype(), tmp_path / "cells.svg"), "binary conv 3×3")


def test_dot_text_names_everything() -> None:
    source = dot_graph(GENOTYPES["bats"]).source
    for text in ("Normal cell", "Reduction cell", "max pool 3×3", "c<SUB>k-2</SUB>", "node 5", "zeroised"):
        assert text in source
    dead = dot_graph(dead_genotype()).source
    grey = [line for line in dead.splitlines() if '"node 2"' in line]
    assert grey
    assert all("#ededed" in line and "dashed" in line for line in grey)


def test_an_operation_named_to_do_harm_is_only_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ['"]; x [label="', "<B>&amp;</B>", "$\\frac{1}{0}$ a\\N", "<script>alert(1)</script>"]
    edges = [Edge(2 + index // 2, index % 2, name) for index, name in enumerate(names)]
    genotype = Genotype(num_nodes=2, normal=edges, reduce=edges)
    by_graphviz = draw(genotype, tmp_path / "one.svg")
    without_dot(monkeypatch, tmp_path)
    for path in (by_graphviz, draw(genotype, tmp_path / "two.svg")):
        tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(path.read_bytes()).iter()}
        assert "script" not in tags


@pytest.mark.parametrize("name", ["cells", "cells.gif", "cells.svgz", "cells."])
def test_another_ending_is_a_user_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.svg, \.png, \.pdf, \.dot"):
        draw(dead_genotype(), tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cells\.dot"):
        draw(dead_genotype(), tmp_path / "file" / "cells.dot")


def test_cell_image_is_rgb_and_differs_by_cell() -> None:
    one, two = cell_image(GENOTYPES["dead"]), cell_image(GENOTYPES["random_2_2_1"])
    assert one.dtype == np.uint8
    assert one.ndim == 3
    assert one.shape[2] == 3
    assert one.shape != two.shape or bool((one != two).any())


def test_drawing_opens_no_window_and_leaves_no_state() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    cell_image(GENOTYPES["dead"])
    assert dict(matplotlib.rcParams) == before


def test_heat_map_is_dark_where_probability_is_high() -> None:
    probabilities = np.full((3, 4), 0.0)
    probabilities[[0, 1, 2], [1, 2, 3]] = 1.0
    picture = alpha_heatmap(
        probabilities, ["0 → 2", "1 → 2", "0 → 3"], list(OPERATIONS[:4]), title="Normal cell"
    )
    assert picture.dtype == np.uint8
    dark = (picture.astype(int).sum(axis=2) < 200) & (picture[..., 2] > 80)
    rows, columns = np.nonzero(dark)
    # the dark squares descend from left to right
    assert np.corrcoef(rows, columns)[0, 1] > 0.8


def test_heat_map_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match="2 edges and 1 operations"):
        alpha_heatmap(np.ones((1, 1)), ["a", "b"], ["skip"])
