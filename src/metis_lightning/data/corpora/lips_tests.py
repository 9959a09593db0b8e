"""Lip to speech on the test clips of a prepared corpus: LRS3, LRS2, or one's own."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.table import open_manifest
from metis_lightning.data.manifest.test_sets import TestSets, read_signals, require_files
from metis_lightning.data.media.storage import visible_in
from metis_lightning.data.recipes.l2s import LipRecipe
from metis_lightning.errors import UserError
from metis_lightning.types import TestItem, Trial, Utterance


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
        """Read the manifest and choose the prompts.

        Args:
            root: the root that the manifest was prepared with.
            manifest: of `prepare lrs3`, `lrs2` or `video`, whose split `test` is tested; by default `lrs3.jsonl` in
                `root`.
            features: folder of lip features; None takes those that the manifest lists.
            prompts: Seed-TTS's folder `en`, or any folder of wav and flac files of single speakers.
            seed: of the choice of prompts.
            shortest_prompt: in seconds, of prompts from the corpus.

        Raises:
            UserError: if a file is missing or wrong, or no clip has a prompt.
        """
        manifest = Path(root) / "lrs3.jsonl" if manifest is None else Path(manifest)
        tested = open_manifest(manifest, str(root)).in_split("test")
        self._corpus, self._lips = SpeechCorpus(tested, cache=False), LipRecipe(features)
        self._prompts = {} if prompts is None else _recordings(Path(prompts))
        if features is not None:
            _require_features(Path(features), self._corpus.utterances)
        name = f"{manifest.stem}-test"
        pairs = ((u.id, self._prompt(u, seed, shortest_prompt)) for u in self._corpus.utterances)
        trials = [Trial(target, name, target=target, enrollment=prompt) for target, prompt in pairs if prompt]
        super().__init__(sorted(trials, key=lambda trial: _rank(seed, trial.id)))

    def load_item(self, trial: Trial) -> TestItem:
        """Read lips, prompt, and what was said; the set has no `mixture`."""
        index = self._corpus.index_of(trial.target)
        utterance = self._corpus.utterances[index]
        own = trial.enrollment not in self._prompts
        prompt = (
            self._corpus.utterances[self._corpus.index_of(trial.enrollment)].path
            if own
            else self._prompts[trial.enrollment]
        )
        signals = read_signals(target=utterance.path, enrollment=prompt)
        signals["sources"] = (*signals["sources"], self._lips.file(self._corpus, index))
        return TestItem(
            id=trial.id,
            test_set=trial.test_set,
            speaker=utterance.speaker,
            text=utterance.text or None,
            language=utterance.language,
            features=self._lips.features(self._corpus, index),
            **signals,
        )

    def _prompt(self, utterance: Utterance, seed: int, shortest: float) -> str:
        """Return the id of a clip's prompt; empty if there is none."""
        names = list(self._prompts)
        if not names:
            others = (self._corpus.utterances[n] for n in self._corpus.by_speaker[utterance.speaker])
            names = [other.id for other in others if other.id != utterance.id and other.seconds >= shortest]
        return min(names, key=lambda name: _rank(seed, f"{utterance.id} {name}"), default="")


def _recordings(folder: Path) -> dict[str, Path]:
    """Map names to the recordings of a folder; of Seed-TTS's `en`, those of `prompt-wavs`."""
    inner = folder / "prompt-wavs"
    source = inner if inner.is_dir() else folder
    found = {path.stem: path for path in visible_in(source) if path.suffix in {".wav", ".flac"}}
    if not found:
        raise UserError(f"{source}: no wav or flac file; give seedtts_testset/en or a folder of prompts")
    return found


def _require_features(folder: Path, utterances: Sequence[Utterance]) -> None:
    bases = [folder / utterance.id for utterance in utterances]
    require_files(
        [p if (p := Path(f"{base}.safetensors")).is_file() else Path(f"{base}.npy") for base in bases], "lip features"
    )


def _rank(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()
