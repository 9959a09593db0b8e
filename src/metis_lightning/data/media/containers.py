"""Parses containers: where the sound of an audio file is, also of several files that were joined in one.

libsndfile stops where a header says that the sound ends, and headers lie: of broken downloads, streams of unknown
length, files joined by `cat`. So each file is walked through without decoding, and a bad header is replaced.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

# What the header of a stream says that did not know its size.
UNKNOWN_SIZES = (0, 0xFFFFFFFF, 0x7FFFFFFF)
_FLAC_STARTS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
_FLAC_HEAD = 42


class AudioFault(Exception):
    """Bytes that are no sound audio file; `kind` is worded alike for all files of the kind, `detail` is more of one."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind, detail)
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True)
class Piece:
    """One of the files that were joined, most often the only one.

    start, end: its bytes, but for those that `head` stands for.
    head: what a decoder gets before them: a header that lets it read to the end.
    listed: samples of each channel by its own header; None if that is what the decoder says.
    is_listed: whether its header tells the length at all.
    is_exact: whether the walk found as much as the header tells.
    own_head: what `head` stands for, where a decoder that is told no length may stumble over what follows the sound.
    """

    start: int
    end: int
    head: bytes = b""
    listed: int | None = None
    is_listed: bool = True
    is_exact: bool = True
    own_head: bytes = b""


def pieces_of(file: IO[bytes]) -> list[Piece]:
    """Return what was joined in a file, in order; an AudioFault if a header leaves out what follows."""
    end = file.seek(0, io.SEEK_END)
    start = _skip_id3(file, 0)
    begin = _read_at(file, start, 12)
    if begin[:4] == b"fLaC":
        return list(_flac_pieces(file, start, end))
    if begin[:4] == b"OggS":
        return list(_ogg_pieces(file, start, end))
    if begin[:4] == b"RIFF" and begin[8:] == b"WAVE":
        pieces = [_first_wav(file, start, end)]
        while (start := pieces[-1].end) < end:
            pieces.append(_first_wav(file, start, end))
        return pieces
    if start or begin[:2] in _SYNCS:
        return _mpeg_pieces(file, start, end) or [Piece(0, end)]
    return [Piece(0, end)]


def _flac_pieces(file: IO[bytes], start: int, end: int) -> Iterator[Piece]:
    """Yield each FLAC stream; decoders are told that its length is unknown, and so read to its end."""
    starts = [start, *_find(file, start + 1, end, _FLAC_STARTS)]
    for first, last in zip(starts, [*starts[1:], end], strict=True):
        head = bytearray(own_head := _read_at(file, first, _FLAC_HEAD))
        # The 36 bits of the number of samples follow 28 bits of rate, channels and width.
        counts = int.from_bytes(head[21:26], "big")
        head[21:26] = (counts >> 36 << 36).to_bytes(5, "big")
        listed = counts & ((1 << 36) - 1)
        begin = min(first + _FLAC_HEAD, last)
        yield Piece(begin, last, bytes(head), listed, listed > 0, is_exact=False, own_head=own_head)


def _ogg_pieces(file: IO[bytes], start: int, end: int) -> Iterator[Piece]:
    """Yield the links of a chain: each begins with pages that begin a stream."""
    position, link, was_beginning = start, start, True
    while position + 27 <= end:
        head = _read_at(file, position, 27)
        if head[:4] != b"OggS":
            position = next(_find(file, position + 1, end, (b"OggS",)), end)
            continue
        begins = bool(head[5] & 2)
        if begins and not was_beginning:
            yield Piece(link, position)
            link = position
        was_beginning = begins
        position += 27 + head[26] + sum(_read_at(file, position + 27, head[26]))
    yield Piece(link, end)


