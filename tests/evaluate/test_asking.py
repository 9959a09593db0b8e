"""How models are asked: told what is said, and for how long."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fake_corpora import emilia_members, put, tar_bytes
from metis_lightning.data.corpora.emilia import EmiliaScan
from metis_lightning.data.manifest.build import BuildOptions, build_manifest
from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.rows import read_rows
from metis_lightning.evaluate.run.main import run_evaluate
from metis_lightning.evaluate.run.outputs import Output
from metis_lightning.evaluate.run.plan import make_plan
from metis_lightning.evaluate.run.shard import scoring_item
from metis_lightning.pipeline import Metis
from quick_pool import QuickPool

MakeOptions = Callable[..., EvaluateOptions]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What `Metis.generate` is asked for."""
    requests: list[Any] = []
    original = Metis.generate

    def generate(self: Metis, request: Any, *rest: Any, **options: Any) -> Any:
        requests.extend(request)
        return original(self, request, *rest, **options)

    monkeypatch.setattr(Metis, "generate", generate)
    return requests


def test_extraction_is_told_what_is_said(make_options: MakeOptions, every_task: Path, asked: list[Any]) -> None:
    options = ("--task", "omni", "--test-sets", "test-unseen", "--limit", "1", "--no-controls")
    options = (*options, "--system", str(every_task), "--max-failed-share", "1")
    for name, guided in (("heard", ()), ("told", ("--text-guided",))):
        run_evaluate(make_options(*options, *guided, "--out", f"results/{name}"), QuickPool)
    assert [bool(request.phones) for request in asked] == [False, True]
    protocols = [json.loads(Path(f"results/{name}/protocol.json").read_text()) for name in ("heard", "told")]
    assert [p["systems"]["every"]["settings"]["tse"]["text_guided"] for p in protocols] == [False, True]


def test_weights_that_take_no_text_are_refused_at_the_start(make_options: MakeOptions, every_task: Path) -> None:
    with pytest.raises(UserError, match="--text-guided: the weights for tse in .* take no text; give Omni's"):
        run_evaluate(make_options("--task", "tse", "--text-guided", "--system", str(every_task)), QuickPool)


@pytest.mark.parametrize("length", ["predicted", "reference"])
def test_speech_from_text_is_as_long_as_asked(length: str, make_options: MakeOptions, every_task: Path) -> None:
    options = make_options(
        "--task", "tts", "--test-sets", "test-unseen-tts", "--limit", "1", "--tts-length", length,
        "--system", "target", str(every_task),
    )  # fmt: skip
    run_evaluate(options, QuickPool)
    recorded, spoken = (row.n_samples for row in read_rows(options.out))
    # Speech is made in frames of 20 ms.
    assert (abs(recorded - spoken) <= 480) == (length == "reference")
    settings = json.loads((options.out / "protocol.json").read_text())["systems"]["every"]["settings"]
    assert settings["tts_length"] == length
    assert settings["stage1"] == {**settings["stage1"], "num_steps": 1, "guidance_scale": 2.5}


@pytest.fixture
def emilia_root(tmp_path: Path) -> Path:
    """Three speakers of three utterances each."""
    root = tmp_path / "Emilia"
    members = [m for s in range(3) for m in emilia_members(f"EN_B00000_S0000{s}", range(3), 3.2)]
    put(root / "EN/EN-B000000.tar", tar_bytes(members))
    build_manifest(EmiliaScan(str(root)), BuildOptions(root / "emilia.jsonl"))
    return root


@pytest.mark.parametrize("text", ["asr", "corpus"])
def test_emiliamix_hands_the_target_over_for_its_text(text: str, make_options: MakeOptions, emilia_root: Path) -> None:
    options = make_options(
        "--task", "tse", "--data", "emiliamix", "--root", str(emilia_root), "--system", "input",
        "--data-options", "count=2", f"text={text}",
    )  # fmt: skip
    plan = make_plan(options, "cpu")
    job = next(plan.jobs_of(plan.systems[0]))
    item = job.test_set.reader.load_item(job.trial)
    scored = scoring_item("tse", job, item, Output(item.mixture))
    assert (scored.text_recording is not None) == (text == "asr")
    if text == "asr":
        assert torch.equal(torch.as_tensor(scored.text_recording), item.target)
    assert plan.protocol({}).content["test_sets"]["emiliamix"]["text"] == text
