"""Speed and margin, on rows whose answer is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from metis_lightning.evaluate.results.comparison import margin_gain
from metis_lightning.evaluate.results.rows import ResultRow
from metis_lightning.evaluate.run.main import Machine, report_lines, system_speed
from metis_lightning.metrics.metric import Column

MARGIN = Column.by_model("SIM_margin", "ge2e")
COLUMNS = {"STOI": Column("STOI", "STOI"), MARGIN.name: MARGIN}


def row(system: str, number: int, margin: float | None, seconds: float = 1.0) -> ResultRow:
    metrics = {"STOI": 0.5, MARGIN.name: margin}
    return ResultRow(
        f"u{number}", "tse", "test", system, speaker=f"s{number}", metrics=metrics, seconds=seconds, n_samples=24_000
    )


ROWS = [row("input", i, 0.1 * i, 0.0) for i in range(5)] + [row("nano", i, 0.1 * i + 0.2, 0.5) for i in range(5)]
CPU = Machine("cpu", 2, 1)


def test_the_real_time_factor_is_seconds_over_seconds() -> None:
    assert system_speed(ROWS, "nano") == pytest.approx(0.5)
    assert system_speed(ROWS, "input") == 0
    slow = [row("nano", 9, 0.0, 100.0), row("nano", 8, 0.0, 100.0), *ROWS]
    assert system_speed(slow, "nano", processes=2) == pytest.approx(0.5), "the first of each process is left out"
    assert system_speed(slow[:1], "nano") is None


def test_speed_is_never_without_the_machine() -> None:
    assert report_lines(ROWS, ["nano", "theirs"], CPU, COLUMNS)[:2] == [
        "nano: real-time factor 0.50 (on cpu, 1 process, 2 threads each, without the first item, scoring beside it)",
        "theirs: its speed is not known",
    ]


def test_the_margin_is_compared_utterance_by_utterance() -> None:
    line = margin_gain(ROWS, "nano", MARGIN)[0]
    both = "over 5 speakers +0.200 to +0.200, over 5 utterances +0.200 to +0.200"
    assert line == f"nano - input on test, SIM_margin_ge2e: +0.200 (95% {both}), n 5"
    assert margin_gain([*ROWS, row("input", 7, 0.1), row("nano", 7, None)], "nano", MARGIN)[0].endswith("n 5 of 6")
    unknown = [replace(one, speaker=None) for one in ROWS]
    assert "(95% over 5 utterances +0.200 to +0.200)" in margin_gain(unknown, "nano", MARGIN)[0]
    assert margin_gain([*ROWS[:5], row("nano", 0, None)], "nano", MARGIN)[0].endswith("no utterance has both")


def test_the_margin_of_one_speaker_has_an_interval_over_utterances_alone() -> None:
    gains = [0.0, 0.1, 0.2, 0.5, 0.2]
    rows = [row("input", i, 0.1) for i in range(5)] + [row("nano", i, 0.1 + gain) for i, gain in enumerate(gains)]
    line = margin_gain([replace(each, speaker="s") for each in rows], "nano", MARGIN)[0]
    assert "+0.200 (95% over 1 speakers: too few, over 5 utterances -0.0" in line


def test_controls_that_bound_are_not_compared() -> None:
    lines = report_lines([*ROWS, row("target", 0, 0.9)], ["input", "target", "nano"], CPU, COLUMNS)
    assert [line.split(":")[0] for line in lines[:3]] == ["input", "target", "nano"]
    assert len(lines) == 5
    assert lines[-1].startswith("Intervals over fewer than 20 speakers are right where")
