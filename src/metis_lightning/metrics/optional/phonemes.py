"""Phonemes of speech: their error rate against the text, and their similarity to those of the reference recording.

They are heard by hama (Apache-2.0), a recogniser of 4.7 MB that is no Whisper, without a language model: what it writes
is near to what was said, also where that is no word. Its own rules read the text aloud. Or by any CTC recogniser of
phonemes that transformers loads, such as facebook/wav2vec2-lv-60-espeak-cv-ft, which URGENT takes.

LPS: Pirklbauer et al., Evaluation metrics for generative speech enhancement methods: issues and perspectives (2023).
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.metrics.metric import Column, ErrorRate, MetricError, MetricValue, OptionalMetric
from metis_lightning.metrics.model_files import model_folder, model_name, require, versions, weight_hashes
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import METRIC_RATE, ScoringItem, Wave, with_sound
from metis_lightning.task_table import Task
from metis_lightning.texts import clean_text, unify_apostrophes

# The one language whose texts the rules read well enough.
_LANGUAGE = "en"
_FILES = ("asr_waveform.hama", "encoder.hama", "decoder_step.hama", "g2p_vocab.json")
# Samples: a frame of the features, and of wav2vec 2.0.
_SHORTEST = 400


class PhonemeRecognizer(Protocol):
    """Hears phonemes; `name` is as in columns, `identity` what decides them: hashes, package versions."""

    name: str
    identity: dict[str, Any]

    def transcribe(self, wave: Wave) -> list[str]:
        """Return the phonemes of (S,) samples at 16 kHz, maybe none. A `MetricError` if there is nothing to hear."""


class Hama:
    """The package hama, with greedy decoding as its authors set it; it also says how English words are spoken."""

    name = "hama"

    def __init__(self) -> None:
        """Load both models of the package."""
        package = require("hama", "metrics")
        folder = Path(package.__path__[0]) / "assets"
        self._asr, self._reader = package.ASRModel(), package.G2PModel()
        hashes = {name: sha256_of(folder / name) for name in _FILES}
        self.identity: dict[str, Any] = {"name": self.name, "sha256": hashes, "packages": versions(("hama",))}
        self.word = cache(self._word)

    def transcribe(self, wave: Wave) -> list[str]:
        """Return the phonemes; see `PhonemeRecognizer.transcribe`."""
        samples = _audible(wave, self.name)
        # It was trained on audio within full scale; what is beyond is brought there, not cut.
        samples = samples / max(1.0, float(np.abs(samples).max()))
        return self._asr.transcribe_waveform(samples, METRIC_RATE).phonemes

    def read(self, text: str) -> list[str]:
        """Return how a text is spoken. A `MetricError` if it has no words, or figures, which the rules do not know."""
        text = unify_apostrophes(clean_text(text)).lower()
        if re.search(r"\d", text):
            raise MetricError("the reference text has figures, which are not read aloud")
        phonemes = [phoneme for word in re.findall(r"[^\W_]+(?:'[^\W_]+)*", text) for phoneme in self.word(word)]
        if not phonemes:
            raise MetricError("the reference text has no words")
        return phonemes

    def _word(self, word: str) -> tuple[str, ...]:
        # The recogniser writes one symbol for what the rules may write with a mark of length.
        symbols = "".join(self._reader.predict(word).display_ipa.split()).replace("ː", "")
        known = sorted(filter(None, self._asr.decoder_tokens), key=len, reverse=True)
        found = re.findall("|".join(map(re.escape, known)), symbols)
        return tuple(symbol for symbol in found if symbol.strip())


class CtcPhonemes:
    """A CTC model of transformers; its symbols are taken as they are, without blanks between words."""

    def __init__(self, source: str, device: str) -> None:
        """Load a folder, or a name on the hub. A `UserError` if it is missing."""
        transformers = require("transformers", "ssl")
        folder = model_folder(source)
        self.name, self._device = model_name(source, "facebook"), device
        try:
            self._features = transformers.AutoFeatureExtractor.from_pretrained(folder)
            self._model = transformers.AutoModelForCTC.from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{folder}: no CTC model of phonemes ({error}); give the folder of a complete one"
            ) from error
        vocabulary = folder / "vocab.json"
        if not vocabulary.is_file():
            raise UserError(f"{folder}: no vocab.json, which names its phonemes; give the folder of a complete model")
        import json

        ids: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))
        # The blank of CTC is the padding token; other tokens in brackets stand for no sound.
        self._symbols = {
            index: symbol for symbol, index in ids.items() if not re.fullmatch(r"<.*>|\[.*\]|\|| ", symbol)
        }
        self._model.eval().requires_grad_(False).to(device)
        packages = versions(("transformers", "torch"))
        self.identity: dict[str, Any] = {"name": self.name, "sha256": weight_hashes(folder), "packages": packages}

    @torch.no_grad()
    def transcribe(self, wave: Wave) -> list[str]:
        """Return the phonemes; see `PhonemeRecognizer.transcribe`."""
        samples = _audible(wave, self.name)
        inputs = self._features(samples, sampling_rate=METRIC_RATE, return_tensors="pt")
        best = self._model(inputs.input_values.to(self._device)).logits[0].argmax(dim=-1)
        return [self._symbols[each] for each in best.unique_consecutive().tolist() if each in self._symbols]


def _audible(wave: Wave, name: str) -> np.ndarray:
    samples = with_sound(wave)
    if len(samples) < _SHORTEST:
        raise MetricError(f"the signal is too short for {name}: 25 ms are needed")
    return samples


class PerMetric(OptionalMetric):
    """PER: edits of phonemes over those of the text; of an output in which nothing can be heard all are deleted."""

    kind = "per"
    packages = ("jiwer", "hama")
    extra = "metrics"
    columns = (Column.by_model("PER", Hama.name, unit="%", higher_is_better=False),)
    definition = {"per": "hama's phonemes against its reading of the text; English without figures"}

    def __init__(self, options: SuiteOptions, task: Task, source: str = "") -> None:
        super().__init__(options, task, source)
        self._hama = Hama()
        self.models = {"phonemes": self._hama.identity}

    def score(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return the rate."""
        name = self.columns[0].name
        try:
            if item.text is None:
                raise MetricError("no reference text")
            if item.language != _LANGUAGE:
                raise MetricError(f"the reference text is in '{item.language}', which is not read aloud")
            expected = self._hama.read(item.text)
        except MetricError as error:
            return {name: MetricValue(None, str(error))}
        reason, spoken = None, list[str]()
        try:
            spoken = self._hama.transcribe(item.wave("generated"))
        except MetricError as error:
            reason = str(error)
        edits = edit_distance(expected, spoken)
        return {name: ErrorRate(edits / len(expected), reason, edits, len(expected))}


