"""One utterance on its way into the metrics: what a system said, and what it is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from torch import Tensor

from metis_lightning.metrics.signal import Wave


@dataclass(frozen=True, eq=False)
class Utterance:
    """What is scored: signals, each (S,) of its own length and at its own rate, and the text that was meant.

    Args:
        id: named in errors.
        generated: (S,) what the system said.
        sample_rate: in Hz, of what was generated, and of all signals that are not in `rates`.
        reference: (S',) the clean target; of the same length within 0.1 s for metrics that compare sample by sample.
        interferer: (S'',) another voice, which the result should not have.
        prompt: (S''',) the recording that says whose voice is wanted.
        text: what is said, in `language`.
        language: ISO 639-1.
        text_recording: (S,) a recording that stands in for the text: word errors are counted against what the
            recogniser hears in it.
        rates: sample rates in Hz, by the names of these fields.
        seconds: time that it took to generate; None where that is not known or not to be in the results.
        num_steps: sampling steps of both stages, likewise.
    """

    id: str
    generated: Wave
    sample_rate: int
    reference: Wave | None = None
    interferer: Wave | None = None
    prompt: Wave | None = None
    text: str | None = None
    language: str = "en"
    seconds: float | None = None
    num_steps: int | None = None
    text_recording: Wave | None = None
    rates: Mapping[str, int] = field(default_factory=dict)

    def rate_of(self, name: str) -> int:
        """Return the sample rate of a signal in Hz."""
        return self.rates.get(name, self.sample_rate)

    def as_arrays(self) -> Utterance:
        """Return it with numpy arrays for tensors: those are pickled by value, without a shared-memory file each."""
        return replace(
            self,
            generated=_array(self.generated),
            reference=None if self.reference is None else _array(self.reference),
            interferer=None if self.interferer is None else _array(self.interferer),
            prompt=None if self.prompt is None else _array(self.prompt),
            text_recording=None if self.text_recording is None else _array(self.text_recording),
        )


def _array(wave: Wave) -> np.ndarray:
    return wave.detach().cpu().numpy() if isinstance(wave, Tensor) else wave
