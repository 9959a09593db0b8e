"""Text front ends: from text to the ids, below 1024, that stand before the tokens.

A front end's name goes into what is trained with it and is compared at loading: the same id means another sound to
another front end. The numbering is ours but in `MaskgctPhones`, so a run from the released TTS or Omni weights by
another one learns the phone embedding anew. Shape letters: B batch, P phones.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from multiprocessing import parent_process
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.safe_parsing import load_json
from metis_lightning.texts import clean_text

PADDING = -1
UNKNOWN = 0

# The six languages of the paper and the starter corpus's other two; the tag of the n-th is the id n + 1.
LANGUAGES = ("en", "zh", "de", "fr", "ja", "ko", "it", "ru")

_FIRST_SYMBOL = 16


class TextFrontEnd(ABC):
    """Turns text into ids: a language tag, then the text's symbols. The results of recent texts are cached."""

    name: str  # under which a trained part records its front end
    languages: Sequence[str]  # those of `LANGUAGES` that can be read
    joins_neighbours = True  # whether neighbouring texts of one language are read as one, as those of training are

    def __call__(self, *parts: tuple[str, str]) -> list[int]:
        """Return the ids of (text, language) pairs that are spoken one after another, such as prompt and target.

        A `UserError` if a language is not one of this front end's.
        """
        joined: list[tuple[str, str]] = []
        for text, language in parts:
            if self.joins_neighbours and joined and joined[-1][1] == language:
                text = f"{joined.pop()[0]} {text}"
            joined.append((text, language))
        return [identifier for text, language in joined for identifier in _cached_ids(self, text, language)]

    def ids(self, text: str, language: str) -> tuple[int, ...]:
        """Return the ids of one text."""
        if language not in self.languages:
            known = ", ".join(self.languages)
            raise UserError(f"text in the language {language!r}: the front end {self.name!r} knows {known}")
        # Full-width letters and ligatures are read as what they stand for, decomposed ones as one.
        plain = unicodedata.normalize("NFKC", clean_text(text))
        return (1 + LANGUAGES.index(language), *self.symbols(" ".join(plain.split()), language))

    @abstractmethod
    def symbols(self, text: str, language: str) -> list[int]:
        """Return the ids of a text without its tag."""


# Not in the front end, which goes to other processes without what it has read.
@lru_cache(65_536)
def _cached_ids(front_end: TextFrontEnd, text: str, language: str) -> tuple[int, ...]:
    return front_end.ids(text, language)


class Utf8Bytes(TextFrontEnd):
    """The bytes of the text in lower case: no phones, but every script, and nothing to install."""

    name = "utf8"
    languages = LANGUAGES

    def symbols(self, text: str, language: str) -> list[int]:
        """Return an id for each byte."""
        return [_FIRST_SYMBOL + byte for byte in text.lower().encode()]


_VOICES = {"en": "en-us", "zh": "cmn", "de": "de", "fr": "fr-fr", "ko": "ko", "it": "it", "ru": "ru"}


@lru_cache(1)
def espeak_backend() -> type[Any]:
    """Return phonemizer's eSpeak backend, set to the library that espeakng-loader carries."""
    try:
        import espeakng_loader
        from phonemizer.backend import EspeakBackend
        from phonemizer.backend.espeak.wrapper import EspeakWrapper
    except ImportError as error:
        advice = "pip install 'metis-lightning[text]'"
        raise UserError(f"the text front end 'espeak' needs the extra 'text': {advice} ({error})") from error
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(espeakng_loader.get_data_path())
    return EspeakBackend


# A backend takes 0.6 s to make and is never freed, so they are shared.
@lru_cache(None)
def _voice(language: str, **settings: Any) -> Any:  # noqa: ANN401  phonemizer has no types
    with _kept_until_the_end():
        return espeak_backend()(
            _VOICES[language], preserve_punctuation=True, language_switch="remove-flags", **settings
        )


