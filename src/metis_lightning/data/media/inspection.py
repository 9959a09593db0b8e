"""What an audio file holds, or why it is odd."""

from __future__ import annotations

import io
from dataclasses import dataclass

from metis_lightning.data.media.decoding import Decoder, Levels, decoder
from metis_lightning.data.media.pieces import OddAudio

# A stream's header may not know its size.
_UNKNOWN_SIZES = (0, 0xFFFFFFFF, 0x7FFFFFFF)


@dataclass(frozen=True)
class Inspected:
    """Duration in seconds, sample rate in Hz, and channels of an audio file."""

    seconds: float
    sample_rate: int
    channels: int


def inspect_audio(data: bytes, decode: bool = True, listed_seconds: float | None = None) -> Inspected:
    """Look at the bytes of an audio file.

    Args:
        data: all of the file.
        decode: decode every sample; else only what the header says is verified (and counted where that is wrong or
            nothing), which misses broken frames, NaN and silence.
        listed_seconds: the duration that the corpus states.

    Raises:
        OddAudio: if the file is empty, a git-lfs pointer, unreadable, truncated, joined of several, silent, holds what
            is no sound, tells of another length in its header, or its duration is not the listed one within 0.25 s
            (more than encoders pad) or 2%.
    """
    _check_bytes(data)
    with decoder(io.BytesIO(data)) as opened:
        rate, channels = opened.sample_rate, opened.channels
        samples = _decoded_samples(opened) if decode else opened.samples
        if samples:
            opened.check_length(samples)
    if samples == 0:
        raise OddAudio("no samples")
    seconds = samples / rate
    if listed_seconds is not None and not abs(seconds - listed_seconds) <= max(0.25, 0.02 * listed_seconds):
        raise OddAudio("wrong duration", f"lasts {seconds:.2f} s, listed with {listed_seconds:.2f} s")
    return Inspected(seconds, rate, channels)


def _check_bytes(data: bytes) -> None:
    if not data:
        raise OddAudio("0 bytes")
    if data.startswith(b"version https://git-lfs"):
        raise OddAudio("git-lfs pointer", "run `git lfs pull` in the corpus")
    if data[:4] == b"RIFF":
        size = int.from_bytes(data[4:8], "little")
        if size not in _UNKNOWN_SIZES and size + 8 > len(data) + 1:
            raise OddAudio("truncated audio", f"{len(data)} of {size + 8} bytes")


def _decoded_samples(opened: Decoder) -> int:
    """Decode a file and count its samples in each channel."""
    levels = Levels()
    for block in opened.blocks():
        levels.add(block)
    if levels.samples:
        levels.check()
        if not levels.loudest:
            raise OddAudio("silence only")
    return levels.samples