def _first_wav(file: IO[bytes], start: int, end: int) -> Piece:
    """Return the WAV that begins here; one whose size says nothing lasts to the end of the file."""
    position, byte_rate = start + 12, 1
    while position + 8 <= end:
        name, size = (head := _read_at(file, position, 8))[:4], int.from_bytes(head[4:], "little")
        body = position + 8
        if name == b"fmt ":
            byte_rate = max(1, int.from_bytes(_read_at(file, body + 8, 4), "little"))
        if name == b"data":
            break
        position = body + size + size % 2
    else:
        return Piece(start, end)
    if size in UNKNOWN_SIZES or body + size > end:
        if size not in UNKNOWN_SIZES or body >= end or _is_chunks(file, body, end):
            return Piece(start, end)
        # Streamed: both sizes in the header become those of what is there.
        header = bytearray(_read_at(file, start, body - start))
        header[4:8] = min(len(header) - 8 + end - body, 0xFFFFFFFF).to_bytes(4, "little")
        header[-4:] = min(end - body, 0xFFFFFFFE).to_bytes(4, "little")
        return Piece(body, end, bytes(header), is_listed=False)
    last = body + size + size % 2
    if _read_at(file, last, 4) == b"RIFF":
        return Piece(start, last)
    # A quarter of a second is more than any tag of a few bytes.
    if end - last > byte_rate / 4 and not _is_chunks(file, last, end):
        raise AudioFault(
            "wrong length in the header",
            f"it tells of {size / byte_rate:.2f} s, and {(end - last) / byte_rate:.2f} s follow; write the file anew",
        )
    return Piece(start, end)


def _is_chunks(file: IO[bytes], position: int, end: int) -> bool:
    while position + 8 <= end:
        head = _read_at(file, position, 8)
        size = int.from_bytes(head[4:], "little")
        if not (head[:4].isascii() and head[:4].decode().isprintable()) or position + 8 + size > end:
            return not any(_read_at(file, position, end - position).strip(b"\0"))
        position += 8 + size + size % 2
    return True


# MPEG audio, layer III: a header of four bytes begins each frame, and the first frame of a file may be a tag that
# tells how many follow. Rates in Hz and kbit/s are by version: 3 is MPEG 1, 2 MPEG 2, 0 MPEG 2.5.
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_KBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBITS[0] = _KBITS[2]
_SYNCS = (b"\xff\xe2", b"\xff\xe3", b"\xff\xf2", b"\xff\xf3", b"\xff\xfa", b"\xff\xfb")
_MOST_JUNK = 1 << 17  # bytes between two frames, beyond which decoders give up
_FIRST_BYTES = 64  # a header and the tags that may follow it


@dataclass(frozen=True)
class _MpegFrame:
    """A frame: its header, and its size in bytes.

    stream: what the frames of one stream have in common: version, rate, one channel or two.
    tag_place: where a first frame has a tag about the stream, after the header and the side information.
    """

    bits: int
    size: int
    stream: tuple[int, int, bool]
    tag_place: int

    @classmethod
    def of(cls, head: bytes) -> _MpegFrame | None:
        """Return the frame that four bytes begin; None if they are no header of layer III with a known size."""
        bits = int.from_bytes(head[:4], "big")
        version, layer, kbits, rate = bits >> 19 & 3, bits >> 17 & 3, bits >> 12 & 15, bits >> 10 & 3
        if len(head) < 4 or bits >> 21 != 0x7FF or version == 1 or layer != 1 or kbits in (0, 15) or rate == 3:
            return None
        size = (144 if version == 3 else 72) * _KBITS[version][kbits] * 1000 // _RATES[version][rate] + (bits >> 9 & 1)
        is_mono = bits >> 6 & 3 == 3
        side_information = (17 if is_mono else 32) if version == 3 else (9 if is_mono else 17)
        return cls(bits, size, (version, rate, is_mono), 4 + side_information)

    def listed_frames(self, head: bytes) -> int | None:
        """Return how many frames the tag in this first frame tells of, 0 if it does not say; None without a tag."""
        if (tag := head[self.tag_place :])[:4] in (b"Xing", b"Info"):
            return int.from_bytes(tag[8:12], "big") if tag[7:8] and tag[7] & 1 else 0
        return int.from_bytes(head[50:54], "big") if head[36:40] == b"VBRI" else None

    def length_tag(self, frames: int) -> bytes:
        """Return a first frame for the stream that says how many frames follow."""
        head = (self.bits & ~0xF200 | 14 << 12 | 1 << 16).to_bytes(4, "big")
        frame = _MpegFrame.of(head)
        begin = head + bytes(self.tag_place - 4) + b"Info\x00\x00\x00\x01" + frames.to_bytes(4, "big")
        return begin + bytes((frame.size if frame else 0) - len(begin))


