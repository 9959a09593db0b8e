"""Runs published systems on test sets of the starter corpus, and evaluates them beside nano and the controls.

    python evaluation/baselines/run.py se [--test-sets test-unseen-se] [--limit 12] [OPTIONS OF EVALUATE]
    python evaluation/baselines/run.py tse

Every baseline runs in an environment of its own below `--work`, made with pip; with `--here` in this one. What they
made is scored as any folder of audio; tables, with paired tests against `input`, come as from `evaluate`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from collections.abc import Sequence
from pathlib import Path

from systems import REQUIREMENTS, TASKS

SYSTEMS = Path(__file__).with_name("systems.py")
METIS = (sys.executable, "-m", "metis_lightning")


def environment(folder: Path, name: str) -> str:
    """Return the Python of a baseline's environment, which is made if it is not there."""
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    stamp = folder / f".{REQUIREMENTS[name]}"
    if not stamp.is_file():
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", REQUIREMENTS[name], "numpy", "soundfile", "soxr"]
        subprocess.run(command, check=True)
        stamp.touch()
    return str(python)


def main(arguments: Sequence[str] | None = None) -> None:
    """Export the items, run the baselines, evaluate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--work", type=Path, default=Path("build/baselines"), help="environments and audio")
    parser.add_argument("--here", action="store_true", help="in this environment, which has the packages")
    parser.add_argument("--system", nargs="+", default=["nano"], help="what stands beside them")
    parser.add_argument("--test-sets", nargs="+", default=[], help="of the starter corpus (default: all of the task)")
    parser.add_argument("--limit", help="only the first items of each")
    parser.add_argument("--out", type=Path, help="folder of the results (default: evaluation/results/baselines-TASK)")
    options, further = parser.parse_known_args(arguments)
    chosen = ["--task", options.task]
    chosen += ["--test-sets", *options.test_sets] if options.test_sets else []
    chosen += ["--limit", options.limit] if options.limit else []
    exported = options.work / f"items-{options.task}"
    subprocess.run([*METIS, "evaluate", *chosen, "--export", str(exported)], check=True)
    systems = list(options.system)
    for name in TASKS[options.task]:
        out = options.work / f"{options.task}-{name}"
        python = sys.executable if options.here else environment(options.work / "environments" / name, name)
        subprocess.run([python, str(SYSTEMS), name, str(exported), str(out)], check=True)
        systems.append(f"{name}=wavs:{out}")
    results = options.out or Path("evaluation/results") / f"baselines-{options.task}"
    # That a baseline fails on an item is a result, and no reason to lose the others.
    scored = [*METIS, "evaluate", *chosen, "--system", *systems, "--out", str(results), "--max-failed-share", "1"]
    subprocess.run([*scored, *further], check=True)


if __name__ == "__main__":
    main()