@contextmanager
def _kept_until_the_end() -> Iterator[None]:
    """Within the block, temporary files are made where a child process, such as a loader's worker, removes them.

    A backend copies eSpeak's library and removes it when Python ends, which a child does without such clean-up.
    """
    if parent_process() is None:
        yield
        return
    folder, before = tempfile.mkdtemp(), tempfile.tempdir
    Finalize(None, shutil.rmtree, (folder, True), exitpriority=0)
    tempfile.tempdir = folder
    try:
        yield
    finally:
        tempfile.tempdir = before


# Unicode blocks that hold all of the phonetic alphabet: ASCII, Latin with diacritics, IPA letters, modifiers, combining
# marks and Greek, phonetic extensions, punctuation. Their size leaves the ids below 1024.
_BLOCKS = ((0x20, 0x7F), (0xA0, 0x180), (0x250, 0x400), (0x1D00, 0x1D80), (0x2010, 0x2060))


@lru_cache(1)
def sign_ids() -> dict[str, int]:
    """Return the ids of the phonetic signs."""
    signs = (chr(code) for start, stop in _BLOCKS for code in range(start, stop))
    return {sign: _FIRST_SYMBOL + index for index, sign in enumerate(signs)}


class EspeakPhones(TextFrontEnd):
    """International phonetic alphabet by eSpeak NG, with stress, length, tone digits and punctuation, a sign an id.

    Signs, not phones: their set is closed whatever the language. eSpeak does not read Japanese. Needs the extra `text`.
    """

    name = "espeak"
    languages = tuple(_VOICES)

    def symbols(self, text: str, language: str) -> list[int]:
        """Return an id for each sign of the transcription; signs outside the alphabet become `UNKNOWN`."""
        # The backend leaves empty lines out.
        spoken = "".join(_voice(language, with_stress=True).phonemize([text], strip=True))
        table = sign_ids()
        return [table.get(sign, UNKNOWN) for sign in unicodedata.normalize("NFD", spoken)]


# The name, in imported weights, of the phones of MaskGCT's G2P.
MASKGCT_PHONES = "maskgct"

_PHONE, _WORD = "|", "_"
_MARKS = ",.?!;:'…"
_LARGEST_ID = 1022  # 1024 rows, of which the last is for padding

# What the released G2P makes of eSpeak's American English: neighbours that are one phone of the vocabulary, and phones
# that it does not have.
_ENGLISH_PAIRS = ("t|ɹ", "d|ɹ", "t|s", "d|z", "ɪ|ɹ", "oː|ɹ")
_ENGLISH_PHONES = {"ɐ": "ɚ", "ᵻ": "ɪ", "əl": "l", "x": "k", "ɬ": "l", "ʔ": "t", "n̩": "n"}


