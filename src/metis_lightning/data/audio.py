"""Audio files in and out: mono float32 tensors at a stated sample rate."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path
from metis_lightning.types import AudioLocation

OUTPUT_FORMATS: Mapping[str, str] = {".wav": "WAV", ".flac": "FLAC"}
"""What `audio_writer` writes, by suffix."""

_BLOCK_SECONDS = 10


def read_audio(
    path: AudioLocation, sample_rate: int, channel: int | None = None, part: tuple[float, float] | None = None
) -> Tensor:
    """Read audio as mono at `sample_rate`.

    Channels are averaged unless one is chosen, and the rate is converted by soxr at its HQ setting. The scale is kept:
    samples may exceed 1 a little where a lossy codec overshoots.

    Args:
        path: a file or a source, in any format that soundfile reads (wav, flac, mp3, ogg, opus).
        sample_rate: of the result, in Hz.
        channel: take this one alone; averaged microphones of one room would cancel each other.
        part: read only this, a start and a length in seconds.

    Returns:
        (S,) float32.

    Raises:
        UserError: if the file is missing, unreadable, empty, or holds a value that is not finite.
    """
    frames, file_rate = _read_frames(path, part) if isinstance(path, Path) else _part_of(*path.frames(), part)
    wave = frames.mean(axis=1) if channel is None else frames[:, channel]
    if wave.size == 0:
        raise UserError(f"{path}: the audio file holds no samples; remove it from the manifest or replace it")
    if not np.isfinite(wave).all():
        raise UserError(f"{path}: the audio holds NaN or infinite samples; replace the file")
    return resample(wave, file_rate, sample_rate)


def resample(wave: np.ndarray, from_rate: int, to_rate: int) -> Tensor:
    """Convert a wave (S,) between sample rates by soxr at its HQ setting, to float32."""
    if from_rate != to_rate:
        wave = soxr.resample(wave, from_rate, to_rate, quality="HQ")
    return torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))


def audio_seconds(path: Path) -> float:
    """Return how long an audio file lasts, by its header.

    Raises:
        UserError: if it is missing or unreadable.
    """
    with _opened(path) as file:
        return file.frames / file.samplerate


def _read_frames(path: Path, part: tuple[float, float] | None) -> tuple[np.ndarray, int]:
    """Return (S, channels) float32 of a file or a part of it, and the file's sample rate."""
    with _opened(path) as file:
        return _frames_of(file, part)


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    if not path.is_file():
        raise UserError(f"{path}: no such audio file; check the path and the manifest's folder")
    with _readable(path, str(path)) as file:
        yield file


@contextmanager
def _readable(file: Path | io.BytesIO, where: str) -> Iterator[soundfile.SoundFile]:
    try:
        with soundfile.SoundFile(file) as opened:
            yield opened
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UserError(f"{where}: not a readable audio file ({error}); use wav, flac, mp3, ogg or opus") from error


def _frames_of(file: soundfile.SoundFile, part: tuple[float, float] | None = None) -> tuple[np.ndarray, int]:
    if part is None:
        return file.read(dtype="float32", always_2d=True), int(file.samplerate)
    file.seek(min(round(part[0] * file.samplerate), file.frames))
    return file.read(round(part[1] * file.samplerate), dtype="float32", always_2d=True), int(file.samplerate)


def _part_of(frames: np.ndarray, rate: int, part: tuple[float, float] | None) -> tuple[np.ndarray, int]:
    if part is not None:
        frames = frames[round(part[0] * rate) :][: round(part[1] * rate)]
    return frames, rate


def decode(data: bytes, where: str) -> tuple[np.ndarray, int]:
    """Return (S, channels) float32 and the sample rate of the bytes of an audio file.

    Raises:
        UserError: naming `where`, if they are none.
    """
    with _readable(io.BytesIO(data), where) as file:
        return _frames_of(file)


def write_wav(path: Path, wave: Tensor, sample_rate: int) -> None:
    """Write a mono 16-bit WAV that appears only when complete.

    The scale is kept; samples outside [-1, 1] are clipped.

    Args:
        path: where to write; its folder is made.
        wave: (S,) floating point, on any device.
        sample_rate: in Hz.

    Raises:
        ValueError: if `wave` is not one-dimensional or not finite.
    """
    if wave.dim() != 1:
        raise ValueError(f"expected a wave of shape (S,), got {tuple(wave.shape)}")
    if not torch.isfinite(wave).all():
        raise ValueError(f"refusing to write NaN or infinite samples to {path}")
    samples = wave.detach().to("cpu", torch.float32).clamp(-1.0, 1.0).numpy()
    with atomic_path(path) as temporary:
        soundfile.write(temporary, samples, sample_rate, subtype="PCM_16", format="WAV")


def stream_audio(path: Path, sample_rate: int) -> Iterator[Tensor]:
    """Yield an audio file of any length as mono blocks (S,) float32; joined, they are what `read_audio` returns.

    Raises:
        UserError: as for `read_audio`; a value that is not finite is found when its block is read.
    """
    empty = True
    with _opened(path) as file:
        convert = soxr.ResampleStream(file.samplerate, sample_rate, 1, "float32", "HQ")
        for frames in file.blocks(_BLOCK_SECONDS * file.samplerate, dtype="float32", always_2d=True):
            if not np.isfinite(frames).all():
                raise UserError(f"{path}: the audio holds NaN or infinite samples; replace the file")
            empty = empty and frames.size == 0
            yield torch.from_numpy(convert.resample_chunk(frames.mean(axis=1)))
        if empty:
            raise UserError(f"{path}: the audio file holds no samples; replace it")
        yield torch.from_numpy(convert.resample_chunk(np.empty(0, dtype=np.float32), last=True))


@contextmanager
def audio_writer(path: Path, sample_rate: int) -> Iterator[Callable[[Tensor], None]]:
    """Give a function that appends samples (S,) to a mono 16-bit file, which appears only if the block ends well.

    Args:
        path: its suffix, of `OUTPUT_FORMATS`, says the format; its folder is made. Samples outside [-1, 1] are clipped.
        sample_rate: in Hz.
    """
    kind = OUTPUT_FORMATS[path.suffix.lower()]
    with (
        atomic_path(path) as temporary,
        soundfile.SoundFile(temporary, "w", sample_rate, 1, subtype="PCM_16", format=kind) as file,
    ):
        yield lambda wave: file.write(wave.to("cpu", torch.float32).clamp(-1.0, 1.0).numpy())
