"""What every reader of test sets offers: its lists of trials, and a trial's audio."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from metis_lightning.errors import UserError
from metis_lightning.types import TestItem, Trial


class TestSets(ABC):
    """Fixed lists of trials, in an order that the first few of a list stand for all.

    Attributes:
        task: what its trials ask of a system; empty where they say it each.
    """

    __test__ = False  # not a pytest class

    task: str = ""

    def __init__(self, trials: Iterable[Trial]) -> None:
        """Keep the trials of all test sets.

        Raises:
            UserError: if there is none.
        """
        self._trials = [replace(trial, task=trial.task or self.task) for trial in trials]
        if not self._trials:
            raise UserError(f"{type(self).__name__}: no test item found; check the data root")

    def test_sets(self) -> tuple[str, ...]:
        """Return the names of the test sets, in the order of the lists."""
        return tuple(dict.fromkeys(trial.test_set for trial in self._trials))

    def load_trials(self, test_set: str) -> list[Trial]:
        """Return the trials of a test set.

        Raises:
            UserError: if there is no such test set.
        """
        if test_set not in self.test_sets():
            raise UserError(f"no test set {test_set!r} here; choose from {', '.join(self.test_sets())}")
        return [trial for trial in self._trials if trial.test_set == test_set]

    @abstractmethod
    def load_item(self, trial: Trial) -> TestItem:
        """Read a trial's audio.

        Raises:
            UserError: if it cannot be read.
        """


def require_files(paths: Sequence[Path], corpus: str) -> None:
    """Refuse a corpus that is not all there, before hours are spent on it.

    Raises:
        UserError: naming the first of the missing files and their number.
    """
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(
            f"{corpus}: {len(missing)} of {len(paths)} files are missing, first {missing[0]}; download them again"
        )
