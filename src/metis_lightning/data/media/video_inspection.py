"""What a video file holds, or why it is odd."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from metis_lightning.data.media.pieces import OddAudio
from metis_lightning.data.media.video import at_rate, opened, timed_frames
from metis_lightning.errors import UserError
from metis_lightning.types import VIDEO_RATE

# Slower than this, lips cannot be followed.
_SLOWEST = 12.0


class OddVideo(OddAudio):
    """A file that is no sound video; `kind` and `detail` as for audio."""


@dataclass(frozen=True)
class InspectedVideo:
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


def inspect_video(path: Path, decode: bool = True) -> InspectedVideo:
    """Look at a video file.

    Args:
        path: a local file.
        decode: decode every picture; else only the header is read, which misses broken and missing pictures.

    Raises:
        OddVideo: if the file is missing, empty, a git-lfs pointer, truncated, unreadable, without pictures, or has
            fewer than 12 pictures a second. Other rates than 25 are no fault: they are converted when read.
    """
    _check_file(path)
    try:
        with opened(path) as container:
            if not container.streams.video:
                raise OddVideo("no pictures")
            stream = container.streams.video[0]
            rate, listed = float(stream.average_rate or 0), stream.frames
            if decode:
                times = [(time, None) for time, _ in timed_frames(container)]
                frames = sum(1 for _ in at_rate(times, VIDEO_RATE))
                if len(times) < listed:
                    raise OddVideo("truncated video", f"{len(times)} of {listed} pictures")
            else:
                # Only mp4 lists the number of pictures; others say how long they last, in microseconds.
                seconds = listed / rate if listed and rate else (container.duration or 0) / 1e6
                frames = round(seconds * VIDEO_RATE)
            found = InspectedVideo(frames, rate, stream.width, stream.height, bool(container.streams.audio))
    except UserError as error:
        raise OddVideo("unreadable video", str(error)) from error
    return _checked(found)


def _checked(found: InspectedVideo) -> InspectedVideo:
    if found.frames == 0:
        raise OddVideo("no pictures")
    if found.frame_rate < _SLOWEST:
        raise OddVideo("too few pictures a second", f"{found.frame_rate:.2f}")
    return found


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise OddVideo("missing file", path.name)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise OddVideo("0 bytes")
    if start.startswith(b"version https://git-lfs"):
        raise OddVideo("git-lfs pointer", "run `git lfs pull` in the corpus")
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
                raise OddVideo("truncated video", f"{size} of {position + max(length, 8)} bytes")
            position += length
