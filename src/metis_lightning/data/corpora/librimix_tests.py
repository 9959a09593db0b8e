"""Target speaker extraction from LibriMix's test sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.enrollment import (
    MixtureSource,
    draw_enrollments,
    parse_source,
    read_enrollments,
    write_enrollments,
)
from metis_lightning.data.manifest.table import open_manifest
from metis_lightning.data.manifest.test_sets import TestSets, at_wave_rate, read_signals
from metis_lightning.data.media.audio import read_recording
from metis_lightning.data.media.mixdown import MODES, Mixdown
from metis_lightning.errors import UserError
from metis_lightning.types import AudioLocation, Recording, TestItem, Trial, Utterance


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
        utterance = self._utterance(trial.target)
        if utterance.mixture is None:
            raise UserError(f"utterance {utterance.id!r} has nothing `heard`; prepare the manifest of librimix anew")
        prompt = self._utterance(trial.enrollment)
        signals = read_signals(mixture=utterance.mixture, target=utterance.path, enrollment=prompt.path)
        if others := self._others(parse_source(trial.target)):
            voices = [read_recording(other) for other in others]
            summed = Recording(torch.stack([voice.wave for voice in voices]).sum(0), voices[0].sample_rate)
            signals |= at_wave_rate({"interferer": summed})
            signals["recorded"]["interferer"] = summed
            signals["sources"] += tuple(others)
        return TestItem(
            id=trial.id,
            test_set=trial.test_set,
            speaker=utterance.speaker,
            text=self._text(utterance) or None,
            language=utterance.language,
            prompt_text=self._text(prompt),
            **signals,
        )

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
        """Return an utterance's text if all of it is said."""
        whole = self._mode(utterance) == "max" if utterance.is_whole is None else utterance.is_whole
        return utterance.text if whole else ""

    def _mode(self, utterance: Utterance) -> str:
        """Return "min" or "max", by the rule that the mixture is made by or by the folder it lies in."""
        if isinstance(utterance.mixture, Mixdown):
            return utterance.mixture.mode
        named = [part for part in reversed(self._root.resolve().parts) if part in MODES]
        return named[0] if named else "unknown"

    def _utterance(self, name: str) -> Utterance:
        return self._corpus.utterances[self._corpus.index_of(name)]

    def _others(self, source: MixtureSource) -> list[AudioLocation]:
        numbers = range(1, len(source.mixture.split("_")) + 1)
        named = (MixtureSource(source.mixture, number).id for number in numbers if number != source.number)
        return [self._utterance(name).path for name in named if name in self._corpus]
