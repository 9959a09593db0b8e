"""What makes two runs comparable: test sets by what they hold, systems by their seeds, metrics by what decides them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from documented import REPOSITORY
from fake_corpora import librimix, librimix_storage
from metis_lightning.cli import main as cli
from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.runs import Protocol, find_results, protocol_differences
from metis_lightning.evaluate.run.main import run_evaluate
from metis_lightning.evaluate.tables import main as tables
from metis_lightning.metrics import model_files
from metis_lightning.metrics.suite import Suite, SuiteOptions
from quick_pool import QuickPool
from small_results import rows_of, write_run

MakeOptions = Callable[..., EvaluateOptions]

STARTER = ("--task", "tse", "--test-sets", "test-unseen", "--limit", "2")
VARIANTS = {"a": (16_000, "min", "mix_clean"), "b": (8_000, "min", "mix_clean"), "c": (16_000, "max", "mix_both")}


def protocol_of(options: EvaluateOptions) -> dict[str, dict[str, dict[str, object]]]:
    return json.loads((options.out / "protocol.json").read_text())


def marks(folder: Path) -> set[str]:
    return {result.protocol.mark for result in find_results(folder)}


@pytest.fixture
def variant(tmp_path: Path, make_options: MakeOptions) -> Callable[..., EvaluateOptions]:
    """Return the options of `evaluate` on a variant of a fake Libri2Mix, whose ids are the same in all of them."""
    storage = librimix_storage(tmp_path / "storage")

    def prepared(rate: int, mode: str, mix: str, out: str) -> EvaluateOptions:
        root = librimix(storage, rate, mode, (mix,))
        manifest = tmp_path / f"{rate}-{mode}-{mix}.jsonl"
        where = ["--root", str(root), "--out", str(manifest), "--mix", mix]
        assert cli.main(["prepare", "librimix", *where, "--librispeech", str(storage / "LibriSpeech")]) == 0
        return make_options(
            "--task", "tse", "--data", "librimix", "--root", str(root), "--data-options", f"manifest={manifest}",
            "--system", "input", "target", "--max-failed-share", "1", "--out", out,
        )  # fmt: skip

    return prepared


def test_three_variants_of_a_corpus_are_three_test_sets(
    variant: Callable[..., EvaluateOptions], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, which in VARIANTS.items():
        run_evaluate(variant(*which, f"results/{name}"), QuickPool)
    assert len(marks(tmp_path / "results")) == 3
    for into in ("a", "b"):
        with pytest.raises(UserError, match=r"test_sets\.librimix-test\.mode: min -> max"):
            run_evaluate(variant(*VARIANTS["c"], f"results/{into}"), QuickPool)
    with pytest.raises(UserError, match=r"test_sets\.librimix-test\.sample_rates: 16000 -> 8000"):
        run_evaluate(variant(*VARIANTS["b"], "results/a"), QuickPool)

    tables.write_tables(tmp_path / "results", tmp_path / "tables", REPOSITORY / "evaluation" / "benchmarks")
    table = (tmp_path / "tables" / "table_03.md").read_text()
    assert table.count("## Ours on librimix-test, protocol ") == 3
    assert all(said in table for said in ("mode min", "mode max", "sample_rates 8000", "mix_both"))
    # A source that was cut has no word errors: the transcript is of all of it.
    rows = [json.loads(line) for line in (tmp_path / "results/a/utterances.jsonl").read_text().splitlines()]
    assert {row["text"] for row in rows if row["id"] == "11-1-0000_22-2-0000_s1"} == {None}
    assert {row["text"] for row in rows if row["id"] == "11-1-0000_22-2-0000_s2"} == {"WORDS OF 22-2-0000"}
    whole = [json.loads(line) for line in (tmp_path / "results/c/utterances.jsonl").read_text().splitlines()]
    assert all(row["text"] for row in whole)


def test_one_changed_file_or_text_is_another_test_set(variant: Callable[..., EvaluateOptions], tmp_path: Path) -> None:
    run_evaluate(variant(*VARIANTS["a"], "results/a"), QuickPool)
    run_evaluate(variant(*VARIANTS["a"], "results/a"), QuickPool)
    path = next((tmp_path / "storage/Libri2Mix/wav16k/min/test/s1").iterdir())
    wave, rate = soundfile.read(path)
    options = variant(*VARIANTS["a"], "results/a")
    soundfile.write(path, np.flip(wave), rate)
    with pytest.raises(UserError, match=r"different: test_sets\.librimix-test\.audio: \w{12} -> \w{12}\)"):
        run_evaluate(options, QuickPool)
    soundfile.write(path, wave, rate)
    manifest = tmp_path / "16000-min-mix_clean.jsonl"
    manifest.write_text(manifest.read_text().replace("WORDS OF 22-2-0000", "OTHER WORDS"))
    manifest.with_suffix(".summary.json").unlink()
    with pytest.raises(UserError, match=r"different: test_sets\.librimix-test\.texts: "):
        run_evaluate(options, QuickPool)


def test_seeds_are_of_systems_and_not_of_a_protocol(
    make_options: MakeOptions, every_task: Path, tmp_path: Path
) -> None:
    run_evaluate(make_options(*STARTER, "--system", "input", "--out", "results/plain"), QuickPool)
    seeded = make_options(*STARTER, "--system", "input", str(every_task), "--seeds", "0", "1", "--out", "results/seeds")
    run_evaluate(seeded, QuickPool)
    assert len(marks(tmp_path / "results")) == 1
    assert protocol_of(seeded)["systems"]["every"]["seeds"] == [0, 1]
    assert "seeds" not in protocol_of(seeded)["systems"]["input"]


def test_protocols_of_earlier_runs_are_read(tmp_path: Path) -> None:
    old = {"seeds": "0", "trials": {"librimix": "ab" * 32}}
    write_run(tmp_path, "old", rows_of("input"), **old)
    write_run(tmp_path, "older", rows_of("nano"), **{**old, "seeds": "0 1 2"})
    first, second = find_results(tmp_path)
    assert first.protocol.mark == second.protocol.mark
    assert "seeds" not in first.protocol.settings


def test_versions_of_packages_are_recorded_and_decide_nothing(
    make_options: MakeOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SuiteOptions(task="se", asr=(), speakers=())
    before = Suite(settings).fingerprint()
    monkeypatch.setattr(model_files.importlib.metadata, "version", lambda name: "0" if name == "numpy" else "99.9")
    after = Suite(settings).fingerprint()
    assert after["packages"]["numpy"] == "0"
    said = list(protocol_differences(before, after))
    assert len(said) == 2
    assert all(line.startswith("normalizer_versions.") for line in said), said
    assert Protocol({"metrics": {"packages": before["packages"]}}).fingerprint == Protocol({"metrics": {}}).fingerprint

    options = make_options(*STARTER, "--system", "input")
    run_evaluate(options, QuickPool)
    from metis_lightning import __version__
    from metis_lightning.evaluate.run import plan

    assert protocol_of(options)["version"] == __version__
    monkeypatch.setattr(plan, "__version__", "99.9")
    run_evaluate(options, QuickPool)
    assert protocol_of(options)["version"] == "99.9"
