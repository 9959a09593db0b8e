"""Word and character errors of one utterance by the recogniser of its language."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np

from metis_lightning.metrics.errors import MetricError
from metis_lightning.metrics.loops import loop_in
from metis_lightning.metrics.recognizers import Recognizers
from metis_lightning.metrics.signal import with_sound
from metis_lightning.metrics.text import Normalizer, normalizer
from metis_lightning.metrics.values import CerValue, MetricValue, WerValue
from metis_lightning.metrics.wer import WordErrors, word_errors

NO_TEXT = "no reference text"
"""Why there are no word errors, as results say it."""


class WordScores:
    """Recognisers with the rules for their texts."""

    def __init__(self, recognizers: Recognizers, rules: str, caps_loops: bool) -> None:
        """Keep the recognisers.

        Args:
            recognizers: in order of preference.
            rules: one of `metis_lightning.metrics.text.NORMALIZERS`.
            caps_loops: whether a loop of the recogniser counts as 100% at most; else as all that was heard.

        Raises:
            UserError: there are no such rules, or their package is missing.
        """
        self.recognizers, self.rules, self.caps_loops = recognizers, rules, caps_loops
        # Made once a language: building Whisper's takes longer than using it.
        self._normalizer: Callable[[str], Normalizer] = cache(lambda language: normalizer(rules, language))
        self._normalizer("en")

    def column(self, language: str) -> str | None:
        """Return the column of the word error rate for a language, None if word errors are left out."""
        if not self.recognizers:
            return None
        return f"WER_{(self.recognizers.of(language) or self.recognizers.first).name}"

    def score(self, wave: Callable[[], np.ndarray], text: str | None, language: str) -> dict[str, MetricValue]:
        """Return WER_… and CER_…; of what cannot be heard all words are deleted, with the reason beside it.

        Null, with the reason, they are only where the text is not known or nothing knows its language.

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
        try:
            if text is None:
                raise MetricError(NO_TEXT)
            recognizer, normalize = self.recognizers.require(language), self._normalizer(language)
            words, characters = (word_errors(text, "", normalize, unit) for unit in ("word", "character"))
        except MetricError as error:
            return WerValue(None, str(error)), CerValue(None, str(error))
        try:
            hypothesis = recognizer.transcribe(with_sound(wave()), language)
        except MetricError as error:
            return _word_rate(words, str(error)), CerValue(*_rate(characters, str(error)))
        words, characters = (word_errors(text, hypothesis, normalize, unit) for unit in ("word", "character"))
        said, heard = words.compared
        loop = loop_in(heard, said) if self.caps_loops else None
        return _word_rate(words, loop, loop is not None, hypothesis), CerValue(
            *_rate(characters, loop, loop is not None)
        )


def _word_rate(errors: WordErrors, error: str | None, is_loop: bool = False, hypothesis: str | None = None) -> WerValue:
    return WerValue(*_rate(errors, error, is_loop), hypothesis, errors.compared)


def _rate(
    errors: WordErrors, error: str | None, is_loop: bool = False
) -> tuple[float, str | None, int, int, int, int, int, bool]:
    """Return the fields of an `ErrorRate`; a loop has no more edits than the reference has words."""
    edits = min(errors.edits, errors.words) if is_loop else errors.edits
    divided = errors.substitutions, errors.deletions, errors.insertions
    return edits / errors.words, error, edits, errors.words, *divided, is_loop
