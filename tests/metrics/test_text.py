import re
import zlib

import jiwer
import pytest
from whisper_normalizer import basic

from metis_lightning.errors import UserError
from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.text import normalizer
from metis_lightning.metrics.wer import (
    WordErrors,
    compression_ratio,
    longest_run,
    loop_in,
    word_errors,
)
from metis_lightning.texts import clean_text


@pytest.mark.parametrize(
    ("language", "text", "normal"),
    [
        # As the published script's own replacements give it.
        ("en", "Get the trust fund to the bank early.", "get the trust fund to the bank early"),
        ("en", "Well - it's 21, or twenty-one…", "well it's 21 or twentyone"),
        # The script takes the typographic apostrophe for punctuation; here equal words count equally.
        ("en", "isn’t", "isn't"),
        ("zh", "我们，要走了！", "我 们 要 走 了"),
        ("zh", "用 GPU 训练（很快）。", "用 G P U 训 练 很 快"),
        ("zh", "　“好”～", "好"),
    ],
)
def test_seed_tts_rules(language: str, text: str, normal: str) -> None:
    assert normalizer("seed-tts", language)(text) == normal


def test_rules_differ_where_they_should() -> None:
    said, heard = "Press one, isn't it?", "press 1 is not it"
    assert word_errors(said, heard, normalizer("whisper-english", "en")).edits == 0
    assert word_errors(said, heard, normalizer("seed-tts", "en")) == WordErrors(3, 4)
    assert word_errors(said, heard, normalizer("none", "en")).edits == 5


@pytest.mark.parametrize(
    ("language", "text", "normal"),
    [
        ("en", "Press twenty-one, isn't it?", "press 21 is not it"),
        ("fr", "L’œuvre… [rire] déjà VUE, à 2 !", "l œuvre déjà vue à 2"),
        ("it", "Perche\u0301 no? (ride) È «così».", "perché no è così"),
        ("ru", "Ещё раз: нажмите «2» — или № 3.", "ещё раз нажмите 2 или no 3"),
        # Without blanks between words errors are counted in letters.
        ("zh", "你好，世界！", "你 好 世 界"),
        ("ja", "これは、テスト。", "こ れ は テ ス ト"),
    ],
)
def test_whispers_rules_by_language(language: str, text: str, normal: str) -> None:
    assert normalizer("whisper", language)(text) == normal
    if language != "en":
        letters = language in ("zh", "ja")
        theirs = basic.BasicTextNormalizer(split_letters=letters)(clean_text(text).replace("’", "'"))
        assert normal == " ".join(theirs.split())


def test_rules_are_refused_for_what_they_are_not_for() -> None:
    with pytest.raises(MetricError, match="no rules for the language 'zh'"):
        normalizer("whisper-english", "zh")
    with pytest.raises(MetricError, match="for en and zh; the language is 'de'"):
        normalizer("seed-tts", "de")
    with pytest.raises(UserError, match="unknown normaliser 'wisper': choose from whisper, whisper-english, seed"):
        normalizer("wisper", "en")


@pytest.mark.parametrize(
    ("reference", "hypothesis"), [("the cat sat", "a cat sits"), ("世界 你好", "世界你 号"), ("a", "")]
)
def test_characters_equal_jiwer_without_blanks(reference: str, hypothesis: str) -> None:
    ours = word_errors(reference, hypothesis, str, "character")
    assert ours.edits / ours.words == pytest.approx(jiwer.cer(reference.replace(" ", ""), hypothesis.replace(" ", "")))


LOOP = "thank you for watching " * 30


def test_compression_ratio_is_whispers() -> None:
    assert compression_ratio(LOOP) == len(LOOP.encode()) / len(zlib.compress(LOOP.encode()))
    assert compression_ratio(LOOP) > 2.4 > compression_ratio("The baker slid four trays of rye bread into the oven.")


@pytest.mark.parametrize(
    ("text", "runs"),
    [
        ("", 0),
        ("one", 1),
        ("no no no", 3),
        ("go on and go on and stop", 2),
        ("好好好好", 4),
        ("a b a b a b a", 3),
        (LOOP, 30),
    ],
)
def test_runs(text: str, runs: int) -> None:
    assert longest_run(text) == runs


def test_loops_are_told_from_speech() -> None:
    said = loop_in(LOOP, "Thank you for watching.")
    assert said is not None and re.match(r"the recogniser loops: 30 repeats in a row, compression ratio \d+", said)
    assert loop_in(LOOP, LOOP) is None, "it was said so"
    assert loop_in("no no no no no", "Yes.") is None, "too short to be told from speech"
    assert loop_in("", "Yes.") is None
    prose = " ".join(f"in the year {year} there was nothing new to be seen here" for year in range(1900, 1960))
    assert compression_ratio(prose) > 2.4
    assert loop_in(prose, "x") is None, "it compresses well, but repeats nothing in a row"
