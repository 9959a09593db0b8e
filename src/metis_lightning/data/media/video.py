"""Reads and writes video files: pictures at 25 a second, and the sound that a video carries.

Shape letters: F frames at 25 Hz, H height, W width, S samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from metis_lightning.data.media.storage import location_stamp
from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path, sha256_of
from metis_lightning.types import VIDEO_RATE, AudioSource

if TYPE_CHECKING:
    from av.container import InputContainer

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class VideoSound(AudioSource):
    """The first sound track of a local video file, in time with its pictures."""

    path: str

    def frames(self) -> tuple[np.ndarray, int]:
        """Return (S, channels) float32 from the first picture on, and the sample rate; a UserError without sound."""
        resampler = require_av().AudioResampler(format="fltp")
        with open_video(Path(self.path)) as container:
            if not container.streams.audio:
                raise UserError(f"{self.path}: the video has no sound; give a file with its sound")
            stream = container.streams.audio[0]
            tracks: list[Any] = [stream, *container.streams.video[:1]]
            rate = int(stream.rate)
            starts = [float((track.start_time or 0) * track.time_base) for track in tracks]
            decoded = [*container.decode(stream), None]
            blocks = [block.to_ndarray().T for frame in decoded for block in resampler.resample(frame)]
        wave = np.concatenate(blocks) if blocks else np.zeros((0, 1), dtype=np.float32)
        # Cutters often start the two tracks some milliseconds apart.
        shift = round((starts[0] - sum(starts[1:])) * rate)
        return (np.pad(wave, ((shift, 0), (0, 0))) if shift > 0 else wave[-shift:]), rate

    def digest(self) -> str:
        """Return the SHA-256 of the video's file: decoders differ in the last bits."""
        return sha256_of(Path(self.path))

    def stamp(self) -> str:
        """Return the stamp of the video's file."""
        return location_stamp(self.path)

    def __str__(self) -> str:
        return self.path


def iterate_frames(path: Path | str) -> Iterator[np.ndarray]:
    """Yield the pictures (H, W, 3) uint8 in RGB, nearest in time at 25 a second; a UserError if there are none."""
    with open_video(Path(path)) as container:
        if not container.streams.video:
            raise UserError(f"{path}: the file has no pictures; give a video")
        for frame in at_rate(timed_frames(container), VIDEO_RATE):
            yield frame.to_ndarray(format="rgb24")


def read_video(path: Path | str) -> np.ndarray:
    """Return all pictures that `iterate_frames` gives, (F, H, W, 3) uint8; a UserError also if there is not one."""
    frames = list(iterate_frames(path))
    if not frames:
        raise UserError(f"{path}: the video holds no pictures; replace it")
    return np.stack(frames)


def write_video(path: Path | str, frames: Iterable[np.ndarray]) -> int:
    """Write pictures (H, W, 3) uint8 in RGB as H.264 at 25 a second; return their number, a ValueError if it is 0.

    The file appears only when complete; its quality is constant (x264's 18), where losses are hard to see.
    """
    av, count, stream = require_av(), 0, None
    with atomic_path(Path(path)) as temporary, av.open(str(temporary), "w") as container:
        for picture in frames:
            if stream is None:
                quality = {"crf": "18", "preset": "medium"}
                stream = container.add_stream("libx264", rate=Fraction(VIDEO_RATE), options=quality)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
            count += 1
        if stream is None:
            raise ValueError(f"no pictures to write to {path}")
        container.mux(stream.encode(None))
    return count


def at_rate(timed: Iterable[tuple[float, _Item]], rate: float) -> Iterator[_Item]:
    """Yield for each moment 0, 1/rate, 2/rate, … the item that is nearest in time (s, ascending), of two the earlier.

    The last item lasts as long as the one before it.

    >>> list(at_rate([(n / 50, n) for n in range(6)], 25))
    [0, 2, 4]
    >>> list(at_rate([(n / 12.5, n) for n in range(3)], 25))
    [0, 0, 1, 1, 2, 2]
    """
    count, last, step = 0, None, 1 / rate
    for time, item in timed:
        if last is not None:
            step = time - last[0]
            while count / rate < (last[0] + time) / 2 + 1e-9:
                yield last[1]
                count += 1
        last = (time, item)
    while last is not None and (count + 0.5) / rate < last[0] + step + 1e-9:
        yield last[1]
        count += 1


@contextmanager
def open_video(path: Path) -> Iterator[InputContainer]:
    """Open a local video; a UserError if it is missing or unreadable, also while it is read."""
    av = require_av()
    if not path.is_file():
        raise UserError(f"{path}: no such video; check the path and the data root")
    try:
        with av.open(str(path)) as container:
            yield container
    except av.FFmpegError as error:
        raise UserError(f"{path}: not a readable video ({error.strerror or error}); replace it") from error


def require_av() -> Any:  # noqa: ANN401  a module
    """Import PyAV; a UserError if it is not installed."""
    try:
        import av
    except ImportError as error:
        raise UserError("reading video needs PyAV: pip install 'metis-lightning[video]'") from error
    return av


def timed_frames(container: InputContainer) -> Iterator[tuple[float, Any]]:
    """Yield (seconds since the first, frame) of the first picture track."""
    stream = container.streams.video[0]
    rate = float(stream.average_rate or VIDEO_RATE)
    # An avi holds no times, and those guessed of reordered pictures are wrong.
    is_even, first = container.format.name == "avi", None
    for number, frame in enumerate(container.decode(stream)):
        time = number / rate if is_even or frame.time is None else frame.time
        first = time if first is None else first
        yield time - first, frame
