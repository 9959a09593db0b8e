"""Mixtures of the starter corpus that do not hold the enrolled voice: what a system should say of them is nothing.

Each is a trial of target speaker extraction with the enrollment of a third voice.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from metis_lightning.data.corpora.starter_tests import STARTER_ROOT, StarterTests
from metis_lightning.data.manifest.test_sets import TestSets, hash_order
from metis_lightning.types import TestItem, Trial


class StarterAbsentTests(TestSets):
    """The test lists of extraction, `…-absent`, each enrolled with a voice of the same split that is not in it."""

    task = "tse"

    def __init__(self, root: Path | None = None) -> None:
        self._mixtures = StarterTests(Path(root or STARTER_ROOT))
        super().__init__(
            self._trial(trial)
            for test_set in self._mixtures.test_sets
            for trial in self._mixtures.load_trials(test_set)
        )

    def _trial(self, trial: Trial) -> Trial:
        """Return a trial with the smallest enrollment, by SHA-256, that any trial of its list has of a third voice."""
        find = self._mixtures.corpus.find
        voices = {find(trial.target).speaker, find(trial.interferer).speaker}
        listed = {each.enrollment for each in self._mixtures.load_trials(trial.test_set)}
        others = [each for each in listed if find(each).speaker not in voices]
        name = f"{trial.test_set}-absent"
        return replace(
            trial,
            id=name + trial.id.removeprefix(trial.test_set),
            test_set=name,
            enrollment=min(others, key=lambda each: hash_order("absent", trial.id, each, separator="\0")),
        )

    def load_item(self, trial: Trial) -> TestItem:
        """Read the mixture and the enrollment; there is no target, and the speaker is the one who is not there."""
        item, wanted = self._mixtures.load_item(trial), self._mixtures.corpus.find(trial.enrollment).speaker
        return replace(item, speaker=wanted, target=None, interferer=None, text=None, is_absent=True)
