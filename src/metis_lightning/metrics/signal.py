"""Waveforms on their way into a metric: one utterance, mono, 16 kHz, finite; and the item that is scored.

Shape letters: S samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import soxr
from torch import Tensor

from metis_lightning.metrics.metric import MetricError

# Sample rate in Hz at which every metric listens.
METRIC_RATE = 16_000
# With its quality, for the fingerprint.
RESAMPLER = "soxr HQ"
# Seconds by which a signal may be longer than its reference before the pair counts as unrelated.
MAX_LENGTH_DIFFERENCE = 0.1

Wave = np.ndarray | Tensor
"""One utterance: (S,), real."""


def as_array(wave: Wave, name: str = "signal") -> np.ndarray:
    """Return (S,) samples as float32. A `MetricError`, of the `name`, if there are none or one is not finite."""
    array = wave.float().numpy(force=True) if isinstance(wave, Tensor) else np.asarray(wave, dtype=np.float32)
    # A batch is a mistake of the caller, not of the audio.
    if array.ndim != 1:
        raise ValueError(f"{name}: expected one utterance of shape (samples,), got {array.shape}")
    if array.size == 0:
        raise MetricError(f"the {name} is empty")
    if not np.isfinite(array).all():
        raise MetricError(f"the {name} has samples that are not finite")
    return np.ascontiguousarray(array)


def with_sound(wave: Wave, name: str = "signal") -> np.ndarray:
    """Return samples like `as_array`; digital silence is a `MetricError`, too."""
    array = as_array(wave, name)
    if not array.any():
        raise MetricError(f"the {name} is silent")
    return array


def to_metric_rate(wave: Wave, sample_rate: int, name: str = "signal") -> np.ndarray:
    """Return (S,) samples of `sample_rate` Hz at 16 kHz; what `as_array` refuses is refused before and after."""
    array = as_array(wave, name)
    if sample_rate == METRIC_RATE:
        return array
    resampled = soxr.resample(array, sample_rate, METRIC_RATE, quality=RESAMPLER.split()[-1])
    # Less than a sixteenth of a millisecond leaves no sample.
    return as_array(resampled, name)


def same_length(prediction: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Crop two 16 kHz signals to the shorter one. A `MetricError` if they differ by over `MAX_LENGTH_DIFFERENCE`."""
    # A codec may add or lose part of a frame at the end; beyond that they are not versions of one recording.
    difference = abs(len(prediction) - len(reference)) / METRIC_RATE
    if difference > MAX_LENGTH_DIFFERENCE:
        raise MetricError(f"signal and reference differ in length by {difference:.2f} s")
    length = min(len(prediction), len(reference))
    return prediction[:length], reference[:length]


def sounding_pair(prediction: Wave, reference: Wave) -> tuple[np.ndarray, np.ndarray]:
    """Return two signals of one length as float32 with sound, which is what every intrusive metric starts with."""
    pair = with_sound(prediction), with_sound(reference, "reference")
    if len(pair[0]) != len(pair[1]):
        raise MetricError(f"signal and reference have {len(pair[0])} and {len(pair[1])} samples")
    return pair


# Fields of an item that are waveforms, and what reasons call them.
_WAVES = {"generated": "signal", "text_recording": "recording of the text"}
_WAVES |= {name: name for name in ("reference", "interferer", "prompt", "source")}


@dataclass(frozen=True, eq=False)
class ScoringItem:
    """What is scored: signals, each (S,) of its own length and at its own rate, and the text that was meant.

    sample_rate: in Hz, of what was generated, and of all signals that are not in `rates`.
    reference: the clean target; of the same length within 0.1 s for metrics that compare sample by sample.
    interferer: another voice, which the result should not have.
    prompt: the recording that says whose voice is wanted.
    source: what the system was given to work on: a mixture, noisy speech, or another voice.
    text: what is said, in `language` (ISO 639-1).
    seconds: time that it took to generate; None where that is not known or not to be in the results.
    num_steps: sampling steps of both stages, likewise.
    text_recording: a recording that stands in for the text: word errors are counted against its transcript.
    rates: sample rates in Hz, by the names of these fields.
    is_absent: whether the source does not hold the wanted voice, so that silence is right.
    """

    id: str
    generated: Wave
    sample_rate: int
    reference: Wave | None = None
    interferer: Wave | None = None
    prompt: Wave | None = None
    source: Wave | None = None
    text: str | None = None
    language: str = "en"
    seconds: float | None = None
    num_steps: int | None = None
    text_recording: Wave | None = None
    rates: Mapping[str, int] = field(default_factory=dict)
    is_absent: bool = False
    # Several metrics read a signal; it is resampled for the first of them.
    _resampled: dict[str, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def wave(self, name: str) -> np.ndarray:
        """Return the signal of a field, (S,) float32 at 16 kHz, or raise `MetricError` if there is none to use."""
        if name not in self._resampled:
            wave: Wave | None = getattr(self, name)
            if wave is None:
                raise MetricError(f"no {_WAVES[name]}")
            self._resampled[name] = to_metric_rate(wave, self.rates.get(name, self.sample_rate), _WAVES[name])
        return self._resampled[name]

    def pair(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what was generated and the reference, at 16 kHz, as `same_length` crops them."""
        # What the test set lacks is said before what the system lacks.
        reference = self.wave("reference")
        return same_length(self.wave("generated"), reference)

    def as_arrays(self) -> ScoringItem:
        """Return it with numpy arrays for tensors: those are pickled by value, without a shared-memory file each."""
        tensors = {name: wave for name in _WAVES if isinstance(wave := getattr(self, name), Tensor)}
        arrays: dict[str, Any] = {name: wave.numpy(force=True) for name, wave in tensors.items()}
        return replace(self, **arrays)
