"""Any corpus with a manifest: one JSON line an utterance, read from disk as it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metis_lightning.data.module import SpeechDataModule
from metis_lightning.data.table import open_manifest
from metis_lightning.errors import UserError
from metis_lightning.types import Utterance


class ManifestDataModule(SpeechDataModule):
    """The splits `train` and `dev` of a manifest, of which little more than the durations is kept in memory.

    Args:
        manifest: name of the file below `root`, in the format of `data.manifest.read_manifest`.
        kwargs: those of `SpeechDataModule`.
    """

    def __init__(self, manifest: str = "manifest.jsonl", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.manifest = manifest

    def utterances(self) -> Sequence[Utterance]:
        """Return all utterances.

        Raises:
            UserError: if no root is given, or the manifest is missing or wrong.
        """
        if self.root is None:
            raise UserError("give the folder of the manifest with --data.root")
        return open_manifest(Path(self.root) / self.manifest)
