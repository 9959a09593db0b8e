"""Where the sound of an audio file is: the files that were joined in it, each with a header that a decoder may believe.

libsndfile stops where a header says that the sound ends. Headers lie: of a download that broke off, a stream whose
length was not known when it began, a recorder that lost power, files that were joined by `cat`. So each file is walked
through by its frames, pages or chunks, without decoding, and a header that tells too little is replaced.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO

from metis_lightning.data.mpeg import SYNCS, mpeg
from metis_lightning.data.pieces import OddAudio, Piece, after_id3, at, found

_FLAC_STARTS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
_FLAC_HEAD = 42
_UNKNOWN_SIZES = (0, 0xFFFFFFFF, 0x7FFFFFFF)
"""What the header of a stream says, which did not know its size."""


def pieces_of(file: IO[bytes]) -> list[Piece]:
    """Return what was joined in a file, in order; a format that is not known here is one piece.

    Raises:
        OddAudio: if a header leaves out what follows, so that nobody knows what that is.
    """
    end = file.seek(0, io.SEEK_END)
    start = after_id3(file, 0)
    begin = at(file, start, 12)
    if begin[:4] == b"fLaC":
        return list(_flac(file, start, end))
    if begin[:4] == b"OggS":
        return [Piece(first, last) for first, last in _ogg(file, start, end)]
    if begin[:4] == b"RIFF" and begin[8:] == b"WAVE":
        found_wavs = []
        while start < end:
            piece, start = _wav(file, start, end)
            found_wavs.append(piece)
        return found_wavs
    if start or begin[:2] in SYNCS:
        return mpeg(file, start, end) or [Piece(0, end)]
    return [Piece(0, end)]


def _flac(file: IO[bytes], start: int, end: int) -> Iterator[Piece]:
    """Yield each FLAC stream; decoders are told that its length is unknown, and so read to its end."""
    starts = [start, *(place for place in found(file, start + 1, end, _FLAC_STARTS))]
    for first, last in zip(starts, [*starts[1:], end], strict=True):
        head = bytearray(own_head := at(file, first, _FLAC_HEAD))
        listed = int.from_bytes(head[21:26], "big") & ((1 << 36) - 1)
        head[21:26] = (int.from_bytes(head[21:26], "big") >> 36 << 36).to_bytes(5, "big")
        start = min(first + _FLAC_HEAD, last)
        yield Piece(start, last, bytes(head), listed, listed > 0, is_exact=False, own_head=own_head)


def _ogg(file: IO[bytes], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the links of a chain: each begins with pages that begin a stream."""
    position, link, was_beginning = start, start, True
    while position + 27 <= end:
        head = at(file, position, 27)
        if head[:4] != b"OggS":
            position = next(found(file, position + 1, end, (b"OggS",)), end)
            continue
        begins = bool(head[5] & 2)
        if begins and not was_beginning:
            yield link, position
            link = position
        was_beginning = begins
        position += 27 + head[26] + sum(at(file, position + 27, head[26]))
    yield link, end


def _wav(file: IO[bytes], start: int, end: int) -> tuple[Piece, int]:
    """Return a WAV and where the next begins; one whose size says nothing lasts to the end of the file."""
    position, byte_rate = start + 12, 1
    while position + 8 <= end:
        name, size = (head := at(file, position, 8))[:4], int.from_bytes(head[4:], "little")
        body = position + 8
        if name == b"fmt ":
            byte_rate = max(1, int.from_bytes(at(file, body + 8, 4), "little"))
        if name == b"data":
            break
        position = body + size + size % 2
    else:
        return Piece(start, end), end
    if size in _UNKNOWN_SIZES or body + size > end:
        unknown = size in _UNKNOWN_SIZES and body < end and not _is_chunks(file, body, end)
        return (_streamed_wav(file, start, body, end) if unknown else Piece(start, end)), end
    last = body + size + size % 2
    if at(file, last, 4) == b"RIFF":
        return Piece(start, last), last
    # A quarter of a second is more than any tag of a few bytes.
    if end - last > byte_rate / 4 and not _is_chunks(file, last, end):
        raise OddAudio(
            "wrong length in the header",
            f"it tells of {size / byte_rate:.2f} s, and {(end - last) / byte_rate:.2f} s follow; write the file anew",
        )
    return Piece(start, end), end


def _streamed_wav(file: IO[bytes], start: int, body: int, end: int) -> Piece:
    head = bytearray(at(file, start, body - start))
    head[4:8] = min(len(head) - 8 + end - body, 0xFFFFFFFF).to_bytes(4, "little")
    head[-4:] = min(end - body, 0xFFFFFFFE).to_bytes(4, "little")
    return Piece(body, end, bytes(head), is_listed=False)


def _is_chunks(file: IO[bytes], position: int, end: int) -> bool:
    """Tell whether what follows the sound is well-formed: further chunks, tags, or nothing but zeros."""
    while position + 8 <= end:
        head = at(file, position, 8)
        if head[:3] in (b"ID3", b"TAG") or head == b"APETAGEX":
            return True
        size = int.from_bytes(head[4:], "little")
        if not (head[:4].isascii() and head[:4].decode().isprintable()) or position + 8 + size > end:
            return not any(at(file, position, end - position).strip(b"\0"))
        position += 8 + size + size % 2
    return True
