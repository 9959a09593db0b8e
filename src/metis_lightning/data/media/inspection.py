"""Inspects audio and video files: how long they last and in which form, or what is wrong with them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from metis_lightning.data.media.containers import UNKNOWN_SIZES, AudioFault
from metis_lightning.data.media.decoding import Levels, open_decoder
from metis_lightning.data.media.video import at_rate, open_video, timed_frames
from metis_lightning.errors import UserError
from metis_lightning.types import VIDEO_RATE

# Pictures a second: slower than this, lips cannot be followed.
_SLOWEST = 12.0


@dataclass(frozen=True)
class AudioInfo:
    """Duration in seconds, sample rate in Hz, and channels of an audio file."""

    seconds: float
    sample_rate: int
    channels: int


def inspect_audio(data: bytes, decode: bool = True, listed_seconds: float | None = None) -> AudioInfo:
    """Look at the bytes of an audio file; without `decode` at its length alone, which misses broken frames and silence.

    An AudioFault if it is no sound audio file, or not as long as by its header, and as listed within 0.25 s or 2%.
    """
    _check_start(data, AudioFault)
    if data[:4] == b"RIFF":
        size = int.from_bytes(data[4:8], "little")
        if size not in UNKNOWN_SIZES and size + 8 > len(data) + 1:
            raise AudioFault("truncated audio", f"{len(data)} of {size + 8} bytes")
    with open_decoder(io.BytesIO(data)) as decoder:
        levels = Levels()
        if decode:
            for block in decoder.blocks():
                levels.add(block)
        samples = levels.samples if decode else decoder.samples
        if samples == 0:
            raise AudioFault("no samples")
        if decode:
            levels.check()
            if not levels.loudest:
                raise AudioFault("silence only")
        decoder.check_length(samples)
        info = AudioInfo(samples / decoder.sample_rate, decoder.sample_rate, decoder.channels)
    # Encoders pad by less.
    if listed_seconds is not None and not abs(info.seconds - listed_seconds) <= max(0.25, 0.02 * listed_seconds):
        raise AudioFault("wrong duration", f"lasts {info.seconds:.2f} s, listed with {listed_seconds:.2f} s")
    return info


def _check_start(start: bytes, fault: type[AudioFault]) -> None:
    if not start:
        raise fault("0 bytes")
    if start.startswith(b"version https://git-lfs"):
        raise fault("git-lfs pointer", "run `git lfs pull` in the corpus")


class VideoFault(AudioFault):
    """A file that is no sound video; `kind` and `detail` as for audio."""


@dataclass(frozen=True)
class VideoInfo:
    """Pictures of a video, 25 a second, the rate of its file in Hz, its size in pixels, and whether it has sound."""

    frames: int
    frame_rate: float
    width: int
    height: int
    sound: bool


def inspect_video(path: Path, decode: bool = True) -> VideoInfo:
    """Look at a local video file; without `decode` at its header alone, which misses broken and missing pictures.

    A VideoFault if it is missing, truncated, unreadable, or has fewer than 12 pictures a second, or none.
    """
    if not path.is_file():
        raise VideoFault("missing file", path.name)
    with path.open("rb") as file:
        start = file.read(64)
        _check_start(start, VideoFault)
        if start[4:8] == b"ftyp":
            _check_boxes(file, path.stat().st_size)
    try:
        with open_video(path) as container:
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
            info = VideoInfo(frames, rate, stream.width, stream.height, bool(container.streams.audio))
    except UserError as error:
        raise VideoFault("unreadable video", str(error)) from error
    if info.frames == 0:
        raise VideoFault("no pictures")
    if info.frame_rate < _SLOWEST:
        raise VideoFault("too few pictures a second", f"{info.frame_rate:.2f}")
    return info


def _check_boxes(file: IO[bytes], size: int) -> None:
    """Refuse an mp4 whose outer boxes end after the file does; decoders call such a file merely invalid."""
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
