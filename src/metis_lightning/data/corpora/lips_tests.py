"""Tests lip to speech on the test clips of a prepared corpus: LRS3, LRS2, or one's own."""

from __future__ import annotations

from pathlib import Path

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.table import open_manifest
from metis_lightning.data.manifest.test_sets import TestSets, hash_order, read_signals, require_files, trial_item
from metis_lightning.data.media.storage import visible_in
from metis_lightning.data.recipes.l2s import LipRecipe
from metis_lightning.errors import UserError
from metis_lightning.types import AudioLocation, TestItem, Trial, Utterance


class LipTests(TestSets):
    """Lip to speech: silent lips, and a prompt that says whose voice is wanted.

    The paper's prompts are utterances drawn at random from Seed-TTS's test-en, since most clips are short (2502.03128,
    appendix); which ones is not stated. Here each clip gets the one that is the smallest by the SHA-256 of both ids and
    the seed. Without Seed-TTS the prompt is another clip of the speaker, the smallest in the same way of those of at
    least `shortest_prompt` seconds; a clip without one is left out.
    """

    task = "l2s"

    def __init__(
        self,
        root: Path,
        manifest: Path | None = None,
        features: Path | None = None,
        prompts: Path | None = None,
        seed: int = 0,
        shortest_prompt: float = 1.0,
    ) -> None:
        """Read the manifest and choose the prompts; a UserError if a file is missing or wrong, or no clip has a prompt.

        Args:
            root: the root that the manifest was prepared with.
            manifest: of `prepare lrs3`, `lrs2` or `video`, whose split `test` is tested; by default `lrs3.jsonl` in
                `root`.
            features: folder of lip features; None takes those that the manifest lists.
            prompts: Seed-TTS's folder `en`, or any folder of wav and flac files of single speakers.
            seed: of the choice of prompts.
            shortest_prompt: in seconds, of prompts from the corpus.
        """
        manifest = Path(root) / "lrs3.jsonl" if manifest is None else Path(manifest)
        tested = open_manifest(manifest, str(root)).in_split("test")
        self._corpus, self._lips = SpeechCorpus(tested, cache=False), LipRecipe(features)
        self._prompts: dict[str, AudioLocation] = {}
        if prompts is not None:
            # Seed-TTS's `en` has them in a folder of their own.
            inner = Path(prompts) / "prompt-wavs"
            folder = inner if inner.is_dir() else Path(prompts)
            self._prompts = {path.stem: path for path in visible_in(folder) if path.suffix in {".wav", ".flac"}}
            if not self._prompts:
                raise UserError(f"{folder}: no wav or flac file; give seedtts_testset/en or a folder of prompts")
        utterances = self._corpus.utterances
        if features is not None:
            stored = [Path(features) / f"{utterance.id}.safetensors" for utterance in utterances]
            require_files([path if path.is_file() else path.with_suffix(".npy") for path in stored], "lip features")
        prompted = {u.id: self._prompt(u, seed, shortest_prompt) for u in utterances}
        test_set = f"{manifest.stem}-test"
        trials = [Trial(name, test_set, target=name, enrollment=prompt) for name, prompt in prompted.items() if prompt]
        super().__init__(sorted(trials, key=lambda trial: hash_order(seed, trial.id)))

    def load_item(self, trial: Trial) -> TestItem:
        """Read lips, prompt, and what was said; the set has no `mixture`."""
        corpus, index = self._corpus, self._corpus.index_of(trial.target)
        prompt = self._prompts.get(trial.enrollment) or corpus.find(trial.enrollment).path
        signals = read_signals(target=corpus.utterances[index].path, enrollment=prompt)
        signals["sources"] += (self._lips.file(corpus, index),)
        return trial_item(trial, corpus.utterances[index], features=self._lips.features(corpus, index), **signals)

    def _prompt(self, utterance: Utterance, seed: int, shortest: float) -> str:
        # Seed-TTS's prompts, as in the paper, or else other clips of the speaker.
        names = list(self._prompts)
        if not names:
            others = (self._corpus.utterances[n] for n in self._corpus.by_speaker[utterance.speaker])
            names = [other.id for other in others if other.id != utterance.id and other.seconds >= shortest]
        return min(names, key=lambda name: hash_order(seed, utterance.id, name), default="")
