"""A genotype to a picture file, by its ending; graphviz draws it where `dot` is installed, else we do.

Formats: svg, png and pdf pictures, dot text. Files appear whole or not at all, and no window opens.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from binas.arch.genotype import AnyGenotype
from binas.run.files import picture_ending, write_atomic

ENDINGS = ("svg", "png", "pdf", "dot")
PNG_DPI = 200
DOT_SECONDS = 60


def draw(genotype: AnyGenotype, path: Path | str) -> Path:
    """Draws both cells, or all stages of a macro genotype, into a file and returns its path.

    Args:
        genotype: of either kind.
        path: the file to write; its ending, one of svg, png, pdf and dot, says what it becomes.

    Raises:
        UserError: the ending is another one, or the file cannot be written.
    """
    path = Path(path)
    ending = picture_ending(path, ENDINGS)
    content = _rendered(genotype, ending)
    write_atomic(path, content)
    return path


def _rendered(genotype: AnyGenotype, ending: str) -> bytes:
    from binas.draw.dot import dot_graph

    drawing = dot_graph(genotype)
    if ending == "dot":
        return str(drawing.source).encode()
    drawing.graph_attr["dpi"] = str(PNG_DPI if ending == "png" else 72)
    return _by_graphviz(str(drawing.source), ending) or _by_matplotlib(genotype, ending)


def _by_graphviz(source: str, ending: str) -> bytes | None:
    """What `dot` makes of the text, or nothing where it is absent, lacks the format or fails."""
    program = shutil.which("dot")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, f"-T{ending}"], input=source.encode(), capture_output=True, timeout=DOT_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _by_matplotlib(genotype: AnyGenotype, ending: str) -> bytes:
    from binas.draw.figure import figure
    from binas.draw.saving import rendered

    return rendered(figure(genotype), ending, PNG_DPI)
