"""The numbers and pictures of a run: one JSON line a step, and the same for TensorBoard.

A step is whatever the run counts (epochs, or batches), the same count from its first to its last line.
When a run goes on from a checkpoint, everything from its step on is cut away first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from binas.errors import UserError
from binas.run.events import EventWriter, cut_events
from binas.run.files import AppendedFile, write_atomic

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class MetricsLog:
    """Appends to `metrics.jsonl` and `tensorboard/` in a run folder.

    Args:
        folder: the run folder.
        start_step: the first step that will be logged; what is there from this step on is removed.
        tensorboard: whether to write TensorBoard data as well.
        writes: False writes nothing, for a rank behind the first.
    """

    def __init__(
        self, folder: str | Path, start_step: int = 0, *, tensorboard: bool = True, writes: bool = True
    ) -> None:
        folder = Path(folder)
        self.writes = writes
        self._events: EventWriter | None = None
        self._file: AppendedFile | None = None
        if not writes:
            return
        _cut_lines(folder / METRICS_FILE, start_step)
        cut_events(folder / TENSORBOARD_FOLDER, start_step)
        self._events = EventWriter(folder / TENSORBOARD_FOLDER) if tensorboard else None
        self._file = AppendedFile(folder / METRICS_FILE)

    def log(self, step: int, **values: Any) -> None:
        """Writes one line; numbers become scalars in TensorBoard too.

        Mappings are flattened (`loss={"train": 1.0}` is named `loss/train`); words and lists go to the
        JSON line only; what is not a number or infinite is written as null.
        """
        if self._file is None:
            return
        flat = dict(_flat(values))
        line = json.dumps({"step": int(step), **flat}, allow_nan=False) + "\n"
        self._file.append(line.encode())
        if self._events is not None:
            for name, value in flat.items():
                if isinstance(value, int | float):
                    self._events.scalar(step, name, float(value))

    def image(self, step: int, name: str, pixels: npt.ArrayLike) -> None:
        """Shows a picture in TensorBoard.

        Shape: (H, W), (H, W, 3) or (H, W, 4); uint8, or floats from 0 to 1.
        """
        if self._events is not None:
            self._events.image(step, name, np.asarray(pixels))

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Shows a matplotlib figure in TensorBoard; the figure stays the caller's to close."""
        if self._events is not None:
            from matplotlib.backends.backend_agg import FigureCanvasAgg

            canvas = FigureCanvasAgg(figure)
            canvas.draw()  # type: ignore[no-untyped-call]
            pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
            self.image(step, name, pixels[..., :3])

    def flush(self) -> None:
        """Brings everything to the disk; called before a checkpoint, so that it never runs ahead."""
        if self._file is not None:
            self._file.sync()
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Closes the files; closing twice does nothing."""
        for file in (self._file, self._events):
            if file is not None:
                file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(folder: str | Path) -> list[dict[str, Any]]:
    """The lines of a run folder's `metrics.jsonl`; a torn last line is left out."""
    path = Path(folder) / METRICS_FILE
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return [value for _, value in _lines(content)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            pairs += _flat(value, f"{prefix}{name}/")
        else:
            pairs.append((f"{prefix}{name}", _json_value(value)))
    return pairs


def _json_value(value: Any) -> Any:
    if hasattr(value, "tolist"):  # tensors, arrays and NumPy's scalars
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _json_value(item) for key, item in value.items()}
    return value


def _lines(content: bytes) -> list[tuple[bytes, dict[str, Any]]]:
    """Whole lines with what they say; a line that a kill or a full disk tore is left out."""
    found = []
    for line in content.splitlines(keepends=True):
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if line.endswith(b"\n") and isinstance(value, dict) and type(value.get("step")) is int:
            found.append((line, value))
    return found


def _cut_lines(path: Path, start_step: int) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    kept = b"".join(line for line, value in _lines(content) if value["step"] < start_step)
    if kept != content:
        write_atomic(path, kept)
