import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor

from metis_lightning import metrics
from metis_lightning.errors import UserError
from metis_lightning.metrics.intrusive import pesq, si_sdr, stoi
from metis_lightning.metrics.metric import MetricValue, WerValue
from metis_lightning.metrics.protocols import resolve
from metis_lightning.metrics.recognizers.faster_whisper import FasterWhisperTiny
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.metrics.suite import Suite, SuiteOptions

COLUMNS = [
    "DNSMOS_SIG",
    "DNSMOS_BAK",
    "DNSMOS_OVRL",
    "DNSMOS_P808",
    "PESQ",
    "PESQ_NB",
    "STOI",
    "ESTOI",
    "SI_SDR",
    "SIM_ge2e",
    "SIM_target_ge2e",
    "SIM_margin_ge2e",
    "WER_tiny.en",
    "CER_tiny.en",
]


@pytest.fixture(scope="module")
def offline() -> Iterator[None]:
    """Make any connection an error."""

    def refuse(*_: object) -> NoReturn:
        raise AssertionError("a metric tried to reach the network")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="module")
def suite(offline: None) -> Suite:
    return Suite()


@pytest.fixture(scope="module")
def signals(speech: Callable[[str], np.ndarray], clean: np.ndarray, noisy: np.ndarray) -> dict[str, Tensor]:
    """A noisy utterance of one speaker, with another voice beside it."""
    parts = {"generated": noisy, "reference": clean, "interferer": speech("am-michael_0285"), "prompt": clean[:24_000]}
    return {name: torch.from_numpy(wave) for name, wave in parts.items()}


def test_all_columns_have_values(
    suite: Suite, signals: dict[str, Tensor], clean: np.ndarray, noisy: np.ndarray
) -> None:
    scores = suite.score(ScoringItem("item", **signals, sample_rate=16_000, text="I have no idea what was said here."))
    assert list(scores) == COLUMNS
    assert all(score.error is None for score in scores.values())
    values = {name: score.value for name, score in scores.items()}
    assert values["PESQ"] == pesq(noisy, clean)
    assert values["STOI"] == stoi(noisy, clean)
    assert values["SI_SDR"] == si_sdr(noisy, clean)
    assert (values["SIM_margin_ge2e"] or 0.0) > 0.1
    heard = scores["WER_tiny.en"]
    assert isinstance(heard, WerValue)
    assert heard.length == 8
    assert heard.value == (heard.edits or 0) / 8
    assert heard.hypothesis


def test_what_cannot_be_measured_is_null_with_a_reason(suite: Suite, signals: dict[str, Tensor]) -> None:
    scores = suite.score(ScoringItem("item", signals["generated"], 16_000, text="Saluton.", language="eo"))
    assert list(scores) == COLUMNS
    assert {name: score.error for name, score in scores.items() if score.value is None} == {
        **dict.fromkeys(["PESQ", "PESQ_NB", "STOI", "ESTOI", "SI_SDR"], "no reference"),
        **dict.fromkeys(["SIM_target_ge2e", "SIM_margin_ge2e"], "no reference"),
        "SIM_ge2e": "no prompt",
        **dict.fromkeys(["WER_tiny.en", "CER_tiny.en"], "no recogniser of the language 'eo' among tiny.en, base"),
    }


def test_other_languages_than_english_have_the_columns_of_base(
    suite: Suite, speech: Callable[[str], np.ndarray]
) -> None:
    text, wave = "Désolé, je n'ai pas bien compris votre réponse.", torch.from_numpy(speech("june_vm-sorry"))
    scores = suite.score(ScoringItem("a", wave, 16_000, text=text, language="fr"))
    assert list(scores)[-2:] == ["WER_base", "CER_base"]
    assert not {"WER_tiny.en", "CER_tiny.en"} & scores.keys()
    heard = scores["WER_base"]
    assert isinstance(heard, WerValue)
    assert (heard.value, heard.length) == (0.0, 9)
    assert heard.compared == ("désolé je n ai pas bien compris votre réponse",) * 2
    assert suite.columns["WER_base"].title == "WER % (base) ↓"
    silent = suite.score(ScoringItem("a", torch.zeros(32_000), 16_000, text=text, language="fr"))
    deleted = silent["WER_base"]
    assert isinstance(deleted, WerValue)
    assert (deleted.value, deleted.error, deleted.deletions) == (1.0, "the signal is silent", 9)
    assert [each["name"] for each in suite.fingerprint()["models"]["asr"]] == ["tiny.en", "base"]