@dataclass
class _MpegStream:
    """Frames that belong together; `listed` is how many a tag before them tells of."""

    start: int
    first: _MpegFrame
    listed: int | None = None
    frames: int = 0


def _mpeg_pieces(file: IO[bytes], start: int, end: int) -> list[Piece]:
    """Return the streams of an MP3: each begins with a tag about itself, or where the one before should have ended."""
    streams: list[_MpegStream] = []
    for position, frame, head in _mpeg_frames(file, start, end):
        listed, last = frame.listed_frames(head), streams[-1] if streams else None
        if listed is not None:
            # A tag that does not tell the length would be heard as silence.
            streams.append(_MpegStream(position if listed else position + frame.size, frame, listed or None))
        elif last and frame.stream == last.first.stream and (last.listed is None or last.frames < last.listed):
            last.frames += 1
        else:
            streams.append(_MpegStream(position, frame, frames=1))
    # Some encoders do not count their last frame, which is no stream of its own.
    whole = [stream for number, stream in enumerate(streams) if stream.frames > (number > 0)]
    ends = [*(stream.start for stream in whole[1:]), end]
    return [
        # A decoder needs a tag; and some encoders count the tag's own frame.
        Piece(stream.start, last_byte, stream.first.length_tag(stream.frames), is_listed=False)
        if stream.listed is None
        else Piece(stream.start, last_byte, is_exact=stream.listed <= stream.frames + 1)
        for stream, last_byte in zip(whole, ends, strict=False)
    ]


def _mpeg_frames(file: IO[bytes], position: int, end: int) -> Iterator[tuple[int, _MpegFrame, bytes]]:
    """Yield where the frames begin, what they are, and their first bytes; over tags and what else is between them."""
    before: _MpegFrame | None = None
    while position + 4 <= end:
        head = _read_at(file, position, _FIRST_BYTES)
        if frame := _frame_at(file, position, end, head, before):
            yield position, frame, head
            position, before = position + frame.size, frame
            continue
        after, before = _skip_id3(file, position), None
        if after == position:
            marks = _find(file, position + 1, min(end, position + _MOST_JUNK), (*_SYNCS, b"ID"))
            heads = ((mark, _read_at(file, mark, 4)) for mark in marks)
            after = next((mark for mark, head in heads if head[:3] == b"ID3" or _frame_at(file, mark, end, head)), end)
        position = after


def _frame_at(
    file: IO[bytes], position: int, end: int, head: bytes, before: _MpegFrame | None = None
) -> _MpegFrame | None:
    """Return a frame if it fits what is before or after it: four bytes may look like a header by chance."""
    frame = _MpegFrame.of(head)
    if frame is None or position + frame.size > end:
        return None
    if position + frame.size == end or (before is not None and before.stream == frame.stream):
        return frame
    follower = _MpegFrame.of(_read_at(file, position + frame.size, 4))
    return frame if follower is not None and follower.stream == frame.stream else None


def _read_at(file: IO[bytes], position: int, size: int) -> bytes:
    file.seek(position)
    return file.read(size)


def _skip_id3(file: IO[bytes], position: int) -> int:
    head = _read_at(file, position, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return position
    size = 0
    for byte in head[6:]:
        size = size << 7 | byte & 127
    return position + 10 + size


def _find(file: IO[bytes], start: int, end: int, marks: Sequence[bytes]) -> Iterator[int]:
    """Yield where one of some marks of equal length stands, in order."""
    pattern, width = re.compile(b"|".join(map(re.escape, marks))), len(marks[0])
    # What is looked for is most often near.
    position, size = start, 1 << 12
    while position < end:
        data = _read_at(file, position, size + width - 1)
        yield from (position + match.start() for match in pattern.finditer(data))
        position, size = position + size, min(2 * size, 1 << 20)
