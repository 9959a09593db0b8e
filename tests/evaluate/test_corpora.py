"""`evaluate --data D --root R` on tiny fakes of the corpora's layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fake_corpora import dns, librimix, librimix_storage
from metis_lightning.cli import main as cli
from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.rows import read_rows
from metis_lightning.evaluate.run.main import run_evaluate
from metis_lightning.evaluate.run.test_sets import find_test_sets
from quick_pool import QuickPool

MakeOptions = Callable[..., EvaluateOptions]


def test_the_dns_challenge_is_enhanced(make_options: MakeOptions, tmp_path: Path, every_task: Path) -> None:
    root = dns(tmp_path / "dns")
    options = ("--task", "se", "--data", "dns", "--root", str(root), "--limit", "1", "--max-failed-share", "1")
    run = make_options(*options, "--system", "input", "target", str(every_task))
    run_evaluate(run, QuickPool)
    rows = read_rows(run.out)
    sets = ("no_reverb", "with_reverb", "real_recordings", "blind_noreverb", "blind_reverb", "blind_realrec")
    assert {row.test_set for row in rows} == set(sets)
    # Recordings have no clean side, so that the control `target` does not exist there and nothing else failed for it.
    assert {row.test_set for row in rows if row.system == "target"} == set(sets[:2])
    (perfect,) = {row.metrics["MSE"] for row in rows if row.system == "target"}
    assert perfect == 0
    noisy = [row for row in rows if row.system == "input" and row.test_set in sets[:2]]
    assert all(row.metrics["MSE"] > 0 for row in noisy)


def test_librimix_by_its_manifest(make_options: MakeOptions, tmp_path: Path) -> None:
    storage = librimix_storage(tmp_path / "storage")
    root, manifest = librimix(storage, 16_000, "min"), tmp_path / "other.jsonl"
    assert cli.main(["prepare", "librimix", "--root", str(root), "--out", str(manifest)]) == 0
    options = ("--task", "tse", "--data", "librimix", "--root", str(root), "--system", "input", "target")
    with pytest.raises(UserError, match=r"librimix.jsonl: no such manifest"):
        run_evaluate(make_options(*options), QuickPool)
    run = make_options(*options, "--data-options", f"manifest={manifest}", "--max-failed-share", "1")
    run_evaluate(run, QuickPool)
    rows = read_rows(run.out)
    assert len(rows) == 16
    assert {row.test_set for row in rows} == {"librimix-test"}


def test_wrong_data_options_are_named(tmp_path: Path) -> None:
    root = dns(tmp_path / "dns")
    with pytest.raises(UserError, match=r"--data-options: .*colour=red; dns takes root as NAME=VALUE"):
        find_test_sets("dns", root, "se", ["colour=red"])
    with pytest.raises(UserError, match="--data dns: give --root"):
        find_test_sets("dns", None, "se")
    with pytest.raises(UserError, match="choose one of se"):
        find_test_sets("dns", root, "tts")
