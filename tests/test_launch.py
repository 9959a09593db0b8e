"""The launch scripts start what they say; a run on two agents that loses a process ends as an undisturbed one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from documented import REPOSITORY
from kill_runs import processes_in
from tiny_run import Run, same_state

LAUNCH = REPOSITORY / "experiments/launch"
STEPS = 60
# DDP orders its gradients anew after the first step of a process, and those of three or more then add up in another
# order, a bit apart; not where it looks for unused parameters.
STRATEGY = "--trainer.strategy=ddp_find_unused_parameters_true"


def test_a_job_of_slurms_runs_fit_on_every_node_and_goes_on(tmp_path: Path) -> None:
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    place = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_JOB_NUM_NODES": "4", "SLURM_NTASKS_PER_NODE": "8"}
    line = ["bash", str(LAUNCH / "slurm.sbatch"), "-c", "a config.yaml"]
    # `make` hands its own PYTHON down.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    said = subprocess.run(line, env=inherited | place, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said[:6] == ["--kill-on-bad-exit=1", "python", "-m", "metis_lightning", "fit", "-c"]
    assert said[6:] == ["a config.yaml", "--trainer.num_nodes", "4", "--trainer.devices", "8", "--resume", "auto"]
    settings = [line.split()[1] for line in (LAUNCH / "slurm.sbatch").read_text().splitlines() if line[:7] == "#SBATCH"]
    assert {"--requeue", "--signal=SIGUSR1@300"} <= set(settings)


def agents(run: Run, *options: str) -> list[subprocess.Popen[bytes]]:
    """Start two agents of two processes each, on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"NODES": "2", "DEVICES": "2", "MASTER": f"127.0.0.1:{port}", "PYTHON": sys.executable, "RUN": str(port)}
    started = []
    for number in range(2):
        with (run.folder / f"agent{number}.txt").open("wb") as said:
            line = ["bash", str(LAUNCH / "torchrun.sh"), *run.options, *options, STRATEGY]
            started.append(subprocess.Popen(line, cwd=run.folder, env=os.environ | place, stdout=said, stderr=said))
    return started


def end(run: Run, started: list[subprocess.Popen[bytes]]) -> str:
    deadline = time.monotonic() + 900
    for agent in started:
        agent.wait(deadline - time.monotonic())
    said = "".join((run.folder / f"agent{number}.txt").read_text() for number in range(2))
    assert [agent.returncode for agent in started] == [0, 0], said
    return said


@pytest.mark.timeout(900)
def test_two_agents_that_lose_a_process_end_as_if_they_had_not(tiny_bundle: Path, tmp_path: Path) -> None:
    options = [f"--trainer.max_steps={STEPS}", "--data.batch_seconds=3"]
    whole, lost = Run(tmp_path / "whole", tiny_bundle), Run(tmp_path / "lost", tiny_bundle)
    end(whole, agents(whole, *options))
    started = agents(lost, *options)
    deadline = time.monotonic() + 600
    while not (lost.checkpoints / "last.ckpt").exists():
        assert time.monotonic() < deadline and all(agent.poll() is None for agent in started)
        time.sleep(0.01)
    own = [(pid, command(pid)) for pid in processes_in(lost.folder)]
    victim = next(pid for pid, line in own if b"metis_lightning" in line and b"torch.distributed.run" not in line)
    os.kill(victim, signal.SIGKILL)
    said = end(lost, started)
    assert "--resume auto: goes on from runs/tiny/checkpoints/last.ckpt" in said
    assert lost.content()["global_step"] == whole.content()["global_step"] == STEPS
    assert same_state(lost.content(), whole.content())
    assert not processes_in(lost.folder)


def command(pid: int) -> bytes:
    """The command line of a process, empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
