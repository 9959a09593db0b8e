"""Word and character errors of one utterance by the recogniser of its language."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from metis_lightning.metrics.errors import MetricError
from metis_lightning.metrics.loops import require_no_loop
from metis_lightning.metrics.recognizers import Recognizers
from metis_lightning.metrics.text import Normalizer, normalizer
from metis_lightning.metrics.values import CerValue, MetricValue, WerValue
from metis_lightning.metrics.wer import word_errors


class WordScores:
    """Recognisers with the rules for their texts."""

    def __init__(self, recognizers: Recognizers, rules: str) -> None:
        """Keep the recognisers; `rules` is one of `metis_lightning.metrics.text.NORMALIZERS`.

        Raises:
            UserError: there are no such rules, or their package is missing.
        """
        self.recognizers, self.rules = recognizers, rules
        # Made once a language: building Whisper's takes longer than using it.
        self._normalizer: Callable[[str], Normalizer] = cache(lambda language: normalizer(rules, language))
        self._normalizer("en")

    def column(self, language: str) -> str | None:
        """Return the column of the word error rate for a language, None if word errors are left out."""
        if not self.recognizers:
            return None
        return f"WER_{(self.recognizers.of(language) or self.recognizers.first).name}"

    def score(self, wave: Callable[[], np.ndarray], text: str | None, language: str) -> dict[str, MetricValue]:
        """Return WER_… and CER_…, null with the reason where there is none; what was heard is kept in either case.

        Args:
            wave: gives (S,) samples at 16 kHz, or raises `MetricError`.
            text: what should be heard.
            language: of the text, ISO 639-1.
        """
        name = self.column(language)
        if name is None:
            return {}
        words, characters = self._rates(wave, text, language)
        return {name: words, f"CER{name.removeprefix('WER')}": characters}

    def _rates(self, wave: Callable[[], np.ndarray], text: str | None, language: str) -> tuple[WerValue, CerValue]:
        hypothesis = None
        try:
            if text is None:
                raise MetricError("no reference text")
            recognizer, normalize = self.recognizers.require(language), self._normalizer(language)
            hypothesis = recognizer.transcribe(wave(), language)
            words = word_errors(text, hypothesis, normalize)
            characters = word_errors(text, hypothesis, normalize, "character")
            require_no_loop(hypothesis, text)
        except MetricError as error:
            return WerValue(None, str(error), hypothesis=hypothesis), CerValue(None, str(error))
        return (
            WerValue(words.rate, None, words.edits, words.words, hypothesis),
            CerValue(characters.rate, None, characters.edits, characters.words),
        )
