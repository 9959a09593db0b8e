"""The fixed test lists of the starter corpus, which the package carries.

The list for target speaker extraction is a file. Each of its trials gives one trial of every other task, on the same
target, so that tasks can be compared; what is drawn for it is drawn from a seed that is a hash of the trial's id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.records import read_manifest, read_trials
from metis_lightning.data.manifest.test_sets import TestSets, hash_order, mixed_item, trial_item
from metis_lightning.data.recipes.l2s import EnvelopeRecipe
from metis_lightning.data.recipes.prompts import same_words
from metis_lightning.data.recipes.recipe import derived_generator
from metis_lightning.data.recipes.se import Corruptions, SeRecipe
from metis_lightning.errors import UserError
from metis_lightning.safe_parsing import load_json
from metis_lightning.types import TestItem, Trial

STARTER_ROOT = Path(__file__).resolve().parents[2] / "assets" / "starter"
"""Where the embedded starter corpus lies."""

MIN_ENROLLMENT_SECONDS = 2.5
"""Enrollments are at least this long where the speaker has one."""

MANIFEST, _TRIALS = "starter.jsonl", "tse_trials.jsonl"


class StarterTests(TestSets):
    """The fixed test lists for target speaker extraction, with their audio."""

    task = "tse"

    def __init__(self, root: Path | None = None) -> None:
        root = Path(root or STARTER_ROOT)
        self.corpus = SpeechCorpus(read_manifest(root / MANIFEST))
        # Manifests do not have the sex, which this corpus lists.
        lines = map(load_json, (root / MANIFEST).read_text(encoding="utf-8").splitlines())
        self._sexes = {line["id"]: str(line.get("sex", "")) for line in lines}
        super().__init__(read_trials(root / _TRIALS))

    def load_item(self, trial: Trial) -> TestItem:
        """Read a trial's audio and make its mixture."""
        sexes = "-".join(self._sexes[name] for name in (trial.target, trial.interferer))
        return mixed_item(trial, self.corpus, facts={"sexes": sexes})


class StarterTtsTests(TestSets):
    """Zero-shot text to speech: the words of TSE's target in its voice, by another utterance of that voice."""

    task = "tts"
    is_prompted = True

    def __init__(self, root: Path | None = None) -> None:
        root, trials = Path(root or STARTER_ROOT), []
        self._corpus = SpeechCorpus(read_manifest(root / MANIFEST))
        for trial in read_trials(root / _TRIALS):
            name = f"{trial.test_set}-{self.task}"
            # test-human_000 is test-human-se_000 here.
            trial_id = name + trial.id.removeprefix(trial.test_set)
            trials.append(self.trial(replace(trial, id=trial_id, test_set=name, task=self.task, snr_db=None)))
        super().__init__(trials)

    def trial(self, trial: Trial) -> Trial:
        """Return the task's trial, of target and prompt, given one for TSE that has the task's name already."""
        return replace(trial, interferer="", enrollment=trial.enrollment if self.is_prompted else "")

    def load_item(self, trial: Trial) -> TestItem:
        """Read a trial's target, and its prompt if it has one."""
        corpus, target = self._corpus, self._corpus.find(trial.target)
        signals = {"target": corpus.wave(corpus.index_of(target.id)), "sources": (target.path,)}
        if trial.enrollment:
            prompt = corpus.find(trial.enrollment)
            signals |= {"enrollment": corpus.wave(corpus.index_of(prompt.id)), "prompt_text": prompt.text}
            signals["sources"] = (target.path, prompt.path)
        return trial_item(trial, target, **signals)


class StarterSeTests(StarterTtsTests):
    """Speech enhancement: the target as training's recipe corrupts it, but never without noise."""

    task = "se"
    is_prompted = False

    def load_item(self, trial: Trial) -> TestItem:
        """Corrupt the target; babble is of other voices of the same split."""
        corpus = self._splits[self._corpus.find(trial.target).split]
        recipe = SeRecipe(Corruptions(noise_chance=1.0))
        noisy = recipe(corpus, corpus.index_of(trial.target), derived_generator("test", trial.id))
        return replace(super().load_item(trial), mixture=noisy.source, target=noisy.wave)

    @cached_property
    def _splits(self) -> Mapping[str, SpeechCorpus]:
        utterances = self._corpus.utterances
        splits = dict.fromkeys(utterance.split for utterance in utterances)
        return {split: SpeechCorpus(u for u in utterances if u.split == split) for split in splits}


class StarterVcTests(StarterTtsTests):
    """Voice conversion: the words of TSE's target in the voice of its interferer, which never said them: no target."""

    task = "vc"

    def trial(self, trial: Trial) -> Trial:
        """Take a prompt of the interfering voice: the smallest by SHA-256 of those long enough that say other words."""
        source, speaker = self._corpus.find(trial.target), self._corpus.find(trial.interferer).speaker
        voice = [self._corpus.utterances[index] for index in self._corpus.by_speaker[speaker]]
        others = [u for u in voice if u.split == source.split and not same_words(u.text, source.text)]
        if not others:
            raise UserError(f"{trial.id}: {speaker} says nothing but the words of {source.id}; there is no prompt")
        long_enough = [u for u in others if u.seconds >= MIN_ENROLLMENT_SECONDS]
        prompt = min(long_enough or others, key=lambda u: hash_order("prompt", trial.id, u.id, separator="\0"))
        return replace(trial, interferer="", enrollment=prompt.id)

    def load_item(self, trial: Trial) -> TestItem:
        """Read source and prompt; the speaker is the wanted one."""
        item, wanted = super().load_item(trial), self._corpus.find(trial.enrollment).speaker
        return replace(item, speaker=wanted, mixture=item.target, target=None)


class StarterL2sTests(StarterTtsTests):
    """Lip to speech on the stand-in for lips that `EnvelopeRecipe` makes of the audio: the corpus has no video."""

    task = "l2s"

    def load_item(self, trial: Trial) -> TestItem:
        """Read target and prompt, and make the stand-in."""
        index = self._corpus.index_of(trial.target)
        lips = EnvelopeRecipe().features(self._corpus, index)
        return replace(super().load_item(trial), features=lips)
