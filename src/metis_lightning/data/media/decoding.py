"""Decodes audio files to their end, in blocks: all that a file holds, whatever its header says."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import IO, Any

import numpy as np
import soundfile

from metis_lightning.data.media.containers import AudioFault, Piece, pieces_of

# The kind of what no decoder takes.
UNREADABLE = "unreadable audio"
# Samples, all channels counted, that are decoded at once.
BLOCK = 1 << 18
# Hz: below and above, a header is damaged, and converting the rate would fill the memory.
SAMPLE_RATES = (1000, 768_000)
# No sample of sound on the scale of -1 to 1 is louder: lossy codecs overshoot a little, integers as floats by far.
LOUDEST = 4.0
# What no sample of silence exceeds: -80 dB, three steps of 16 bits.
SILENT_PEAK = 1e-4
# What a decoder may leave of the last frame of an MP3.
_MP3_FRAME = 1152
_MOST_PIECES = 1000
# What a FLAC says that does not know its length, if it does not say 0.
_UNKNOWN = (1 << 36) - 1


@dataclass(frozen=True)
class Decoder:
    """An open audio file, and the pieces that it is joined of."""

    file: IO[bytes]
    pieces: tuple[Piece, ...]
    sample_rate: int
    channels: int

    def blocks(self, start: int = 0, samples: int = _UNKNOWN) -> Iterator[np.ndarray]:
        """Yield blocks (S, channels) float32 to the end, or so many samples from `start`; an AudioFault if broken."""
        for piece in self.pieces:
            with _opened(self.file, piece) as sound:
                if (sound.samplerate, sound.channels) != (self.sample_rate, self.channels):
                    raise AudioFault("joined audio", "its parts differ in sample rate or channels; convert each alone")
                # The end of one of several is not known before it is decoded.
                if start and len(self.pieces) == 1:
                    sound.seek(start)
                    start = 0
                for block in _decode_piece(self.file, piece, sound):
                    wanted = block[start : start + samples]
                    start, samples = max(0, start - len(block)), samples - len(wanted)
                    if len(wanted):
                        yield wanted
                    if samples <= 0:
                        return

    @cached_property
    def samples(self) -> int:
        """How many samples each channel has; decoded and counted where the header cannot be believed."""
        piece = self.pieces[0]
        if len(self.pieces) == 1 and piece.is_listed:
            with _opened(self.file, piece) as sound:
                listed = int(sound.frames) if piece.listed is None else piece.listed
            # One sample before the listed end and none after it: the header is right.
            if piece.is_exact or _count_from(self.file, piece, listed - 1) == 1:
                return listed
        return sum(map(len, self.blocks()))

    def check_length(self, samples: int) -> None:
        """Refuse a header of another length than was decoded, and joined files, of which other programs read one."""
        if len(self.pieces) > 1:
            raise AudioFault("joined audio", f"{len(self.pieces)} files in one; decode it and write it anew")
        piece = self.pieces[0]
        if not piece.is_listed:
            return
        with _opened(self.file, piece) as sound:
            listed = int(sound.frames) if piece.listed is None else piece.listed
            spare = _MP3_FRAME if sound.format == "MP3" else 0
        if samples < listed - spare:
            raise AudioFault("truncated audio", f"{samples} of {listed} samples")
        if samples > listed:
            raise AudioFault("wrong length in the header", f"{samples} samples, the header tells of {listed}")


@dataclass
class Levels:
    """Loudness of the blocks of a file so far, by which sound is told from what is none.

    channel: which one is taken; None for the average of all.
    loudest: the largest sample of any channel; mixed: of what was taken.
    """

    channel: int | None = None
    samples: int = 0
    channels: int = 0
    loudest: float = 0.0
    mixed: float = 0.0

    def add(self, block: np.ndarray) -> np.ndarray:
        """Count a block (S, channels) and return the chosen channel or the average (S,); an AudioFault for no sound."""
        if block.size:
            loudest = float(np.abs(block).max())
            if not np.isfinite(loudest):
                raise AudioFault("NaN or infinite samples", f"after {self.samples} samples; replace the file")
            if loudest > LOUDEST:
                raise AudioFault(
                    "samples far beyond 1",
                    f"samples up to {loudest:.6g}, where full scale is 1: integers that were saved as floats? Divide "
                    "them by their full scale (32768 for 16 bits)",
                )
            self.loudest = max(self.loudest, loudest)
        if self.channel is not None and self.channel >= block.shape[1]:
            raise AudioFault("missing channel", f"channel {self.channel} of {block.shape[1]}, counted from 0")
        wave = block.mean(axis=1) if self.channel is None else block[:, self.channel]
        self.samples, self.channels = self.samples + len(wave), block.shape[1]
        self.mixed = max(self.mixed, float(np.abs(wave).max(initial=0.0)))
        return wave

    def check(self) -> None:
        """Refuse a file without samples or whose channels cancel each other, once all of it was added."""
        if not self.samples:
            raise AudioFault("no samples", "the audio file holds no samples; replace it, or leave it out")
        if self.channel is None and self.loudest > SILENT_PEAK and self.mixed < 0.01 * self.loudest:
            raise AudioFault(
                "channels that cancel each other",
                "the channels are of opposite polarity, their average is silent; turn one over, or give one alone",
            )


@contextmanager
def open_decoder(file: IO[bytes]) -> Iterator[Decoder]:
    """Open what libsndfile reads (wav, flac, mp3, ogg, opus, …); an AudioFault, also while decoding, if it is none."""
    try:
        pieces = tuple(pieces_of(file))
        if len(pieces) > _MOST_PIECES:
            raise AudioFault("joined audio", f"more than {_MOST_PIECES} files in one; decode it and write it anew")
        with _opened(file, pieces[0]) as sound:
            rate, channels = int(sound.samplerate), int(sound.channels)
        if not SAMPLE_RATES[0] <= rate <= SAMPLE_RATES[1]:
            raise AudioFault("wrong sample rate", f"{rate} Hz by the header")
        yield Decoder(file, pieces, rate, channels)
    except (soundfile.SoundFileError, RuntimeError, OSError) as error:
        # What libsndfile says, without the name of what it was given, which is none here.
        text = getattr(error, "error_string", None) or str(error) or type(error).__name__
        reason = " ".join(str(text).split()).rstrip(".")
        raise AudioFault(UNREADABLE, f"{reason}; use wav, flac, mp3, ogg or opus") from error


class _SequentialFile(soundfile.SoundFile):
    """A file that is read from its start on: soundfile believes the header's length where it could seek."""

    def seekable(self) -> bool:
        return False


