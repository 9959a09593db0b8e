"""Speed and margin, on rows whose answer is known."""

from __future__ import annotations

import pytest

from metis_lightning.evaluate.report import margin_gain, real_time_factor, report


def row(system: str, number: int, margin: float | None, seconds: float = 1.0) -> dict[str, object]:
    return {
        "id": f"u{number}",
        "test_set": "test",
        "system": system,
        "speaker": f"s{number}",
        "metrics": {"STOI": 0.5, "SIM_margin_ge2e": margin},
        "seconds": seconds,
        "n_samples": 24_000,
    }


ROWS = [row("input", i, 0.1 * i, 0.0) for i in range(4)] + [row("nano", i, 0.1 * i + 0.2, 0.5) for i in range(4)]


def test_real_time_factor_is_seconds_over_seconds() -> None:
    assert real_time_factor(ROWS, "nano") == pytest.approx(0.5)
    assert real_time_factor(ROWS, "input") == 0


def test_the_margin_is_compared_utterance_by_utterance() -> None:
    line = margin_gain(ROWS, "nano")
    both = "over speakers +0.200 to +0.200, over utterances +0.200 to +0.200"
    assert line == f"nano - input on test, SIM_margin_ge2e: +0.200 (95% {both}), n 4"
    assert margin_gain([*ROWS[:4], row("nano", 0, None)], "nano").endswith("no utterance has both")


def test_the_margin_of_one_speaker_has_an_interval_over_utterances_alone() -> None:
    gains = [0.0, 0.1, 0.2, 0.5]
    rows = [row("input", i, 0.1) for i in range(4)] + [row("nano", i, 0.1 + gain) for i, gain in enumerate(gains)]
    line = margin_gain([{**r, "speaker": "s"} for r in rows], "nano")
    assert "+0.200 (95% over utterances +0.0" in line
    assert "over speakers" not in line


def test_controls_that_bound_are_not_compared() -> None:
    lines = report([*ROWS, row("target", 0, 0.9)], ["input", "target", "nano"])
    assert [line.split(":")[0] for line in lines[:3]] == ["input", "target", "nano"]
    assert len(lines) == 4
