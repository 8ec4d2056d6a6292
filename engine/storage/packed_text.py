"""Bytes of which the long pieces of text are compressed and everything else lies as it is.

TensorRT-RTX writes the source text of kernels into plans, about 130 kB each.  Weights hardly shrink, and would take
longer to compress and to read; so only text is touched.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any

# Bytes that are looked at together, and how many have to be text for a run.
_PIECE, _LEAST = 1 << 10, 1 << 13
# What a run may become longer by, so that reading takes memory in proportion to what is stored.
_MOST = 64
# The share of all bytes that has to be saved.
_SHARE = 50

Runs = list[list[int]]


def pack(data: bytes | memoryview) -> tuple[Runs, bytes] | None:
    """Compress the text in some bytes.

    Returns:
        Runs, each its length and the length of what is stored for it, equal where it is stored as it is; and what is
        stored, one run behind the other.  None where that saves less than a fiftieth.
    """
    view = memoryview(data)
    runs: Runs = []
    parts: list[Any] = []
    for start, end, is_text in _runs(view):
        piece: Any = view[start:end]
        packed = zlib.compress(piece) if is_text else piece
        if len(packed) * _MOST >= end - start > len(packed):
            piece = packed
        runs.append([end - start, len(piece)])
        parts.append(piece)
    saved = sum(length - stored for length, stored in runs)
    return (runs, b"".join(parts)) if saved * _SHARE > len(view) else None


def unpack(stored: bytes | memoryview, runs: Any) -> bytes:
    """The bytes that were packed.

    Raises:
        ValueError: the runs are not those of these bytes, whatever they are.
    """
    view = memoryview(stored)
    if not isinstance(runs, Sequence) or isinstance(runs, str):
        raise ValueError("the runs are no list")
    parts: list[Any] = []
    place = 0
    for run in runs:
        if not isinstance(run, list) or len(run) != 2 or not all(type(size) is int for size in run):
            raise ValueError("a run is not two lengths")
        length, kept = run
        if not 0 < kept <= length <= kept * _MOST or place + kept > len(view):
            raise ValueError(f"a run of {kept} bytes for {length} cannot be")
        piece = view[place : place + kept]
        parts.append(piece if kept == length else _inflated(piece, length))
        place += kept
    if place != len(view):
        raise ValueError(f"the runs are of {place} bytes, and there are {len(view)}")
    return b"".join(parts)


def _inflated(piece: memoryview, length: int) -> bytes:
    reader = zlib.decompressobj()
    try:
        found = reader.decompress(piece, length)
    except zlib.error as error:
        raise ValueError(f"text that cannot be read: {error}") from None
    if len(found) != length or not reader.eof or reader.unused_data:
        raise ValueError(f"text of another length than {length}")
    return found


def _runs(view: memoryview) -> Iterator[tuple[int, int, bool]]:
    """Start, end and whether it is text, of one run after the other; they are all of the bytes."""
    done = begin = 0
    for start in range(0, len(view) + _PIECE, _PIECE):
        piece = bytes(view[start : start + _PIECE])
        if piece and piece.isascii() and 0 not in piece:
            continue
        # Here text ends, if there was any.
        if start - begin >= _LEAST:
            if begin > done:
                yield done, begin, False
            yield begin, min(start, len(view)), True
            done = min(start, len(view))
        begin = start + _PIECE
    if done < len(view):
        yield done, len(view), False


__all__ = ["Runs", "pack", "unpack"]
