"""Test sets of a corpus and a task that the package knows nothing of, as a user would add them."""

from __future__ import annotations

from pathlib import Path

import torch

from metis_lightning.data.manifest.test_sets import TestSets
from metis_lightning.types import TestItem, Trial


class OddTests(TestSets):
    """One hum."""

    def __init__(self) -> None:
        super().__init__([Trial("hum_0", "hums", task="unhum")])

    def load_item(self, trial: Trial) -> TestItem:
        wave = 0.3 * torch.sin(torch.arange(12_000) / 20)
        return TestItem(trial.id, trial.test_set, "", None, "en", mixture=wave, target=wave / 2, enrollment=wave)


class NeedsRoot(OddTests):
    """A corpus that must be told where it is."""

    task = "hum"

    def __init__(self, root: Path) -> None:
        super().__init__()
