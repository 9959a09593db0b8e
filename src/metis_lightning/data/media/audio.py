"""Reads and writes audio files: mono float32 tensors at a stated sample rate."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from metis_lightning.data.media.containers import AudioFault
from metis_lightning.data.media.decoding import UNREADABLE, Decoder, Levels, open_decoder
from metis_lightning.data.media.storage import location_stamp
from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path
from metis_lightning.types import AudioLocation, AudioSource, Recording

# What `audio_writer` writes, by suffix.
OUTPUT_FORMATS: Mapping[str, str] = {".wav": "WAV", ".flac": "FLAC"}
# Seconds of the longest audio that is read at once.
LONGEST_READ = 3 * 3600.0


class InvalidAudioError(UserError):
    """A file that is there and is no sound audio file; `reason` is worded alike for all files of the kind."""

    reason = ""


def read_audio(
    path: AudioLocation | str,
    sample_rate: int,
    channel: int | None = None,
    part: tuple[float, float] | None = None,
    longest: float = LONGEST_READ,
) -> Tensor:
    """Read audio as mono at a sample rate in Hz, (S,) float32, decoded to its end whatever its header says.

    The format is any that libsndfile reads (wav, flac, mp3, ogg, opus). `channel` is taken instead of the average, as
    microphones of one room may cancel each other; `part` is a start and a length in seconds. A `UserError` if the file
    is missing, unreadable, empty, over `longest` seconds, or holds what is no sound: values that are not finite or far
    beyond 1 (lossy codecs overshoot it a little), channels that cancel each other.
    """
    recording = read_recording(path, channel, part, longest)
    return resample(recording.wave.numpy(), recording.sample_rate, sample_rate)


def read_recording(
    path: AudioLocation | str,
    channel: int | None = None,
    part: tuple[float, float] | None = None,
    longest: float = LONGEST_READ,
) -> Recording:
    """Read audio as `read_audio` does, at its own rate."""
    start, seconds = part or (0.0, longest)
    with _named(path), _open_blocks(path) as (blocks, rate):
        levels = Levels(channel=channel)
        # One sample more tells that there is more.
        wanted = round(seconds * rate) + (part is None)
        waves = [levels.add(block) for block in blocks(round(start * rate), wanted)]
        if part is None and levels.samples == wanted:
            raise AudioFault("too long", f"the audio lasts more than {longest:g} s; cut it into pieces")
        levels.check()
        wave = np.ascontiguousarray(np.concatenate(waves), dtype=np.float32)
        return Recording(torch.from_numpy(wave), rate, levels.channels)


def stream_audio(path: Path | str, sample_rate: int) -> Iterator[Tensor]:
    """Yield a file of any length as mono blocks (S,) float32: `read_audio`'s in pieces, with its errors on the way."""
    path = Path(path)
    with _named(path), _open_file(path) as decoder:
        convert, levels = soxr.ResampleStream(decoder.sample_rate, sample_rate, 1, "float32", "HQ"), Levels()
        for block in decoder.blocks():
            yield torch.from_numpy(convert.resample_chunk(levels.add(block)))
        levels.check()
        yield torch.from_numpy(convert.resample_chunk(np.empty(0, dtype=np.float32), last=True))


def decode(data: bytes, where: str) -> tuple[np.ndarray, int]:
    """Return (S, channels) float32 and the sample rate of an audio file's bytes; a UserError names `where`."""
    with _named(where), open_decoder(io.BytesIO(data)) as decoder:
        blocks = [np.zeros((0, decoder.channels), np.float32), *decoder.blocks()]
        return np.concatenate(blocks), decoder.sample_rate


def resample(wave: np.ndarray, from_rate: float, to_rate: float) -> Tensor:
    """Convert a wave (S,) between sample rates by soxr at its HQ setting, to float32."""
    if from_rate != to_rate:
        wave = soxr.resample(wave, from_rate, to_rate, quality="HQ")
    return torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))


