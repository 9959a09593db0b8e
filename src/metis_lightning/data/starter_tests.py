"""The starter corpus's test lists for SE, VC, TTS and L2S, made by a rule from those for target speaker extraction.

Each trial for TSE gives one trial of every other task, on the same target, so that tasks can be compared and a list
needs no file of its own. What is drawn is drawn from a seed that is a hash of the trial's id.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from metis_lightning.data.corpus import SpeechCorpus
from metis_lightning.data.lips import EnvelopeRecipe
from metis_lightning.data.recipe import derived_generator
from metis_lightning.data.se import Corruptions, SeRecipe
from metis_lightning.data.starter import StarterTests
from metis_lightning.data.testsets import TestSets
from metis_lightning.data.trials import MIN_ENROLLMENT_SECONDS
from metis_lightning.data.voices import same_words
from metis_lightning.errors import UserError
from metis_lightning.types import TestItem, Trial


class StarterTaskTests(TestSets):
    """The test sets `test-human-TASK` and `test-unseen-TASK` of one task."""

    task: str

    def __init__(self, root: Path | None = None) -> None:
        """Read the manifest and the lists for TSE; `root` defaults to the embedded corpus.

        Raises:
            UserError: if either file is missing or wrong.
        """
        starter = StarterTests(root)
        self._corpus = starter.corpus
        trials = [trial for test_set in starter.test_sets() for trial in starter.load_trials(test_set)]
        super().__init__(self.trial(self._renamed(trial)) for trial in trials)

    @abstractmethod
    def trial(self, trial: Trial) -> Trial:
        """Return the task's trial, given one for TSE that has the task's name already."""

    def load_item(self, trial: Trial) -> TestItem:
        """Read a trial's target, and its prompt if it has one.

        Raises:
            UserError: if an utterance is not in the corpus or its audio cannot be read.
        """
        corpus = self._corpus
        target = corpus.index_of(trial.target)
        spoken = corpus.utterances[target]
        item = TestItem(
            id=trial.id,
            test_set=trial.test_set,
            speaker=spoken.speaker,
            text=spoken.text,
            language=spoken.language,
            target=corpus.wave(target),
            sources=(spoken.path,),
        )
        if not trial.enrollment:
            return item
        prompt = corpus.index_of(trial.enrollment)
        said = corpus.utterances[prompt]
        sources = (*item.sources, said.path)
        return replace(item, enrollment=corpus.wave(prompt), prompt_text=said.text, sources=sources)

    def _renamed(self, trial: Trial) -> Trial:
        test_set = f"{trial.test_set}-{self.task}"
        name = f"{test_set}{trial.id.removeprefix(trial.test_set)}"
        return replace(trial, id=name, test_set=test_set, task=self.task, snr_db=None)


class StarterSeTests(StarterTaskTests):
    """Speech enhancement: the target as training's recipe corrupts it, but never without noise."""

    task = "se"

    def trial(self, trial: Trial) -> Trial:
        """Return a trial of the target alone."""
        return replace(trial, interferer="", enrollment="")

    def load_item(self, trial: Trial) -> TestItem:
        """Corrupt the target; babble is of other voices of the same split."""
        utterance = self._corpus.utterances[self._corpus.index_of(trial.target)]
        corpus = self._splits[utterance.split]
        recipe = SeRecipe(Corruptions(noise_chance=1.0))
        made = recipe(corpus, corpus.index_of(trial.target), derived_generator("test", trial.id))
        if made.source is None:
            raise TypeError("SeRecipe made no source")
        return replace(super().load_item(trial), mixture=made.source, target=made.wave)

    @cached_property
    def _splits(self) -> Mapping[str, SpeechCorpus]:
        utterances = self._corpus.utterances
        splits = dict.fromkeys(utterance.split for utterance in utterances)
        return {split: SpeechCorpus(u for u in utterances if u.split == split) for split in splits}


class StarterVcTests(StarterTaskTests):
    """Voice conversion: the words of TSE's target in the voice of its interferer, which never said them: no target."""

    task = "vc"

    def trial(self, trial: Trial) -> Trial:
        """Return a trial whose prompt is the interfering voice's: the smallest by SHA-256 of those long enough.

        Raises:
            UserError: if that voice says nothing but the source's words.
        """
        corpus = self._corpus
        source = corpus.utterances[corpus.index_of(trial.target)]
        speaker = corpus.utterances[corpus.index_of(trial.interferer)].speaker
        voice = [corpus.utterances[index] for index in corpus.by_speaker[speaker]]
        others = [u for u in voice if u.split == source.split and not same_words(u.text, source.text)]
        long_enough = [u for u in others if u.seconds >= MIN_ENROLLMENT_SECONDS]
        if not others:
            raise UserError(f"{trial.id}: {speaker} says nothing but the words of {source.id}; there is no prompt")
        prompt = min(long_enough or others, key=lambda u: _rank(trial.id, u.id))
        return replace(trial, interferer="", enrollment=prompt.id)

    def load_item(self, trial: Trial) -> TestItem:
        """Read source and prompt; the speaker is the wanted one."""
        item = super().load_item(trial)
        wanted = self._corpus.utterances[self._corpus.index_of(trial.enrollment)].speaker
        return replace(item, speaker=wanted, mixture=item.target, target=None)


class StarterTtsTests(StarterTaskTests):
    """Zero-shot text to speech: the words of TSE's target in its voice, by another utterance of that voice."""

    task = "tts"

    def trial(self, trial: Trial) -> Trial:
        """Return a trial of target and prompt."""
        return replace(trial, interferer="")


class StarterL2sTests(StarterTaskTests):
    """Lip to speech on the stand-in for lips that `EnvelopeRecipe` makes of the audio: the corpus has no video."""

    task = "l2s"

    def trial(self, trial: Trial) -> Trial:
        """Return a trial of target and prompt."""
        return replace(trial, interferer="")

    def load_item(self, trial: Trial) -> TestItem:
        """Read target and prompt, and make the stand-in."""
        lips = EnvelopeRecipe().features(self._corpus, self._corpus.index_of(trial.target))
        return replace(super().load_item(trial), features=lips)


def _rank(*parts: str) -> str:
    return hashlib.sha256("\0".join(("prompt", *parts)).encode()).hexdigest()
