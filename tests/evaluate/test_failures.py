"""Failing never improves a mean: two systems of equal outputs, of which one fails on its six worst of sixty."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from documented import REPOSITORY
from metis_lightning.data.manifest.test_sets import TestSets
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.intervals import compare_rows
from metis_lightning.evaluate.results.rows import ErrorCounts, ResultRow, read_rows
from metis_lightning.evaluate.results.runs import read_results
from metis_lightning.evaluate.results.summary import OTHER_RECOGNIZER, column_by_name, summary_of
from metis_lightning.evaluate.run import test_sets
from metis_lightning.evaluate.run.main import run_evaluate
from metis_lightning.evaluate.run.shard import PendingRow
from metis_lightning.evaluate.tables.main import write_tables
from metis_lightning.metrics.intrusive import si_sdr
from metis_lightning.metrics.metric import Column, MetricError, MetricValue, measure
from metis_lightning.metrics.protocols import SuiteOptions, resolve
from metis_lightning.metrics.signal import ScoringItem, as_array
from metis_lightning.metrics.wer import WerMetric, WordScores
from metis_lightning.types import TestItem, Trial
from quick_pool import QuickPool

MakeOptions = Callable[..., EvaluateOptions]

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
TEXT = " ".join(f"word{letter}" for letter in "abcdefghij")
COUNT, WORST = 60, range(54, 60)


class SixtyTests(TestSets):
    """Sixty short items of twelve speakers, all of one text but the last, whose language nothing knows."""

    def __init__(self) -> None:
        super().__init__(Trial(f"item_{index:02}", "sixty", task="vc") for index in range(COUNT + 1))

    def load_item(self, trial: Trial) -> TestItem:
        index = int(trial.id[-2:])
        wave = 0.1 * torch.sin(torch.arange(4_800) / (9 + index))
        language = "en" if index < COUNT else "fr"
        return TestItem(
            trial.id, "sixty", f"s{index % 12:02}", TEXT, language, mixture=wave, target=wave, enrollment=wave
        )


@dataclass
class Hears:
    """A recogniser that misses a word in ten, six words of the worst, and loops where a signal is full scale."""

    item: str = ""
    name: str = "fake"

    def require(self, language: str) -> Hears:
        if language != "en":
            raise MetricError("English only")
        return self

    def transcribe(self, wave: np.ndarray, language: str) -> str:
        if np.abs(wave).max() > 0.9:
            return "wordb wordb " * 40
        missed = 6 if int(self.item[-2:]) in WORST else 1
        return " ".join(TEXT.split()[missed:])


class HearingPool(QuickPool):
    """Real word errors by a fake recogniser, and SI-SDR."""

    protocol = "offline"

    def score(self, utterance: ScoringItem) -> dict[str, MetricValue]:
        hears = Hears(utterance.id)
        words = WordScores(hears, "none", self.protocol != "paper")  # type: ignore[arg-type]

        def wave() -> np.ndarray:
            return as_array(utterance.generated)

        return {
            **measure((Column("SI_SDR", "SI_SDR", "dB"),), lambda: si_sdr(wave(), np.asarray(utterance.reference))),
            **dict(zip(("WER_fake", "CER_fake"), words.rates(wave, utterance.text, utterance.language), strict=True)),
        }


def write_outputs(folder: Path, fail: Callable[[Path], None] | None) -> Path:
    """Write what a system gave: equal noise on every item, but what `fail` makes of the six worst."""
    reader = SixtyTests()
    for trial in reader.load_trials("sixty"):
        wave = reader.load_item(trial).signal("target").numpy()
        noisy = wave + 0.01 * np.random.default_rng(0).standard_normal(len(wave))
        path = folder / f"{trial.id}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, noisy, 24_000)
        if fail and int(trial.id[-2:]) in WORST:
            fail(path)
    return folder


FAILURES: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "silent": lambda path: soundfile.write(path, np.zeros(4_800), 24_000),
    "empty": lambda path: soundfile.write(path, np.zeros(0), 24_000),
    "unreadable": lambda path: path.write_bytes(b"no audio"),
    "not finite": lambda path: soundfile.write(path, np.full(4_800, np.nan), 24_000, subtype="FLOAT"),
    "short": lambda path: soundfile.write(path, np.full(2_000, 0.1), 24_000),
    "loops": lambda path: soundfile.write(path, np.full(4_800, 0.99), 24_000),
}


def evaluated(tmp_path: Path, make_options: MakeOptions, monkeypatch: pytest.MonkeyPatch, kind: str) -> Path:
    monkeypatch.setattr(test_sets, "_classes", lambda data: [SixtyTests])
    a, b = write_outputs(tmp_path / "A", None), write_outputs(tmp_path / "B", FAILURES[kind])
    options = make_options(
        "--task", "vc", "--no-controls", "--system", f"A=wavs:{a}", f"B=wavs:{b}", "--max-failed-share", "0.2"
    )  # fmt: skip
    run_evaluate(options, HearingPool)
    return Path(options.out)


@pytest.mark.parametrize("kind", FAILURES)
def test_who_fails_on_the_worst_six_comes_out_worse(
    kind: str, tmp_path: Path, make_options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = evaluated(tmp_path, make_options, monkeypatch, kind)
    rows = read_rows(folder)
    a, b = ([row for row in rows if row.system == system] for system in "AB")
    summary = {group["system"]: group["metrics"] for group in json.loads((folder / "summary.json").read_text())}
    words = {system: metrics["WER_fake"] for system, metrics in summary.items()}
    # Of 600 words A misses 54 + 36; B misses 54 + 60.
    assert (words["A"]["corpus"], words["B"]["corpus"]) == (90 / 600, 114 / 600)
    assert (words["A"]["mean"], words["B"]["mean"]) == (pytest.approx(0.15), pytest.approx(0.19))
    assert (words["B"]["n"], words["B"]["n_failed"]) == (60, 0 if kind == "loops" else 6)
    assert (words["B"]["n_not_applicable"], words["B"]["not_applicable"]) == (1, {"English only": 1})
    # Where measured B is the better: that is today's other column, and no more than that.
    assert (words["A"]["measured_corpus"], words["B"]["measured_corpus"]) == (0.15, 0.1)
    assert (words["B"]["measured_n"], words["B"]["share_above_50"]) == (54, 0.1)
    assert summary["B"]["CER_fake"]["corpus"] > summary["A"]["CER_fake"]["corpus"]

    compared = compare_rows(b, a, column_by_name("WER_fake"))
    assert (compared.n, compared.mean) == (60, pytest.approx(24 / 600))
    # Six speakers of twelve have one of the six each.
    assert (compared.p, compared.p_utterances) == (pytest.approx(2 / 2**6), pytest.approx(2 / 2**6, abs=0.01))
    worst = next(row for row in b if row.id == "item_59")
    assert worst.metrics["WER_fake"] == 1.0
    assert worst.error["WER_fake"]
    if kind != "loops":
        assert replace(worst.wer, compared=None) == ErrorCounts(10, 10, substitutions=0, deletions=10, insertions=0)
        assert worst.failed == ["SI_SDR", "WER_fake", "CER_fake"]
        assert (worst.metrics["SI_SDR"], worst.hypothesis) == (None, None)


def test_scores_without_a_worst_value_are_compared_on_what_all_have(
    tmp_path: Path, make_options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = evaluated(tmp_path, make_options, monkeypatch, "missing")
    out = tmp_path / "tables"
    benchmarks = tmp_path / "benchmarks"
    benchmarks.mkdir()
    text = (REPOSITORY / "evaluation/benchmarks/table_02.yaml").read_text()
    (benchmarks / "table_02.yaml").write_text(re.sub(r"baseline: \w+", "baseline: A", text))
    write_tables(folder.parent, out, benchmarks, baseline="A")
    ours = (out / "table_02.md").read_text().partition("## Ours on ")[2]
    header, a, b = (
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in ours.splitlines()
        if line[:2] in ("| ",) and ":--" not in line
    )
    place = next(index for index, name in enumerate(header) if name.startswith("SI SDR"))
    assert header[place] == "SI SDR dB ↑ (55 of 61)"
    assert a[place].split(" [")[0] == b[place].split(" [")[0], "the outputs that both have are equal"
    assert b[place].endswith("(6 failed)")
    assert "WER % where measured (fake) ↓" in header
    assert "- Failed: B, missing: 6 × all metrics" in ours
    assert "- n/a: B, English only: 1 × WER (fake), CER (fake)" in ours
    assert "- B is compared with the baseline on 55 of 61 utterances in SI SDR" in ours


def test_what_is_infinite_or_limited_is_said(
    tmp_path: Path, make_options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Enhancing(SixtyTests):
        def __init__(self) -> None:
            TestSets.__init__(self, (Trial(f"item_{index:02}", "sixty", task="se") for index in range(COUNT)))

    monkeypatch.setattr(test_sets, "_classes", lambda data: [Enhancing])
    options = make_options("--task", "se", "--system", "input", "target", "--limit", "8")
    run_evaluate(options, HearingPool)
    rows = read_rows(options.out)
    assert {row.metrics["SI_SDR"] for row in rows} == {None} and not any(row.failed for row in rows)
    text = (options.out / "summary.json").read_text() + (options.out / "utterances.jsonl").read_text()
    assert "Infinity" not in text and "NaN" not in text
    assert [result.count_text for result in read_results(options.out)] == ["8 of 60", "8 of 60"]
    out = tmp_path / "tables"
    write_tables(options.out.parent, out, REPOSITORY / "evaluation/benchmarks")
    for name, sign in (("table_04.md", "∞"), ("table_04.tex", r"$\infty$"), ("table_04.csv", ",inf,")):
        assert sign in (out / name).read_text(), name
    written = (out / "table_04.md").read_text()
    assert "| 8 of 60 |" in written
    assert "- target is limited to 8 of 60 utterances (--limit)" in written
    assert "failed" not in written.partition("## Ours on ")[2].replace("failed outputs", "")


def test_a_loop_counts_in_full_in_the_papers_protocol(
    tmp_path: Path, make_options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HearingPool, "protocol", "paper")
    folder = evaluated(tmp_path, make_options, monkeypatch, "loops")
    words = {
        group["system"]: group["metrics"]["WER_fake"] for group in json.loads((folder / "summary.json").read_text())
    }
    assert words["B"]["corpus"] == pytest.approx((54 + 6 * 79) / 600)
    assert words["B"]["measured_n"] == words["B"]["n"] == 60


def test_who_fails_in_another_language_fails_in_the_columns_of_its_recogniser() -> None:
    options, task = resolve(SuiteOptions())
    text = "Désolé, je n'ai pas bien compris votre réponse."
    values: Future[dict[str, MetricValue]] = Future()
    item = ScoringItem("a", torch.zeros(0), 24_000, text=text, language="fr")
    values.set_result(WerMetric(options, task).score(item))
    row = ResultRow("a", "vc", "test-human", "nano", text=text)
    scored = PendingRow(row, "missing", False, values).scored()
    assert scored.metrics == {"WER_base": 1.0, "CER_base": 1.0}
    assert scored.error == {"WER_base": "missing", "CER_base": "missing"}
    assert list(scored.failed) == ["WER_base", "CER_base"]
    assert scored.wer is not None and (scored.wer.deletions, scored.wer.length) == (9, 9)
    english = replace(scored, id="b", metrics={"WER_tiny.en": 0.5}, error={}, failed=(), wer=ErrorCounts(1, 2))
    wer = {name: summary_of([scored, english], column_by_name(name)) for name in ("WER_base", "WER_tiny.en")}
    for summary, failed in zip(wer.values(), (1, 0), strict=True):
        assert (summary.n, summary.n_failed, summary.n_not_applicable) == (1, failed, 1)
        assert summary.not_applicable == {OTHER_RECOGNIZER: 1}