def audio_seconds(path: Path | str) -> float:
    """Return how long an audio file lasts when it is decoded; a UserError if it is missing or unreadable."""
    return decoded_length(Path(path))[0]


def decoded_length(path: Path) -> tuple[float, str]:
    """Return how long a file lasts and how its header differs, as after a broken download; errors as `read_audio`'s."""
    return _decoded_length(path, location_stamp(path) if os.path.isfile(path) else "")


# Commands ask for the length of the same file several times, and some files must be decoded to tell it.
@lru_cache(1 << 16)
def _decoded_length(path: Path, stamp: str) -> tuple[float, str]:
    with _named(path), _open_file(path) as decoder:
        samples, remark = decoder.samples, ""
        if len(decoder.pieces) == 1:
            try:
                decoder.check_length(samples)
            except AudioFault as fault:
                remark = f"{path}: {fault.kind} ({fault.detail})"
        return samples / decoder.sample_rate, remark


def check_sound(path: Path | str, channel: int | None = None) -> None:
    """Decode a file to see that it, or one of its channels, holds sound; errors as `read_audio`'s, also for silence."""
    path = Path(path)
    with _named(path), _open_file(path) as decoder:
        levels = Levels(channel=channel)
        for block in decoder.blocks():
            levels.add(block)
        levels.check()
        if not levels.mixed:
            raise AudioFault("silence only")


def write_wav(path: Path | str, wave: Tensor, sample_rate: int) -> None:
    """Write a wave (S,), clipped to [-1, 1], as a mono 16-bit WAV; a ValueError if it is not finite or not (S,)."""
    if wave.dim() != 1:
        raise ValueError(f"expected a wave of shape (S,), got {tuple(wave.shape)}")
    if not torch.isfinite(wave).all():
        raise ValueError(f"refusing to write NaN or infinite samples to {path}")
    # An open file: soundfile takes no name that UTF-8 cannot hold.
    with atomic_path(Path(path)) as temporary, temporary.open("w+b") as file:
        # Clips what is out of range, as `SoundFile.write` does.
        soundfile.write(file, wave.detach().float().cpu().numpy(), sample_rate, subtype="PCM_16", format="WAV")


@contextmanager
def audio_writer(path: Path | str, sample_rate: int) -> Iterator[Callable[[Tensor], None]]:
    """Give a function that appends samples (S,), clipped to [-1, 1], to a mono 16-bit file of `OUTPUT_FORMATS`."""
    path = Path(path)
    kind = OUTPUT_FORMATS[path.suffix.lower()]
    with (
        atomic_path(path) as temporary,
        temporary.open("w+b") as opened,
        soundfile.SoundFile(opened, "w", sample_rate, 1, subtype="PCM_16", format=kind) as file,
    ):
        yield lambda wave: file.write(wave.detach().float().cpu().numpy())


@contextmanager
def _open_blocks(path: AudioLocation | str) -> Iterator[tuple[Callable[[int, int], Iterator[np.ndarray]], int]]:
    """Give what yields so many samples of blocks (S, channels) from a sample on, and the sample rate."""
    if isinstance(path, AudioSource):
        frames, rate = path.frames()
        yield lambda start, samples: iter([frames[start : start + samples]]), rate
    else:
        with _open_file(Path(path)) as decoder:
            yield decoder.blocks, decoder.sample_rate


@contextmanager
def _open_file(path: Path) -> Iterator[Decoder]:
    # Not a pipe or a device either, on which a reader would wait.
    if not os.path.isfile(path):
        raise UserError(f"{path}: no such audio file; check the path and the manifest's folder")
    try:
        file = path.open("rb")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    with file, open_decoder(file) as decoder:
        yield decoder


@contextmanager
def _named(path: AudioLocation | str) -> Iterator[None]:
    try:
        yield
    except AudioFault as fault:
        reason = "not a readable audio file" if fault.kind == UNREADABLE else fault.kind
        error = InvalidAudioError(f"{path}: {reason}{f' ({fault.detail})' if fault.detail else ''}")
        error.reason = reason
        raise error from fault