class LpsMetric(OptionalMetric):
    """LPS: 1 less the edits of phonemes over those of the reference recording; at most 1, below 0 if all is wrong."""

    kind = "lps"
    packages = ("jiwer",)
    takes = "[a CTC model of phonemes; hama without]"

    def __init__(self, options: SuiteOptions, task: Task, source: str = "") -> None:
        super().__init__(options, task, source)
        self._recognizer: PhonemeRecognizer = CtcPhonemes(source, options.device) if source else Hama()
        self.columns = (Column.by_model("LPS", self._recognizer.name),)
        self.models = {f"lps {self._recognizer.name}": self._recognizer.identity}

    def value(self, item: ScoringItem) -> float:
        """Return the similarity."""
        expected = self._recognizer.transcribe(with_sound(item.wave("reference"), "reference"))
        if not expected:
            raise MetricError("the reference has no phonemes")
        return 1.0 - edit_distance(expected, self._recognizer.transcribe(item.wave("generated"))) / len(expected)


def edit_distance(expected: list[str], spoken: list[str]) -> int:
    """Return the least number of substitutions, deletions and insertions between two lists of symbols.

    >>> edit_distance(["k", "æ", "t"], ["h", "æ", "t", "s"])
    2
    """
    counts = require("jiwer", "eval").process_words([" ".join(expected)], [" ".join(spoken)])
    return int(counts.substitutions + counts.deletions + counts.insertions)
