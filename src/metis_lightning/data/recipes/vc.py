"""Voice conversion: a prompt of one voice, then its words in another, and the converters that make the other voice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType

import numpy as np
import torch
from torch import Generator, Tensor

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.corruption import tilt
from metis_lightning.data.media.mixing import SILENT_RMS, peak_gain, rms
from metis_lightning.data.recipes.prompts import Enrollment, PromptedRecipe, Prompts, draw_interferer
from metis_lightning.data.recipes.recipe import SpeechItem, check_ranges, draw_coin, draw_uniform
from metis_lightning.errors import UserError
from metis_lightning.types import WAVE_RATE, Applied

# Pitch is looked for between these, in Hz.
_PITCH_HZ = (71.0, 600.0)


class TimbreConverter(ABC):
    """Changes who speaks and neither what is said nor when.

    A model is used by a subclass of one's own, named by its `class_path` in the config. With `num_workers` it runs in
    the workers, so it should load its weights at the first call.
    """

    needs_reference: bool = True
    """Whether `convert` is given an utterance of another speaker; if not, none is read."""

    @abstractmethod
    def convert(self, wave: Tensor, reference: Tensor | None, generator: Generator) -> tuple[Tensor, Applied]:
        """Return a wave (S,) at 24 kHz in another timbre, as long and in time with it, and what was done.

        `reference` is another voice, of any length, or None unless `needs_reference`; the generator makes every draw.
        """


@dataclass(frozen=True)
class VoiceChange:
    """A change of a voice.

    formant_ratio, pitch_ratio: factors of the formants' frequencies and of the median pitch.
    pitch_range: factor of the pitch's distance from its median, in semitones.
    tilt_db: change of the spectral slope, in dB an octave.
    """

    formant_ratio: float
    pitch_ratio: float
    pitch_range: float = 1.0
    tilt_db: float = 0.0


class WorldConverter(TimbreConverter):
    """Signal processing instead of a model: formants, pitch and spectral slope, by the vocoder WORLD.

    The paper converts to the timbre of a random prompt with OpenVoice. This needs no weights, and takes a tenth of the
    speech's time on one core. Formants and pitch move the same way, as from a larger speaker to a smaller one or back.
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
            pitch_range: factor of the pitch's distance from its median, in semitones.
            tilt_db: change of the spectral slope, in dB an octave.

        Raises:
            ValueError: if a range is reversed.
        """
        self.formant_ratio, self.pitch_semitones = formant_ratio, pitch_semitones
        self.pitch_range, self.tilt_db = pitch_range, tilt_db
        check_ranges(
            formant_ratio=formant_ratio, pitch_semitones=pitch_semitones, pitch_range=pitch_range, tilt_db=tilt_db
        )

    def convert(self, wave: Tensor, reference: Tensor | None, generator: Generator) -> tuple[Tensor, Applied]:
        """Return the changed voice (S,) and the change, all of whose numbers the generator draws."""
        # Both ways alike: the model must not learn that sources are always higher than their targets, or lower.
        direction = 1 if draw_coin(0.5, generator) else -1
        change = VoiceChange(
            formant_ratio=draw_uniform(*self.formant_ratio, generator) ** direction,
            pitch_ratio=2 ** (direction * draw_uniform(*self.pitch_semitones, generator) / 12),
            pitch_range=draw_uniform(*self.pitch_range, generator),
            tilt_db=draw_uniform(*self.tilt_db, generator),
        )
        return change_voice(wave, change), {"converter": "world", **vars(change)}


def change_voice(wave: Tensor, change: VoiceChange) -> Tensor:
    """Return wave (S,) at 24 kHz in a changed voice, as long, as loud and in time with it.

    Pitch by DIO and StoneMask, envelope by CheapTrick, aperiodicity by D4C, put together again by WORLD (Morise et al.,
    IEICE Trans. 2016), whose noise is the same at every call. Where nothing is voiced, only formants and slope change.
    A UserError if the package is not installed.
    """
    world = import_world()
    dry = wave.detach().double().cpu().numpy()
    # DIO because Harvest alone takes twice as long as all of this.
    rough, times = world.dio(dry, WAVE_RATE, *_PITCH_HZ)
    pitch = world.stonemask(dry, rough, times, WAVE_RATE)
    envelope = world.cheaptrick(dry, pitch, times, WAVE_RATE)
    aperiodicity = world.d4c(dry, pitch, times, WAVE_RATE)
    moved = warp_envelope(envelope, change.formant_ratio)
    changed = world.synthesize(move_pitch(pitch, change), moved, aperiodicity, WAVE_RATE)
    # WORLD rounds the length up to its next frame.
    tilted = tilt(torch.from_numpy(changed[: wave.numel()]).to(wave), change.tilt_db, WAVE_RATE)
    return tilted * (rms(wave) / max(rms(tilted), SILENT_RMS))


def move_pitch(pitch: np.ndarray, change: VoiceChange) -> np.ndarray:
    """Return a pitch track (F,) in Hz, 0 where unvoiced, with its median and its range in semitones changed.

    >>> move_pitch(np.array([0.0, 100.0, 200.0, 400.0]), VoiceChange(1.0, 1.5, 0.5)).round(1).tolist()
    [0.0, 212.1, 300.0, 424.3]
    """
    voiced = pitch > 0
    median = float(np.median(pitch[voiced])) if voiced.any() else 1.0
    return np.where(voiced, median * change.pitch_ratio * (pitch / median) ** change.pitch_range, 0.0)


def warp_envelope(envelope: np.ndarray, ratio: float) -> np.ndarray:
    """Return power spectra (F, K) whose every frequency is multiplied by `ratio`.

    Decibels are interpolated between bins; what would come from above the last bin is the last bin.

    >>> warp_envelope(np.array([[1.0, 10.0, 100.0, 1000.0]]), 0.5).round(6).tolist()
    [[1.0, 100.0, 1000.0, 1000.0]]
    """
    bins, levels = envelope.shape[1], np.log(envelope)
    place = np.minimum(np.arange(bins) / ratio, bins - 1)
    below = np.minimum(place.astype(int), bins - 2)
    share = place - below
    # WORLD takes rows that lie one after another in memory.
    return np.ascontiguousarray(np.exp(levels[:, below] * (1 - share) + levels[:, below + 1] * share))


@cache
def import_world() -> ModuleType:
    """Import the compiled half of pyworld: the other asks pkg_resources, which setuptools 82 lacks, for its version."""
    package = find_spec("pyworld")
    compiled = package and PathFinder.find_spec("pyworld", package.submodule_search_locations)
    if compiled is None or compiled.loader is None:
        raise UserError(
            "timbres are changed, and pitch is tracked, by pyworld: pip install 'metis-lightning[vc]', or give the "
            "VcRecipe another converter"
        )
    world = module_from_spec(compiled)
    compiled.loader.exec_module(world)
    return world


class VcRecipe(PromptedRecipe):
    """Speech as the target, and the same words in another timbre as the source (Metis, 2502.03128, section 4.2)."""

    def __init__(
        self,
        converter: TimbreConverter | None = None,
        enrollment: Enrollment = "prefix",
        prompt_fraction: tuple[float, float] = (0.1, 0.4),
        max_prompt_seconds: float = 4.0,
        perturb_prompt: bool = False,
    ) -> None:
        """Choose the sources.

        Args:
            converter: makes the other timbre; None takes `WorldConverter()`.
            enrollment: "prefix" (the paper's) or "utterance" (as at inference), see `Prompts`.
            prompt_fraction: for "prefix", the prompt's share of the utterance is uniform between these.
            max_prompt_seconds: no prompt is longer.
            perturb_prompt: whether the prompt, too, is in the other timbre. False is what the released code is
                given at inference; the paper's text, read literally, converts the whole utterance.

        Raises:
            ValueError: if `prompt_fraction` is not a range within [0, 1), or `enrollment` is unknown.
        """
        self.converter = WorldConverter() if converter is None else converter
        self.prompts: Prompts = Prompts(enrollment, prompt_fraction, max_prompt_seconds)
        self.perturb_prompt = perturb_prompt

    def __call__(self, corpus: SpeechCorpus, index: int, generator: Generator) -> SpeechItem:
        """Return prompt and target as `wave`, prompt and converted target as `source`."""
        prompt, target, pieces, enrollment = self.prompts.draw(corpus, index, generator)
        wave = torch.cat([prompt, target])
        start = 0 if self.perturb_prompt else prompt.numel()
        if not self.converter.needs_reference:
            converted, applied = self.converter.convert(wave[start:], None, generator)
        else:
            other = draw_interferer(corpus, index, generator)
            converted, applied = self.converter.convert(wave[start:], corpus.wave(other), generator)
            applied = {**applied, "reference": corpus.utterances[other].id}
        # Another length would move the words in time, away from the target's.
        if (made := tuple(converted.shape)) != (expected := tuple(wave[start:].shape)):
            raise ValueError(f"{type(self.converter).__name__} made {made} samples of {expected}")
        source = torch.cat([wave[:start], converted])
        gain = peak_gain(wave, source)
        utterance, applied = corpus.utterances[index], {**enrollment, **applied, "gain": gain}
        return SpeechItem.of(
            utterance, wave * gain, source=source * gain, prompt_length=len(prompt), applied=applied, pieces=pieces
        )
