"""What an audio file holds, or why it is odd."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import soundfile

_BLOCK = 1 << 18
# A stream's header may not know its size.
_UNKNOWN_SIZES = (0, 0xFFFFFFFF, 0x7FFFFFFF)


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
class Inspected:
    """Duration in seconds, sample rate in Hz, and channels of an audio file."""

    seconds: float
    sample_rate: int
    channels: int


def inspect_audio(data: bytes, decode: bool = True, listed_seconds: float | None = None) -> Inspected:
    """Look at the bytes of an audio file.

    Args:
        data: all of the file.
        decode: decode every sample; else only the header is read, which misses broken frames, NaN and silence.
        listed_seconds: the duration that the corpus states.

    Raises:
        OddAudio: if the file is empty, a git-lfs pointer, unreadable, truncated, silent, holds NaN or infinity, or
            its duration is not the listed one within 0.25 s (more than
            encoders pad) or 2%.
    """
    _check_bytes(data)
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate, channels = file.samplerate, file.channels
            samples = _count_samples(file) if decode else file.frames
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise OddAudio("unreadable audio", str(error)) from error
    if samples == 0:
        raise OddAudio("no samples")
    seconds = samples / rate
    if listed_seconds is not None and abs(seconds - listed_seconds) > max(0.25, 0.02 * listed_seconds):
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


def _count_samples(file: soundfile.SoundFile) -> int:
    """Decode a file and count its samples in each channel."""
    samples, loud = 0, False
    # Not `blocks`: that believes the header and fills up what a truncated file lacks.
    while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
        if not np.isfinite(block).all():
            raise OddAudio("NaN or infinite samples", f"after {samples / file.samplerate:.2f} s")
        samples += len(block)
        loud = loud or bool(block.any())
    if samples < file.frames:
        raise OddAudio("truncated audio", f"{samples} of {file.frames} samples")
    if samples and not loud:
        raise OddAudio("silence only")
    return samples
