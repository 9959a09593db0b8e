"""`bench start`: CPU seconds until commands do their first work, each in a fresh process, beside the bar for them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from metis_lightning.bench.options import BenchStartOptions
from metis_lightning.data.corpora.starter_tests import MANIFEST, STARTER_ROOT
from metis_lightning.data.manifest.records import read_manifest

BAR = 3.0
"""CPU seconds that a command may take on the embedded default; torch alone takes about one."""

HEAVY = (
    *("torch", "torch._dynamo", "lightning", "torchmetrics", "transformers", "peft"),
    *("matplotlib", "pandas", "scipy.signal", "scipy.stats", "onnxruntime"),
)
"""Modules whose import is much of that, or more than all of it."""

# The work is not done: where it would begin, or the command has ended without any, the time is taken.
_CHILD = """
import json, os, sys, time
from importlib import import_module

def first_work(*_, **__):
    imported = [name for name in json.loads(sys.argv[3]) if name in sys.modules]
    print("\\n" + json.dumps([time.process_time(), imported]), flush=True)
    os._exit(0)

module, *names = json.loads(sys.argv[1])
if module:
    owner = import_module(module)
    for name in names[:-1]:
        owner = getattr(owner, name)
    setattr(owner, names[-1], first_work)
from metis_lightning.cli.main import main
main(json.loads(sys.argv[2]))
first_work()
"""


class Start(NamedTuple):
    """CPU seconds of a command until its first work, and which of the `HEAVY` modules it had imported."""

    seconds: float
    heavy: tuple[str, ...]


def run_bench_start(options: BenchStartOptions) -> None:
    """Run `bench start`."""
    with tempfile.TemporaryDirectory() as folder:
        out, clip = Path(folder) / "out", read_manifest(STARTER_ROOT / MANIFEST)[0].path
        commands = {
            "fit, a config that is not there": ("", "fit", "-c", f"{folder}/missing.yaml"),
            "generate": (
                "metis_lightning.sampling.two_stages:TwoStages:conditionings",
                *("generate", "--task", "vc", "--source", str(clip), "--prompt", str(clip), "--out", f"{out}.wav"),
            ),
            "evaluate": (
                "metis_lightning.evaluate.run.shard:timed",
                *("evaluate", "--task", "tse", "--limit", "1", "--out", str(out)),
            ),
        }
        print("| | CPU s | bar | modules |", "|---|---|---|---|", sep="\n")
        for name, (work, *args) in commands.items():
            best = min(start_of(work, args) for _ in range(options.runs))
            kept = "kept" if best.seconds <= BAR else "broken"
            print(f"| {name} | {best.seconds:.2f} | {BAR:.1f}: {kept} | {', '.join(best.heavy)} |", flush=True)


def start_of(work: str, args: list[str]) -> Start:
    """Return how a command line starts; its work begins with the call of `work`, `module:name…`, if there is any."""
    given = map(json.dumps, (work.split(":"), args, HEAVY))
    child = subprocess.run([sys.executable, "-c", _CHILD, *given], capture_output=True, text=True, check=True)
    seconds, heavy = json.loads(child.stdout.splitlines()[-1])
    return Start(seconds, tuple(heavy))
