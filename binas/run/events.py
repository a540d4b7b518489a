"""Cutting TensorBoard's event files back to a step, so that a resumed run leaves no double points.

An event file is a list of records: length (8 bytes), its checksum (4), the event, its checksum (4).
Records that stay are copied byte for byte, so their checksums stay right.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from binas.errors import UserError
from binas.run.files import cannot_write, write_atomic

_HEADER = 12
_FOOTER = 4


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
    from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]

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
