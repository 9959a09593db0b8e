"""Log-mel spectrograms of speech, their differences, and both as pictures.

Shape letters: S samples, M mel bands, F frames of 10 ms.
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metis_lightning.tokens.mel import PowerMel
from metis_lightning.types import WAVE_RATE

HOP_LENGTH = 240
# Decibels from the brightest to black.
RANGE = 80.0

# Decibels at which a difference has its full colour.
DIFFERENCE_RANGE = 30.0

_MAX_LENGTH_DIFFERENCE = 0.1  # seconds, as for the metrics that need a reference
_FLOOR = 1e-10


def log_mel(wave: Tensor) -> np.ndarray:
    """Return the power in decibels of a waveform (S,) at 24 kHz in 80 mel bands: (M, F) float32."""
    power = _mel()(wave.float())
    return (10.0 * power.clamp_min(_FLOOR).log10()).T.numpy()


def mel_difference(mel: np.ndarray, reference: np.ndarray) -> np.ndarray | None:
    """Return `mel` minus `reference`, cropped to the shorter; None if they are not of one length within 0.1 s.

    >>> mel_difference(np.ones((1, 3)), np.zeros((1, 4))).shape, mel_difference(np.ones((1, 30)), np.zeros((1, 4)))
    ((1, 3), None)
    """
    if abs(mel.shape[1] - reference.shape[1]) * HOP_LENGTH > _MAX_LENGTH_DIFFERENCE * WAVE_RATE:
        return None
    frames = min(mel.shape[1], reference.shape[1])
    return mel[:, :frames] - reference[:, :frames]


def picture(mel: np.ndarray, top: float) -> np.ndarray:
    """Return a spectrogram (M, F) as an image (M, F, 3) of bytes, low frequencies below; `top` dB is the brightest."""
    return _coloured("magma", (mel - top + RANGE) / RANGE)


def difference_picture(values: np.ndarray) -> np.ndarray:
    """Return a difference (M, F) in dB as an image (M, F, 3) of bytes: red where there is more, blue where less."""
    return _coloured("RdBu_r", 0.5 + values / (2 * DIFFERENCE_RANGE))


def webp(image: np.ndarray) -> bytes:
    """Return an image (height, width, 3) of bytes as a WebP file, about 10 kB for five seconds of speech."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "WEBP", quality=70, method=4)
    return file.getvalue()


def _coloured(name: str, shades: np.ndarray) -> np.ndarray:
    """Return shades (M, F) from 0 to 1 in the colours of a map of matplotlib's, upside down."""
    from matplotlib import colormaps

    return colormaps[name](np.clip(shades[::-1], 0, 1), bytes=True)[..., :3]


@cache
def _mel() -> PowerMel:
    with torch.no_grad():
        return PowerMel(WAVE_RATE, n_fft=1024, hop_length=HOP_LENGTH, n_mels=80)
