"""The starter corpus, which the package carries: real and synthetic speech; its test lists are in `starter_tests`."""

from __future__ import annotations

from pathlib import Path

from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.data.corpora.starter_tests import MANIFEST, STARTER_ROOT
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.types import Utterance


class StarterDataModule(SpeechDataModule):
    """The starter corpus: splits `train` and `dev`, 86 and 8 minutes of 42 voices."""

    def utterances(self) -> list[Utterance]:
        """Return all utterances; `root` defaults to the embedded corpus."""
        return read_manifest(Path(self.root or STARTER_ROOT) / MANIFEST)
