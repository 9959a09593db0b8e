"""Loops: a recogniser that repeats itself has told what its decoder does, not what was said.

WER and CER: word and character errors between a transcript and what a recogniser heard.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.packages import require
from metis_lightning.metrics.text import Normalizer, english_normalizer, normalizer

MAX_COMPRESSION_RATIO = 2.4
"""Bytes of the text over bytes that zlib makes of it, above which Whisper's own decoding counts a text as a failure
(Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, 2022, section 4.5)."""

MIN_REPEATS = 4
"""Times that a group of words must stand in a row, beside the compression ratio, to be a loop."""

_MAX_GROUP = 16

CAPPED = (
    f"capped at 100%; a loop is a zlib ratio of the normalised hypothesis above {MAX_COMPRESSION_RATIO}, and 1 to "
    f"{_MAX_GROUP} words (or characters of an unspaced text) at least {MIN_REPEATS} times in a row and more often than "
    "in the reference"
)
AS_HEARD = "as heard: no rule"
"""What becomes of loops, for the fingerprint."""


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
    return max((_run(tokens, size) for size in range(1, _MAX_GROUP + 1)), default=0)


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


def _run(tokens: list[str], size: int) -> int:
    """Return the most repeats in a row of a group of `size` tokens; at least 1 if there are as many tokens."""
    longest = equal = 0
    for here, before in zip(tokens[size:], tokens, strict=False):
        equal = equal + 1 if here == before else 0
        longest = max(longest, equal)
    return 1 + longest // size if len(tokens) >= size else 0


__all__ = ["CerMetric", "Normalizer", "WerMetric", "WordErrors", "english_normalizer", "word_errors"]

Unit = Literal["word", "character"]

NO_WORDS = "the reference text has no words"
"""Why a text cannot be compared with, as results say it."""


@dataclass(frozen=True)
class WordErrors:
    """Substituted, deleted and inserted words (or characters), and those of the reference.

    How the edits divide is that of one of several shortest alignments, so it takes no part in comparisons. `compared`
    are the reference and the hypothesis that were held against each other, with a blank between two words.
    """

    edits: int
    words: int
    substitutions: int = field(default=0, compare=False, repr=False)
    deletions: int = field(default=0, compare=False, repr=False)
    insertions: int = field(default=0, compare=False, repr=False)
    compared: tuple[str, str] = field(default=("", ""), compare=False, repr=False)

    @property
    def rate(self) -> float:
        """Edits over words, as a fraction; more than 1 if much was inserted."""
        return self.edits / self.words


def word_errors(reference: str, hypothesis: str, normalize: Normalizer, unit: Unit = "word") -> WordErrors:
    """Count the errors of `hypothesis` against `reference`, both normalised.

    Characters are counted without white space, which recognisers of unspaced scripts put as they like.

    Raises:
        MetricError: nothing of the reference is left after normalisation.
        UserError: the package jiwer is not installed.

    >>> word_errors("the cat sat", "the hat sat down", str.lower)
    WordErrors(edits=2, words=3)
    >>> word_errors("cat", "hats", str.lower, "character")
    WordErrors(edits=2, words=3)
    """
    jiwer = require("jiwer", "eval")
    expected, heard = normalize(reference).split(), normalize(hypothesis).split()
    if not expected:
        raise MetricError(NO_WORDS)
    if unit == "character":
        expected, heard = list("".join(expected)), list("".join(heard))
    compared = " ".join(expected), " ".join(heard)
    found = jiwer.process_words([compared[0]], [compared[1]])
    parts = found.substitutions, found.deletions, found.insertions
    return WordErrors(sum(parts), found.substitutions + found.deletions + found.hits, *parts, compared)


class WerMetric(Metric):
    """Error rate of a corpus and the mean of its utterances' rates, as fractions.

    `compute` gives `{"WER": total edits / total words, "WER_mean": mean of rates, "WER_failed": count}`.
    """

    full_state_update = False
    higher_is_better = False
    unit: Unit = "word"
    quantity = "WER"
    edits: Tensor
    words: Tensor
    rates: Tensor
    count: Tensor
    failed: Tensor

    def __init__(self, rules: str = "whisper-english", language: str = "en") -> None:
        """Take text in `language`, normalised by the `rules` of `metis_lightning.metrics.text.NORMALIZERS`."""
        super().__init__()
        self.rules, self.language = rules, language
        self._normalize = normalizer(rules, language)
        for name in ("edits", "words", "count", "failed"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("rates", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, *, hypotheses: Sequence[str], references: Sequence[str]) -> None:
        """Add one utterance for each pair of a hypothesis and a reference."""
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            self._add(hypothesis, reference)

    def _add(self, hypothesis: str, reference: str) -> None:
        try:
            errors = word_errors(reference, hypothesis, self._normalize, self.unit)
        except MetricError:
            self.failed += 1
            return
        self.edits += errors.edits
        self.words += errors.words
        self.rates += errors.rate
        self.count += 1

    def compute(self) -> dict[str, Tensor]:
        """Return the two rates and the number of utterances without a reference; NaN when there are no words."""
        rates = {"": self.edits / self.words, "_mean": self.rates / self.count, "_failed": self.failed}
        return {f"{self.quantity}{suffix}": value for suffix, value in rates.items()}


class CerMetric(WerMetric):
    """As `WerMetric`, by characters: CER, CER_mean, CER_failed."""

    unit: Unit = "character"
    quantity = "CER"
