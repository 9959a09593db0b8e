"""Kills a run at random moments, each time followed by the same command, and compares with one that nothing disturbs.

python tests/kill_runs.py 20
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from tiny import make_tiny_bundle
from tiny_run import Run, same_state


def kill_and_resume(run: Run, *options: str, kills: int, seed: int, longest: float = 2.0) -> list[int]:
    """Kill a run at random moments after its start, then let it end; return the steps that were saved by then."""
    draw, saved = random.Random(seed), []
    for _ in range(kills):
        process = run.start(*options, "--ckpt_path=last")
        time.sleep(draw.uniform(0.2, longest))
        # A run that has ended by then is done, not killed.
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        assert run.end(process) in (-signal.SIGKILL, 0)
        saved.append(run.content()["global_step"] if (run.checkpoints / "last.ckpt").exists() else 0)
    assert run(*options, "--ckpt_path=last") == 0
    return saved


def processes_in(folder: Path) -> list[int]:
    """The processes that work in a folder."""
    links = (path for path in Path("/proc").glob("[0-9]*/cwd") if os.access(path, os.R_OK))
    return [int(path.parent.name) for path in links if path.exists() and path.resolve().is_relative_to(folder)]


def main(kills: int, seed: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        bundle = make_tiny_bundle(folder / "bundle")
        undisturbed, run = Run(folder / "undisturbed", bundle), Run(folder / "run", bundle)
        options = ["--trainer.max_steps=400"]
        assert undisturbed(*options) == 0
        saved = kill_and_resume(run, *options, kills=kills, seed=seed, longest=6.0)
        print(f"{kills} kills, steps saved by then: {saved}")
        print("weights and optimizer state as undisturbed:", same_state(run.content(), undisturbed.content()))
        print("files:", sorted({path for path in run.files() if "version_" not in path}))
        print("hidden files:", [str(path) for path in folder.rglob(".*") if path.is_file()])
        print("processes left:", [pid for pid in processes_in(folder) if pid != os.getpid()])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
