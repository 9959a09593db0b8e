"""Where room responses come from: the user's measurements, or a model of decaying noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from metis_lightning.data.media.corruption import synthetic_room
from metis_lightning.data.recipes.noises import Recordings
from metis_lightning.data.recipes.prompts import check_range
from metis_lightning.data.recipes.recipe import draw_uniform
from metis_lightning.types import WAVE_RATE, Applied


class Rooms(ABC):
    """Draws room responses."""

    @abstractmethod
    def draw(self, generator: torch.Generator) -> tuple[Tensor, Applied]:
        """Return a response (R,) at 24 kHz, and what it is."""


class RecordedRooms(Rooms):
    """The responses in a folder, such as OpenSLR 26 and 28 (the paper's); of several microphones the first is heard.

    The folder must hold nothing else: next to its responses OpenSLR 28 has noises.
    """

    def __init__(self, root: Path) -> None:
        """Name the folder."""
        self.recordings = Recordings(root)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Applied]:
        """Return one of them."""
        response, name = self.recordings.draw(generator)
        return response, {"room": name}


@dataclass(frozen=True)
class SyntheticRooms(Rooms):
    """Exponentially decaying noise after a direct path.

    rt60: seconds of decay by 60 dB, uniform between these; those of the DNS Challenge's test set are 0.3 to 1.3.
    direct_db: direct-to-reverberant energy ratio in dB, uniform between these.

    Raises:
        ValueError: if a range is reversed.
    """

    rt60: tuple[float, float] = (0.2, 1.3)
    direct_db: tuple[float, float] = (-3.0, 12.0)

    def __post_init__(self) -> None:
        check_range("rt60", self.rt60)
        check_range("direct_db", self.direct_db)

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Applied]:
        """Return a new response."""
        rt60, direct_db = draw_uniform(*self.rt60, generator), draw_uniform(*self.direct_db, generator)
        response = synthetic_room(rt60, direct_db, WAVE_RATE, generator)
        return response, {"room": "synthetic", "rt60": rt60, "direct_db": direct_db}
