"""Timbre converters: the same words at the same time in another voice, for the sources of voice conversion."""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from metis_lightning.data.corruption import tilt
from metis_lightning.data.mixing import fit_length, rms
from metis_lightning.data.prompts import check_range
from metis_lightning.data.recipe import draw_coin, draw_int, draw_uniform
from metis_lightning.errors import UserError
from metis_lightning.types import WAVE_RATE, Applied

# Praat's usual range of the voice, in Hz, and its step, in seconds.
_PITCH_HZ = (75.0, 600.0)
_PITCH_STEP = 0.01


class TimbreConverter(ABC):
    """Changes who speaks and neither what is said nor when.

    A model is used by a subclass of one's own, named by its `class_path` in the config. With `num_workers` it runs in
    the workers, so it should load its weights at the first call.

    Attributes:
        needs_reference: whether `convert` is given an utterance of another speaker; if not, none is read.
    """

    needs_reference: bool = True

    @abstractmethod
    def convert(self, wave: Tensor, reference: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Applied]:
        """Return wave (S,) in another timbre, as long and in time with it, and what was done.

        Args:
            wave: (S,) float32 at 24 kHz.
            reference: another voice, of any length, or None unless `needs_reference`.
            generator: of every draw.
        """


@dataclass(frozen=True)
class VoiceChange:
    """A change of a voice.

    formant_ratio, pitch_ratio: factors of the formants' frequencies and of the median pitch.
    pitch_range: factor of the pitch's distance from its median.
    tilt_db: change of the spectral slope, in dB an octave.
    """

    formant_ratio: float
    pitch_ratio: float
    pitch_range: float = 1.0
    tilt_db: float = 0.0


class PraatConverter(TimbreConverter):
    """Signal processing instead of a model: formants, pitch and spectral slope, by Praat's PSOLA.

    The paper converts to the timbre of a random prompt with OpenVoice. This needs no weights, and takes a fiftieth of
    the speech's time. Formants and pitch move the same way, as from a larger speaker to a smaller one or back.
    """

    needs_reference = False

    def __init__(
        self,
        formant_ratio: tuple[float, float] = (1.08, 1.25),
        pitch_semitones: tuple[float, float] = (2.0, 7.0),
        pitch_range: tuple[float, float] = (0.8, 1.25),
        tilt_db: tuple[float, float] = (-2.0, 2.0),
    ) -> None:
        """Choose how far the voice moves; each draw is uniform between its two values.

        Args:
            formant_ratio: of the formants upwards, or its inverse downwards.
            pitch_semitones: of the median pitch upwards or downwards.
            pitch_range: factor of the pitch's distance from its median.
            tilt_db: change of the spectral slope, in dB an octave.

        Raises:
            ValueError: if a range is reversed.
        """
        ranges = {"formant_ratio": formant_ratio, "pitch_semitones": pitch_semitones}
        for name, bounds in {**ranges, "pitch_range": pitch_range, "tilt_db": tilt_db}.items():
            check_range(name, bounds)
        self.formant_ratio, self.pitch_semitones = formant_ratio, pitch_semitones
        self.pitch_range, self.tilt_db = pitch_range, tilt_db

    def convert(self, wave: Tensor, reference: Tensor | None, generator: torch.Generator) -> tuple[Tensor, Applied]:
        """Return the changed voice (S,); it depends on the generator alone, in Praat too."""
        direction = 1 if draw_coin(0.5, generator) else -1
        change = VoiceChange(
            formant_ratio=draw_uniform(*self.formant_ratio, generator) ** direction,
            pitch_ratio=2 ** (direction * draw_uniform(*self.pitch_semitones, generator) / 12),
            pitch_range=draw_uniform(*self.pitch_range, generator),
            tilt_db=draw_uniform(*self.tilt_db, generator),
        )
        changed = change_voice(wave, change, seed=draw_int(2**31, generator))
        return changed, {"converter": "praat", **vars(change)}


def change_voice(wave: Tensor, change: VoiceChange, seed: int) -> Tensor:
    """Return wave (S,) at 24 kHz in a changed voice, as long, as loud and in time with it.

    Where nothing is voiced, only formants and slope change.

    Args:
        wave: at least 0.05 s.
        change: what to change.
        seed: of the noise with which Praat places the periods.

    Raises:
        UserError: if the package is not installed.
    """
    try:
        import parselmouth
    except ImportError as error:
        raise UserError(
            "the timbre perturbation of VC needs praat-parselmouth: pip install 'metis-lightning[vc]', or give the "
            "VcRecipe another converter"
        ) from error
    praat = parselmouth.praat
    # An expression of Praat's script language, whose name says what users of Praat should think of it.
    praat.run(f"seeded = random_initializeWithSeedUnsafelyButPredictably ({seed})")
    sound = parselmouth.Sound(wave.double().numpy(), WAVE_RATE)
    pitch = sound.to_pitch(_PITCH_STEP, *_PITCH_HZ)
    median = praat.call(pitch, "Get quantile", 0, 0, 0.5, "Hertz")
    # A new median of 0 keeps the old one.
    new_median = 0.0 if math.isnan(median) else median * change.pitch_ratio
    arguments = (change.formant_ratio, new_median, change.pitch_range, 1.0)
    with warnings.catch_warnings():
        # Praat warns where nothing is voiced.
        warnings.simplefilter("ignore", parselmouth.PraatWarning)
        changed = praat.call([sound, pitch], "Change gender", *arguments)
    tilted = tilt(torch.from_numpy(changed.values[0]).to(wave), change.tilt_db, WAVE_RATE)
    return fit_length(tilted, wave.numel()) * (rms(wave) / max(rms(tilted), 1e-8))
