"""Word and character errors of one utterance by the recogniser of its language."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from metis_lightning.metrics.metric import CerValue, MetricError, MetricValue, WerValue
from metis_lightning.metrics.packages import require
from metis_lightning.metrics.recognizers.base import AsrBackend
from metis_lightning.metrics.recognizers.choice import Recognizers
from metis_lightning.metrics.signal import with_sound
from metis_lightning.metrics.text import Normalizer, normalizer, simplified
from metis_lightning.metrics.wer import WordErrors, loop_in, word_errors

NO_TEXT = "no reference text"
"""Why there are no word errors, as results say it."""

Recorded = Callable[[], np.ndarray]
"""Gives the samples (S,) at 16 kHz of a recording that says the text, or raises `MetricError`."""


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
        self._simplifies = rules == "seed-tts"
        if self._simplifies and recognizers.is_kept_for("zh"):
            require("zhconv", "zh")
        self._transcripts: dict[str, str] = {}

    def column(self, language: str) -> str | None:
        """Return the column of the word error rate for a language, None if word errors are left out."""
        if not self.recognizers:
            return None
        return f"WER_{(self.recognizers.of(language) or self.recognizers.first).name}"

    def score(self, wave: Recorded, text: str | Recorded | None, language: str) -> dict[str, MetricValue]:
        """Return WER_… and CER_…, or WER_asr_… and CER_asr_… against what is heard in a recording of the text.

        Of what cannot be heard all words are deleted, with the reason beside it. Null, with the reason, they are only
        where the text is not known or nothing knows its language.

        Args:
            wave: gives (S,) samples at 16 kHz, or raises `MetricError`.
            text: what should be heard, or a recording of it.
            language: of the text, ISO 639-1.
        """
        name = self.column(language)
        if name is None:
            return {}
        words, characters = self._rates(wave, text, language)
        source = "_asr" if callable(text) else ""
        model = name.removeprefix("WER")
        return {f"WER{source}{model}": words, f"CER{source}{model}": characters}

    def _rates(self, wave: Recorded, text: str | Recorded | None, language: str) -> tuple[WerValue, CerValue]:
        transcript = None
        try:
            if text is None:
                raise MetricError(NO_TEXT)
            recognizer, normalize = self.recognizers.require(language), self._normalizer(language)
            if callable(text):
                text = transcript = self._heard(recognizer, text(), language, is_text=True)
            words, characters = (word_errors(text, "", normalize, unit) for unit in ("word", "character"))
        except MetricError as error:
            return WerValue(None, str(error)), CerValue(None, str(error))
        try:
            hypothesis = self._heard(recognizer, wave(), language)
        except MetricError as error:
            deleted = replace(_word_rate(words, str(error)), reference=transcript)
            return deleted, CerValue(*_rate(characters, str(error)))
        words, characters = (word_errors(text, hypothesis, normalize, unit) for unit in ("word", "character"))
        said, heard = words.compared
        loop = loop_in(heard, said) if self.caps_loops else None
        rate = replace(_word_rate(words, loop, loop is not None, hypothesis), reference=transcript)
        return rate, CerValue(*_rate(characters, loop, loop is not None))

    def _heard(self, recognizer: AsrBackend, wave: np.ndarray, language: str, is_text: bool = False) -> str:
        """Return what is heard; of a recording of the text it is kept, since every system meets the same ones."""
        samples = with_sound(wave)
        key = f"{language} {hashlib.sha256(samples.tobytes()).hexdigest()}" if is_text else ""
        if key in self._transcripts:
            return self._transcripts[key]
        heard = recognizer.transcribe(samples, language)
        # As Seed-TTS-eval does with every hypothesis: Whisper writes either kind of characters.
        heard = simplified(heard) if self._simplifies and language == "zh" else heard
        if is_text:
            self._transcripts[key] = heard
        return heard


def _word_rate(errors: WordErrors, error: str | None, is_loop: bool = False, hypothesis: str | None = None) -> WerValue:
    return WerValue(*_rate(errors, error, is_loop), hypothesis, errors.compared)


def _rate(
    errors: WordErrors, error: str | None, is_loop: bool = False
) -> tuple[float, str | None, int, int, int, int, int, bool]:
    """Return the fields of an `ErrorRate`; a loop has no more edits than the reference has words."""
    edits = min(errors.edits, errors.words) if is_loop else errors.edits
    divided = errors.substitutions, errors.deletions, errors.insertions
    return edits / errors.words, error, edits, errors.words, *divided, is_loop
