"""The whole chain for every task on the starter corpus: evaluate, tables, compare."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from documented import REPOSITORY
from metis_lightning.cli import main as cli
from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.rows import read_rows
from metis_lightning.evaluate.run.main import run_evaluate
from metis_lightning.evaluate.run.systems import System
from metis_lightning.pipeline import Metis, Speech
from metis_lightning.task_table import TASKS
from metis_lightning.types import TestItem, Trial
from metis_lightning.weights.bundle import read_index, write_index
from quick_pool import QuickPool

MakeOptions = Callable[..., EvaluateOptions]

# By task: its test set, the controls that it has, the table that lists it.
CHAINS = {
    "tts": (["test-unseen-tts"], ["target", "resynthesis", "oracle"], "table_01"),
    "vc": (["test-unseen-vc"], ["input"], "table_02"),
    "tse": (["test-unseen"], ["input", "target", "resynthesis", "oracle"], "table_03"),
    "se": (["test-unseen-se"], ["input", "target", "resynthesis", "oracle"], "table_04"),
    "l2s": (["test-unseen-l2s"], ["target", "resynthesis", "oracle"], "table_05"),
    "omni": (["test-unseen", "test-unseen-se", "test-unseen-vc", "test-unseen-tts"], None, "table_06"),
}


@pytest.mark.parametrize("task", CHAINS)
def test_evaluate_tables_and_compare(
    task: str,
    make_options: MakeOptions,
    every_task: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    test_sets, controls, table = CHAINS[task]
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "benchmarks").symlink_to(REPOSITORY / "evaluation" / "benchmarks")
    out = f"evaluation/results/{task}"
    options = make_options(
        "--task", task, "--test-sets", *test_sets, "--limit", "1", "--system", f"ours={every_task}", "--out", out
    )
    run_evaluate(options, QuickPool)
    rows = read_rows(options.out)
    expected = {
        (test_set, system)
        for test_set in test_sets
        for system in [*(controls if controls is not None else CHAINS[_task_of(test_set)][1]), "ours"]
    }
    assert {(row.test_set, row.system) for row in rows} == expected
    assert all(row.task == task and row.failed == [] for row in rows)
    # Where an answer has its own timing, Omni's metrics have nothing to compare it with sample by sample.
    compared = {_task_of(row.test_set) for row in rows if row.metrics["MSE"] is not None}
    assert compared == ({"tse", "se"} if task == "omni" else set() if task == "vc" else {task})
    said = capsys.readouterr().out
    assert ("input: not on" in said) == (task in ("tts", "l2s", "omni"))

    # The tables are written by evaluate itself; the verb gives the same.
    written = (tmp_path / "evaluation" / "tables" / f"{table}.md").read_text()
    assert f"Ours on {test_sets[0]}" in written
    assert cli.main(["tables"]) == 0
    assert (tmp_path / "evaluation" / "tables" / f"{table}.md").read_text() == written
    with (tmp_path / "evaluation" / "tables" / f"{table}.csv").open(newline="") as file:
        ours = [row for row in csv.DictReader(file) if "ours" in row.values()]
    assert ours

    assert cli.main(["compare", "--task", task]) == 0
    page = (tmp_path / "evaluation" / "compare" / task / "index.html").read_text()
    assert page.count("data:audio/ogg;base64,") == len(rows)


def _task_of(test_set: str) -> str:
    last = test_set.rpartition("-")[2]
    return last if last in TASKS else "tse"


def test_the_embedded_bundle_runs_by_default_where_it_does_the_task(make_options: MakeOptions) -> None:
    from metis_lightning.evaluate.run.plan import make_plan

    names = {task: [s.name for s in make_plan(make_options("--task", task), "cpu").systems] for task in ("tse", "l2s")}
    assert names == {
        "tse": ["input", "target", "resynthesis", "oracle", "nano"],
        "l2s": ["target", "resynthesis", "oracle"],
    }


def test_a_task_and_a_corpus_of_ones_own_need_one_file_each(
    make_options: MakeOptions, every_task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task has no entry; its corpus is named by a module, and says for what it is."""
    import shutil

    from metis_lightning.models.lora import Extension
    from tiny import write_task

    bundle = shutil.copytree(every_task, tmp_path / "own")
    write_task(bundle, "unhum", Extension("gated", 160, 2))
    shutil.copy(Path(__file__).with_name("odd_tests.py"), tmp_path / "odd_corpus.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    options = make_options("--task", "unhum", "--data", "odd_corpus", "--system", str(bundle))
    run_evaluate(options, QuickPool)
    rows = read_rows(options.out)
    assert [(row.id, row.system, row.failed) for row in rows] == [
        ("hum_0", name, []) for name in ("input", "target", "resynthesis", "oracle", "own")
    ]
    with pytest.raises(UserError, match="--data odd_corpus.NeedsRoot: give --root"):
        run_evaluate(make_options("--task", "hum", "--data", "odd_corpus.NeedsRoot"), QuickPool)
    with pytest.raises(UserError, match="--task sing: choose one of unhum"):
        run_evaluate(make_options("--task", "sing", "--data", "odd_corpus.OddTests"), QuickPool)


def test_the_oracle_needs_stage_2_and_is_told_so_before_anything_runs(
    make_options: MakeOptions, every_task: Path, tmp_path: Path
) -> None:
    import shutil

    from metis_lightning.evaluate.run.plan import make_plan

    bundle = shutil.copytree(every_task, tmp_path / "codecs")
    index = read_index(bundle)
    del index["parts"]["s2a_full"]
    write_index(bundle, index)
    plan = make_plan(make_options("--task", "tse", "--base", str(bundle), "--system", str(every_task)), "cpu")
    assert [system.name for system in plan.systems] == ["input", "target", "resynthesis", "every"]
    with pytest.raises(UserError, match="--system oracle: .*lacks s2a_full"):
        make_plan(make_options("--task", "tse", "--base", str(bundle), "--system", "oracle"), "cpu")


def test_the_oracle_is_of_stage_2_alone_and_given_a_prompt_where_models_are(
    make_options: MakeOptions, every_task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from metis_lightning.evaluate.run.plan import make_plan

    def oracle(task: str, *options: str) -> System:
        chosen = make_options("--task", task, "--base", str(every_task), "--system", "oracle", *options)
        return make_plan(chosen, "cpu").systems[0]

    assert oracle("tse").identity == oracle("tse", "--num-steps", "3", "--guidance-scale", "1").identity
    assert "stage1" not in oracle("tse").identity["settings"]
    assert list(oracle("omni").identity["settings"]) == ["tts", "vc", "tse", "se"]
    prompts, respeak = [], Metis.respeak

    def noting(metis: Metis, wave: torch.Tensor, prompt: torch.Tensor | None, *rest: object) -> Speech:
        prompts.append(prompt)
        return respeak(metis, wave, prompt, *rest)

    monkeypatch.setattr(Metis, "respeak", noting)
    wave, voice = torch.randn(9_600) / 10, torch.randn(9_600) / 10
    for task in ("tse", "se"):
        item = TestItem("a", "set", "speaker", None, "en", target=wave, enrollment=voice)
        assert len(oracle(task).load()(Trial("a", "set"), item, 0).wave) == len(wave)
    assert prompts[0] is voice and prompts[1] is None
