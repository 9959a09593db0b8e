"""`last.ckpt` is the newest state of the run that was started last, however that ends."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest
import torch
import yaml

from kill_runs import HEARS, kill_and_resume
from tiny_run import DIVERGE, Run, same_state, tensors

LONG = "--trainer.max_steps=2000"


@pytest.fixture
def run(tmp_path: Path, tiny_bundle: Path) -> Run:
    return Run(tmp_path, tiny_bundle)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Run:
    run = Run(tmp_path_factory.mktemp("undisturbed"), tiny_bundle)
    assert run("--trainer.max_steps=16") == 0
    return run


def written(step: int) -> list[str]:
    checkpoints = [f"checkpoints/epoch=0-step={step}.ckpt", "checkpoints/last.ckpt"]
    return [*checkpoints, "config.yaml", "events", "hparams.yaml", "provenance.jsonl"]


def test_the_last_steps_are_saved_whatever_the_interval(run: Run, undisturbed: Run) -> None:
    assert run() == 0
    assert run.content()["global_step"] == 7
    assert run.files() == [f"tiny/{name}" for name in written(6)]
    # What was saved at the end goes on as what was saved on the way does.
    assert run("--trainer.max_steps=16", "--ckpt_path=last") == 0
    assert same_state(run.content(), undisturbed.content())


def test_the_end_of_an_epoch_is_saved_too(run: Run, undisturbed: Run) -> None:
    assert run("--trainer.max_steps=-1", "--trainer.max_epochs=1", "--trainer.limit_train_batches=8") == 0
    assert run.content()["global_step"] == 8
    assert run("--trainer.max_steps=16", "--ckpt_path=last") == 0
    assert same_state(run.content(), undisturbed.content())


def test_resumes_at_the_ends_of_epochs_hear_what_one_run_hears(run: Run, tmp_path: Path, tiny_bundle: Path) -> None:
    """Lightning loses count of the epochs at the second one."""
    for steps in (8, 16, 28):
        assert run(f"--trainer.max_steps={steps}", "--ckpt_path=last") == 0
    at_once = Run(tmp_path / "at_once", tiny_bundle)
    assert at_once("--trainer.max_steps=28") == 0
    assert same_state(run.content(), at_once.content())


def test_a_state_with_two_names_is_one_file(run: Run) -> None:
    assert run("--trainer.max_steps=6") == 0
    assert (run.checkpoints / "last.ckpt").samefile(run.checkpoints / "epoch=0-step=6.ckpt")
    assert run.content()["global_step"] == 6


def test_a_second_run_moves_the_first_aside_and_a_resumed_one_does_not(run: Run) -> None:
    assert run() == 0
    first = run.content()
    assert run("--seed_everything=1", "--trainer.max_steps=4") == 0
    assert "an earlier run's files are in runs/tiny/version_0 now" in run.said
    assert run.content()["global_step"] == 4
    assert same_state(run.content("../version_0/checkpoints/last"), first)
    once = sorted([*(f"tiny/{name}" for name in written(3)), *(f"tiny/version_0/{name}" for name in written(6))])
    assert run.files() == once
    assert run("--trainer.max_steps=6", "--ckpt_path=runs/tiny/checkpoints/last.ckpt") == 0
    assert "version_1" not in "".join(run.files())
    assert run.content()["global_step"] == 6


def test_validation_writes_beside_the_runs_events(run: Run) -> None:
    assert run("--trainer.max_steps=3") == 0
    before = {path: path.stat().st_size for path in (run.folder / "runs/tiny").glob("events*")}
    options = ["--trainer.limit_val_batches=1", "--ckpt_path=runs/tiny/checkpoints/last.ckpt"]
    assert run(*options, verb="validate") == 0
    assert {path: path.stat().st_size for path in (run.folder / "runs/tiny").glob("events*")} == before
    assert list((run.folder / "runs/tiny/validate").glob("events*"))


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C")])
@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_saves_and_says_how_to_go_on(run: Run, number: signal.Signals, name: str, processes: int) -> None:
    options = [LONG, f"--trainer.devices={processes}", f"--trainer.strategy={'ddp_fork' if processes > 1 else 'auto'}"]
    process = run.start(*options)
    wait_for(run.checkpoints / "last.ckpt")
    os.kill(process.pid, number)
    assert run.end(process) == 128 + number
    step = run.content()["global_step"]
    assert f"stopped by {'SIGTERM' if processes > 1 else name} after step {step}, saved as runs/tiny/" in run.said
    assert "go on with: python -m metis_lightning fit -c tiny.yaml" in run.said
    assert run.said.count("--ckpt_path runs/tiny/checkpoints/last.ckpt") == 1
    assert run(f"--trainer.max_steps={step + 1}", "--ckpt_path=runs/tiny/checkpoints/last.ckpt") == 0
    assert run.content()["global_step"] == step + 1


def test_a_requeued_job_saves_before_lightning_does(run: Run) -> None:
    job = {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "job", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    (run.folder / "scontrol").write_text("#!/bin/sh\n")
    (run.folder / "scontrol").chmod(0o755)
    process = run.start(LONG, environment={**job, "PATH": f"{run.folder}:{os.environ['PATH']}"})
    wait_for(run.checkpoints / "last.ckpt")
    os.kill(process.pid, signal.SIGUSR1)
    wait_for(run.folder / "hpc_ckpt_1.ckpt")
    assert torch.load(run.folder / "hpc_ckpt_1.ckpt", weights_only=True)["global_step"] <= run.content()["global_step"]
    os.kill(process.pid, signal.SIGTERM)
    assert run.end(process) == 128 + signal.SIGTERM


@pytest.mark.parametrize("checkpoint", ["last", "runs/tiny/checkpoints/last.ckpt"])
def test_a_cut_newest_one_is_named_with_the_one_before(run: Run, checkpoint: str) -> None:
    assert run() == 0
    last = run.checkpoints / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    assert run(f"--ckpt_path={checkpoint}") == 2
    assert "checkpoints/last.ckpt is damaged or not a checkpoint; the newest whole one there is" in run.last_line
    assert run.last_line.endswith("epoch=0-step=6.ckpt, of step 6")


def test_resume_auto_starts_goes_on_and_passes_over_what_is_broken(run: Run, undisturbed: Run) -> None:
    assert run("--resume=auto") == 0
    assert "--resume auto: starts: there is no checkpoint in runs/tiny/checkpoints" in run.said
    last = run.checkpoints / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    assert run("--resume=auto", "--trainer.max_steps=16") == 0
    reason = "passed over runs/tiny/checkpoints/last.ckpt: damaged or not a checkpoint"
    assert reason in run.said
    assert "goes on from runs/tiny/checkpoints/epoch=0-step=6.ckpt, of step 6" in run.said
    assert same_state(run.content(), undisturbed.content())
    assert "version_" not in "".join(run.files())
    assert run("--resume=auto", "--ckpt_path=last") == 2
    assert "--resume auto finds the checkpoint itself" in run.last_line


def test_the_config_of_a_run_repeats_it_and_says_what_it_was_made_of(run: Run, undisturbed: Run) -> None:
    assert run() == 0
    assert run("--resume=auto", "--trainer.max_steps=16") == 0
    lines = (run.folder / "runs/tiny/provenance.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert (first["resumed_from"], second["resumed_from"]) == (None, "runs/tiny/checkpoints/last.ckpt")
    assert first["command"].startswith("python -m metis_lightning fit -c tiny.yaml --model.tokenizer=")
    assert first["versions"]["torch"] == torch.__version__
    assert first["data"] == second["data"] and len(first["data"]) == 64
    assert first["commit"] is None or len(first["commit"].removesuffix("-dirty")) == 40
    run.options = ["-c", "runs/tiny/config.yaml"]
    assert run() == 0
    assert same_state(run.content(), undisturbed.content())
    assert run.content()["global_step"] == 16
    assert (run.folder / "runs/tiny/version_0/provenance.jsonl").exists()


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)


def test_killed_runs_end_as_an_undisturbed_one(run: Run, undisturbed: Run) -> None:
    kill_and_resume(run, "--trainer.max_steps=16", HEARS, kills=3, seed=0, most_steps=4)
    assert same_state(run.content(), undisturbed.content())
    # Attempts that were killed before their first checkpoint were moved aside.
    left = {name for name in run.files() if "version_" not in name}
    assert left == {"tiny/checkpoints/epoch=1-step=15.ckpt", *(f"tiny/{name}" for name in written(15)[1:])}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_diverges_stops_and_keeps_what_is_finite(run: Run, processes: int) -> None:
    saves = {"dirpath": "runs/tiny/checkpoints", "save_last": True, "every_n_train_steps": 1}
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saves}
    (run.folder / "often.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    strategy = "ddp_fork" if processes > 1 else "auto"
    options = ["-c", "often.yaml", *DIVERGE, f"--trainer.devices={processes}", f"--trainer.strategy={strategy}"]
    assert run(*options) == 2
    found = [json.loads(line) for line in (run.folder / "runs/tiny/non_finite.jsonl").read_text().splitlines()]
    ids = [name for batch in found[0]["batches"] for name in batch["ids"]]
    assert len(found) == 10
    assert [line["step"] for line in found] == list(range(found[0]["step"], found[0]["step"] + 10))
    assert "the run stopped after 10 updates in a row that were skipped: the " in run.last_line
    assert ids[0] in run.said
    assert {batch["process"] for line in found for batch in line["batches"]} <= set(range(processes))
    # The weights stay as they were before.
    assert run.content()["global_step"] >= found[0]["step"]
    assert all(value.isfinite().all() for value in tensors(run.content()).values())
    assert "go on from runs/tiny/checkpoints/last.ckpt" in run.last_line


PARALLEL = "lightning.pytorch.strategies.ModelParallelStrategy"
BAD = [
    ("--trainer.accelerator=gpu", "No supported gpu backend found"),
    ("--trainer.devices=0", "not a valid input"),
    ("--trainer.strategy=fsdp", "requires a GPU accelerator"),
    ("--trainer.strategy=deepspeed", "you must have DeepSpeed installed"),
    ("--trainer.strategy=nope", "invalid strategy name"),
    (f'--trainer.strategy={{"class_path": "{PARALLEL}"}}', "(DDP or FSDP2), not ModelParallel"),
]


@pytest.mark.parametrize(("option", "text"), BAD, ids=[option.rpartition(".")[2] for option, _ in BAD])
def test_a_trainer_that_cannot_be_is_one_line(run: Run, option: str, text: str) -> None:
    assert run(option) == 2
    assert run.last_line.startswith("metis-lightning: error: trainer: ")
    assert text in run.last_line
