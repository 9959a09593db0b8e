"""Kills a run at random moments, each time followed by the same command, and compares with one that nothing disturbs.

    python tests/kill_runs.py 40 [SEED]

Every other kill comes within some steps, or in the start; those between them while a checkpoint is being written. In
the end weights and optimizer states must be bit-equal, every utterance heard once, and no file or process be left.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from lightning import Callback, LightningModule, Trainer

from metis_lightning.types import SpeechBatch
from tiny import make_tiny_bundle
from tiny_run import Run, same_state

HEARD = "heard.txt"
# The second and third epoch begin within these steps.
DATA = ("--data.init_args.batch_seconds=24", "--trainer.limit_train_batches=1.0")
HEARS = "--trainer.callbacks+=kill_runs.Heard"
OPTIONS = (HEARS, *DATA, "--trainer.max_steps=300")


class Heard(Callback):
    """Notes which utterances each step was of, in the folder that the run was started in."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: SpeechBatch, batch_idx: int
    ) -> None:
        sound = hashlib.sha256(batch.wave.numpy().tobytes()).hexdigest()[:16]
        line = f"{trainer.global_step} {trainer.current_epoch} {' '.join(batch.ids)} {sound}\n"
        # At once: whoever is killed leaves whole lines.
        file = os.open(HEARD, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, line.encode())
        os.close(file)


class Kill(NamedTuple):
    """The step that was saved by then, and whether a checkpoint was being written."""

    saved: int
    in_write: bool


def half_written(run: Run) -> list[Path]:
    return list(run.checkpoints.glob(".*.ckpt"))


def steps_done(run: Run) -> int:
    path = run.folder / HEARD
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_and_resume(run: Run, *options: str, kills: int, seed: int, most_steps: int = 12) -> list[Kill]:
    """Kill a run at random moments, every other time within a write, then let it end; return what each kill found."""
    draw, found = random.Random(seed), []
    for number in range(kills):
        left, before, steps = set(half_written(run)), steps_done(run), draw.randint(0, most_steps)
        process = run.start(*options, "--ckpt_path=last")
        if number % 2:
            while process.is_alive() and not set(half_written(run)) - left:
                time.sleep(1e-4)
            time.sleep(draw.uniform(0, 4e-3))
        else:
            while process.is_alive() and steps_done(run) < before + steps:
                time.sleep(0.01)
            time.sleep(draw.uniform(0, 0.2 if steps else 5))
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        assert run.end(process) == -signal.SIGKILL, "the run had ended by then: give it more steps"
        saved = run.content()["global_step"] if (run.checkpoints / "last.ckpt").exists() else 0
        found.append(Kill(saved, not left >= set(half_written(run))))
    assert run(*options, "--ckpt_path=last") == 0
    return found


def heard(lines: Iterable[str]) -> list[str]:
    """What the last state was trained on, step by step: a step that is done again replaces all from there on."""
    steps: list[str] = []
    for line in lines:
        step = int(line.split()[0])
        assert step <= len(steps) + 1, f"no step {len(steps) + 1} before step {step}"
        steps[step - 1 :] = [line]
    return steps


def processes_in(folder: Path) -> list[int]:
    """The processes that work in a folder."""
    links = (path for path in Path("/proc").glob("[0-9]*/cwd") if os.access(path, os.R_OK))
    return [int(path.parent.name) for path in links if path.exists() and path.resolve().is_relative_to(folder)]


def main(kills: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        bundle = make_tiny_bundle(folder / "bundle")
        undisturbed, run = Run(folder / "undisturbed", bundle), Run(folder / "run", bundle)
        assert undisturbed(*OPTIONS) == 0
        found = kill_and_resume(run, *OPTIONS, kills=kills, seed=seed)
        print(f"{kills} kills, {sum(kill.in_write for kill in found)} while a checkpoint was being written")
        print("steps saved by then:", *(f"{kill.saved}{'*' * kill.in_write}" for kill in found))
        lines, expected = ((each.folder / HEARD).read_text().splitlines() for each in (run, undisturbed))
        print(f"{len(lines)} steps were done for {len(expected)}")
        left = [str(path) for path in folder.rglob(".*") if path.is_file()]
        left += [path for path in run.files() if "version_" not in path and path not in undisturbed.files()]
        checks = {
            "weights and optimizer states as undisturbed": same_state(run.content(), undisturbed.content()),
            "each step heard what the undisturbed one did": heard(lines) == expected,
            "no stray files": not left,
            "no processes left": not [pid for pid in processes_in(folder) if pid != os.getpid()],
        }
        for what, is_so in checks.items():
            print(f"{what}: {is_so}")
        sys.exit(not all(checks.values()))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
