"""Files that were joined in one, each opened as a file of its own, and how their bytes are looked through."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

_BLOCK = 1 << 20

UNREADABLE = "unreadable audio"
"""The kind of what no decoder takes."""


class AudioFault(Exception):
    """Bytes that are no sound audio file.

    Attributes:
        kind: what is wrong, in words that are the same for all files of the kind.
        detail: more about this one.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        """Say what is wrong."""
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.kind, self.detail = kind, detail


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

    def open(self, file: IO[bytes]) -> io.BufferedReader:
        """Return the piece as a file of its own."""
        return io.BufferedReader(_Window(file, self))


class _Window(io.RawIOBase):
    """The bytes of a piece."""

    def __init__(self, file: IO[bytes], piece: Piece) -> None:
        super().__init__()
        self._file, self._piece, self._position = file, piece, 0
        self._size = len(piece.head) + piece.end - piece.start

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  any writable buffer
        head, position = self._piece.head, self._position
        if position < len(head):
            data = head[position : position + len(buffer)]
        else:
            left = max(0, self._size - position)
            data = at(self._file, self._piece.start + position - len(head), min(left, len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def at(file: IO[bytes], position: int, size: int) -> bytes:
    """Return so many bytes from a place on, fewer at the end."""
    file.seek(position)
    return file.read(size)


def after_id3(file: IO[bytes], position: int) -> int:
    """Return where an ID3v2 tag that begins here ends."""
    head = at(file, position, 10)
    if head[:3] != b"ID3" or len(head) < 10:
        return position
    size = 0
    for byte in head[6:]:
        size = size << 7 | byte & 127
    return position + 10 + size


def found(file: IO[bytes], start: int, end: int, marks: Sequence[bytes]) -> Iterator[int]:
    """Yield where one of some marks of equal length stands, in order."""
    pattern, width = re.compile(b"|".join(map(re.escape, marks))), len(marks[0])
    # What is looked for is most often near.
    position, size = start, 1 << 12
    while position < end:
        data = at(file, position, size + width - 1)
        yield from (position + match.start() for match in pattern.finditer(data))
        position, size = position + size, min(2 * size, _BLOCK)


_FLAC_STARTS = (b"fLaC\x00\x00\x00\x22", b"fLaC\x80\x00\x00\x22")
_FLAC_HEAD = 42
_UNKNOWN_SIZES = (0, 0xFFFFFFFF, 0x7FFFFFFF)
"""What the header of a stream says, which did not know its size."""


def pieces_of(file: IO[bytes]) -> list[Piece]:
    """Return what was joined in a file, in order; a format that is not known here is one piece.

    Raises:
        AudioFault: if a header leaves out what follows, so that nobody knows what that is.
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
        raise AudioFault(
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


_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
_KBITS = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_KBITS[0] = _KBITS[2]
SYNCS = (b"\xff\xe2", b"\xff\xe3", b"\xff\xf2", b"\xff\xf3", b"\xff\xfa", b"\xff\xfb")
_MPEG_MARKS = (*SYNCS, b"ID")
# Bytes between two frames, beyond which decoders give up.
_MOST_JUNK = 1 << 17
# A header and the tags that may follow it.
_FIRST_BYTES = 64


@dataclass(frozen=True)
class _Frame:
    """The header of a frame of MPEG audio, layer III."""

    bits: int
    version: int
    size: int
    is_mono: bool

    @property
    def stream(self) -> tuple[int, int, bool]:
        """What the frames of one stream have in common: version, rate, one channel or two."""
        return self.version, self.bits >> 10 & 3, self.is_mono

    @property
    def tag_place(self) -> int:
        """Where a tag about the whole stream stands in its first frame, after the header and the side information."""
        return 4 + ((17 if self.is_mono else 32) if self.version == 3 else (9 if self.is_mono else 17))

    def length_tag(self, frames: int) -> bytes:
        """Return a first frame for the stream that says how many frames follow."""
        bits = self.bits & ~0xF200 | 14 << 12 | 1 << 16
        size = _frame_of(bits.to_bytes(4, "big"))
        tag = b"Info\x00\x00\x00\x01" + frames.to_bytes(4, "big")
        begin = bits.to_bytes(4, "big") + bytes(self.tag_place - 4) + tag
        return begin + bytes((size.size if size else 0) - len(begin))


def _frame_of(head: bytes) -> _Frame | None:
    """Return the frame that a header of four bytes begins; None if they are none of layer III with a known size."""
    bits = int.from_bytes(head[:4], "big")
    version, layer, kbits, rate = bits >> 19 & 3, bits >> 17 & 3, bits >> 12 & 15, bits >> 10 & 3
    if len(head) < 4 or bits >> 21 != 0x7FF or version == 1 or layer != 1 or kbits in (0, 15) or rate == 3:
        return None
    size = (144 if version == 3 else 72) * _KBITS[version][kbits] * 1000 // _RATES[version][rate] + (bits >> 9 & 1)
    return _Frame(bits, version, size, bits >> 6 & 3 == 3)


@dataclass
class _Stream:
    """Frames that belong together: where they begin, how many there are, and how many a tag before them tells of."""

    start: int
    first: _Frame
    listed: int | None = None
    frames: int = 0

    def piece(self, end: int) -> Piece:
        if self.listed is None:
            return Piece(self.start, end, self.first.length_tag(self.frames), is_listed=False)
        # Some encoders count the tag's own frame.
        return Piece(self.start, end, is_exact=self.listed <= self.frames + 1)

    def goes_on(self, frame: _Frame) -> bool:
        return frame.stream == self.first.stream and (self.listed is None or self.frames < self.listed)


def mpeg(file: IO[bytes], start: int, end: int) -> list[Piece]:
    """Return the streams of an MP3: each begins with a tag about itself, or where the one before should have ended."""
    streams: list[_Stream] = []
    for position, frame, head in _frames(file, start, end):
        listed = _listed_frames(head, frame)
        if listed is not None:
            # A tag that does not tell the length would be heard as silence.
            streams.append(_Stream(position if listed else position + frame.size, frame, listed or None))
        elif streams and streams[-1].goes_on(frame):
            streams[-1].frames += 1
        else:
            streams.append(_Stream(position, frame, frames=1))
    # Some encoders do not count their last frame.
    kept = [one for one, before in zip(streams, [None, *streams], strict=False) if one.frames > (before is not None)]
    ends = [*(one.start for one in kept[1:]), end]
    return [one.piece(last) for one, last in zip(kept, ends, strict=False)]


def _frames(file: IO[bytes], position: int, end: int) -> Iterator[tuple[int, _Frame, bytes]]:
    """Yield where the frames begin, what they are, and their first bytes; over tags and what else is between them."""
    before: _Frame | None = None
    while position + 4 <= end:
        head = at(file, position, _FIRST_BYTES)
        frame = _frame_of(head)
        if frame is not None and _is_one(file, position, end, frame, before):
            yield position, frame, head
            position, before = position + frame.size, frame
            continue
        after, before = after_id3(file, position), None
        marks = found(file, position + 1, min(end, position + _MOST_JUNK), _MPEG_MARKS)
        position = after if after > position else next((mark for mark in marks if _begins(file, mark, end)), end)


def _begins(file: IO[bytes], position: int, end: int) -> bool:
    """Tell whether a frame or a tag begins here."""
    head = at(file, position, 4)
    frame = _frame_of(head)
    return head[:3] == b"ID3" or (frame is not None and _is_one(file, position, end, frame, None))


def _is_one(file: IO[bytes], position: int, end: int, frame: _Frame, before: _Frame | None) -> bool:
    """Tell whether a frame belongs to a stream: four bytes may look like a header by chance."""
    if position + frame.size > end:
        return False
    if before is not None and before.stream == frame.stream:
        return True
    follower = _frame_of(at(file, position + frame.size, 4))
    return position + frame.size == end or (follower is not None and follower.stream == frame.stream)


def _listed_frames(head: bytes, frame: _Frame) -> int | None:
    """Return how many frames the tag in a first frame tells of, 0 if it does not say; None if there is no tag."""
    if (tag := head[frame.tag_place :])[:4] in (b"Xing", b"Info"):
        return int.from_bytes(tag[8:12], "big") if tag[7:8] and tag[7] & 1 else 0
    return int.from_bytes(head[50:54], "big") if head[36:40] == b"VBRI" else None
