"""`evaluate`: systems × test sets × trials -> waveforms, rows, summary, tables."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from metis_lightning.data.audio import write_wav
from metis_lightning.data.starter import StarterTests
from metis_lightning.errors import UserError
from metis_lightning.evaluate.report import report
from metis_lightning.evaluate.results import Results
from metis_lightning.evaluate.stats import summarize
from metis_lightning.evaluate.systems import CONTROLS, Generated, System, control, generate, tse_system
from metis_lightning.evaluate.tables import write_tables
from metis_lightning.metrics.suite import Suite, SuiteOptions
from metis_lightning.metrics.utterance import Utterance
from metis_lightning.metrics.values import word_errors_of
from metis_lightning.types import WAVE_RATE, TestItem, Trial

CODEC = "nano"
"""Bundle whose codec makes the control `resynthesis`."""

TASKS = {"tse": tse_system}
"""What makes a system of a bundle or a checkpoint, by task."""


@dataclass(frozen=True)
class Plan:
    """What one call of `evaluate` runs: (test set, trials) in order, and systems in order."""

    task: str
    trials: list[tuple[str, list[Trial]]]
    systems: list[System]
    seed: int


def run_evaluate(options: Namespace) -> None:
    """Run `evaluate` as the command line asks.

    Raises:
        UserError: for a mistake in the options.
    """
    tests = StarterTests()
    plan = _plan(options, tests)
    suite = Suite(SuiteOptions(options.protocol, num_threads=2))
    folder = options.out or Path("evaluation/results") / options.task
    results = Results(folder, _protocol(plan, suite))
    total = sum(len(trials) for _, trials in plan.trials) * len(plan.systems)
    with tqdm(total=total, unit="utt", desc=f"evaluate {options.task}", disable=None) as progress:
        for system in plan.systems:
            _run_system(system, plan, tests, suite, results, progress)
    results.write_summary(summarize(results.rows))
    print(*report(results.rows, [system.name for system in plan.systems]), sep="\n")
    print(f"rows, summary and protocol: {folder}")
    print(f"audio: {folder / 'wavs'}")
    benchmarks = Path("evaluation/benchmarks")
    if not benchmarks.is_dir():
        print(f"no table: {benchmarks} is not here; run `tables` in the repository's folder")
        return
    for path in write_tables(folder.parent, Path("evaluation/tables"), benchmarks):
        print(f"table: {path}")


def _plan(options: Namespace, tests: StarterTests) -> Plan:
    if options.task not in TASKS:
        raise UserError(f"--task {options.task}: choose one of {', '.join(TASKS)}")
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    controls = [] if options.no_controls else [control(name, CODEC, device) for name in CONTROLS]
    systems = controls + [TASKS[options.task](name, options.num_steps, device) for name in options.system]
    names = [system.name for system in systems]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"--system: several systems would be called {sorted(doubled)}; evaluate them into different --out"
        )
    chosen = options.test_sets or tests.test_sets()
    trials = [(test_set, tests.load_trials(test_set)[: options.limit]) for test_set in chosen]
    return Plan(options.task, trials, systems, options.seed)


def _protocol(plan: Plan, suite: Suite) -> dict[str, Any]:
    return {
        "task": plan.task,
        "seed": plan.seed,
        "ids": {test_set: [trial.id for trial in trials] for test_set, trials in plan.trials},
        "systems": {system.name: dict(system.identity) for system in plan.systems},
        "metrics": suite.fingerprint(),
    }


def _run_system(
    system: System, plan: Plan, tests: StarterTests, suite: Suite, results: Results, progress: tqdm[Any]
) -> None:
    """Generate and score what is not done yet; the system's models live only as long as this call."""
    done, run = results.done(), None
    for item in _items(plan, tests):
        if (item.test_set, system.name, item.id) not in done:
            run = run or system.load()
            generated = generate(run, item, plan.seed)
            write_wav(results.folder / "wavs" / system.name / f"{item.id}.wav", generated.wave, WAVE_RATE)
            results.append(score(suite, plan.task, system.name, item, generated))
            # A bar that is off, away from a terminal, does not count either.
            if progress.disable and len(results.rows) % 20 == 0:
                print(f"{len(results.rows)}/{progress.total} utterances, now {system.name}", file=sys.stderr)
        progress.update()


def _items(plan: Plan, tests: StarterTests) -> Iterable[TestItem]:
    for _, trials in plan.trials:
        for trial in trials:
            yield tests.load_item(trial)


def score(suite: Suite, task: str, system: str, item: TestItem, generated: Generated) -> dict[str, Any]:
    """Return the results row of one utterance."""
    values = suite.score(
        Utterance(
            item.id,
            generated.wave,
            WAVE_RATE,
            reference=item.target,
            interferer=item.interferer,
            prompt=item.enrollment,
            text=item.text,
            language=item.language,
        )
    )
    wer = word_errors_of(values)
    return {
        "id": item.id,
        "task": task,
        "test_set": item.test_set,
        "system": system,
        "speaker": item.speaker,
        "metrics": {name: value.value for name, value in values.items()},
        "error": {name: value.error for name, value in values.items() if value.error is not None},
        "wer": None if wer.value is None else {"edits": wer.edits, "words": wer.words},
        "n_samples": len(generated.wave),
        "seconds": round(generated.seconds, 3),
        "hypothesis": wer.hypothesis,
        "text": item.text,
    }
