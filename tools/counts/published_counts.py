"""What binas counts for published networks beside what their papers print: benchmarks/published_counts.md.

`python tools/counts/published_counts.py` writes the page; `--check` only says whether the page is what
would be written. Published figures, with their sources, and the reasons for differences stand in
published_figures.yaml. Nothing is trained or run: networks are counted without numbers.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from binas.errors import UserError
from binas.run.files import write_atomic
from tools.counts.published_figures import COUNTS, FIGURES, Figures, Printed, Reason, Row, ours, read_figures
from tools.measuring.measured import CHECKOUT, markdown_table

PAGE = CHECKOUT / "benchmarks" / "published_counts.md"
TOLERANCE = 0.01
"""Differences above it need a reason, unless the figure's own rounding is as large."""
UNITS = {"MiB": 8 * 2**20, "MB": 8e6, "Mbit": 1e6, "M": 1e6}
"""Bits of a size, or parameters, in one of the unit."""
QUANTITIES = ("size", "parameters", "flops", "bops", "ops")
NAMES = {"flops": "FLOPs", "bops": "BOPs", "ops": "OPs"}
READ = {"printed": "", "computed": "computed", "secondary": "second hand", "memory": "from memory"}


# ---- a comparison


@dataclass(frozen=True)
class Comparison:
    """A printed figure beside ours.

    Args:
        network: the row's title.
        quantity: one of QUANTITIES.
        printed: the figure in its source's words.
        source: with how it was read.
        ours: our count in the figure's unit.
        reason: key of the reason, or "".
        other: the count that the reason names, or None.
    """

    network: str
    quantity: str
    printed: str
    source: str
    ours: float
    reason: str = ""
    other: float | None = None

    @property
    def number(self) -> float:
        """The figure."""
        return float(self.printed.split()[0])

    @property
    def difference(self) -> float:
        """Of ours from the figure, as a share of it."""
        return self.ours / self.number - 1

    @property
    def is_rounding(self) -> bool:
        """Whether ours, rounded to the figure's digits, is the figure."""
        return self.summary(self.ours) == self.summary(self.number)

    @property
    def needs_reason(self) -> bool:
        """Whether the difference is larger than what is left to rounding."""
        return abs(self.difference) > TOLERANCE and not self.is_rounding

    def summary(self, value: float) -> str:
        """A value in the figure's unit with the figure's digits."""
        return self._written(value, 0)

    def exactly(self, value: float) -> str:
        """A value in the figure's unit with two digits more."""
        return self._written(value, 2)

    def _written(self, value: float, more: int) -> str:
        mantissa, _, exponent = self.printed.split()[0].partition("e")
        digits = len(mantissa.partition(".")[2]) + more
        power = f"e{exponent}" if exponent else ""
        return f"{value / 10 ** int(exponent or 0):.{min(digits, 6)}f}{power}"


def comparisons(figures: Figures) -> Iterator[Comparison]:
    """All of them, in the order of networks.

    Raises:
        UserError: a name that is not known, or a difference without a reason.
    """
    networks = figures.networks()
    for title in figures.figures:
        if title not in networks:
            raise UserError(f"{FIGURES}: figures: '{title}' is neither a model nor one of the rows")
    for title, row in networks.items():
        for printed in figures.figures.get(title, ()):
            for quantity in QUANTITIES:
                if (figure := getattr(printed, quantity)) is not None:
                    yield _compared(figures, title, row, printed, quantity, figure)


def _compared(
    figures: Figures, title: str, row: Row, printed: Printed, quantity: str, figure: str
) -> Comparison:
    if printed.source.partition(",")[0] not in figures.papers:
        raise UserError(
            f"{FIGURES}: figures.{title}: source: '{printed.source}' begins with none of the papers"
        )
    unit = UNITS[figure.split()[1]] if " " in figure else 1
    how = READ[printed.read]
    source = f"{printed.source} ({how})" if how else printed.source
    found = ours(figures.profile(row))[quantity] / unit
    key = printed.why.get(quantity, "")
    compared = Comparison(title, quantity, figure, source, found, key)
    if compared.needs_reason != bool(key):
        what = "has a reason, but needs none" if key else "needs a reason"
        raise UserError(f"{FIGURES}: figures.{title}: {quantity} {figure}: {compared.difference:+.1%} {what}")
    if not key:
        return compared
    if key not in figures.reasons:
        raise UserError(f"{FIGURES}: figures.{title}: why: no reason '{key}' is given")
    reason = figures.reasons[key]
    if reason.count is None and not reason.options:
        return compared
    counted = _counts(figures, row, reason)
    if quantity not in counted:
        raise UserError(f"{FIGURES}: reasons.{key}: count: '{reason.count}' does not give {quantity}")
    return replace(compared, other=counted[quantity] / unit)


def _counts(figures: Figures, row: Row, reason: Reason) -> dict[str, float]:
    if reason.count is not None and reason.count not in COUNTS:
        raise UserError(f"{FIGURES}: reasons: no way to count '{reason.count}'; known: {', '.join(COUNTS)}")
    rule = ours if reason.count is None else COUNTS[reason.count]
    return rule(figures.profile(row, reason.options))


