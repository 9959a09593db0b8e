"""Where a face's landmarks are in each picture, by MediaPipe's face mesh, whose models come with the package."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np

from metis_lightning.errors import UserError

# Numbers of the mesh's points. Left and right are those of the person.
EYE_CORNERS = (33, 133, 362, 263)
"""Right outer, right inner, left inner, left outer."""
NOSE = (168, 2)
"""Between the eyes, and where the upper lip's groove meets the nose."""
LIPS = (61, 291, 0, 17, 13, 14, 37, 267, 84, 314, 78, 308)
"""Corners, and points above and below in pairs, so that their mean is the middle of the mouth."""

POINTS = (*EYE_CORNERS, *NOSE, *LIPS)
"""All that `find_landmarks` returns, in this order."""


def find_landmarks(frames: Iterable[np.ndarray]) -> list[np.ndarray | None]:
    """Return for each picture (H, W, 3) uint8 RGB the places (x, y) in pixels of `POINTS`, (N, 2); None without a face.

    The face is followed from picture to picture; of several, one is.

    Raises:
        UserError: if MediaPipe is not installed.
    """
    with require_face_mesh()(static_image_mode=False, max_num_faces=1, refine_landmarks=False) as mesh:
        return [_points(mesh.process(np.ascontiguousarray(frame)), frame) for frame in frames]


def require_face_mesh() -> Any:  # noqa: ANN401  a class of an optional package
    """Import MediaPipe's face mesh.

    Raises:
        UserError: if it is not installed, or a release without the models.
    """
    # Its graph reports every start on standard error.
    os.environ.setdefault("GLOG_minloglevel", "2")
    try:
        from mediapipe.python.solutions.face_mesh import FaceMesh
    except ImportError as error:
        raise UserError(
            f"finding faces needs MediaPipe 0.10.14: pip install 'metis-lightning[lips]' ({error})"
        ) from error
    return FaceMesh


def _points(found: Any, frame: np.ndarray) -> np.ndarray | None:  # noqa: ANN401
    if not found.multi_face_landmarks:
        return None
    mesh = found.multi_face_landmarks[0].landmark
    height, width = frame.shape[:2]
    return np.array([(mesh[number].x * width, mesh[number].y * height) for number in POINTS])
