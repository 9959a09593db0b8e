"""Normalisers of texts: a word or character error rate means nothing without the name of its own."""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Callable

from metis_lightning.errors import UserError
from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.model_files import require
from metis_lightning.texts import clean_text, unify_apostrophes

Normalizer = Callable[[str], str]

# Languages without blanks between words, which Whisper's evaluation splits into letters (Radford et al., Robust Speech
# Recognition via Large-Scale Weak Supervision, 2022, appendix C).
_UNSPACED = ("zh", "ja", "th", "lo", "my")

NORMALIZERS = {
    "whisper": (
        "whisper_normalizer.english.EnglishTextNormalizer for en, else whisper_normalizer.basic.BasicTextNormalizer, "
        f"letters split for {', '.join(_UNSPACED)}; tokens without a letter or digit dropped"
    ),
    "whisper-english": "whisper_normalizer.english.EnglishTextNormalizer; tokens without a letter or digit dropped",
    "seed-tts": "as seed-tts-eval 752f429: punctuation but the apostrophe removed; en in lower case, zh by characters",
    "none": "none: words are what white space separates",
}
"""What each normaliser does, for the fingerprint."""

# Beyond ASCII, seed-tts-eval removes the Chinese punctuation that the package zhon lists. Unicode's punctuation classes
# have all of that and more, but for these full-width signs, which are symbols to Unicode, and the ideographic space.
_SYMBOLS = string.punctuation + "＄＋＜＝＞＾｀｜～〾〿\u3000"


def normalizer(name: str, language: str) -> Normalizer:
    """Return a normaliser by its name in `NORMALIZERS`. A `MetricError` if it has no rules for the language."""
    if name == "none":
        return clean_text
    if name == "whisper-english" and language != "en":
        raise MetricError(f"the normaliser whisper-english has no rules for the language '{language}'")
    if name in ("whisper", "whisper-english"):
        return whisper_normalizer(language)
    if name == "seed-tts":
        return seed_tts_normalizer(language)
    raise UserError(f"unknown normaliser '{name}': choose from {', '.join(NORMALIZERS)}")


def whisper_normalizer(language: str) -> Normalizer:
    """Return Whisper's rules: of English case, punctuation, contractions, numerals, British spellings and fillers.

    Of other languages case, punctuation and what stands in brackets; "2" and a word for it are two words there.
    """
    if language == "en":
        whisper = require("whisper_normalizer.english", "eval").EnglishTextNormalizer()
    else:
        whisper = require("whisper_normalizer.basic", "eval").BasicTextNormalizer(split_letters=language in _UNSPACED)

    def normalize(text: str) -> str:
        tokens = whisper(unify_apostrophes(clean_text(text))).split()
        # Of an ellipsis it leaves one dot, which would count as a word.
        return " ".join(token for token in tokens if any(map(str.isalnum, token)))

    return normalize


def seed_tts_normalizer(language: str) -> Normalizer:
    """Return the rules of the Seed-TTS evaluation: nothing is forgiven but case and punctuation.

    Punctuation is deleted; Chinese is split into characters, and Latin letters there keep their case. Two deviations: a
    blank that punctuation leaves is no empty word at either end, nor between Chinese characters; and a typographic
    apostrophe counts as the plain one. A `MetricError` if the language is neither English nor Chinese.

    >>> seed_tts_normalizer("en")("Well - it's twenty-one, isn't it?")
    "well it's twentyone isn't it"
    >>> seed_tts_normalizer("zh")("你好，世界！")
    '你 好 世 界'
    """
    if language not in ("en", "zh"):
        raise MetricError(f"the Seed-TTS rules are for en and zh; the language is '{language}'")

    def normalize(text: str) -> str:
        text = unify_apostrophes(clean_text(text))
        # An apostrophe is a part of its word.
        kept = (sign for sign in text if sign == "'" or unicodedata.category(sign)[0] != "P" and sign not in _SYMBOLS)
        words = "".join(kept).split()
        return " ".join(words).lower() if language == "en" else " ".join("".join(words))

    return normalize
