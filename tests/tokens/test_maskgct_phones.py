"""Phones by a vocabulary file in the published format."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from metis_lightning.errors import UserError
from metis_lightning.generate.weights import set_vocabulary
from metis_lightning.tokens.phonemes import MASKGCT_PHONES, MaskgctPhones

PHONES = [",", ".", "_", "'", "ɪ", "t", "s", "ɹ", "eɪ", "n", "tɹ", "ts", "k", "æ", "iː", "ð", "ə", "z", "ɾ", "ɡ", "uː"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "vocab.json"
    file.write_text(json.dumps({"vocab": {phone: index for index, phone in enumerate(PHONES)}}), encoding="utf-8")
    return file


@pytest.fixture
def phones(path: Path) -> MaskgctPhones:
    pytest.importorskip("phonemizer")
    pytest.importorskip("espeakng_loader")
    return MaskgctPhones.read(path)


def spelt(phones: MaskgctPhones, ids: list[int]) -> list[str]:
    return [PHONES[identifier] for identifier in ids]


def test_english_neighbours_that_are_one_phone_are_joined(phones: MaskgctPhones) -> None:
    assert spelt(phones, phones(("train", "en"))) == ["tɹ", "eɪ", "n", "_"]
    assert spelt(phones, phones(("cats.", "en"))) == ["k", "æ", "ts", "."]
    assert spelt(phones, phones(("the cats, it", "en"))) == ["ð", "ə", "_", "k", "æ", "ts", ",", "ɪ", "t", "_"]


def test_there_are_no_tags_and_parts_are_read_one_by_one(phones: MaskgctPhones) -> None:
    parts = (("cats.", "en"), ("train", "en"))
    assert phones(*parts) == phones(parts[0]) + phones(parts[1])
    assert "".join(spelt(phones, phones(*parts))) == "kæts.tɹeɪn_"


def test_german_is_read_without_the_english_rules(phones: MaskgctPhones) -> None:
    assert spelt(phones, phones(("gut", "de"))) == ["ɡ", "uː", "t"]


def test_what_the_vocabulary_lacks_is_left_out(phones: MaskgctPhones) -> None:
    assert "ŋ" not in PHONES
    assert spelt(phones, phones(("sing", "en"))) == ["s", "ɪ", "_"]


@pytest.mark.parametrize("language", ["zh", "ja", "ko", "it"])
def test_other_languages_are_refused(phones: MaskgctPhones, language: str) -> None:
    with pytest.raises(UserError, match="by a phone vocabulary en, de, fr can be read"):
        phones(("a", language))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"vocab": []}', '{"vocab": {"a": -1}}', '{"vocab": {"a": 1023}}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "vocab.json").write_text(content)
    with pytest.raises(UserError, match="vocab.json: "):
        MaskgctPhones.read(tmp_path / "vocab.json")
    with pytest.raises(UserError, match="no.json: not a phone vocabulary"):
        MaskgctPhones.read(tmp_path / "no.json")


def test_imported_weights_take_a_vocabulary(phones: MaskgctPhones, path: Path) -> None:
    metis = SimpleNamespace(text=SimpleNamespace(name=MASKGCT_PHONES))
    set_vocabulary(metis, path)  # type: ignore[arg-type]
    assert metis.text.vocabulary == phones.vocabulary
