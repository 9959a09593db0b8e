"""What word errors an output has in which nothing can be heard, and a hypothesis that loops."""

from __future__ import annotations

import sys
import types
from dataclasses import dataclass

import numpy as np
import pytest

from metis_lightning.metrics.metric import CerValue, MetricError, WerValue
from metis_lightning.metrics.wer import WordScores

TEXT = "A quick brown fox jumps, they say."
LOOP = "and the fox " * 60


@dataclass
class Hears:
    """A recogniser of English that hears one text whatever is said."""

    text: str
    name: str = "fake"
    kept_for: frozenset[str] = frozenset()

    def require(self, language: str) -> Hears:
        if language != "en":
            raise MetricError("English only")
        return self

    def transcribe(self, wave: np.ndarray, language: str) -> str:
        return self.text


def score(
    heard: str,
    text: str | None = TEXT,
    wave: np.ndarray | None = None,
    protocol: str = "offline",
    language: str = "en",
) -> tuple[WerValue, CerValue]:
    words = WordScores(Hears(heard), "whisper-english", protocol != "paper")  # type: ignore[arg-type]
    signal = np.ones(1_600, dtype=np.float32) if wave is None else wave
    return words.rates(lambda: signal, text, language)


@pytest.mark.parametrize(
    ("wave", "reason"),
    [
        (np.zeros(16_000, dtype=np.float32), "the signal is silent"),
        (np.zeros(0, dtype=np.float32), "the signal is empty"),
        (np.full(1_600, np.nan, dtype=np.float32), "the signal has samples that are not finite"),
    ],
)
def test_of_what_cannot_be_heard_all_words_are_deleted(wave: np.ndarray, reason: str) -> None:
    wer, cer = score("never asked", wave=wave)
    assert (wer.value, wer.error, wer.hypothesis) == (1.0, reason, None)
    assert (wer.edits, wer.length, wer.substitutions, wer.deletions, wer.insertions) == (7, 7, 0, 7, 0)
    assert (cer.value, cer.deletions, cer.length, cer.error) == (1.0, 26, 26, reason)


@pytest.mark.parametrize("hiss", ["", "...", ". " * 27, ". . . . ." * 10, "♪ ♪ ♪"])
def test_nothing_heard_in_hiss_is_all_words_deleted_and_no_loop(hiss: str) -> None:
    wer, cer = score(hiss)
    assert (wer.value, wer.error, wer.deletions, wer.is_loop) == (1.0, None, 7, False)
    assert (cer.value, cer.error) == (1.0, None)


def test_a_loop_is_capped_offline_and_counts_in_full_in_the_papers_protocol() -> None:
    capped, characters = score(LOOP)
    assert (capped.value, capped.edits, capped.is_loop, capped.hypothesis) == (1.0, 7, True, LOOP)
    assert "the recogniser loops: 60 repeats in a row" in (capped.error or "")
    assert (characters.value, characters.error) == (1.0, capped.error)
    full, _ = score(LOOP, protocol="paper")
    assert (full.value, full.error, full.is_loop) == (pytest.approx(179 / 7), None, False)
    assert full.edits == 179 == (full.substitutions or 0) + (full.deletions or 0) + (full.insertions or 0)
    assert capped.insertions == full.insertions, "how it divides is as heard"


def test_more_of_a_loop_is_never_better() -> None:
    rates = [score("and the fox " * count)[0].value for count in (1, 4, 12, 30, 60, 120)]
    assert rates[-3:] == [1.0, 1.0, 1.0]
    assert score("a quick brown fox " + "fox " * 200)[0].value == 1.0
    assert score("a quick brown fox jumps they say " * 9, protocol="paper")[0].value == pytest.approx(8.0)


def test_without_a_text_or_its_language_there_is_no_rate_whatever_was_heard() -> None:
    for given, reason in (({"text": None}, "no reference text"), ({"text": "..."}, "the reference text has no words")):
        wer, cer = score("fox", **given, wave=np.zeros(0, dtype=np.float32))  # type: ignore[arg-type]
        assert (wer.value, wer.error, wer.edits, cer.value) == (None, reason, None, None)
    assert score("fox", language="fr")[0].error == "English only"


def test_the_texts_are_kept_as_they_were_compared() -> None:
    wer, _ = score("They say: six months", text="they say 6 months")
    assert (wer.value, wer.compared) == (0.0, ("they say 6 months", "they say 6 months"))
    assert score("a brown fox")[0].compared == ("a quick brown fox jumps they say", "a brown fox")


class HearsItsLevel(Hears):
    """A recogniser that hears in a recording what its first sample stands for, and says how often it was asked."""

    asked = 0

    def transcribe(self, wave: np.ndarray, language: str) -> str:
        self.asked += 1
        return {1: "a quick brown fox", 2: "a quick red fox"}[int(wave[0])]


def test_a_recording_stands_in_for_the_text_and_is_heard_once() -> None:
    recognizer = HearsItsLevel("")
    words = WordScores(recognizer, "whisper-english", True)  # type: ignore[arg-type]
    target, output = (np.full(1_600, level, dtype=np.float32) for level in (1, 2))
    same, _ = words.rates(lambda: target, lambda: target, "en")
    wer, _ = words.rates(lambda: output, lambda: target, "en")
    assert (same.value, wer.value) == (0.0, 0.25)
    assert (wer.reference, wer.hypothesis) == ("a quick brown fox", "a quick red fox")
    # The target as a text, the target as an output, and the output.
    assert recognizer.asked == 3
    silent, _ = words.rates(lambda: output, lambda: np.zeros(1_600, dtype=np.float32), "en")
    assert (silent.value, silent.error) == (None, "the signal is silent")


class HearsChinese(Hears):
    """A recogniser that writes the characters of Taiwan."""

    def require(self, language: str) -> Hears:
        return self


def test_chinese_is_held_against_the_text_in_simplified_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    convert = {"歡迎": "欢迎"}
    monkeypatch.setitem(sys.modules, "zhconv", types.SimpleNamespace(convert=lambda text, to: convert[text]))
    words = WordScores(HearsChinese("歡迎"), "seed-tts", False)  # type: ignore[arg-type]
    wer, _ = words.rates(lambda: np.ones(1_600, dtype=np.float32), "欢迎！", "zh")
    assert (wer.value, wer.hypothesis) == (0.0, "欢迎")
