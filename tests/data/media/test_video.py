"""Video files: what is written is read, other rates become 25 a second, sound stays in time, damage is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from fake_corpora import encoded, put
from fake_faces import RATE, clip, pictures, speech, write_clip
from metis_lightning.data.media.audio import read_audio
from metis_lightning.data.media.inspection import VideoFault, VideoInfo, inspect_video
from metis_lightning.data.media.video import VideoSound, at_rate, iterate_frames, read_video, write_video
from metis_lightning.errors import UserError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    frames = pictures(30)
    assert write_video(tmp_path / "sub/m.mp4", iter(frames)) == 30
    again = read_video(tmp_path / "sub/m.mp4")
    assert again.shape == (30, 96, 96, 3)
    assert np.abs(again.astype(int) - frames).mean() < 2
    assert inspect_video(tmp_path / "sub/m.mp4") == VideoInfo(30, 25.0, 96, 96, False)
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["m.mp4"]


def test_nothing_is_left_of_a_video_that_fails(tmp_path: Path) -> None:
    def broken():
        yield pictures(1)[0]
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        write_video(tmp_path / "m.mp4", broken())
    with pytest.raises(ValueError, match="no pictures"):
        write_video(tmp_path / "m.mp4", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rate", "count"), [(25, 25), (30, 30), (50, 50), (12.5, 13), (30_000 / 1001, 30)])
def test_any_rate_becomes_25_a_second(tmp_path: Path, rate: float, count: int) -> None:
    path = write_clip(tmp_path / "m.mp4", pictures(count), rate=rate)
    shown = [np.flatnonzero(frame[40].mean(axis=-1) > 180).mean() for frame in iterate_frames(path)]
    seconds = count / rate
    assert len(shown) == pytest.approx(25 * seconds, abs=1)
    # The block moves a pixel a picture: at 1/25 s it has moved rate/25 pixels.
    moved = np.polyfit(np.arange(len(shown)), shown, 1)[0]
    assert moved == pytest.approx(rate / 25, rel=0.06)
    assert inspect_video(path).frames == len(shown)


def test_the_nearest_moment_is_shown_at_varying_rates() -> None:
    times = [0.0, 0.01, 0.05, 0.2, 0.21]
    moments = list(at_rate(zip(times, times, strict=True), 25))
    assert moments == [0.0, 0.05, 0.05, 0.05, 0.2, 0.2]
    assert list(at_rate([], 25)) == []
    assert list(at_rate([(0.0, "only")], 25)) == ["only"]


@pytest.mark.parametrize("late", [0.0, 0.12])
def test_sound_is_in_time_with_the_pictures(tmp_path: Path, late: float) -> None:
    wave = speech(1.5)
    path = write_clip(tmp_path / "m.mp4", pictures(40), wave, late=late)
    frames, rate = VideoSound(str(path)).frames()
    assert rate == RATE
    heard = frames[:, 0]
    lags = range(-400, 3000)
    scores = [float(np.dot(heard[max(0, lag) : 16_000 + lag], wave[max(0, -lag) : 16_000])) for lag in lags]
    # AAC's own delay is known to the container.
    assert lags[int(np.argmax(scores))] == pytest.approx(late * RATE, abs=40)
    assert read_audio(VideoSound(str(path)), 24_000).numel() == pytest.approx(1.5 * len(heard), abs=2)


@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("name", ["m.mkv", "m.avi", "m.mov", "m.mp4"])
def test_any_container_is_read(tmp_path: Path, name: str, decode: bool) -> None:
    path = write_clip(tmp_path / name, pictures(30, (64, 80)), rate=30)
    assert inspect_video(path, decode) == VideoInfo(25, 30.0, 80, 64, False)
    assert read_video(path).shape == (25, 64, 80, 3)


def kind_of(path: Path, decode: bool = True) -> str:
    with pytest.raises(VideoFault) as caught:
        inspect_video(path, decode)
    return caught.value.kind


def test_odd_videos_say_why(tmp_path: Path) -> None:
    whole = clip(tmp_path / "m.mp4", 2.0)
    data = whole.read_bytes()
    assert kind_of(tmp_path / "none.mp4") == "missing file"
    assert kind_of(put(tmp_path / "empty.mp4", b"")) == "0 bytes"
    assert kind_of(put(tmp_path / "lfs.mp4", b"version https://git-lfs.github.com/spec/v1\n")) == "git-lfs pointer"
    assert kind_of(put(tmp_path / "text.mp4", b"no video at all, but long enough")) == "unreadable video"
    assert kind_of(put(tmp_path / "cut.mp4", data[: len(data) // 2])) == "truncated video"
    assert kind_of(put(tmp_path / "cut.mp4", data[:-7]), decode=False) == "truncated video"
    assert kind_of(write_clip(tmp_path / "slow.mp4", pictures(10), rate=5)) == "too few pictures a second"
    assert kind_of(put(tmp_path / "sound.mp4", encoded(speech(1.0), RATE))) == "no pictures"


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such video"):
        read_video(tmp_path / "none.mp4")
    with pytest.raises(UserError, match="not a readable video"):
        read_video(put(tmp_path / "text.mp4", b"no video at all, but long enough"))
    silent = write_clip(tmp_path / "silent.mp4", pictures(5))
    with pytest.raises(UserError, match="has no sound"):
        VideoSound(str(silent)).frames()
