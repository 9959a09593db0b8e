"""Audio files decoded to their end, in blocks: what comes is what a file holds, whatever its header says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import IO

import numpy as np
import soundfile

from metis_lightning.data.media.containers import UNREADABLE, AudioFault, Piece, pieces_of

BLOCK = 1 << 18
"""Samples, all channels counted, that are decoded at once."""

SAMPLE_RATES = (1000, 768_000)
"""Hz: below and above, a header is damaged, and converting the rate would fill the memory."""

LOUDEST = 4.0
"""No sample of sound on the scale of -1 to 1 is louder: lossy codecs overshoot a little, integers as floats by far."""

SILENT_PEAK = 1e-4
"""What no sample of silence exceeds: -80 dB, three steps of 16 bits."""

# What a decoder may leave of the last frame of an MP3.
_FRAME = 1152
_MOST_PIECES = 1000
# What a FLAC says that does not know its length, if it does not say 0.
_UNKNOWN = (1 << 36) - 1


class _Stream(soundfile.SoundFile):
    """A file that is read from its start on: soundfile believes the header's length where it could seek."""

    def seekable(self) -> bool:
        return False


@dataclass(frozen=True)
class Decoder:
    """An open audio file.

    file: its bytes.
    sample_rate: in Hz.
    """

    file: IO[bytes]
    pieces: tuple[Piece, ...]
    sample_rate: int
    channels: int

    def blocks(self, start: int = 0, samples: int | None = None) -> Iterator[np.ndarray]:
        """Yield blocks (S, channels) float32 until the file ends, or so many samples from `start` on.

        Raises:
            AudioFault: if what was joined differs in sample rate or channels, or is broken.
        """
        left = samples
        for block in self._from(start):
            if left is not None:
                block, left = block[:left], left - len(block)
            yield block
            if left is not None and left <= 0:
                return

    def _from(self, start: int) -> Iterator[np.ndarray]:
        for piece in self.pieces:
            with _opened(self.file, piece) as sound:
                if (sound.samplerate, sound.channels) != (self.sample_rate, self.channels):
                    raise AudioFault("joined audio", "its parts differ in sample rate or channels; convert each alone")
                # The end of one of several is not known before it is decoded.
                if start and len(self.pieces) == 1:
                    sound.seek(start)
                    start = 0
                for block in _to_the_end(self.file, piece, sound):
                    if start < len(block):
                        yield block[start:]
                    start = max(0, start - len(block))

    @cached_property
    def samples(self) -> int:
        """How many samples each channel has; decoded and counted where the header cannot be believed."""
        if len(self.pieces) == 1 and self.pieces[0].is_listed:
            with _opened(self.file, self.pieces[0]) as sound:
                listed = _listed(self.pieces[0], sound)
                if self.pieces[0].is_exact or _ends_at(sound, listed):
                    return listed
        return sum(map(len, self.blocks()))

    def check_length(self, samples: int) -> None:
        """Compare what was decoded with the header.

        Raises:
            AudioFault: if they differ, or several files were joined, of which other programs read the first.
        """
        if len(self.pieces) > 1:
            raise AudioFault("joined audio", f"{len(self.pieces)} files in one; decode it and write it anew")
        if not self.pieces[0].is_listed:
            return
        with _opened(self.file, self.pieces[0]) as sound:
            listed = _listed(self.pieces[0], sound)
            spare = _FRAME if sound.format == "MP3" else 0
        if samples < listed - spare:
            raise AudioFault("truncated audio", f"{samples} of {listed} samples")
        if samples > listed:
            raise AudioFault("wrong length in the header", f"{samples} samples, the header tells of {listed}")


@dataclass
class Levels:
    """What was met in the blocks of a file, to tell sound from what is none.

    channel: which one is taken; None for the average of all.
    samples, channels: how many there were.
    loudest: the largest sample of any channel; mixed: of what was taken.
    """

    channel: int | None = None
    samples: int = 0
    channels: int = 0
    loudest: float = 0.0
    mixed: float = 0.0

    def add(self, block: np.ndarray) -> np.ndarray:
        """Count a block (S, channels) and return it as one channel (S,): the average, or the one that was chosen.

        Raises:
            AudioFault: if a sample is not finite or far beyond 1, or there is no such channel.
        """
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
        """Refuse a file without samples or whose channels cancel each other, once all of it was added.

        Raises:
            AudioFault: if so.
        """
        if not self.samples:
            raise AudioFault("no samples", "the audio file holds no samples; replace it, or leave it out")
        if self.channel is None and self.loudest > SILENT_PEAK and self.mixed < 0.01 * self.loudest:
            raise AudioFault(
                "channels that cancel each other",
                "the channels are of opposite polarity, their average is silent; turn one over, or give one alone",
            )


@contextmanager
def decoder(file: IO[bytes]) -> Iterator[Decoder]:
    """Open an audio file by its bytes: wav, flac, mp3, ogg, opus and what else libsndfile reads.

    Raises:
        AudioFault: if it is none, also while it is decoded.
    """
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
        raise AudioFault(UNREADABLE, f"{_reason(error)}; use wav, flac, mp3, ogg or opus") from error


@contextmanager
def _opened(file: IO[bytes], piece: Piece) -> Iterator[_Stream]:
    with _Stream(piece.open(file)) as sound:
        yield sound


def _read(sound: _Stream, samples: int = _UNKNOWN) -> Iterator[np.ndarray]:
    """Yield at most so many samples of each channel."""
    size = max(1, BLOCK // sound.channels)
    # Not `blocks`: that fills up what a file lacks with what the buffer held before.
    while samples > 0 and len(block := sound.read(min(size, samples), dtype="float32", always_2d=True)):
        yield block
        samples -= len(block)


def _to_the_end(file: IO[bytes], piece: Piece, sound: _Stream) -> Iterator[np.ndarray]:
    """Yield what a piece holds from where `sound` stands; junk behind the sound of a FLAC is no end to it."""
    done = sound.tell()
    try:
        for block in _read(sound):
            yield block
            done += len(block)
    except soundfile.LibsndfileError:
        listed = piece.listed or 0
        if not done < listed < _UNKNOWN:
            raise
        with _opened(file, replace(piece, head=piece.own_head)) as believed:
            believed.seek(done)
            for block in _read(believed, listed - done):
                yield block
                done += len(block)
        if done < listed or _goes_on(file, piece, listed):
            raise


def _goes_on(file: IO[bytes], piece: Piece, samples: int) -> bool:
    """Tell whether a piece holds more than so many samples."""
    with _opened(file, piece) as sound, suppress(soundfile.LibsndfileError):
        sound.seek(samples)
        return len(sound.read(1, always_2d=True)) == 1
    return False


def _listed(piece: Piece, sound: _Stream) -> int:
    return int(sound.frames) if piece.listed is None else piece.listed


def _ends_at(sound: _Stream, samples: int) -> bool:
    """Tell whether a file holds so many samples and no more."""
    with suppress(soundfile.LibsndfileError):
        sound.seek(samples - 1)
        return len(sound.read(2, always_2d=True)) == 1
    return False


def _reason(error: Exception) -> str:
    """Return what libsndfile says, without the name of what it was given, which is none here."""
    text = getattr(error, "error_string", None) or str(error) or type(error).__name__
    return " ".join(str(text).split()).rstrip(".")