class _PieceReader(io.RawIOBase):
    """A piece as a file of its own."""

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
            self._file.seek(self._piece.start + position - len(head))
            data = self._file.read(min(max(0, self._size - position), len(buffer)))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def _opened(file: IO[bytes], piece: Piece) -> _SequentialFile:
    # Buffered: the decoder of MP3 reads in crumbs.
    return _SequentialFile(io.BufferedReader(_PieceReader(file, piece)))


def _read_blocks(sound: _SequentialFile, samples: int = _UNKNOWN) -> Iterator[np.ndarray]:
    size = max(1, BLOCK // sound.channels)
    # Not `blocks`: that fills up what a file lacks with what the buffer held before.
    while samples > 0 and len(block := sound.read(min(size, samples), dtype="float32", always_2d=True)):
        yield block
        samples -= len(block)


def _decode_piece(file: IO[bytes], piece: Piece, sound: _SequentialFile) -> Iterator[np.ndarray]:
    """Yield what a piece holds from where `sound` stands; junk behind the sound of a FLAC is no end to it."""
    done = sound.tell()
    try:
        for block in _read_blocks(sound):
            yield block
            done += len(block)
    except soundfile.LibsndfileError:
        listed = piece.listed or 0
        if not done < listed < _UNKNOWN:
            raise
        # The decoder stumbled where its own header may have told it to stop: the rest by that header.
        with _opened(file, replace(piece, head=piece.own_head)) as believed:
            believed.seek(done)
            for block in _read_blocks(believed, listed - done):
                yield block
                done += len(block)
        if done < listed or _count_from(file, piece, listed):
            raise


def _count_from(file: IO[bytes], piece: Piece, start: int) -> int:
    """Return how many samples follow a place, counted up to 2; 0 if none can be decoded there."""
    with _opened(file, piece) as sound, suppress(soundfile.LibsndfileError):
        sound.seek(start)
        return len(sound.read(2, always_2d=True))
    return 0
