"""Text front ends: known words come back, languages and mistakes are named, ids fit the published embedding."""

from __future__ import annotations

import pickle
import sys
import unicodedata

import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.models.stage1 import PHONE_VOCABULARY
from metis_lightning.tokens import phonemes
from metis_lightning.tokens.phonemes import EspeakPhones, Utf8Bytes, stack_phones, text_front_end


@pytest.fixture(scope="module")
def espeak() -> EspeakPhones:
    pytest.importorskip("phonemizer", reason="the extra `text`")
    pytest.importorskip("espeakng_loader", reason="the extra `text`")
    return EspeakPhones()


@pytest.mark.parametrize(
    ("text", "language", "signs"),
    [
        ("Hello, world!", "en", "həlˈoʊ, wˈɜːld!"),
        ("42 ships", "en", "fˈɔːɹɾi tˈuː ʃˈɪps"),
        ("Guten Tag", "de", "ɡˈuːtən tˈɑːk"),
        ("bonjour", "fr", "bɔ̃ʒˈuʁ"),
    ],
)
def test_known_words_become_known_phones_and_come_back(
    espeak: EspeakPhones, text: str, language: str, signs: str
) -> None:
    ids = espeak((text, language))
    sign_of = {identifier: sign for sign, identifier in phonemes.sign_ids().items()}
    assert unicodedata.normalize("NFC", "".join(sign_of[identifier] for identifier in ids[1:])) == signs
    assert ids[0] == 1 + phonemes.LANGUAGES.index(language)
    assert phonemes.UNKNOWN not in ids
    assert max(ids) < PHONE_VOCABULARY


def test_other_languages_have_signs_for_everything(espeak: EspeakPhones) -> None:
    for text, language in (("今天很好", "zh"), ("안녕하세요", "ko"), ("già loggato", "it"), ("привет, мир", "ru")):
        ids = espeak((text, language))
        assert len(ids) > len(text) / 2
        assert phonemes.UNKNOWN not in ids


def test_the_whole_table_lies_within_the_published_embedding() -> None:
    ids = phonemes.sign_ids().values()
    assert min(ids) > len(phonemes.LANGUAGES)
    assert max(ids) < PHONE_VOCABULARY
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("text", ["hello", "grüß gott", "今天很好", "안녕"])
def test_bytes_round_trip_in_every_script(text: str) -> None:
    front_end = Utf8Bytes()
    ids = front_end((text, "zh"))
    first = min(phonemes.sign_ids().values())
    assert bytes(identifier - first for identifier in ids[1:]).decode() == text
    assert max(ids) < PHONE_VOCABULARY


def test_parts_of_one_language_are_one_utterance() -> None:
    front_end = Utf8Bytes()
    assert front_end(("One  two", "en"), ("Three", "en")) == front_end(("one two three", "en"))
    both = front_end(("one", "en"), ("deux", "fr"))
    assert both == front_end(("one", "en")) + front_end(("deux", "fr"))


def test_recent_texts_are_kept_and_a_copy_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    front_end, calls = Utf8Bytes(), []
    symbols = Utf8Bytes.symbols
    monkeypatch.setattr(Utf8Bytes, "symbols", lambda *args: (calls.append(args), symbols(*args))[1])
    for _ in range(3):
        front_end(("hello", "en"))
    assert len(calls) == 1
    assert pickle.loads(pickle.dumps(front_end))(("hello", "en")) == front_end(("hello", "en"))
    assert len(calls) == 2


def test_mistakes_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="language 'xx'.*'utf8' knows en, zh"):
        Utf8Bytes()(("hello", "xx"))
    with pytest.raises(UserError, match="'letters': choose 'utf8' or 'espeak'"):
        text_front_end("letters")
    phonemes.espeak_backend.cache_clear()
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(UserError, match=r"pip install 'metis-lightning\[text\]'"):
        text_front_end("espeak")


def test_espeak_does_not_pretend_to_read_japanese(espeak: EspeakPhones) -> None:
    with pytest.raises(UserError, match="language 'ja'"):
        espeak(("世界", "ja"))


@pytest.mark.parametrize("text", ["", "  ", "---"])
def test_a_text_without_words_is_its_tag_alone(espeak: EspeakPhones, text: str) -> None:
    assert espeak((text, "de")) == [1 + phonemes.LANGUAGES.index("de")]


def test_padding_stands_before_the_phones() -> None:
    assert stack_phones([[5, 6], [], [7]]).tolist() == [[5, 6], [-1, -1], [-1, 7]]
    assert stack_phones([[], []]) is None
    assert stack_phones([[1]]).dtype == torch.int64
