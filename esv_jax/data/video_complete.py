"""Completeness of a video file, as far as its first and last bytes show.

Most containers let the library notice where data is missing. Matroska, AVI and GIF may just end.
"""

from __future__ import annotations

from pathlib import Path

from esv_jax.checks import expect

_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_WAY_OUT = "Fetch or write it again."


def expect_complete(path: Path, container_name: str) -> None:
    """Refuse a Matroska, AVI or GIF file that has been cut short; other files pass.

    A Matroska segment states its size (RFC 8794 and 9559), and so does a RIFF chunk, which AVI is,
    unless they were written as live streams; a GIF ends in the byte ';' (GIF89a, section 27), after
    which padding with zeros is allowed.

    Args:
      container_name: the format as the library calls it.
    Raises:
      ValueError: the file is shorter than it says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if "matroska" in container_name or container_name == "avi":
            head = file.read(4096)
            end = _riff_end(head) if container_name == "avi" else _segment_end(head)
            got = f"{size} of {end} bytes"
            expect(end is None or size >= end, path.name, "a complete file", got, _WAY_OUT)
        elif container_name == "gif":
            file.seek(max(0, size - 4096))
            ends = file.read().rstrip(b"\0").endswith(b";")
            expect(ends, path.name, "a complete file", "one without its end", _WAY_OUT)


def _riff_end(head: bytes) -> int | None:
    """Return the end of the first chunk of a RIFF file, or None if it is not stated."""
    length = int.from_bytes(head[4:8], "little")
    return 8 + length if head.startswith(b"RIFF") and 0 < length < 2**32 - 1 else None


def _segment_end(head: bytes) -> int | None:
    """Return the end of the segment of a Matroska file, or None if it is not stated."""
    if not head.startswith(_EBML):
        return None
    length, start = _variable_int(head, len(_EBML))
    at = start + (length or 0)
    if head[at : at + 4] != _SEGMENT:
        return None
    length, start = _variable_int(head, at + len(_SEGMENT))
    return None if length is None else start + length


def _variable_int(data: bytes, at: int) -> tuple[int | None, int]:
    """An EBML size and where it ends; None where all its bits are set, which means unknown."""
    first = data[at] if at < len(data) else 0
    if first == 0:
        return None, at
    n_bytes = 9 - first.bit_length()
    bits = 7 * n_bytes
    value = int.from_bytes(data[at : at + n_bytes], "big") & ((1 << bits) - 1)
    return (None if value == (1 << bits) - 1 else value), at + n_bytes
