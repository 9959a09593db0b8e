"""Tests target speaker extraction on LibriMix's test sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.table import open_manifest
from metis_lightning.data.manifest.test_sets import (
    MixtureSource,
    TestSets,
    draw_enrollments,
    parse_source,
    read_enrollments,
    read_signals,
    trial_item,
    write_enrollments,
)
from metis_lightning.data.media.audio import read_recording, resample
from metis_lightning.data.media.mixdown import MODES, Mixdown
from metis_lightning.errors import UserError
from metis_lightning.types import WAVE_RATE, Recording, TestItem, Trial, Utterance


class LibriMixTests(TestSets):
    """Target speaker extraction from LibriMix: every source of every mixture of a prepared manifest is a target."""

    task = "tse"

    def __init__(self, root: Path, manifest: Path | None = None, enrollment: Path | None = None) -> None:
        """Read the manifest and the enrollment list.

        Where a source was cut to the length of the shorter one (mode "min"), or may have been, its item has no text:
        the transcript is of all of it.

        Args:
            root: the root that the manifest was prepared with.
            manifest: of `prepare librimix`; `librimix.jsonl` in `root` by default.
            enrollment: a list `map_mixture2enrollment`. By default one is drawn and written beside the manifest as
                `librimix.map_mixture2enrollment`, which later calls read.

        Raises:
            UserError: if a file is missing or wrong, or the list names what the manifest lacks.
        """
        manifest = Path(root) / "librimix.jsonl" if manifest is None else Path(manifest)
        self._root, utterances = Path(root), open_manifest(manifest, str(root))
        self._corpus = SpeechCorpus(utterances.where(~utterances.is_in("split", ("train",))), cache=False)
        sources = {parse_source(utterance.id): utterance.split for utterance in self._corpus.utterances}
        listed = manifest.with_suffix(".map_mixture2enrollment") if enrollment is None else enrollment
        if enrollment is None and not listed.is_file():
            write_enrollments(listed, draw_enrollments(sources))
        enrolled = read_enrollments(listed)
        if unknown := [target.id for target in sources if enrolled.get(target) not in sources]:
            raise UserError(f"{listed}: no enrollment in {manifest} for {len(unknown)} targets, such as {unknown[0]}")
        self._sources = frozenset(sources)
        super().__init__(
            Trial(target.id, f"librimix-{split}", target=target.id, enrollment=enrolled[target].id)
            for target, split in sources.items()
        )

    def load_item(self, trial: Trial) -> TestItem:
        """Read mixture, target and enrollment; `interferer` is the sum of the other voices, without noise."""
        target, prompt = self._corpus.find(trial.target), self._corpus.find(trial.enrollment)
        if target.mixture is None:
            raise UserError(f"utterance {target.id!r} has nothing `heard`; prepare the manifest of librimix anew")
        signals = read_signals(mixture=target.mixture, target=target.path, enrollment=prompt.path)
        source = parse_source(trial.target)
        count = len(source.mixture.split("_"))
        sources = [MixtureSource(source.mixture, number) for number in range(1, count + 1) if number != source.number]
        if others := [self._corpus.find(other.id).path for other in sources if other in self._sources]:
            voices = [read_recording(other) for other in others]
            summed = Recording(torch.stack([voice.wave for voice in voices]).sum(0), voices[0].sample_rate)
            signals["interferer"] = resample(summed.wave.numpy(), summed.sample_rate, WAVE_RATE)
            signals["recorded"]["interferer"] = summed
            signals["sources"] += tuple(others)
        texts = {"text": self._text(target) or None, "prompt_text": self._text(prompt)}
        # Both voices of a mixture are targets, which are not independent of each other.
        return trial_item(trial, target, facts={"mixture": source.mixture}, **texts, **signals)

    def facts(self, test_set: str) -> Mapping[str, object]:
        """Return which of LibriMix's variants it is."""
        of_set = [u for u in self._corpus.utterances if f"librimix-{u.split}" == test_set]
        return {
            "mode": " ".join(sorted({self._mode(utterance) for utterance in of_set})),
            "mixes": " ".join(sorted({utterance.source for utterance in of_set})),
            "voices": max(len(parse_source(utterance.id).mixture.split("_")) for utterance in of_set),
        }

    def other_names(self, trial: Trial) -> Sequence[str]:
        """Return the place in a folder for each source, as separation tools and the corpus itself have it."""
        source = parse_source(trial.target)
        return [f"s{source.number}/{source.mixture}"]

    def _text(self, utterance: Utterance) -> str:
        # Of a source that was cut to the shorter one's length (mode "min"), nobody knows how far its text is said.
        is_whole = utterance.is_whole
        if is_whole is None:
            is_whole = self._mode(utterance) == "max"
        return utterance.text if is_whole else ""

    def _mode(self, utterance: Utterance) -> str:
        """Return "min" or "max", by the rule that the mixture is made by or by the folder it lies in."""
        if isinstance(utterance.mixture, Mixdown):
            return utterance.mixture.mode
        return next((part for part in reversed(self._root.resolve().parts) if part in MODES), "unknown")
