"""Lip features of a video file, by the visual encoder that the weights for lip to speech were trained with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.tokens.auto_avsr import AutoAvsrFeatures
from metis_lightning.tokens.lip_features import lip_features


@dataclass(frozen=True)
class LipReader:
    """Makes lip features of videos.

    weights: Auto-AVSR's, a file; None if none were given.
    device: where the encoder runs.
    """

    weights: Path | None
    device: str

    @cached_property
    def encoder(self) -> AutoAvsrFeatures:
        """The encoder, whose weights are read when it first sees a video.

        Raises:
            UserError: if no weights were given.
        """
        if self.weights is None:
            raise UserError(
                "a video needs the visual encoder: give Auto-AVSR's weights as --visual-encoder, or its lip features "
                "as --features"
            )
        return AutoAvsrFeatures(self.weights)

    def read(self, video: Path) -> Tensor:
        """Return the lip features (F, C) of a video, 25 a second.

        Raises:
            UserError: if the video is unreadable or shows no face, or what that takes is not there.
        """
        return lip_features(video, self.encoder, self.device)