def test_broken_audio_is_null_everywhere(suite: Suite, signals: dict[str, Tensor]) -> None:
    broken = signals["generated"] * torch.nan
    scores = suite.score(ScoringItem("item", **{**signals, "generated": broken}, sample_rate=16_000, text="a"))
    assert {score.error for score in scores.values()} == {"the signal has samples that are not finite"}


def test_signals_are_resampled_and_cropped() -> None:
    item = ScoringItem("a", torch.ones(24_000 - 1200), 24_000, reference=torch.ones(24_000))
    assert [wave.shape for wave in item.pair()] == [(15_200,), (15_200,)]
    assert item.wave("reference").shape == (16_000,)


def test_bugs_are_not_swallowed(suite: Suite) -> None:
    with pytest.raises(ValueError, match="one utterance") as caught:
        suite.score(ScoringItem("item-7", torch.zeros(1, 16_000), 16_000))
    assert caught.value.__notes__ == ["while scoring item-7"]


def test_fingerprint_is_plain_and_stable(suite: Suite) -> None:
    fingerprint = suite.fingerprint()
    assert json.loads(json.dumps(fingerprint)) == fingerprint == suite.fingerprint()
    assert set(fingerprint["models"]) == {"dnsmos_p835", "dnsmos_p808", "nisqa", "speakers", "asr"}
    assert None not in fingerprint["packages"].values()
    assert fingerprint["asr_loops"].startswith("capped at 100%; a loop is a zlib ratio")
    assert fingerprint["nothing_heard"] == "all words deleted"


def test_unknown_protocol() -> None:
    with pytest.raises(UserError, match="unknown protocol 'papre'.*offline"):
        Suite(SuiteOptions("papre"))


def test_similarities_and_timing_are_as_the_task_has_them() -> None:
    columns = {
        task: list(Suite(SuiteOptions(task=task, asr=())).score(ScoringItem("a", torch.zeros(0), 16_000)))
        for task in ("tts", "se", "tse")
    }
    dnsmos = ["DNSMOS_SIG", "DNSMOS_BAK", "DNSMOS_OVRL", "DNSMOS_P808"]
    intrusive = ["PESQ", "PESQ_NB", "STOI", "ESTOI", "SI_SDR"]
    assert columns["tts"] == [*dnsmos, "SIM_ge2e", "SIM_target_ge2e"]
    assert columns["se"] == [*dnsmos, *intrusive, "SIM_target_ge2e"]
    assert columns["tse"] == [*dnsmos, *intrusive, "SIM_ge2e", "SIM_target_ge2e", "SIM_margin_ge2e"]


def test_speed_is_there_where_it_is_known(suite: Suite, signals: dict[str, Tensor]) -> None:
    generated = signals["generated"]
    scores = suite.score(ScoringItem("a", generated, 16_000, seconds=2.0, num_steps=30))
    assert scores["RTF"].value == pytest.approx(2.0 * 16_000 / len(generated))
    assert scores["STEPS"].value == 30


@pytest.mark.parametrize(
    ("broken", "reasons"),
    [
        (
            torch.zeros(43_999),
            {"PESQ": "silent", "STOI": "silent", "SI_SDR": "silent", "SIM_ge2e": "silent", "WER_tiny.en": "silent"},
        ),
        (torch.zeros(0), {"DNSMOS_OVRL": "empty", "PESQ": "empty", "SIM_ge2e": "empty", "WER_tiny.en": "empty"}),
        (torch.full((32_000,), torch.inf), {"DNSMOS_OVRL": "not finite", "WER_tiny.en": "not finite"}),
        (torch.randn(640), {"PESQ": "differ in length", "ESTOI": "differ in length", "SI_SDR": "differ in length"}),
    ],
    ids=["silent", "empty", "infinite", "40 ms"],
)
def test_planted_failures_have_reasons(
    suite: Suite, signals: dict[str, Tensor], broken: Tensor, reasons: dict[str, str]
) -> None:
    scores = suite.score(ScoringItem("a", **{**signals, "generated": broken}, sample_rate=16_000, text="A word."))
    assert list(scores) == COLUMNS
    for column, reason in reasons.items():
        assert scores[column].value == (1.0 if column.startswith("WER") else None)
        assert reason in (scores[column].error or "")