class MaskgctPhones(TextFrontEnd):
    """Phones as the released TTS and Omni weights number them: by the vocabulary of MaskGCT's G2P, without tags.

    That G2P reads English, German and French by eSpeak, as is done here (though it first spells numbers and
    abbreviations out in English), and Chinese, Japanese and Korean by readers of its own, which are not here. Without
    a `vocabulary`, phone to id, which takes the extra `text`, no text can be read, but ids given as `Request.phones`.
    """

    name = MASKGCT_PHONES
    # As in the released script.
    joins_neighbours = False

    def __init__(self, vocabulary: Mapping[str, int] | None = None) -> None:
        self.vocabulary = vocabulary
        self.languages = LANGUAGES[:6] if vocabulary is None else ("en", "de", "fr")
        if vocabulary is not None:
            espeak_backend()

    @classmethod
    def read(cls, path: Path) -> MaskgctPhones:
        """Read `vocab.json`, `{"vocab": {phone: id}}` with 363 phones; a `UserError` if it is no such file."""
        try:
            vocabulary = load_json(path.read_bytes())["vocab"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f'{path}: not a phone vocabulary, {{"vocab": {{phone: id}}}} ({error!r})') from error
        ids = vocabulary.values() if isinstance(vocabulary, dict) else ()
        # By type, since True is an int.
        if not ids or not all(type(value) is int and 0 <= value <= _LARGEST_ID for value in ids):
            raise UserError(f"{path}: 'vocab' must give each phone a whole number from 0 to {_LARGEST_ID}")
        return cls(vocabulary)

    def ids(self, text: str, language: str) -> tuple[int, ...]:
        """Return the ids of one text, which has no tag."""
        if self.vocabulary is None:
            raise UserError(
                f"the text {text!r}: these weights number phones by the vocabulary of MaskGCT's G2P, which is not part "
                "of this project; give its vocab.json as --phone-vocabulary, or the ids of that G2P in Request.phones"
            )
        if language not in self.languages:
            raise UserError(
                f"text in the language {language!r}: by a phone vocabulary {', '.join(self.languages)} can be read; "
                "others need the G2P of MaskGCT itself, whose ids Request.phones takes"
            )
        return tuple(self.symbols(text, language))

    def symbols(self, text: str, language: str) -> list[int]:
        """Return the ids of a text's phones; those that the vocabulary lacks are left out, as in the released code."""
        from phonemizer.separator import Separator

        # The marks that the vocabulary has are set close, others go.
        text = re.sub(rf"[^\w\s{re.escape(_MARKS)}]", "", text.replace("...", "…").replace("’", "'"))
        text = re.sub(rf"\s*([{re.escape(_MARKS)}])\s*", r"\1", text).strip()
        separator = Separator(phone=_PHONE, word=f"{_PHONE}{_WORD}{_PHONE}")
        voice = _voice(language, punctuation_marks=_MARKS)
        spoken = "".join(voice.phonemize([text], separator=separator, strip=True))
        # A mark is a phone of its own.
        spaced = re.sub(f"([{re.escape(_MARKS)}])", rf"{_PHONE}\1{_PHONE}", spoken)
        phones = [phone for phone in spaced.split(_PHONE) if phone.strip()]
        vocabulary = self.vocabulary or {}
        return [vocabulary[p] for p in (_american(phones) if language == "en" else phones) if p in vocabulary]


def _american(phones: Sequence[str]) -> list[str]:
    """Return English phones as the vocabulary has them; a text that ends with a word ends with its boundary."""
    merged: list[str] = []
    for phone in (_ENGLISH_PHONES.get(phone, phone) for phone in phones):
        if merged and f"{merged[-1]}{_PHONE}{phone}" in _ENGLISH_PAIRS:
            merged[-1] += phone
        else:
            merged.append(phone)
    return merged + [_WORD] if merged and merged[-1] not in _MARKS else merged


def text_front_end(name: str, is_needed: bool = True) -> TextFrontEnd:
    """Return a front end by its name; a `UserError` if there is none, or what it needs is not installed.

    One that is not needed for certain, as of a model that speaks texts among other tasks, says so at the first text.
    """
    kinds: Mapping[str, type[TextFrontEnd]] = {kind.name: kind for kind in (Utf8Bytes, EspeakPhones, MaskgctPhones)}
    if name not in kinds:
        raise UserError(f"text front end {name!r}: choose {Utf8Bytes.name!r} or {EspeakPhones.name!r}")
    if is_needed and kinds[name] is EspeakPhones:
        espeak_backend()
    return kinds[name]()


def spoken_seconds(text: str, prompt_text: str, prompt_seconds: float) -> float:
    """Return how long a text takes at the speaking rate of a prompt with text, in bytes of UTF-8 as released.

    >>> spoken_seconds("twice as long", "length", 3.0)
    6.5
    """
    return prompt_seconds * len(text.strip().encode()) / len(prompt_text.strip().encode())


def stack_phones(rows: Sequence[Sequence[int]], device: torch.device | str = "cpu") -> Tensor | None:
    """Return ids (B, P), padded at the start so that a row's phones stand before its tokens; None if all are empty.

    >>> stack_phones([[5], [6, 7]])
    tensor([[-1,  5],
            [ 6,  7]])
    """
    if not (longest := max(map(len, rows), default=0)):
        return None
    return torch.tensor([[PADDING] * (longest - len(row)) + list(row) for row in rows], device=device)


def script_phones(front_end: TextFrontEnd, scripts: Sequence[str], languages: Sequence[str]) -> Tensor | None:
    """Return the phones (B, P) of a batch's scripts, none of an empty one; None if all are empty."""
    pairs = zip(scripts, languages, strict=True)
    return stack_phones([front_end(pair) if pair[0] else [] for pair in pairs])
