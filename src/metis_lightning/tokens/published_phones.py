"""Phones numbered as the released TTS and Omni weights learnt them: by the vocabulary of MaskGCT's G2P (2409.00750).

That file, `vocab.json`, is `{"vocab": {phone: id}}`, 363 phones of six languages. Its G2P reads English, German and
French by eSpeak, as is done here, and Chinese, Japanese and Korean by readers of its own, which are not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.safe_parsing import load_json
from metis_lightning.tokens.phonemes import MASKGCT_PHONES, TextFrontEnd, espeak_backend

_VOICES = {"en": "en-us", "de": "de", "fr": "fr-fr"}
_PHONE, _WORD = "|", "_"
_MARKS = ",.?!;:'…"
_LARGEST_ID = 1022  # 1024 rows, of which the last is for padding

# What the released G2P makes of eSpeak's American English: neighbours that are one phone of the vocabulary, and phones
# that it does not have.
_ENGLISH_PAIRS = ("t|ɹ", "d|ɹ", "t|s", "d|z", "ɪ|ɹ", "oː|ɹ")
_ENGLISH_PHONES = {"ɐ": "ɚ", "ᵻ": "ɪ", "əl": "l", "x": "k", "ɬ": "l", "ʔ": "t", "n̩": "n"}


class PublishedPhones(TextFrontEnd):
    """Phones of English, German and French by eSpeak, numbered by a vocabulary; there are no language tags.

    Numbers and abbreviations are read as eSpeak reads them; the released G2P spells them out in English first.

    Args:
        vocabulary: phone to id.

    Raises:
        UserError: if the extra `text` is not installed.
    """

    name = MASKGCT_PHONES

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        super().__init__()
        espeak_backend()
        self.vocabulary = dict(vocabulary)

    @classmethod
    def read(cls, path: Path) -> PublishedPhones:
        """Read the vocabulary file.

        Raises:
            UserError: if it is missing or another kind of file.
        """
        try:
            vocabulary = load_json(path.read_bytes())["vocab"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f'{path}: not a phone vocabulary, {{"vocab": {{phone: id}}}} ({error!r})') from error
        if not isinstance(vocabulary, dict) or not vocabulary or not all(map(_is_id, vocabulary.values())):
            raise UserError(f"{path}: 'vocab' must give each phone a whole number from 0 to {_LARGEST_ID}")
        return cls(vocabulary)

    def __call__(self, *parts: tuple[str, str]) -> list[int]:
        """Return the ids of (text, language) pairs one after another, each read by itself, as the released script does.

        Raises:
            UserError: if a language is not one of this front end's.
        """
        return [identifier for text, language in parts for identifier in self._cached(text, language)]

    def _tagged(self, text: str, language: str) -> tuple[int, ...]:
        if language not in _VOICES:
            raise UserError(
                f"text in the language {language!r}: by a phone vocabulary {', '.join(_VOICES)} can be read; others "
                "need the G2P of MaskGCT itself, whose ids Request.phones takes"
            )
        return tuple(self.symbols(text, language))

    def languages(self) -> Sequence[str]:
        """Return the languages that the released G2P reads by eSpeak."""
        return tuple(_VOICES)

    def symbols(self, text: str, language: str) -> list[int]:
        """Return the ids of a text's phones; those that the vocabulary lacks are left out, as in the released code."""
        return [self.vocabulary[phone] for phone in self._phones(text, language) if phone in self.vocabulary]

    def readable(self, ids: Sequence[int]) -> str:
        """Return the phones, with spaces between words."""
        phones = {identifier: phone for phone, identifier in self.vocabulary.items()}
        return "".join(phones.get(identifier, "\N{REPLACEMENT CHARACTER}") for identifier in ids).replace(_WORD, " ")

    def _phones(self, text: str, language: str) -> list[str]:
        from phonemizer.separator import Separator

        separator = Separator(phone=_PHONE, word=f"{_PHONE}{_WORD}{_PHONE}")
        spoken = "".join(_backend(_VOICES[language]).phonemize([_plain(text)], separator=separator, strip=True))
        # A mark is a phone of its own.
        spaced = re.sub(f"([{re.escape(_MARKS)}])", rf"{_PHONE}\1{_PHONE}", spoken)
        phones = [phone for phone in spaced.split(_PHONE) if phone.strip()]
        return _american(phones) if language == "en" else phones


def _plain(text: str) -> str:
    """Return a text with the marks that the vocabulary has, set close, and without any others."""
    text = text.replace("...", "…").replace("’", "'")
    text = re.sub(rf"[^\w\s{re.escape(_MARKS)}]", "", text)
    return re.sub(rf"\s*([{re.escape(_MARKS)}])\s*", r"\1", text).strip()


def _american(phones: Sequence[str]) -> list[str]:
    """Return English phones as the vocabulary has them; a text that ends with a word ends with its boundary."""
    merged: list[str] = []
    for phone in (_ENGLISH_PHONES.get(phone, phone) for phone in phones):
        if merged and f"{merged[-1]}{_PHONE}{phone}" in _ENGLISH_PAIRS:
            merged[-1] += phone
        else:
            merged.append(phone)
    return merged + [_WORD] if merged and merged[-1] not in _MARKS else merged


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST_ID


# A backend takes 0.6 s to make and is never freed, so one a voice is kept.
@lru_cache(None)
def _backend(code: str) -> Any:  # noqa: ANN401  phonemizer has no types
    return espeak_backend()(code, punctuation_marks=_MARKS, preserve_punctuation=True, language_switch="remove-flags")
