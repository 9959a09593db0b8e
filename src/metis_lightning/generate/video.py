"""Lip features of a video file, by the visual encoder that the weights for lip to speech were trained with."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from metis_lightning.errors import UserError


@dataclass(frozen=True)
class LipReader:
    """Makes lip features of videos.

    weights: Auto-AVSR's, a file; None if none were given.
    device: where the encoder runs.
    """

    weights: Path | None
    device: str

    def check(self) -> None:
        """Check that what reading a video takes is there.

        Raises:
            UserError: if a package or the encoder's weights are missing.
        """
        if find_spec("mediapipe") is None:
            raise UserError(
                "finding the face in a video needs the extra 'lips': pip install 'metis-lightning[lips]'; or give its "
                "lip features as --features"
            )
        if self.weights is None:
            raise UserError(
                "a video needs the visual encoder: give Auto-AVSR's weights as --visual-encoder, or its lip features "
                "as --features"
            )

    def read(self, video: Path) -> Tensor:
        """Return the lip features (F, C) of a video, 25 a second.

        Raises:
            UserError: if the video is unreadable or shows no face, or what that takes is not there.
        """
        self.check()
        encoder = import_module("metis_lightning.tokens.auto_avsr").AutoAvsrFeatures(self.weights)
        features: Tensor = import_module("metis_lightning.tokens.lip_features").lip_features(
            video, encoder, self.device
        )
        return features
