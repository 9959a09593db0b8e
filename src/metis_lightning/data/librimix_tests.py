"""Target speaker extraction from LibriMix's test sets."""

from __future__ import annotations

from pathlib import Path

import torch

from metis_lightning.data.corpus import SpeechCorpus
from metis_lightning.data.enrollment import (
    MixtureSource,
    draw_enrollments,
    parse_source,
    read_enrollments,
    write_enrollments,
)
from metis_lightning.data.table import open_manifest
from metis_lightning.data.testsets import TestSets
from metis_lightning.errors import UserError
from metis_lightning.types import TestItem, Trial


class LibriMixTests(TestSets):
    """Target speaker extraction from LibriMix: every source of every mixture of a prepared manifest is a target."""

    task = "tse"

    def __init__(self, root: Path, manifest: Path | None = None, enrollment: Path | None = None) -> None:
        """Read the manifest and the enrollment list.

        Args:
            root: the root that the manifest was prepared with.
            manifest: of `prepare librimix`; `librimix.jsonl` in `root` by default.
            enrollment: a list `map_mixture2enrollment`. By default one is drawn and written beside the manifest as
                `librimix.map_mixture2enrollment`, which later calls read.

        Raises:
            UserError: if a file is missing or wrong, or the list names what the manifest lacks.
        """
        manifest = Path(root) / "librimix.jsonl" if manifest is None else Path(manifest)
        utterances = open_manifest(manifest, str(root))
        self._corpus = SpeechCorpus(utterances.where(~utterances.is_split("train")), cache=False)
        sources = {parse_source(utterance.id): utterance.split for utterance in self._corpus.utterances}
        listed = manifest.with_suffix(".map_mixture2enrollment") if enrollment is None else enrollment
        if enrollment is None and not listed.is_file():
            write_enrollments(listed, draw_enrollments(sources))
        enrolled = read_enrollments(listed)
        if unknown := [target.id for target in sources if enrolled.get(target) not in sources]:
            raise UserError(f"{listed}: no enrollment in {manifest} for {len(unknown)} targets, such as {unknown[0]}")
        super().__init__(
            Trial(target.id, f"librimix-{split}", target=target.id, enrollment=enrolled[target].id)
            for target, split in sources.items()
        )

    def load_item(self, trial: Trial) -> TestItem:
        """Read mixture, target and enrollment; `interferer` is the sum of the other voices, without noise."""
        corpus, source = self._corpus, parse_source(trial.target)
        index = corpus.index_of(trial.target)
        utterance, others = corpus.utterances[index], self._others(source)
        return TestItem(
            id=trial.id,
            test_set=trial.test_set,
            speaker=utterance.speaker,
            text=utterance.text or None,
            language=utterance.language,
            mixture=corpus.heard(index),
            target=corpus.wave(index),
            interferer=torch.stack([corpus.wave(other) for other in others]).sum(0) if others else None,
            enrollment=corpus.wave(corpus.index_of(trial.enrollment)),
        )

    def _others(self, source: MixtureSource) -> list[int]:
        numbers = range(1, len(source.mixture.split("_")) + 1)
        named = (MixtureSource(source.mixture, number).id for number in numbers if number != source.number)
        return [self._corpus.index_of(name) for name in named if name in self._corpus]
