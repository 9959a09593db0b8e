"""What a system made of a test item: a waveform, or why there is none.

Shape letters: S samples.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.types import WAVE_RATE, TestItem, Trial

MISSING = "missing"
"""Why there is no waveform, where a folder of another tool's has no file for an item."""

SHORTEST_SECONDS = 0.1
"""What is shorter says nothing. DNSMOS would repeat it until it is long enough, and rate that."""


@dataclass(frozen=True)
class Output:
    """A waveform (S,) at its own `sample_rate` in Hz; None with the reason in `error`.

    seconds: that it took to make; None if that is not known.
    steps: of the samplers of both stages; None if there were none.
    channels: as the system gave it, before they were averaged.
    was_made: whether it was made just now; a file of another tool's was not, so how long it took is not known.
    """

    wave: Tensor | None
    error: str | None = None
    seconds: float | None = None
    steps: int | None = None
    sample_rate: int | None = WAVE_RATE
    channels: int | None = 1
    was_made: bool = True

    @property
    def fault(self) -> str | None:
        """Why there is nothing to score; None if there is."""
        if self.wave is None:
            return self.error
        if not self.wave.numel():
            return "the signal is empty"
        if not self.wave.isfinite().all():
            return "the signal has samples that are not finite"
        if not self.wave.any():
            return "the signal is silent"
        is_short = self.wave.numel() < round(SHORTEST_SECONDS * self.rate)
        return f"the signal is shorter than {SHORTEST_SECONDS} s" if is_short else None

    @property
    def rate(self) -> int:
        """The sample rate of `samples()`, in Hz."""
        return self.sample_rate or WAVE_RATE

    def samples(self) -> Tensor:
        """Return the waveform; no samples if there is none, or they are not finite."""
        return torch.empty(0) if self.wave is None or not self.wave.isfinite().all() else self.wave


Run = Callable[[Trial, TestItem, int], Output]
"""A loaded system: a trial, its audio and a seed to what it makes of them."""


def timed(run: Run, trial: Trial, item: TestItem, seed: int) -> Output:
    """Run a loaded system on an item and time it; that it refuses the item is a result too, anything else a bug."""
    start = time.perf_counter()
    try:
        output = run(trial, item, seed)
    except UserError as error:
        seconds = round(time.perf_counter() - start, 3)
        return Output(None, f"not generated: {error}", seconds, sample_rate=None, channels=None)
    except Exception as error:
        error.add_note(f"while generating {trial.id}")
        raise
    return replace(output, seconds=round(time.perf_counter() - start, 3)) if output.was_made else output
