"""Audio files in and out: mono float32 tensors at a stated sample rate."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path
from metis_lightning.types import AudioLocation


def read_audio(path: AudioLocation, sample_rate: int, channel: int | None = None) -> Tensor:
    """Read audio as mono at `sample_rate`.

    Channels are averaged unless one is chosen, and the rate is converted by soxr at its HQ setting. The scale is kept:
    samples may exceed 1 a little where a lossy codec overshoots.

    Args:
        path: a file or a source, in any format that soundfile reads (wav, flac, mp3, ogg, opus).
        sample_rate: of the result, in Hz.
        channel: take this one alone; averaged microphones of one room would cancel each other.

    Returns:
        (S,) float32.

    Raises:
        UserError: if the file is missing, unreadable, empty, or holds a value that is not finite.
    """
    frames, file_rate = _read_frames(path) if isinstance(path, Path) else path.frames()
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


def _read_frames(path: Path) -> tuple[np.ndarray, int]:
    """Return (S, channels) float32 and the file's sample rate."""
    if not path.is_file():
        raise UserError(f"{path}: no such audio file; check the path and the manifest's folder")
    return decode(path.read_bytes(), str(path))


def decode(data: bytes, where: str) -> tuple[np.ndarray, int]:
    """Return (S, channels) float32 and the sample rate of the bytes of an audio file.

    Raises:
        UserError: naming `where`, if they are none.
    """
    try:
        frames, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError) as error:
        raise UserError(f"{where}: not a readable audio file ({error}); use wav, flac, mp3, ogg or opus") from error
    return frames, int(rate)


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
