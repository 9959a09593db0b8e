"""`evaluate` end to end with a quick suite: every row once, resumable, refused under another protocol."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import soundfile
import torch

from metis_lightning.errors import UserError
from metis_lightning.evaluate import main
from metis_lightning.evaluate.results import read_rows
from metis_lightning.metrics.options import SuiteOptions
from metis_lightning.metrics.utterance import Utterance
from metis_lightning.metrics.values import MetricValue, WerValue


class QuickSuite:
    """Two real numbers instead of eleven: the level of what is heard, and the error to the reference."""

    wer_column = "WER_none"

    def __init__(self, options: SuiteOptions) -> None:
        self.protocol = options.protocol

    def fingerprint(self) -> dict[str, str]:
        return {"protocol": self.protocol}

    def score(self, utterance: Utterance) -> dict[str, MetricValue]:
        generated, reference = torch.as_tensor(utterance.generated), torch.as_tensor(utterance.reference)
        error = float((generated - reference).square().mean())
        level = MetricValue(float(generated.square().mean().sqrt()), None)
        return {"LEVEL": level, "MSE": MetricValue(error, None), "WER_none": WerValue(None, "no ASR in this test")}


@pytest.fixture
def options(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Namespace:
    monkeypatch.setattr(main, "Suite", QuickSuite)
    monkeypatch.setattr(main, "CODEC", str(tiny_bundle))
    monkeypatch.setattr(main, "write_tables", lambda *_: [])
    return Namespace(
        task="tse",
        protocol="offline",
        system=[str(tiny_bundle)],
        no_controls=False,
        test_sets=["test-unseen"],
        limit=2,
        seed=0,
        num_steps=1,
        out=tmp_path / "results" / "run",
        device="cpu",
    )


def test_every_system_and_trial_has_one_row_and_one_wav(options: Namespace) -> None:
    main.run_evaluate(options)
    rows = read_rows(options.out)
    keys = [(row["test_set"], row["system"], row["id"]) for row in rows]
    assert len(keys) == len(set(keys)) == 4 * 2
    assert {row["system"] for row in rows} == {"input", "target", "resynthesis", "tiny"}
    by_system = {row["system"]: row for row in rows}
    assert by_system["target"]["metrics"]["MSE"] == 0
    assert by_system["input"]["metrics"]["MSE"] > 0
    assert by_system["target"]["error"] == {"WER_none": "no ASR in this test"}
    for row in rows:
        info = soundfile.info(options.out / "wavs" / row["system"] / f"{row['id']}.wav")
        assert (info.frames, info.samplerate) == (row["n_samples"], 24_000)
    summary = json.loads((options.out / "summary.json").read_text())
    assert {(group["test_set"], group["system"]) for group in summary} == {(k[0], k[1]) for k in keys}


def test_a_cut_off_run_goes_on_and_gives_the_same_rows(options: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    main.run_evaluate(options)
    whole = read_rows(options.out)
    path = options.out / "utterances.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:40])
    scored: list[str] = []
    original = main.score
    monkeypatch.setattr(main, "score", lambda *a: scored.append(a[2]) or original(*a))
    main.run_evaluate(options)
    assert len(scored) == len(whole) - 3
    again = read_rows(options.out)
    drop = ("seconds",)
    strip = [{k: v for k, v in row.items() if k not in drop} for row in again]
    assert strip == [{k: v for k, v in row.items() if k not in drop} for row in whole]


def test_another_protocol_needs_another_folder(options: Namespace) -> None:
    options.no_controls = True
    main.run_evaluate(options)
    options.seed = 1
    with pytest.raises(UserError, match="another protocol.*seed"):
        main.run_evaluate(options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "sing"}, "--task sing: choose one of tse"),
        ({"test_sets": ["test-moon"]}, "no test set 'test-moon'"),
        ({"system": ["nowhere.ckpt"]}, "no such checkpoint"),
        ({"system": ["nowhere"]}, "no such folder"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(
    options: Namespace, change: dict[str, object], message: str
) -> None:
    for name, value in change.items():
        setattr(options, name, value)
    with pytest.raises(UserError, match=message):
        main.run_evaluate(options)
    assert not options.out.exists()


def test_two_systems_of_one_name_are_refused(options: Namespace) -> None:
    options.system = options.system * 2
    with pytest.raises(UserError, match="would be called"):
        main.run_evaluate(options)


def test_extraction_is_the_same_for_the_same_seed(options: Namespace) -> None:
    options.no_controls = True
    main.run_evaluate(options)
    first = soundfile.read(next((options.out / "wavs").rglob("*.wav")))[0]
    options.out = options.out.parent / "again"
    main.run_evaluate(options)
    second = soundfile.read(next((options.out / "wavs").rglob("*.wav")))[0]
    assert torch.equal(torch.from_numpy(first), torch.from_numpy(second))
