from collections.abc import Callable

import numpy as np
import pytest
import torch

from metis_lightning.metrics.signal import ScoringItem

LONG = ("am-michael_0285", "if-sara_0069", "allison_cannot-complete-as-dialed")


@pytest.fixture(scope="session")
def longer(speech: Callable[[str], np.ndarray]) -> np.ndarray:
    """About 20 s of three voices."""
    return np.concatenate([speech(item) for item in LONG * 2])


@pytest.fixture(scope="session")
def item_of() -> Callable[..., ScoringItem]:
    """Make an item at 16 kHz of arrays."""

    def make(wave: np.ndarray, **fields: object) -> ScoringItem:
        waves = {
            name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in fields.items()
        }
        return ScoringItem("item", torch.from_numpy(np.asarray(wave, np.float32)), 16_000, **waves)  # type: ignore[arg-type]

    return make
