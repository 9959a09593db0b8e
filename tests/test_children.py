"""A parent that is killed takes along what it started: ranks, scoring processes, scanning processes, fork servers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from metis_lightning.data.manifest.scan import CorpusScan, Fault, Row, Shard
from metis_lightning.errors import UserError
from metis_lightning.evaluate.run.launch import run_in_processes
from orphans import descendants, wait_for_end

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")

TESTS = str(Path(__file__).parent)


def block(*_: object) -> None:
    """Do nothing for longer than any test lasts; say that it has begun."""
    # In one write: two processes share the pipe.
    os.write(1, b"begun\n")
    time.sleep(600)


class BlockingScan(CorpusScan):
    """Two pieces without an end."""

    root, layout = "nowhere", "nothing"

    def shards(self) -> list[Shard]:
        return [Shard("a", "1"), Shard("b", "1")]

    def scan(self, shard: Shard) -> Iterator[Row | Fault]:
        block()
        return iter(())


PARENTS = {
    "ranks of evaluate": "from metis_lightning.evaluate.run.launch import run_in_processes; run_in_processes(block, 2)",
    "scanning processes": "from metis_lightning.data.manifest.build import BuildOptions, build_manifest; "
    "build_manifest(BlockingScan(), BuildOptions(Path('m.jsonl'), workers=2))",
    "scoring processes": "from metis_lightning.metrics.pool import ScoringPool, SuiteOptions; "
    "pool = ScoringPool(SuiteOptions(task='se'), 2).__enter__(); print('begun', 'begun', sep='\\n'); block()",
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("what", PARENTS)
def test_a_killed_parent_takes_its_processes_along(what: str, tmp_path: Path) -> None:
    code = f"from test_children import *\nif __name__ == '__main__':\n    {PARENTS[what]}\n"
    (tmp_path / "parent.py").write_text(code)
    path = os.pathsep.join([TESTS, os.environ["PYTHONPATH"]])
    parent = subprocess.Popen(
        [sys.executable, "parent.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdout is not None
    assert [parent.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
    started = descendants(parent.pid)
    assert len(started) >= 2
    parent.kill()
    parent.wait()
    assert wait_for_end(started) == set()


@pytest.mark.parametrize(
    ("environment", "ends"),
    [
        ({"TORCHELASTIC_RUN_ID": "7", "RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, True),
        # Started by hand, or by a cluster's own launcher.
        ({"RANK": "1", "LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "1", "LOCAL_RANK": "1"}, False),
    ],
)
def test_a_rank_ends_with_its_launcher(environment: dict[str, str], ends: bool) -> None:
    rank = "import os, time; from metis_lightning.child_processes import end_with_launcher; "
    rank += "end_with_launcher(os.environ); "
    rank += "print(os.getpid(), flush=True); time.sleep(600)"
    launcher = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess, sys; subprocess.call([sys.executable, '-c', {rank!r}])"],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None
    pid = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    left = wait_for_end({pid}, 20 if ends else 1)
    if left:
        os.kill(pid, signal.SIGKILL)
    assert bool(left) != ends


def fail_or_block(rank: int) -> None:
    if rank == 1:
        raise UserError("the second is wrong")
    block()


@pytest.mark.timeout(120)
def test_the_first_error_of_a_rank_is_raised_at_once() -> None:
    with pytest.raises(UserError, match="the second is wrong"):
        run_in_processes(fail_or_block, 2)


def divide(rank: int) -> None:
    _ = 1 // (rank - 1)


@pytest.mark.timeout(120)
def test_a_bug_of_a_rank_comes_with_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run_in_processes(divide, 2)
    assert caught.value.__notes__ == ["in process 1"] and "in divide" in str(caught.value.__cause__)


def die(rank: int) -> None:
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    block()


@pytest.mark.timeout(120)
def test_a_rank_that_was_killed_is_one_line() -> None:
    with pytest.raises(UserError, match="one of the processes was killed .*what was scored is kept"):
        run_in_processes(die, 2)
