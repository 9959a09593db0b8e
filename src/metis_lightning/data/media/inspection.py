"""What an audio file holds, or why it is odd."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from metis_lightning.data.media.containers import AudioFault
from metis_lightning.data.media.decoding import Decoder, Levels, decoder
from metis_lightning.data.media.video import at_rate, opened, timed_frames
from metis_lightning.errors import UserError
from metis_lightning.types import VIDEO_RATE

# A stream's header may not know its size.
_UNKNOWN_SIZES = (0, 0xFFFFFFFF, 0x7FFFFFFF)


@dataclass(frozen=True)
class AudioInfo:
    """Duration in seconds, sample rate in Hz, and channels of an audio file."""

    seconds: float
    sample_rate: int
    channels: int


def inspect_audio(data: bytes, decode: bool = True, listed_seconds: float | None = None) -> AudioInfo:
    """Look at the bytes of an audio file.

    Args:
        data: all of the file.
        decode: decode every sample; else only what the header says is verified (and counted where that is wrong or
            nothing), which misses broken frames, NaN and silence.
        listed_seconds: the duration that the corpus states.

    Raises:
        AudioFault: if the file is empty, a git-lfs pointer, unreadable, truncated, joined of several, silent, holds
            what is no sound, tells of another length in its header, or its duration is not the listed one within 0.25 s
            (more than encoders pad) or 2%.
    """
    _check_bytes(data)
    with decoder(io.BytesIO(data)) as opened:
        rate, channels = opened.sample_rate, opened.channels
        samples = _decoded_samples(opened) if decode else opened.samples
        if samples:
            opened.check_length(samples)
    if samples == 0:
        raise AudioFault("no samples")
    seconds = samples / rate
    if listed_seconds is not None and not abs(seconds - listed_seconds) <= max(0.25, 0.02 * listed_seconds):
        raise AudioFault("wrong duration", f"lasts {seconds:.2f} s, listed with {listed_seconds:.2f} s")
    return AudioInfo(seconds, rate, channels)


def _check_bytes(data: bytes) -> None:
    if not data:
        raise AudioFault("0 bytes")
    if data.startswith(b"version https://git-lfs"):
        raise AudioFault("git-lfs pointer", "run `git lfs pull` in the corpus")
    if data[:4] == b"RIFF":
        size = int.from_bytes(data[4:8], "little")
        if size not in _UNKNOWN_SIZES and size + 8 > len(data) + 1:
            raise AudioFault("truncated audio", f"{len(data)} of {size + 8} bytes")


def _decoded_samples(opened: Decoder) -> int:
    """Decode a file and count its samples in each channel."""
    levels = Levels()
    for block in opened.blocks():
        levels.add(block)
    if levels.samples:
        levels.check()
        if not levels.loudest:
            raise AudioFault("silence only")
    return levels.samples


# Slower than this, lips cannot be followed.
_SLOWEST = 12.0


class VideoFault(AudioFault):
    """A file that is no sound video; `kind` and `detail` as for audio."""


@dataclass(frozen=True)
class VideoInfo:
    """What a video's pictures are.

    frames: how many `data.video.iterate_frames` gives, 25 a second.
    frame_rate: of the file, in Hz.
    width, height: in pixels.
    sound: whether there is a sound track.
    """

    frames: int
    frame_rate: float
    width: int
    height: int
    sound: bool


def inspect_video(path: Path, decode: bool = True) -> VideoInfo:
    """Look at a video file.

    Args:
        path: a local file.
        decode: decode every picture; else only the header is read, which misses broken and missing pictures.

    Raises:
        VideoFault: if the file is missing, empty, a git-lfs pointer, truncated, unreadable, without pictures, or has
            fewer than 12 pictures a second. Other rates than 25 are no fault: they are converted when read.
    """
    _check_file(path)
    try:
        with opened(path) as container:
            if not container.streams.video:
                raise VideoFault("no pictures")
            stream = container.streams.video[0]
            rate, listed = float(stream.average_rate or 0), stream.frames
            if decode:
                times = [(time, None) for time, _ in timed_frames(container)]
                frames = sum(1 for _ in at_rate(times, VIDEO_RATE))
                if len(times) < listed:
                    raise VideoFault("truncated video", f"{len(times)} of {listed} pictures")
            else:
                # Only mp4 lists the number of pictures; others say how long they last, in microseconds.
                seconds = listed / rate if listed and rate else (container.duration or 0) / 1e6
                frames = round(seconds * VIDEO_RATE)
            found = VideoInfo(frames, rate, stream.width, stream.height, bool(container.streams.audio))
    except UserError as error:
        raise VideoFault("unreadable video", str(error)) from error
    return _checked(found)


def _checked(found: VideoInfo) -> VideoInfo:
    if found.frames == 0:
        raise VideoFault("no pictures")
    if found.frame_rate < _SLOWEST:
        raise VideoFault("too few pictures a second", f"{found.frame_rate:.2f}")
    return found


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise VideoFault("missing file", path.name)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise VideoFault("0 bytes")
    if start.startswith(b"version https://git-lfs"):
        raise VideoFault("git-lfs pointer", "run `git lfs pull` in the corpus")
    if start[4:8] == b"ftyp":
        _check_boxes(path, size)


def _check_boxes(path: Path, size: int) -> None:
    """Refuse an mp4 whose outer boxes end after the file does; decoders call such a file merely invalid."""
    with path.open("rb") as file:
        position = 0
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            if length == 1:
                length = int.from_bytes(header[8:16], "big")
            if length == 0:
                return  # to the end of the file
            if length < 8 or position + length > size:
                raise VideoFault("truncated video", f"{size} of {position + max(length, 8)} bytes")
            position += length
