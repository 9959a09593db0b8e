"""Text front ends: from text to the ids that stand before the tokens, and back to something readable.

Every front end's ids stay below 1024, the rows of the published phone embedding. Its name goes into what is trained
with it and is compared at loading: the same id means another sound to another front end.

The released models number their phones by the vocabulary of their own G2P (`MaskgctPhones`); the others' numbering is
ours, so a run that starts from the released TTS or Omni weights has to learn the phone embedding anew.
Shape letters: B batch, P phones.
"""

from __future__ import annotations

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.texts import clean_text

PADDING = -1
UNKNOWN = 0

LANGUAGES = ("en", "zh", "de", "fr", "ja", "ko", "it", "ru")
"""The six languages of the paper and the starter corpus's other two; the tag of the n-th is the id n + 1."""

_FIRST_SYMBOL = 16
_CACHED_TEXTS = 65_536


class TextFrontEnd(ABC):
    """Turns text into ids: a language tag, then the text's symbols. The results of recent texts are kept."""

    name: str
    """Under which a trained part records its front end."""

    def __init__(self) -> None:
        self._cached = lru_cache(_CACHED_TEXTS)(self._tagged)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for another process, without the cache."""
        return {key: value for key, value in self.__dict__.items() if key != "_cached"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._cached = lru_cache(_CACHED_TEXTS)(self._tagged)

    def __call__(self, *parts: tuple[str, str]) -> list[int]:
        """Return the ids of (text, language) pairs that are spoken one after another, such as prompt and target.

        Neighbours of one language are joined first, so that they look like the one utterance of training.

        Raises:
            UserError: if a language is not one of this front end's.
        """
        joined: list[tuple[str, str]] = []
        for text, language in parts:
            if joined and joined[-1][1] == language:
                text = f"{joined.pop()[0]} {text}"
            joined.append((text, language))
        return [identifier for text, language in joined for identifier in self._cached(text, language)]

    def _tagged(self, text: str, language: str) -> tuple[int, ...]:
        if language not in self.languages():
            raise UserError(
                f"text in the language {language!r}: the front end {self.name!r} knows {', '.join(self.languages())}"
            )
        # Full-width letters and ligatures are read as what they stand for, decomposed ones as one.
        plain = unicodedata.normalize("NFKC", clean_text(text))
        return (1 + LANGUAGES.index(language), *self.symbols(" ".join(plain.split()), language))

    @abstractmethod
    def languages(self) -> Sequence[str]:
        """Return the languages of `LANGUAGES` that can be read."""

    @abstractmethod
    def symbols(self, text: str, language: str) -> list[int]:
        """Return the ids of a text without its tag."""

    @abstractmethod
    def readable(self, ids: Sequence[int]) -> str:
        """Return what ids stand for, without tags."""


class Utf8Bytes(TextFrontEnd):
    """The bytes of the text in lower case: no phones, but every script, and nothing to install."""

    name = "utf8"

    def languages(self) -> Sequence[str]:
        """Return all languages."""
        return LANGUAGES

    def symbols(self, text: str, language: str) -> list[int]:
        """Return an id for each byte."""
        return [_FIRST_SYMBOL + byte for byte in text.lower().encode()]

    def readable(self, ids: Sequence[int]) -> str:
        """Return the text in lower case."""
        return bytes(i - _FIRST_SYMBOL for i in ids if i >= _FIRST_SYMBOL).decode(errors="replace")


class EspeakPhones(TextFrontEnd):
    """International phonetic alphabet by eSpeak NG, with stress, length, tone digits and punctuation, a sign an id.

    Signs, not phones: their set is closed whatever the language. Japanese is left out, whose characters eSpeak does
    not read; the released code has readers of its own for Chinese, Japanese and Korean.

    Raises:
        UserError: if the extra `text` is not installed.
    """

    name = "espeak"

    def __init__(self) -> None:
        super().__init__()
        espeak_backend()

    def languages(self) -> Sequence[str]:
        """Return the languages that eSpeak reads."""
        return tuple(_VOICES)

    def symbols(self, text: str, language: str) -> list[int]:
        """Return an id for each sign of the transcription; signs outside the alphabet become `UNKNOWN`."""
        # The backend leaves empty lines out.
        spoken = "".join(_voice(_VOICES[language]).phonemize([text], strip=True))
        table = _sign_table()
        return [table.get(sign, UNKNOWN) for sign in unicodedata.normalize("NFD", spoken)]

    def readable(self, ids: Sequence[int]) -> str:
        """Return the transcription."""
        signs = {identifier: sign for sign, identifier in _sign_table().items()}
        text = "".join(signs.get(i, "\N{REPLACEMENT CHARACTER}") for i in ids if i == UNKNOWN or i >= _FIRST_SYMBOL)
        return unicodedata.normalize("NFC", text)


MASKGCT_PHONES = "maskgct"
"""The name, in imported weights, of the phones of MaskGCT's G2P."""


