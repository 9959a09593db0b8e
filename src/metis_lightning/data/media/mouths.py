"""Crops mouths from videos of talking faces: 96 x 96 pixels, 25 pictures a second, upright and at one scale.

As in the preparations of AV-HuBERT (2201.02184) and Auto-AVSR (2303.14307), landmarks are averaged over 12 pictures,
points of the face that speech does not move are laid on those of a mean face, and the crop is centred on the mouth.
Ours are MediaPipe's landmarks, the mean face, and least squares for Auto-AVSR's least median of squares.

Shape letters: F frames at 25 Hz, N landmarks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metis_lightning.data.media.video import iterate_frames, write_video
from metis_lightning.errors import UserError

# Height and width of a mouth picture, in pixels.
MOUTH_SIZE = 96
# Numbers of the mesh's points: the person's right outer, right inner, left inner and left outer corner of the eyes.
EYE_CORNERS = (33, 133, 362, 263)
# Between the eyes, and where the upper lip's groove meets the nose.
NOSE = (168, 2)
# Corners, and points above and below in pairs, so that their mean is the middle of the mouth.
LIPS = (61, 291, 0, 17, 13, 14, 37, 267, 84, 314, 78, 308)
# All that `find_landmarks` returns, in this order.
POINTS = (*EYE_CORNERS, *NOSE, *LIPS)

# `EYE_CORNERS` and `NOSE` in a crop's pixels, from between the eyes: an adult's distances in millimetres, rounded,
# so that a closed mouth of 50 mm fills half of a crop, as published. Only angle and size are taken from the fit.
MEAN_FACE = np.array([(-44.5, 0.0), (-18.5, 0.0), (18.5, 0.0), (44.5, 0.0), (0.0, -5.0), (0.0, 47.0)])

_STABLE = slice(0, len(MEAN_FACE))
_MOUTH = slice(len(MEAN_FACE), len(POINTS))
# Pictures that landmarks are averaged over.
_WINDOW = 12
# A face must be seen in so much of a video; between, its landmarks are interpolated.
_LEAST_SHARE = 0.5


class NoFaceError(UserError):
    """A video in which no face is seen, or only now and then."""


def write_mouths(video: Path | str, path: Path | str) -> int:
    """Write what `crop_mouths` gives as a video; return the number of its pictures."""
    return write_video(path, crop_mouths(video))


def crop_mouths(video: Path | str) -> Iterator[np.ndarray]:
    """Yield the mouth (96, 96, 3) uint8 RGB of each picture; a UserError if that, or a face in half of them, fails."""
    landmarks = smooth(fill_gaps(find_landmarks(iterate_frames(video)), str(video)))
    for frame, points in zip(iterate_frames(video), landmarks, strict=True):
        yield crop_mouth(frame, points)


def find_landmarks(frames: Iterable[np.ndarray]) -> list[np.ndarray | None]:
    """Return for each picture (H, W, 3) uint8 RGB the (x, y) in pixels of `POINTS`, (N, 2), of one face; else None."""
    landmarks: list[np.ndarray | None] = []
    with require_face_mesh()(static_image_mode=False, max_num_faces=1, refine_landmarks=False) as mesh:
        for frame in frames:
            faces = mesh.process(np.ascontiguousarray(frame)).multi_face_landmarks
            marks = [faces[0].landmark[number] for number in POINTS] if faces else []
            landmarks.append(np.array([(mark.x, mark.y) for mark in marks]) * frame.shape[1::-1] if marks else None)
    return landmarks


def require_face_mesh() -> Any:  # noqa: ANN401  a class of an optional package
    """Import MediaPipe's face mesh; a UserError if it is not installed, or a release without the models."""
    # Its graph reports every start on standard error.
    os.environ.setdefault("GLOG_minloglevel", "2")
    try:
        from mediapipe.python.solutions.face_mesh import FaceMesh
    except ImportError as error:
        text = "finding faces needs MediaPipe 0.10.14: pip install 'metis-lightning[lips]'"
        raise UserError(f"{text} ({error})") from error
    return FaceMesh


def crop_mouth(frame: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the mouth (96, 96, 3) of a picture (H, W, 3) uint8 by its `POINTS` (N, 2); black beyond its edges."""
    from scipy.ndimage import map_coordinates

    turn = np.linalg.inv(similarity(points[_STABLE], MEAN_FACE))
    # Pixels are averaged before they are left out, or fine texture would flicker.
    shrink = max(1, int(np.sqrt(abs(np.linalg.det(turn)))))
    offsets = np.stack(np.meshgrid(*[np.arange(MOUTH_SIZE) - (MOUTH_SIZE - 1) / 2] * 2), axis=-1)
    places = (points[_MOUTH].mean(axis=0) + offsets @ turn.T) / shrink - 0.5
    rows_and_columns = places[..., ::-1].transpose(2, 0, 1)
    shrunk = frame
    if shrink > 1:
        # Means of blocks of pixels; what is left over at the edges is dropped.
        height, width = (size // shrink for size in frame.shape[:2])
        blocks = frame[: height * shrink, : width * shrink].reshape(height, shrink, width, shrink, -1)
        shrunk = blocks.mean(axis=(1, 3), dtype=np.float32)
    channels = [
        map_coordinates(channel, rows_and_columns, order=1, output=np.float32) for channel in shrunk.transpose(2, 0, 1)
    ]
    return np.stack(channels, axis=-1).round().clip(0, 255).astype(np.uint8)


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the scaled rotation (2, 2) that, with a shift, brings points (N, 2) nearest to others by least squares.

    >>> corners = np.array([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)])
    >>> np.allclose(similarity(corners, 2 * corners + 5), [(2, 0), (0, 2)])
    True
    """
    a, b = ((points - points.mean(axis=0)) @ (1, 1j) for points in (source, target))
    # In the complex plane a scaled rotation is one factor.
    factor = np.vdot(a, b) / np.vdot(a, a).real
    return np.array([(factor.real, -factor.imag), (factor.imag, factor.real)])


def fill_gaps(landmarks: Sequence[np.ndarray | None], where: str) -> np.ndarray:
    """Return landmarks (F, N, 2), interpolated linearly where there are none; a NoFaceError if that is in over half."""
    seen = [number for number, points in enumerate(landmarks) if points is not None]
    if not seen or len(seen) < _LEAST_SHARE * len(landmarks):
        raise NoFaceError(
            f"{where}: a face is seen in {len(seen)} of {len(landmarks)} pictures; give a video that shows a face"
        )
    points = np.stack([points for points in landmarks if points is not None])
    columns = points.reshape(len(seen), -1).T
    filled = [np.interp(np.arange(len(landmarks)), seen, column) for column in columns]
    return np.stack(filled, axis=1).reshape(len(landmarks), *points.shape[1:])


def smooth(landmarks: np.ndarray) -> np.ndarray:
    """Return landmarks (F, N, 2) whose shape is the mean over 12 pictures around, at the place that they are at."""
    smoothed = np.empty_like(landmarks)
    for number, points in enumerate(landmarks):
        # Towards both ends the window shrinks, so that it stays centred.
        margin = min(_WINDOW // 2, number, len(landmarks) - 1 - number)
        mean = landmarks[number - margin : number + margin + 1].mean(axis=0)
        smoothed[number] = mean + points.mean(axis=0) - mean.mean(axis=0)
    return smoothed
