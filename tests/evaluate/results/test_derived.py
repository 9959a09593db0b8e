"""Columns made of others, other people's scores, and means by groups of utterances."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from documented import REPOSITORY
from metis_lightning.errors import UserError
from metis_lightning.evaluate.results.runs import Result, read_results
from metis_lightning.evaluate.tables.main import write_tables
from small_results import SPEAKERS, write_run

METRICS = ("SI_SDR", "SIM_margin_ge2e")
COLUMNS = {
    "SI_SDR": {"quantity": "SI_SDR", "unit": "dB", "higher_is_better": True, "model": None},
    "SIM_margin_ge2e": {"quantity": "SIM_margin", "unit": "", "higher_is_better": True, "model": "ge2e"},
}


def rows(system: str, si_sdr: float, margins: list[float | None], **fields: Any) -> list[dict[str, Any]]:
    made = []
    for index, margin in enumerate(margins):
        missing = [name for name, value in (("SIM_margin_ge2e", margin),) if value is None]
        made.append(
            {
                "id": f"utt-{index}", "task": "tse", "test_set": "mixed", "system": system,
                "speaker": SPEAKERS[index % len(SPEAKERS)], "n_samples": 100, "failed": missing,
                "metrics": {"SI_SDR": si_sdr + index, "SIM_margin_ge2e": margin},
                "error": dict.fromkeys(missing, "the speaker encoder finds no voice"),
                "facts": {"language": "en", "seconds": 1.5 + 2 * index, "snr_db": -5.0 + 2.5 * index,
                          "sexes": ("f-m", "f-f")[index % 2]},
                **fields,
            }
        )  # fmt: skip
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    content = rows("input", 0.0, [-0.2, 0.1, -0.1, 0.1]) + rows("ours", 3.0, [0.2, -0.1, 0.3, None])
    made = write_run(tmp_path / "results", "run", content)
    (made / "summary.json").write_text(json.dumps([{"metrics": COLUMNS}]))
    return made


def of(results: list[Result], system: str) -> Result:
    return next(result for result in results if result.system == system)


def test_gain_over_the_input_and_rate_of_the_wrong_voice(folder: Path) -> None:
    results = read_results(folder)
    ours, given = of(results, "ours"), of(results, "input")
    assert ours.metrics["SI_SDR_gain"].mean == pytest.approx(3.0)
    assert "SI_SDR_gain" not in given.metrics
    wrong = ours.metrics["WRONG_VOICE_ge2e"]
    assert (wrong.mean, wrong.n, wrong.column.title) == (pytest.approx(1 / 3), 3, "WRONG VOICE % (ge2e) ↓")
    assert given.metrics["WRONG_VOICE_ge2e"].mean == 0.5


def scores(folder: Path, system: str, lines: list[dict[str, Any]]) -> None:
    (folder / "scores").mkdir(exist_ok=True)
    (folder / "scores" / f"{system}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


VERSA = [
    {"key": "utt-0", "utmos": 3.0, "mcd": 5.5, "ref_text": "words", "whisper_wer_delete": 1, "_versa_completion": {}},
    {"key": "utt-1", "utmos": 4.0, "mcd": 4.5, "ref_text": "words", "whisper_wer_delete": 0},
    {"key": "utt-2", "utmos": None, "mcd": 3.5},
    {"key": "other", "utmos": 1.0},
]


def test_scores_of_versa_are_columns_by_id(folder: Path) -> None:
    scores(folder, "ours", VERSA)
    ours = of(read_results(folder), "ours")
    utmos, mcd = ours.metrics["utmos_versa"], ours.metrics["mcd_versa"]
    assert (utmos.mean, utmos.n, utmos.n_failed) == (3.5, 2, 2)
    assert utmos.errors == {"no finite number in the file of scores": 1, "not in the file of scores": 1}
    assert (mcd.mean, mcd.n) == (4.5, 3)
    assert (utmos.column.title, mcd.column.title) == ("utmos (versa) ↑", "mcd (versa) ↓")
    assert {name for name in ours.metrics if name.endswith("_versa")} == {"utmos_versa", "mcd_versa"}
    assert len(ours.identity["scores"]) == 64
    assert "scores" not in of(read_results(folder), "input").identity


@pytest.mark.parametrize(
    ("system", "content", "message"),
    [
        ("ours", '{"key": "unknown", "utmos": 1.0}\n', "no id is of the system 'ours' of this run"),
        ("theirs", '{"key": "utt-0", "utmos": 1.0}\n', "no id is of the system 'theirs'"),
        ("ours", "utmos 3.0\n", "line 1: not JSON"),
        ("ours", '{"id": "utt-0"}\n', "line 1: no 'key' with the id"),
    ],
)
def test_files_that_are_no_scores_are_refused(folder: Path, system: str, content: str, message: str) -> None:
    (folder / "scores").mkdir()
    (folder / "scores" / f"{system}.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        read_results(folder)


def test_means_by_what_the_utterances_are_like(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    write_tables(folder.parent, out, REPOSITORY / "evaluation/benchmarks")
    with (out / "breakdowns.csv").open() as file:
        records = [row for row in csv.DictReader(file) if (row["system"], row["metric"]) == ("ours", "SI_SDR")]
    means = {(row["by"], row["group"]): (float(row["mean"]), int(row["n"])) for row in records}
    assert means == {
        ("snr_db", "[-5, 0) dB"): (3.5, 2),
        ("snr_db", "[0, 5) dB"): (5.5, 2),
        ("seconds", "[0, 2) s"): (3.0, 1),
        ("seconds", "[2, 5) s"): (4.0, 1),
        ("seconds", "[5, 10) s"): (5.5, 2),
        ("sexes", "f-f"): (5.0, 2),
        ("sexes", "f-m"): (4.0, 2),
    }, "all are English, so language makes no groups"