# ---- the page


def page(figures: Figures) -> str:
    """The whole of published_counts.md."""
    found = list(comparisons(figures))
    used = list(dict.fromkeys(one.reason for one in found if one.reason))
    notes = "\n".join(
        f"{number}. {' '.join(figures.reasons[key].why.split())}" for number, key in enumerate(used, start=1)
    )
    sources = "\n".join(f"- {name}: {words}" for name, words in figures.papers.items())
    return f"""\
# Published networks: our counts beside the printed ones

Written by `python tools/counts/published_counts.py`; a test holds this page equal to what the tool gives.
Published figures and their sources are in `tools/counts/published_figures.yaml`.

{met_words(found)} Sizes are bits of
binary weights + 32 × (real-valued parameters and affine batch-norms); OPs = FLOPs + BOPs/64; all rules stand
under every table of `binas profile`. Parameters are those that released networks hold. MiB is 2^20 bytes, MB
10^6 bytes: papers write MB for both.

## Beside printed figures

"Its way" is what we count under the rule that the note names, and how far that is from the printed figure.

{comparison_table(found, used)}

Notes

{notes}

Printed figures that contradict OPs = FLOPs + BOPs/64

{contradictions(figures)}

Sources

{sources}

## All networks

ImageNet: 224×224, 1000 classes; CIFAR-10: 32×32, 10 classes; MNIST: 28×28, 10 classes. Parameters are those
that are read, "binary" is their binary share. Any of these is counted by
`binas profile NAME --image-size 224 --num-classes 1000`.

{network_table(figures)}
"""


def met_words(found: list[Comparison]) -> str:
    """How many figures are met."""
    networks, explained = len({one.network for one in found}), sum(bool(one.reason) for one in found)
    return (
        f"{len(found)} printed figures of {networks} networks: {len(found) - explained} are met within 1 % or"
        f" within\nthe rounding of the figure; {explained} are not, and each of those has its note."
    )


def contradictions(figures: Figures) -> str:
    """Rows of published tables whose OPs are not those of their own FLOPs and BOPs, as a list."""
    lines = []
    for title, printed in figures.figures.items():
        for one in printed:
            if one.flops is None or one.bops is None or one.ops is None:
                continue
            ops, formula = float(one.ops), float(one.flops) + float(one.bops) / 64
            if abs(formula / ops - 1) > TOLERANCE:
                lines.append(
                    f"- {title}, {one.source}: {one.flops} + {one.bops}/64 = {formula / 1e8:.4g}e8, printed"
                    f" {one.ops} ({ops / formula - 1:+.1%})"
                )
    return "\n".join(lines) or "None."


def comparison_table(found: list[Comparison], used: list[str]) -> str:
    """One row for each printed figure."""
    rows = []
    for one in found:
        unit = "".join(f" {word}" for word in one.printed.split()[1:])
        note = str(used.index(one.reason) + 1) if one.reason else ""
        rounding = "rounding" if abs(one.difference) > TOLERANCE and one.is_rounding else ""
        other = "" if one.other is None else f"{one.exactly(one.other)} ({one.other / one.number - 1:+.1%})"
        rows.append(
            (
                one.network,
                NAMES.get(one.quantity, one.quantity),
                one.printed,
                one.exactly(one.ours) + unit,
                f"{one.difference:+.1%}",
                other,
                note or rounding,
                one.source,
            )
        )
    columns = ("network", "what", "printed", "ours", "difference", "its way", "note", "source")
    return markdown_table(columns, rows)


def network_table(figures: Figures) -> str:
    """One row for each network, all measures."""
    rows = []
    for title, row in figures.networks().items():
        profile = figures.profile(row)
        rows.append(
            (
                title,
                figures.task_of(row),
                f"{profile.parameters / 1e6:.3f}",
                f"{profile.binary_share:.1%}",
                f"{profile.bits / 1e6:.2f}",
                f"{profile.bits / UNITS['MiB']:.3f}",
                f"{profile.flops / 1e8:.4f}",
                f"{profile.bops / 1e9:.4f}",
                f"{profile.ops / 1e8:.4f}",
                f"{profile.ops_of_everything / 1e8:.4f}",
            )
        )
    columns = (
        "network",
        "task",
        "parameters M",
        "binary",
        "Mbit",
        "MiB",
        "FLOPs e8",
        "BOPs e9",
        "OPs e8",
        "OPs e8, everything",
    )
    return markdown_table(columns, rows)


def main() -> int:
    """Writes the page, or with --check compares it; status 1 where it is another one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say whether the page is up to date")
    parser.add_argument("--output", type=Path, default=PAGE, metavar="FILE", help="the page")
    options = parser.parse_args()
    try:
        text = page(read_figures())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.check:
        is_same = options.output.is_file() and options.output.read_text(encoding="utf-8") == text
        print(f"{options.output}: {'is up to date' if is_same else 'differs: run the tool without --check'}")
        return 0 if is_same else 1
    write_atomic(options.output, text)
    print(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
