"""Reads EmiliaMix: two-voice mixtures from Emilia, by a rule, since the paper's 1,000 samples are not released.

Targets are the `count` utterances of `min_seconds` or longer whose ids are the smallest by the SHA-256 of id and seed,
one a speaker, of speakers who have another utterance to enroll them; interferers are the next utterances in that order,
of another speaker than the target. Voices are added as loud as they are, the interferer repeated or cut to the target's
length (Metis, 2502.03128, section 4.2: "another random sample", added).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.records import read_trials
from metis_lightning.data.manifest.table import UtteranceTable, open_manifest
from metis_lightning.data.manifest.test_sets import TestSets, hash_order, mixed_item, write_trials
from metis_lightning.errors import UserError
from metis_lightning.types import TestItem, Trial, Utterance

TEST_SET = "emiliamix"
# Candidates for each trial: some have no second utterance to enroll them.
_SPARE = 8


class EmiliaMixTests(TestSets):
    """Target speaker extraction from mixtures of a prepared Emilia manifest, which need not fit in memory."""

    task = "tse"

    def __init__(
        self,
        root: Path | str,
        manifest: Path | None = None,
        trials: Path | None = None,
        count: int = 1000,
        seed: int = 0,
        text: Literal["asr", "corpus"] = "asr",
    ) -> None:
        """Read the list of trials, or make it.

        Args:
            root: the root that the manifest was prepared with.
            manifest: of `prepare emilia`; `emilia.jsonl` in `root` by default.
            trials: the list. If there is none it is made and written; by default beside the manifest as
                `emiliamix-<count>-<seed>.jsonl`. Training must leave its utterances out.
            count: mixtures.
            seed: of the choice.
            text: what word errors are counted against: "asr", what the recogniser hears in the target, as in the paper;
                or "corpus", Emilia's text.

        Raises:
            UserError: if a file is missing or wrong, or the manifest has too few speakers.
        """
        manifest = Path(str(root)) / "emilia.jsonl" if manifest is None else Path(manifest)
        self._is_transcribed = text == "asr"
        listed = manifest.with_name(f"{TEST_SET}-{count}-{seed}.jsonl") if trials is None else Path(trials)
        utterances = open_manifest(manifest, str(root))
        if not listed.is_file():
            write_trials(listed, choose_trials(utterances, count, seed))
        super().__init__(read_trials(listed))
        names = {name for trial in self._trials for name in (trial.target, trial.interferer, trial.enrollment)}
        self._corpus = SpeechCorpus(utterances.where(utterances.is_named(names)), cache=False)

    def load_item(self, trial: Trial) -> TestItem:
        """Read a trial's audio and make its mixture."""
        return mixed_item(trial, self._corpus, is_transcribed=self._is_transcribed)


def choose_trials(utterances: UtteranceTable, count: int, seed: int, min_seconds: float = 3.0) -> list[Trial]:
    """Choose by the module's rule, reading the manifest once, of some speakers again; a UserError if it has too few."""
    long_enough = utterances.where(utterances.seconds >= min_seconds)
    candidates = heapq.nsmallest(_SPARE * count, long_enough, key=lambda utterance: hash_order(seed, utterance.id))
    enrollments = _choose_enrollments(utterances, candidates, seed)
    first_of_speaker: dict[str, Utterance] = {}
    for candidate in candidates:
        if candidate.id in enrollments:
            first_of_speaker.setdefault(candidate.speaker, candidate)
    targets = list(first_of_speaker.values())[:count]
    if len(targets) < count or len({u.speaker for u in candidates}) < 2:
        raise UserError(
            f"{len(targets)} speakers have two utterances, {count} are wanted; give a larger manifest or "
            "--data-options count=N"
        )
    chosen = {utterance.id for utterance in targets}
    others = [*([u for u in candidates if u.id not in chosen] or targets), *targets]
    trials = []
    for number, target in enumerate(targets):
        # The first from this place on, in a circle, that another speaker says.
        circle = (others[(number + step) % len(others)] for step in range(len(others)))
        interferer = next(other for other in circle if other.speaker != target.speaker)
        name = f"{TEST_SET}_{number:04d}"
        trials.append(Trial(name, TEST_SET, target.id, interferer.id, enrollments[target.id]))
    return trials


def _choose_enrollments(utterances: UtteranceTable, candidates: Sequence[Utterance], seed: int) -> dict[str, str]:
    """Map each candidate to another utterance of its speaker, the smallest by the SHA-256 of both and the seed."""
    by_speaker: dict[str, list[str]] = {}
    for candidate in candidates:
        by_speaker.setdefault(candidate.speaker, []).append(candidate.id)
    best: dict[str, tuple[str, str]] = {}
    for utterance in utterances.where(utterances.is_in("speaker", by_speaker)):
        for target in by_speaker.get(utterance.speaker, ()):
            if target != utterance.id:
                ordered = (hash_order(seed, target, utterance.id), utterance.id)
                best[target] = min(best.get(target, ordered), ordered)
    return {target: name for target, (_, name) in best.items()}
