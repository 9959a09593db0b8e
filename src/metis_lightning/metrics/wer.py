"""Word and character error rates between a text and a recogniser's transcript of the speech.

A recogniser that loops, repeating itself, has told what its decoder does and not what was said: see `loop_in`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Literal

import numpy as np

from metis_lightning import texts
from metis_lightning.metrics.metric import CerValue, Column, MetricError, MetricValue, UtteranceMetric, WerValue
from metis_lightning.metrics.model_files import require, versions
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.recognizers.base import Recognizer, Recognizers
from metis_lightning.metrics.signal import ScoringItem, with_sound
from metis_lightning.metrics.text import NORMALIZERS, Normalizer, normalizer
from metis_lightning.task_table import Task

Unit = Literal["word", "character"]

# Bytes of the text over bytes that zlib makes of it, above which Whisper's own decoding counts a text as a failure
# (Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022, section 4.5).
MAX_COMPRESSION_RATIO = 2.4
# Times that a group of words must stand in a row, beside the compression ratio, to be a loop.
MIN_REPEATS = 4
_MAX_GROUP = 16

# What becomes of loops, for the fingerprint.
CAPPED = (
    f"capped at 100%; a loop is a zlib ratio of the normalised hypothesis above {MAX_COMPRESSION_RATIO}, and 1 to "
    f"{_MAX_GROUP} words (or characters of an unspaced text) at least {MIN_REPEATS} times in a row and more often than "
    "in the reference"
)
NOT_CAPPED = "as heard: no rule"


@dataclass(frozen=True)
class WordErrors:
    """Edits of words (or characters), and how many words the reference has."""

    edits: int
    words: int
    # Of one of several shortest alignments, so they take no part in comparisons.
    substitutions: int = field(default=0, compare=False, repr=False)
    deletions: int = field(default=0, compare=False, repr=False)
    insertions: int = field(default=0, compare=False, repr=False)
    # The reference and the hypothesis, with a blank between two words.
    compared: tuple[str, str] = field(default=("", ""), compare=False, repr=False)


def word_errors(reference: str, hypothesis: str, normalize: Normalizer, unit: Unit = "word") -> WordErrors:
    """Count the errors of `hypothesis` against `reference`, both normalised.

    Characters are counted without white space, which recognisers of unspaced scripts put as they like. A `MetricError`
    if nothing of the reference is left after normalisation.

    >>> word_errors("the cat sat", "the hat sat down", str.lower)
    WordErrors(edits=2, words=3)
    >>> word_errors("cat", "hats", str.lower, "character")
    WordErrors(edits=2, words=3)
    """
    jiwer = require("jiwer", "eval")
    expected, transcribed = normalize(reference).split(), normalize(hypothesis).split()
    if not expected:
        raise MetricError("the reference text has no words")
    if unit == "character":
        expected, transcribed = list("".join(expected)), list("".join(transcribed))
    compared = " ".join(expected), " ".join(transcribed)
    counts = jiwer.process_words([compared[0]], [compared[1]])
    parts = counts.substitutions, counts.deletions, counts.insertions
    return WordErrors(sum(parts), counts.substitutions + counts.deletions + counts.hits, *parts, compared)


def compression_ratio(text: str) -> float:
    """Return how many times shorter zlib makes the UTF-8 of a text.

    >>> round(compression_ratio("a quick brown fox"), 2)
    0.68
    """
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def longest_run(text: str) -> int:
    """Return how often a group of 1 to 16 words stands in a row at most; of characters if the text has no spaces.

    >>> longest_run("so we go so we go so we go home")
    3
    >>> longest_run("a quick brown fox")
    1
    """
    tokens = text.lower().split()
    if len(tokens) == 1:
        tokens = list(tokens[0])
    longest = 0
    for size in range(1, min(_MAX_GROUP, len(tokens)) + 1):
        equal = most = 0
        # A token that equals the one a group before continues the run.
        for here, before in zip(tokens[size:], tokens, strict=False):
            equal = equal + 1 if here == before else 0
            most = max(most, equal)
        longest = max(longest, 1 + most // size)
    return longest


def loop_in(hypothesis: str, reference: str) -> str | None:
    """Return what is wrong with a hypothesis that repeats itself; None if the reference does so as often.

    Both signs are needed: a long text of few words compresses well, and "no no no no" may have been said.

    >>> loop_in("thanks " * 30, "a quick brown fox")
    'the recogniser loops: 30 repeats in a row, compression ratio 11.7'
    >>> loop_in("no no no no no", "a quick brown fox")
    """
    ratio, run = compression_ratio(hypothesis), longest_run(hypothesis)
    if ratio > MAX_COMPRESSION_RATIO and run >= max(MIN_REPEATS, longest_run(reference) + 1):
        return f"the recogniser loops: {run} repeats in a row, compression ratio {ratio:.1f}"
    return None


class WordScores:
    """Recognisers with the rules for their texts; where it `caps_loops`, a loop counts as no more than 100%."""

    def __init__(self, recognizers: Recognizers, rules: str, caps_loops: bool) -> None:
        self.recognizers, self.caps_loops = recognizers, caps_loops
        # Made once a language: building Whisper's takes longer than using it.
        self._normalizer: Callable[[str], Normalizer] = cache(partial(normalizer, rules))
        # Unknown rules and missing packages are told before hours are spent.
        self._normalizer("en")
        self._simplifies = rules == "seed-tts"
        if self._simplifies and "zh" in recognizers.kept_for:
            require("zhconv", "zh")
        self._transcripts: dict[str, str] = {}

    def rates(
        self, wave: Callable[[], np.ndarray], text: str | Callable[[], np.ndarray] | None, language: str
    ) -> tuple[WerValue, CerValue]:
        """Return the word and the character error rate of `wave()`, (S,) at 16 kHz, and a text or a recording of it.

        Null they are only where the text is not known, or nothing knows its language (ISO 639-1); see `ErrorRate`.
        """
        reference: str | None = None
        hypothesis: str | None = None
        try:
            if text is None:
                raise MetricError("no reference text")
            recognizer, normalize = self.recognizers.require(language), self._normalizer(language)
            if callable(text):
                text = reference = self._reference(recognizer, text(), language)
            words, characters = (word_errors(text, "", normalize, unit) for unit in ("word", "character"))
        except MetricError as error:
            return WerValue(None, str(error)), CerValue(None, str(error))
        reason, is_loop = None, False
        try:
            hypothesis = self._transcript(recognizer, wave(), language)
        except MetricError as error:
            reason = str(error)
        else:
            words, characters = (word_errors(text, hypothesis, normalize, unit) for unit in ("word", "character"))
            said, transcribed = words.compared
            reason = loop_in(transcribed, said) if self.caps_loops else None
            is_loop = reason is not None
        wer = WerValue(*_counts(words, reason, is_loop), hypothesis, words.compared, reference)
        return wer, CerValue(*_counts(characters, reason, is_loop))

    def _reference(self, recognizer: Recognizer, wave: np.ndarray, language: str) -> str:
        """Return the transcript of a recording of the text; it is kept, since every system meets the same ones."""
        key = f"{language} {hashlib.sha256(wave.tobytes()).hexdigest()}"
        if key not in self._transcripts:
            self._transcripts[key] = self._transcript(recognizer, wave, language)
        return self._transcripts[key]

    def _transcript(self, recognizer: Recognizer, wave: np.ndarray, language: str) -> str:
        transcript = recognizer.transcribe(with_sound(wave), language)
        if self._simplifies and language == "zh":
            # As Seed-TTS-eval does with every hypothesis: Whisper writes either kind of characters.
            return require("zhconv", "zh").convert(transcript, "zh-cn")
        return transcript


def _counts(
    errors: WordErrors, error: str | None, is_loop: bool
) -> tuple[float, str | None, int, int, int, int, int, bool]:
    """Return the fields of an `ErrorRate`; a loop has no more edits than the reference has words."""
    edits = min(errors.edits, errors.words) if is_loop else errors.edits
    counts = errors.substitutions, errors.deletions, errors.insertions
    return edits / errors.words, error, edits, errors.words, *counts, is_loop


class WerMetric(UtteranceMetric):
    """WER_… and CER_… by the recogniser of an item's language; WER_asr_… where a recording stands in for the text."""

    order = 70
    packages = ("jiwer",)

    def __init__(self, options: SuiteOptions, task: Task) -> None:
        super().__init__(options, task)
        recognizers = Recognizers(options.asr or (), options.device, options.num_threads)
        # The paper has no rule for loops.
        caps_loops = options.protocol != "paper"
        rules = options.normalizer or "whisper"
        self._words = WordScores(recognizers, rules, caps_loops)
        self.models = {"asr": recognizers.identities}
        self.definition = {
            "normalizer": NORMALIZERS[rules],
            # Another version of the rules may count other words.
            "normalizer_versions": versions(("whisper-normalizer", "zhconv")),
            "texts": texts.RULES,
            "asr_loops": CAPPED if caps_loops else NOT_CAPPED,
            "nothing_heard": "all words deleted",
        }
        self.columns = tuple(
            Column.by_model(quantity, name, unit="%", higher_is_better=False)
            for name in recognizers.names
            for quantity in ("WER", "CER", "WER_asr", "CER_asr")
        )

    def score(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return both rates; nothing if there is no recogniser."""
        recognizers = self._words.recognizers
        if not recognizers.names:
            return {}
        # An item whose language none knows has the columns of the first.
        recognizer = recognizers.of(item.language)
        name = recognizers.names[0] if recognizer is None else recognizer.name
        text: str | Callable[[], np.ndarray] | None = item.text
        source = ""
        if item.text_recording is not None:
            text, source = partial(item.wave, "text_recording"), "_asr"
        wer, cer = self._words.rates(partial(item.wave, "generated"), text, item.language)
        return {f"WER{source}_{name}": wer, f"CER{source}_{name}": cer}
