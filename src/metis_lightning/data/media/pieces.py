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


class OddAudio(Exception):
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
