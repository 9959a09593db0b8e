"""Measures and checks the GPU path: one table, a verdict a line; see docs/gpu.md.

Each section runs in a process of its own, forked after the imports: one that crashes, hangs, or leaves the device in a
bad state stops itself alone, and what it found until then is kept.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

# Before torch: asking whether there is a GPU must not open it, or the forked processes could not.
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from sections.report import FAIL, PASS, Report, lines_of, table

WORTH_STARTING = 8
"""Seconds that must be left for another section."""


@dataclass(frozen=True)
class Section:
    """A function `module:name` that takes a report, and the seconds that it may take."""

    name: str
    function: str
    budget: float

    def load(self) -> Callable[[Report], None]:
        """Return the function; its module is imported."""
        module, _, name = self.function.partition(":")
        run: Callable[[Report], None] = getattr(importlib.import_module(module), name)
        return run


# By what it costs not to know: wrong results first, then speed; compiling takes longest and comes last.
SECTIONS = (
    Section("machine", "sections.machine:machine", 25),
    Section("tokens and losses", "sections.tokens:tokens_and_losses", 45),
    Section("graphs", "sections.inference:graphs", 60),
    Section("codecs under bf16", "sections.tokens:codecs_in_mixed_precision", 25),
    Section("enhancement", "sections.inference:enhancement", 75),
    Section("training step", "sections.training:eager_step", 45),
    Section("front end", "sections.training:front_end", 40),
    Section("compiled step", "sections.training:compiled_step", 110),
)


def main(argv: Sequence[str]) -> int:
    """Run the sections; return 1 if any verdict is FAIL, or none is PASS."""
    options = _options(argv)
    if options.list:
        print(*(f"{section.name}: at most {section.budget:g} s" for section in SECTIONS), sep="\n")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "gpu.jsonl"
    if options.section:
        section = next(section for section in SECTIONS if section.name == options.section)
        return _run(section, Report(path, section.name, options.device, options.tiny))
    for old in (path, path.with_suffix(".numbers")):
        old.unlink(missing_ok=True)
    start = time.monotonic()
    for section in SECTIONS:
        left = options.seconds - (time.monotonic() - start)
        report = Report(path, section.name, options.device, options.tiny)
        if left < WORTH_STARTING:
            report.skipped("all of it", f"no time left of {options.seconds:g} s")
        else:
            _guarded(replace(section, budget=min(section.budget, left)), report)
        head = [f"{platform.node() or 'a machine'}, device {options.device}" + (", tiny sizes" * options.tiny)]
        head.append(f"{time.monotonic() - start:.0f} s of {options.seconds:g} s")
        page = table(lines_of(path), head)
        (options.out / "gpu.md").write_text(page, encoding="utf-8")
    print("", page, sep="\n")
    verdicts = {line.verdict for line in lines_of(path)}
    return int(FAIL in verdicts or PASS not in verdicts)


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--device", default="cuda:0", help="cpu, for a trial of the script itself (default: cuda:0)")
    add("--tiny", action="store_true", help="tiny sizes: all sections in seconds, figures that say nothing")
    add("--seconds", type=float, default=330.0, help="for all sections (default: 330)")
    out = Path(os.environ.get("OUT") or "runs/gpu")
    add("--out", type=Path, default=out, help="folder of gpu.md and gpu.jsonl (default: $OUT, or runs/gpu)")
    add("--list", action="store_true", help="list the sections and end")
    add("--section", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _guarded(section: Section, report: Report) -> None:
    """Run a section in a process of its own, and end it when its time is over."""
    start = time.monotonic()
    try:
        section.load()
    except Exception as error:
        _tell(report, "its imports", error)
        return
    if (child := os.fork()) == 0:
        status = 1
        try:
            # What it starts, such as compilers, ends with it.
            os.setpgid(0, 0)
            if not _can_use(report.device):
                again = ["--section", section.name, "--device", report.device, "--out", str(report.path.parent)]
                os.execv(sys.executable, [sys.executable, __file__, *again, *(["--tiny"] if report.tiny else [])])
            status = _run(section, report)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    status = _ended(child, start + section.budget)
    if status is None:
        report.failed("all of it", f"not done within {section.budget:.0f} s")
    elif os.WIFSIGNALED(status):
        report.failed("all of it", f"ended by {signal.Signals(os.WTERMSIG(status)).name}")
    report.figure("seconds", f"{time.monotonic() - start:.1f}")


def _ended(child: int, deadline: float) -> int | None:
    """Wait for a process and return its status; None if it had to be ended at the deadline."""
    try:
        while time.monotonic() < deadline:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                child = 0
                return status
            time.sleep(0.05)
        return None
    finally:
        if child:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _can_use(device: str) -> bool:
    """Whether a forked process can open a GPU: not if an import of its parent did."""
    import torch

    return device == "cpu" or not torch.cuda._is_in_bad_fork()


def _run(section: Section, report: Report) -> int:
    """Run a section here. What it raises is a verdict of its own: the others are still worth running."""
    try:
        section.load()(report)
    except Exception as error:
        _tell(report, "what it raised", error)
        return 1
    return 0


def _tell(report: Report, what: str, error: Exception) -> None:
    """Note an error in a line; its traceback goes to the standard error."""
    traceback.print_exception(error, file=sys.stderr)
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    if isinstance(error, ModuleNotFoundError):
        report.skipped(what, f"{reason}; put its wheel into bench/wheels")
    else:
        report.failed(what, reason)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
