"""TensorBoard's event files: written without a thread, and cut back to a step when a run is resumed.

An event file is a list of records: length (8 bytes), its checksum (4), the event, its checksum (4).
Records that stay are copied byte for byte, so their checksums stay right.
"""

from __future__ import annotations

import io
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from binas.errors import UserError
from binas.run.files import AppendedFile, cannot_write, write_atomic

_HEADER = 12
_FOOTER = 4


class EventWriter:
    """Writes scalars and pictures to a new event file.

    Every event is on its way to the disk when the call returns: torch's own writer leaves that to a
    thread, which loses what it holds when the process is killed and dies with a traceback on a full disk.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import torch.utils.tensorboard.summary as summaries
        except ImportError:
            raise UserError(
                "TensorBoard is not installed: install it (pip install tensorboard) or switch it off"
            ) from None
        self._summaries: Any = summaries
        # TensorBoard reads the files of a folder in the order of their names
        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{rest:09d}.{platform.node()}.{os.getpid()}"
        self._file = AppendedFile(folder / name)
        self._write(file_version="brain.Event:2")

    def scalar(self, step: int, name: str, value: float) -> None:
        """Adds a point to the curve `name`."""
        self._write(step=step, summary=self._summaries.scalar(name, value))

    def image(self, step: int, name: str, pixels: npt.NDArray[Any]) -> None:
        """Adds a picture, (H, W) or (H, W, C), uint8 or floats from 0 to 1."""
        layout = "HW" if pixels.ndim == 2 else "HWC"
        self._write(
            step=step, summary=self._summaries.image(name, np.ascontiguousarray(pixels), dataformats=layout)
        )

    def flush(self) -> None:
        """Waits until everything is on the disk."""
        self._file.sync()

    def close(self) -> None:
        """Closes the file; closing twice does nothing."""
        self._file.close()

    def _write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **fields).SerializeToString())
        self._file.append(record.getvalue())


def cut_events(folder: Path, start_step: int) -> None:
    """Removes from every event file in a folder what was logged at `start_step` or later.

    A torn record at the end is removed too, and a file that holds nothing any more is deleted. Cutting
    again after an interruption continues where it stopped.
    """
    for path in sorted(folder.glob("events.out.tfevents.*")):
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}") from None
        kept = _kept_records(content, start_step)
        if not kept:
            try:
                path.unlink()
            except OSError as error:
                raise cannot_write(path, error) from None
        elif len(kept) != len(content):
            write_atomic(path, kept)


def _kept_records(content: bytes, start_step: int) -> bytes:
    """The records before `start_step`; nothing at all if only the file's own header would be left."""
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from tensorboard.compat.proto.event_pb2 import Event

    kept = bytearray()
    holds_data = False
    for record in _records(content):
        try:
            event = Event.FromString(record[_HEADER:-_FOOTER])
        except DecodeError:
            break
        is_header = event.WhichOneof("what") == "file_version"
        if is_header or event.step < start_step:
            kept += record
            holds_data = holds_data or not is_header
    return bytes(kept) if holds_data else b""


def _records(content: bytes) -> Iterator[bytes]:
    position = 0
    while position + _HEADER + _FOOTER < len(content):
        length = int.from_bytes(content[position : position + 8], "little")
        end = position + _HEADER + length + _FOOTER
        # a lost power supply can leave zeros at the end of a file
        if length == 0 or end > len(content):
            return
        yield content[position:end]
        position = end