def test_reference_without_speech_is_pesqs_reason(suite: Suite) -> None:
    # 19 ms of a tone are sound, but no utterance to PESQ.
    beep = torch.zeros(32_000)
    beep[16_000:16_300] = 0.1 * torch.sin(2 * torch.pi * 500 * torch.arange(300) / 16_000)
    scores = suite.score(ScoringItem("a", beep, 16_000, reference=beep))
    assert scores["PESQ_NB"] == MetricValue(None, "PESQ: No utterances detected")
    assert scores["PESQ"] == MetricValue(None, "PESQ: No utterances detected")


def test_a_loop_counts_as_all_words_with_what_was_heard(
    suite: Suite, signals: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = "and then " * 40
    monkeypatch.setattr(FasterWhisperTiny, "transcribe", lambda *_: loop)
    scores = suite.score(ScoringItem("a", signals["generated"], 16_000, text="And then it rained."))
    heard = scores["WER_tiny.en"]
    assert isinstance(heard, WerValue)
    assert (heard.value, heard.length, heard.hypothesis) == (1.0, 4, loop)
    assert "the recogniser loops: 40 repeats in a row" in (heard.error or "")
    assert scores["CER_tiny.en"].error == heard.error


def test_the_papers_protocol_says_all_that_is_missing() -> None:
    with pytest.raises(UserError, match="paper.*wavlm-large:PATH.*wavlm_large_finetune.pth; and NISQA, the path of"):
        Suite(SuiteOptions("paper", task="tts"))
    # Enhancement needs no path for its encoder: that is on the hub.
    with pytest.raises(UserError, match="are on no hub: give NISQA"):
        Suite(SuiteOptions("paper", task="se"))


def test_the_papers_protocol_has_the_papers_models() -> None:
    tts, _ = resolve(SuiteOptions("paper", task="tts", nisqa="n.tar", speakers=("wavlm-large:w.pth",)))
    assert tts.asr == ("zh=paraformer:paraformer-zh", "whisper:openai/whisper-large-v3")
    assert (tts.speakers, tts.normalizer) == (("wavlm-large:w.pth",), "seed-tts")
    assert resolve(SuiteOptions("paper", task="se", nisqa="n.tar"))[0].speakers == ("wavlm-sv",)
    with pytest.raises(UserError, match="unknown task 'ttss': choose one of tts, vc, tse, se, l2s, omni"):
        resolve(SuiteOptions(task="ttss"))


TOY = """
from metis_lightning.metrics.metric import Column, UtteranceMetric, measure


class PeakMetric(UtteranceMetric):
    columns = (Column("PEAK", "PEAK", higher_is_better=False),)

    def __init__(self, options, task):
        pass

    def applies_to(self, task):
        return not task.is_aligned

    def score(self, item):
        return measure(self.columns, lambda: float(abs(item.wave("generated")).max()))

    def fingerprint(self):
        return {"peak": "of the absolute samples"}
"""


def test_a_metric_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_peak.py").write_text(TOY)
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    tts, se = (Suite(SuiteOptions(task=task, asr=(), speakers=())) for task in ("tts", "se"))
    scores = tts.score(ScoringItem("a", torch.tensor([0.25, -0.5] * 800), 16_000))
    assert list(scores)[-1] == "PEAK", "after those that say where they stand"
    assert scores["PEAK"] == MetricValue(0.5)
    assert tts.columns["PEAK"].title == "PEAK ↓"
    assert "PEAK" not in se.columns
    assert tts.fingerprint()["peak"] == se.fingerprint()["peak"] == "of the absolute samples"


def test_columns_are_declared_with_model_unit_and_direction(suite: Suite, signals: dict[str, Tensor]) -> None:
    item = ScoringItem("a", **signals, sample_rate=16_000, text="A word.", seconds=1.0, num_steps=3)
    declared = suite.columns
    english = {name for name, column in declared.items() if column.model != "base"}
    assert list(suite.score(item)) == [
        name for name in declared if "_asr_" not in name and name in english and not name.startswith("ABSENT_")
    ]
    assert declared.keys() - english == {"WER_base", "CER_base", "WER_asr_base", "CER_asr_base"}
    wer = declared["WER_tiny.en"]
    assert (wer.quantity, wer.model, wer.unit, wer.higher_is_better) == ("WER", "tiny.en", "%", False)
    assert declared["WER_asr_tiny.en"].is_word_errors
    assert declared["SI_SDR"].title == "SI SDR dB ↑"
    assert [name for name, column in declared.items() if column.model == "ge2e"] == [
        "SIM_ge2e", "SIM_target_ge2e", "SIM_margin_ge2e",
    ]  # fmt: skip