class MaskgctPhones(TextFrontEnd):
    """The phones of the released TTS and Omni weights, whose texts this project does not read.

    They are numbered by the vocabulary of MaskGCT's G2P, a set of readers by language. A `Request` takes the ids that
    it gives; all that needs no text works without.
    """

    name = MASKGCT_PHONES

    def languages(self) -> Sequence[str]:
        """Return the six languages of the released models."""
        return LANGUAGES[:6]

    def symbols(self, text: str, language: str) -> list[int]:
        """Raise a `UserError`: only MaskGCT's own G2P reads text as these weights learnt it."""
        raise UserError(
            f"the text {text!r}: these weights number phones by the vocabulary of MaskGCT's G2P, which is not part of "
            "this project; give its vocab.json with --phone-vocabulary, or the ids that it returns in Request.phones"
        )

    def readable(self, ids: Sequence[int]) -> str:
        """Return the numbers."""
        return " ".join(map(str, ids))


def text_front_end(name: str) -> TextFrontEnd:
    """Return a front end by its name.

    Raises:
        UserError: if there is none of this name, or what it needs is not installed.
    """
    kinds: tuple[type[TextFrontEnd], ...] = (Utf8Bytes, EspeakPhones, MaskgctPhones)
    for kind in kinds:
        if kind.name == name:
            return kind()
    raise UserError(f"text front end {name!r}: choose {Utf8Bytes.name!r} or {EspeakPhones.name!r}")


def spoken_seconds(text: str, prompt_text: str, prompt_seconds: float) -> float:
    """Return how long a text takes at a prompt's speaking rate: the ratio of the texts' bytes in UTF-8.

    The released script's rule, which counts the prompt in frames and rounds down. The prompt's text must not be empty.

    >>> spoken_seconds("twice as long", "length", 3.0)
    6.5
    """
    return prompt_seconds * len(text.strip().encode()) / len(prompt_text.strip().encode())


def stack_phones(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor | None:
    """Return ids (B, P), padding at the start; None if every row is empty.

    At the start, so that a row's phones stand directly before its tokens whatever else is in the batch.

    >>> stack_phones([[5], [6, 7]])
    tensor([[-1,  5],
            [ 6,  7]])
    """
    longest = max(map(len, rows), default=0)
    if longest == 0:
        return None
    return torch.tensor([[PADDING] * (longest - len(row)) + list(row) for row in rows], device=device)


_VOICES = {"en": "en-us", "zh": "cmn", "de": "de", "fr": "fr-fr", "ko": "ko", "it": "it", "ru": "ru"}

# Unicode blocks that hold all of the phonetic alphabet: ASCII, Latin with diacritics, IPA letters, modifiers, combining
# marks and Greek, phonetic extensions, punctuation. Their size leaves the ids below 1024.
_BLOCKS = ((0x20, 0x7F), (0xA0, 0x180), (0x250, 0x400), (0x1D00, 0x1D80), (0x2010, 0x2060))


@lru_cache(1)
def _sign_table() -> dict[str, int]:
    """Return sign to id."""
    signs = (chr(code) for start, stop in _BLOCKS for code in range(start, stop))
    return {sign: _FIRST_SYMBOL + index for index, sign in enumerate(signs)}


@lru_cache(1)
def espeak_backend() -> type[Any]:
    """Return phonemizer's eSpeak backend, set to the library that espeakng-loader carries.

    Raises:
        UserError: if the extra `text` is not installed.
    """
    try:
        import espeakng_loader
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper
    except ImportError as error:
        raise UserError(
            f"the text front end 'espeak' needs the extra 'text': pip install 'metis-lightning[text]' ({error})"
        ) from error
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    return EspeakBackend


# A backend takes 0.6 s to make and is never freed, so one a voice is kept.
@lru_cache(None)
def _voice(code: str) -> Any:  # noqa: ANN401  phonemizer has no types
    return espeak_backend()(code, preserve_punctuation=True, with_stress=True, language_switch="remove-flags")
