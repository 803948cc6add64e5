"""zstd, from the standard library where it has it (Python 3.14), else from the package `zstandard`.

Compression is streamed, and decompression is bounded: a frame's own statement of its size is neither needed nor
trusted, for a bomb of 32 kB says 1 GiB (and zstandard's `max_output_size` is ignored where a frame states its size).

This file is pure. RFC 8878 is the format.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["TooLargeError", "ZstdError", "available", "beginning", "compress", "decompress"]

_STEP_BYTES = 1 << 18
_WINDOW_BYTES = 1 << 27
_LEVEL = 3


class ZstdError(ValueError):
    """The bytes are not zstd frames."""


class TooLargeError(ValueError):
    """They decompress to more than was allowed."""


def _find() -> tuple[str, Any]:
    for name in ("compression.zstd", "zstandard"):
        try:
            return name, importlib.import_module(name)
        except ImportError:
            continue
    return "", None


def available() -> bool:
    """Whether there is a zstd on this machine."""
    return bool(_find()[0])


def compress(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes]:
    """One frame of these pieces, as it comes; an empty piece, where others may run, is handed on."""
    name, zstd = _find()
    if name == "compression.zstd":
        compressor = zstd.ZstdCompressor(level=_LEVEL)
    else:
        compressor = zstd.ZstdCompressor(level=_LEVEL).compressobj()
    for piece in pieces:
        if (packed := compressor.compress(piece)) or not piece:
            yield packed
    yield compressor.flush()


def decompress(data: memoryview, bound: int) -> bytearray:
    """What the frame holds.

    Raises:
        ZstdError: It is not a frame.
        TooLargeError: It holds more than `bound` bytes.
    """
    out = bytearray()
    for piece in _pieces(data):
        out += piece
        if len(out) > bound:
            raise TooLargeError
    return out


def beginning(data: memoryview, size: int) -> bytes:
    """The first `size` bytes that the frame holds, or all if they are fewer, from as much of the frame as is there.

    Raises:
        ZstdError: It is not a frame.
    """
    out = bytearray()
    try:
        for piece in _pieces(data):
            out += piece
            if len(out) >= size:
                break
    except ZstdError:
        if not out:
            raise
    return bytes(out[:size])


def _pieces(data: memoryview) -> Iterator[bytes]:
    name, zstd = _find()
    if zstd is None:
        raise ModuleNotFoundError("reading a compressed snapshot needs zstd: pip install 'swoosh-async[zstd]'")
    if name == "compression.zstd":
        yield from _standard(zstd, data)
    else:
        yield from _package(zstd, data)


def _standard(zstd: Any, data: memoryview) -> Iterator[bytes]:
    options = {zstd.DecompressionParameter.window_log_max: _WINDOW_BYTES.bit_length() - 1}
    decompressor = zstd.ZstdDecompressor(options=options)
    at = 0
    try:
        while not decompressor.eof:
            feed = b""
            if decompressor.needs_input:
                feed = bytes(data[at : at + _STEP_BYTES])
                at += len(feed)
                if not feed:
                    raise ZstdError("the frame is cut off")
            yield decompressor.decompress(feed, _STEP_BYTES)
    except zstd.ZstdError as error:
        raise ZstdError(str(error)) from error


def _package(zstd: Any, data: memoryview) -> Iterator[bytes]:
    # not decompress() or decompressobj(): only the reader gives no more than it is asked for
    reader = zstd.ZstdDecompressor(max_window_size=_WINDOW_BYTES).stream_reader(data)
    try:
        while piece := reader.read(_STEP_BYTES):
            yield piece
    except zstd.ZstdError as error:
        raise ZstdError(str(error)) from error
