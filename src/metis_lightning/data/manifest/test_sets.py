"""The interface of test sets, the items of trials, and LibriMix's enrollment lists.

A line of such a list, `mixture_ID target_utterance s{1,2,…}/other_mixture_ID`, names the source that enrolls the target
(`map_mixture2enrollment` of github.com/BUTSpeechFIT/speakerbeam).
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.audio import read_recording, resample
from metis_lightning.data.media.mixing import mix_trial
from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path
from metis_lightning.texts import read_lines
from metis_lightning.types import WAVE_RATE, AudioLocation, TestItem, Trial, Utterance


class TestSets(ABC):
    """Fixed lists of trials, in an order that the first few of a list stand for all.

    `test_sets` are their names; `task` is what the trials ask of a system, empty where they say it each.
    """

    __test__ = False  # not a pytest class

    task: str = ""

    def __init__(self, trials: Iterable[Trial]) -> None:
        """Keep the trials of all test sets; a UserError if there is none."""
        self._trials = [replace(trial, task=trial.task or self.task) for trial in trials]
        if not self._trials:
            raise UserError(f"{type(self).__name__}: no test item found; check the data root")
        self.test_sets = tuple(dict.fromkeys(trial.test_set for trial in self._trials))

    def load_trials(self, test_set: str) -> list[Trial]:
        """Return the trials of a test set; a UserError if there is no such test set."""
        if test_set not in self.test_sets:
            raise UserError(f"no test set {test_set!r} here; choose from {', '.join(self.test_sets)}")
        return [trial for trial in self._trials if trial.test_set == test_set]

    def facts(self, test_set: str) -> Mapping[str, object]:
        """Return what is to be said of a test set beside its items: of which variant of the corpus it is."""
        return {}

    def other_names(self, trial: Trial) -> Sequence[str]:
        """Return how other tools name what they make of a trial: files without their suffix, maybe in a folder."""
        return ()

    @abstractmethod
    def load_item(self, trial: Trial) -> TestItem:
        """Read a trial's audio; a UserError if it cannot be read."""


def read_signals(**locations: AudioLocation | None) -> dict[str, Any]:
    """Return the fields of a `TestItem` whose signals lie in files: at 24 kHz, as recorded, and the files."""
    present = {name: location for name, location in locations.items() if location is not None}
    recorded = {name: read_recording(location) for name, location in present.items()}
    waves = {name: resample(each.wave.numpy(), each.sample_rate, WAVE_RATE) for name, each in recorded.items()}
    return {**waves, "recorded": recorded, "sources": tuple(present.values())}


def require_files(paths: Sequence[Path], corpus: str) -> None:
    """Refuse a corpus that is not all there by a UserError, before hours are spent on it."""
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(
            f"{corpus}: {len(missing)} of {len(paths)} files are missing, first {missing[0]}; download them again"
        )


def hash_order(*parts: object, separator: str = " ") -> str:
    """Return the SHA-256 of some parts, by whose smallest test lists choose: it depends on no library's draws."""
    return hashlib.sha256(separator.join(map(str, parts)).encode()).hexdigest()


def trial_item(trial: Trial, utterance: Utterance, **fields: Any) -> TestItem:  # noqa: ANN401
    """Return the item of a trial whose target is an utterance of a manifest; `fields` are its signals and the like."""
    listed = {"speaker": utterance.speaker, "text": utterance.text or None, "language": utterance.language}
    # A corpus may know better than its manifest.
    return TestItem(id=trial.id, test_set=trial.test_set, **{**listed, **fields})


def mixed_item(trial: Trial, corpus: SpeechCorpus, **fields: Any) -> TestItem:  # noqa: ANN401
    """Read a trial's utterances and make its mixture; `fields` are further ones of the item."""
    names = (trial.target, trial.interferer, trial.enrollment)
    target, interferer, enrollment = (corpus.index_of(name) for name in names)
    mixed = mix_trial(trial, corpus.wave(target), corpus.wave(interferer))
    return trial_item(
        trial,
        corpus.utterances[target],
        mixture=mixed.mixture,
        target=mixed.target,
        interferer=mixed.interferer,
        enrollment=corpus.wave(enrollment),
        prompt_text=corpus.utterances[enrollment].text,
        sources=tuple(corpus.utterances[index].path for index in (target, interferer, enrollment)),
        **fields,
    )


def write_trials(path: Path, trials: Iterable[Trial]) -> None:
    """Write a test list that `read_trials` reads, complete or not at all."""
    rows = ({key: value for key, value in asdict(t).items() if value not in ("", None)} for t in trials)
    with atomic_path(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class MixtureSource(NamedTuple):
    """A source of a mixture: the mixture's id and the source's number, from 1."""

    mixture: str
    number: int

    @property
    def utterance(self) -> str:
        """The LibriSpeech utterance that it is made of."""
        return self.mixture.split("_")[self.number - 1]

    @property
    def speaker(self) -> str:
        """Its LibriSpeech speaker."""
        return self.utterance.split("-")[0]

    @property
    def id(self) -> str:
        """Its id in a manifest."""
        return f"{self.mixture}_s{self.number}"


def parse_source(utterance_id: str) -> MixtureSource:
    """Return the source that a manifest's id names.

    >>> parse_source("1-2-3_4-5-6_s2")
    MixtureSource(mixture='1-2-3_4-5-6', number=2)
    """
    mixture, _, number = utterance_id.rpartition("_s")
    return MixtureSource(mixture, int(number))


def read_enrollments(path: Path) -> dict[MixtureSource, MixtureSource]:
    """Map targets to their enrollments, from a list; a UserError naming file and line, if one is wrong."""
    if not path.is_file():
        raise UserError(f"{path}: no such enrollment list")
    enrollments = {}
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            mixture, utterance, place = line.split()
            folder, other = place.split("/")
            target = MixtureSource(mixture, mixture.split("_").index(utterance) + 1)
            enrollments[target] = MixtureSource(other, int(folder.removeprefix("s")))
        except ValueError as error:
            raise UserError(
                f"{path}:{number}: expected `mixture_ID target_utterance sN/other_mixture_ID` ({error})"
            ) from error
    return enrollments


def draw_enrollments(sources: Iterable[MixtureSource]) -> dict[MixtureSource, MixtureSource]:
    """Map each source to another utterance of its speaker, smallest by SHA-256 of both; a UserError if it has none."""
    targets = list(sources)
    by_speaker: dict[str, list[MixtureSource]] = {}
    for source in targets:
        by_speaker.setdefault(source.speaker, []).append(source)
    enrollments = {}
    for target in targets:
        # Not another mixture of the same recording: it would be the target itself.
        others = [source for source in by_speaker[target.speaker] if source.utterance != target.utterance]
        if not others:
            raise UserError(
                f"no other utterance of speaker {target.speaker} enrolls {target.id}; give an enrollment list"
            )
        enrollments[target] = min(others, key=lambda other: hash_order(target.id, other.id))
    return enrollments


def write_enrollments(path: Path, enrollments: Mapping[MixtureSource, MixtureSource]) -> None:
    """Write a list that `read_enrollments` reads, complete or not at all."""
    lines = (f"{t.mixture} {t.utterance} s{e.number}/{e.mixture}\n" for t, e in enrollments.items())
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
