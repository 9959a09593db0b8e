"""WER: word errors between a transcript and what a recogniser heard."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from metis_lightning.metrics.errors import MetricError
from metis_lightning.metrics.packages import require

NORMALIZER = "whisper_normalizer.english.EnglishTextNormalizer; tokens without a letter or digit dropped"
"""What both texts go through before words are compared, for the fingerprint."""

Normalizer = Callable[[str], str]


@dataclass(frozen=True)
class WordErrors:
    """Substituted, deleted and inserted words, and the words of the reference."""

    edits: int
    words: int

    @property
    def rate(self) -> float:
        """Edits over words, as a fraction; more than 1 if much was inserted."""
        return self.edits / self.words


def english_normalizer() -> Normalizer:
    """Return Whisper's English normaliser: case, punctuation, contractions, numerals, British spellings, fillers.

    Raises:
        UserError: the package whisper-normalizer is not installed.
    """
    whisper = require("whisper_normalizer.english", "eval").EnglishTextNormalizer()

    def normalize(text: str) -> str:
        # Of an ellipsis it leaves one dot, which would count as a word.
        return " ".join(token for token in whisper(text).split() if any(map(str.isalnum, token)))

    return normalize


def word_errors(reference: str, hypothesis: str, normalize: Normalizer) -> WordErrors:
    """Count the errors of `hypothesis` against `reference`, both normalised.

    Raises:
        MetricError: nothing of the reference is left after normalisation.
        UserError: the package jiwer is not installed.

    >>> word_errors("the cat sat", "the hat sat down", str.lower)
    WordErrors(edits=2, words=3)
    """
    jiwer = require("jiwer", "eval")
    expected, heard = normalize(reference), normalize(hypothesis)
    if not expected.split():
        raise MetricError("the reference text has no words")
    counts = jiwer.process_words([expected], [heard])
    edits = counts.substitutions + counts.deletions + counts.insertions
    return WordErrors(edits, counts.substitutions + counts.deletions + counts.hits)


class WerMetric(Metric):
    """Word error rate of a corpus and the mean of its utterances' rates, as fractions.

    `compute` gives `{"WER": total edits / total words, "WER_mean": mean of rates, "WER_failed": count}`.
    """

    full_state_update = False
    higher_is_better = False
    edits: Tensor
    words: Tensor
    rates: Tensor
    count: Tensor
    failed: Tensor

    def __init__(self) -> None:
        """Take English text."""
        super().__init__()
        self._normalize = english_normalizer()
        for name in ("edits", "words", "count", "failed"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("rates", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, *, hypotheses: Sequence[str], references: Sequence[str]) -> None:
        """Add one utterance for each pair of a hypothesis and a reference."""
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            self._add(hypothesis, reference)

    def _add(self, hypothesis: str, reference: str) -> None:
        try:
            errors = word_errors(reference, hypothesis, self._normalize)
        except MetricError:
            self.failed += 1
            return
        self.edits += errors.edits
        self.words += errors.words
        self.rates += errors.rate
        self.count += 1

    def compute(self) -> dict[str, Tensor]:
        """Return the two rates and the number of utterances without a reference; NaN when there are no words."""
        return {"WER": self.edits / self.words, "WER_mean": self.rates / self.count, "WER_failed": self.failed}
