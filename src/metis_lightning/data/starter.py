"""The starter corpus, which the package carries: real and synthetic speech, and fixed test lists."""

from __future__ import annotations

from pathlib import Path

from metis_lightning.data.corpus import SpeechCorpus
from metis_lightning.data.manifest import read_manifest, read_speaker_sex, read_trials
from metis_lightning.data.mixing import mix_trial
from metis_lightning.data.module import SpeechDataModule
from metis_lightning.data.testsets import TestSets
from metis_lightning.data.trials import TrialPlan, make_trials
from metis_lightning.types import TestItem, Trial, Utterance

STARTER_ROOT = Path(__file__).resolve().parents[1] / "assets" / "starter"
"""Where the embedded starter corpus lies."""

_MANIFEST, _TRIALS = "starter.jsonl", "tse_trials.jsonl"

# Most human targets are English, whose words the recognisers know.
_HUMAN = "allison june allison carlo allison ivrvoice allison allison"
_UNSEEN = "af-bella am-michael bf-emma bm-george if-sara hm-omega"
_PLANS = (TrialPlan("test-human", tuple(_HUMAN.split())), TrialPlan("test-unseen", tuple(_UNSEEN.split())))


class StarterDataModule(SpeechDataModule):
    """The starter corpus: splits `train` and `dev`, 86 and 8 minutes of 42 voices."""

    def utterances(self) -> list[Utterance]:
        """Return all utterances; `root` defaults to the embedded corpus.

        Raises:
            UserError: if the manifest is missing or wrong.
        """
        return read_manifest(Path(self.root or STARTER_ROOT) / _MANIFEST)


class StarterTests(TestSets):
    """The fixed test lists for target speaker extraction, with their audio."""

    task = "tse"

    def __init__(self, root: Path | None = None) -> None:
        """Read the manifest and the lists; `root` defaults to the embedded corpus.

        Raises:
            UserError: if either file is missing or wrong.
        """
        root = Path(root or STARTER_ROOT)
        self.corpus = SpeechCorpus(read_manifest(root / _MANIFEST))
        super().__init__(read_trials(root / _TRIALS))

    def load_item(self, trial: Trial) -> TestItem:
        """Read a trial's audio and make its mixture.

        Raises:
            UserError: if an utterance is not in the corpus or its audio cannot be read.
        """
        corpus = self.corpus
        target, interferer, enrollment = (
            corpus.index_of(utterance_id) for utterance_id in (trial.target, trial.interferer, trial.enrollment)
        )
        mixed = mix_trial(trial, corpus.wave(target), corpus.wave(interferer))
        utterance = corpus.utterances[target]
        return TestItem(
            id=trial.id,
            test_set=trial.test_set,
            speaker=utterance.speaker,
            text=utterance.text,
            language=utterance.language,
            mixture=mixed.mixture,
            target=mixed.target,
            interferer=mixed.interferer,
            enrollment=corpus.wave(enrollment),
            prompt_text=corpus.utterances[enrollment].text,
            sources=tuple(corpus.utterances[index].path for index in (target, interferer, enrollment)),
        )


def starter_test_sets() -> tuple[str, ...]:
    """Return the names of the embedded corpus's test sets."""
    return tuple(plan.test_set for plan in _PLANS)


def make_starter_trials() -> list[Trial]:
    """Make the content of the committed test list anew."""
    manifest = STARTER_ROOT / _MANIFEST
    utterances, sex = read_manifest(manifest), read_speaker_sex(manifest)
    return [trial for plan in _PLANS for trial in make_trials(utterances, sex, plan)]
