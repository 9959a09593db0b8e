"""`evaluate`: systems × test sets × trials -> waveforms, rows, summary, tables.

Whether too much failed for a run to count.
"""

from __future__ import annotations

import os
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.report import Machine, real_time_factor, report
from metis_lightning.evaluate.results.run_files import (
    PROTOCOL,
    ROWS,
    SUMMARY,
    Results,
    key_of,
    read_rows,
    row_file,
    write_json,
)
from metis_lightning.evaluate.results.stats import summarize
from metis_lightning.evaluate.run.export import export
from metis_lightning.evaluate.run.plan import Plan, chosen_test_sets, make_plan
from metis_lightning.evaluate.run.processes import Launch, device_of, in_processes, together, use_device
from metis_lightning.evaluate.run.shard import Share, run_share
from metis_lightning.evaluate.tables.main import RESULTS, TABLES, write_tables
from metis_lightning.files import check_output, locked
from metis_lightning.metrics.pool import ScoringPool
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.task_table import TASKS

EXTRA_FILES = "extra_files.json"
"""The files of folders of audio that belong to no item of the test sets."""

_BENCHMARKS = Path("evaluation/benchmarks")

MakePool = Callable[[SuiteOptions, int], ScoringPool]


def run_evaluate(options: EvaluateOptions, make_pool: MakePool = ScoringPool) -> None:
    """Run `evaluate` as the command line asks.

    Args:
        options: of the command line.
        make_pool: makes what scores, of the suite's options and a number of processes.

    Raises:
        UserError: for a mistake in the options, or if more failed than they allow.
    """
    if options.export is not None:
        check_output(options.export, "--export", is_folder=True)
        return export(chosen_test_sets(options), options.export)
    launch = Launch.of(options.devices, os.environ)
    device = device_of(options.device, launch.local_rank)
    if launch.rank is not None:
        use_device(device)
    if launch.rank:
        _launched(make_plan(options, device), launch, options, make_pool)
        return
    _check_outputs(_folder(options))
    with locked(_folder(options)):
        plan = make_plan(options, device)
        if launch.rank is not None:
            results = _launched(plan, launch, options, make_pool)
        elif launch.count > 1:
            results = _starting_others(plan, launch.count, options, make_pool)
        else:
            results = _alone(plan, options, make_pool)
        _finish(plan, results, options)


def run_rank(rank: int, options: EvaluateOptions, make_pool: MakePool) -> None:
    """Do the share of one of the processes that `run_evaluate` starts on this machine."""
    device = device_of(options.device, rank)
    use_device(device)
    plan = make_plan(options, device)
    done = {key_of(row) for row in read_rows(_folder(options))}
    with _pool(options, make_pool) as pool:
        run_share(plan, Share(rank, options.devices), done, row_file(_folder(options), rank), pool)


def _alone(plan: Plan, options: EvaluateOptions, make_pool: MakePool) -> Results:
    with _pool(options, make_pool) as pool:
        results = Results(_folder(options), plan.protocol(pool.fingerprint()), plan.keys)
        run_share(plan, Share(), results.done(), row_file(results.folder), pool)
    return results


def _starting_others(plan: Plan, count: int, options: EvaluateOptions, make_pool: MakePool) -> Results:
    with _pool(options, make_pool, 1) as pool:
        results = Results(_folder(options), plan.protocol(pool.fingerprint()), plan.keys)
    in_processes(run_rank, count, options, make_pool)
    return results


def _launched(plan: Plan, launch: Launch, options: EvaluateOptions, make_pool: MakePool) -> Results:
    rank = launch.rank or 0
    with together(launch) as wait, _pool(options, make_pool) as pool:
        results = Results(_folder(options), plan.protocol(pool.fingerprint()), plan.keys, is_owner=rank == 0)
        wait()
        run_share(plan, Share(rank, launch.count), results.done(), row_file(results.folder, rank), pool)
        wait()
    return results


def _finish(plan: Plan, results: Results, options: EvaluateOptions) -> None:
    """Gather the rows, and write and say what comes of them."""
    folder, rows = results.folder, results.gather(whole=True)
    machine = _machine(options)
    results.write_summary([{**group, **_speed(group, rows, machine)} for group in summarize(rows)])
    print(*report(rows, [system.name for system in plan.systems], machine), sep="\n")
    for control, test_set in plan.left_out:
        print(f"{control}: not on {test_set}, which has no such signal")
    _tell_extra_files(plan, folder)
    print(f"rows, summary and protocol: {folder}")
    print(f"audio: {folder / 'wavs'}")
    _write_tables(folder)
    check_failures(rows, options.max_failed_share)


def _machine(options: EvaluateOptions) -> Machine:
    """Return where this call made its speech."""
    device = device_of(options.device)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return Machine(name, torch.get_num_threads(), Launch.of(options.devices, os.environ).count)


def _speed(group: dict[str, Any], rows: list[dict[str, Any]], machine: Machine) -> dict[str, Any]:
    """Return how fast a system was on a test set and where, and in how many steps."""
    own = [row for row in rows if (row["test_set"], row["system"]) == (group["test_set"], group["system"])]
    steps = {row["steps"] for row in own} - {None}
    factor = real_time_factor(own, group["system"], machine.processes)
    return {"real_time_factor": factor, "machine": asdict(machine), "steps": sorted(steps)}


def _tell_extra_files(plan: Plan, folder: Path) -> None:
    """List the files that no item asked for."""
    extra = {system.name: list(system.extra_files) for system in plan.systems if system.extra_files}
    for name, files in extra.items():
        print(
            f"metis-lightning: {name}: {len(files)} files belong to no item of the test sets and are not scored, "
            f"first {files[0]}; all are in {folder / EXTRA_FILES}",
            file=sys.stderr,
        )
    if extra:
        write_json(folder / EXTRA_FILES, extra)


def _write_tables(folder: Path) -> None:
    """Write the project's tables anew after a run of the project; of a run elsewhere, its own beside it."""
    if not _BENCHMARKS.is_dir():
        print(f"no table: {_BENCHMARKS} is not here; run `tables` in the repository's folder")
        return
    for path in write_tables(RESULTS if _is_ours(folder) else folder, _tables(folder), _BENCHMARKS):
        print(f"table: {path}")


def _tables(folder: Path) -> Path:
    """Return where the tables go that a run is in."""
    return TABLES if _is_ours(folder) else folder / "tables"


def _is_ours(folder: Path) -> bool:
    """Return whether a run is one of those that the project's tables are made of."""
    return folder.resolve().parent == RESULTS.resolve()


def _check_outputs(folder: Path) -> None:
    """Refuse a folder that cannot be written into, before hours are spent.

    Raises:
        UserError: naming what is in the way.
    """
    for part in (folder, folder / "wavs", _tables(folder)):
        check_output(part, is_folder=True)
    for name in (ROWS, SUMMARY, PROTOCOL, EXTRA_FILES):
        check_output(folder / name)


def _pool(options: EvaluateOptions, make_pool: MakePool, processes: int | None = None) -> ScoringPool:
    """Return what scores, beside generation."""
    suite = SuiteOptions(
        protocol=options.protocol,
        task=options.task if options.task in TASKS else None,
        asr=None if options.asr is None else tuple(options.asr),
        speakers=None if options.speakers is None else tuple(options.speakers),
        nisqa=options.nisqa,
        normalizer=options.normalizer,
        # The models of the offline protocol are small, and every scoring process has its own.
        device="cuda" if options.protocol == "paper" and torch.cuda.is_available() else "cpu",
    )
    return make_pool(suite, processes or options.scoring_processes)


def _folder(options: EvaluateOptions) -> Path:
    return options.out or RESULTS / options.task


def check_failures(rows: Iterable[dict[str, Any]], most: float) -> None:
    """Refuse results in which some metric of a system on a test set failed more often than allowed.

    What a test set cannot have (no transcript, a language that the recogniser does not know) is no failure; see
    `failed` in the rows.

    Args:
        rows: of a whole run.
        most: the share of rows that may lack a value, from 0 to 1.

    Raises:
        UserError: naming every such system and test set, with the metric that failed most often, and why.
    """
    groups = defaultdict(list)
    for row in rows:
        groups[row["test_set"], row["system"]].append(row)
    lines = [line for (test_set, system), part in groups.items() if (line := _too_many(test_set, system, part, most))]
    if lines:
        raise UserError(f"{'; '.join(lines)}; more than --max-failed-share {most:g}. All rows and tables are written")


def _too_many(test_set: str, system: str, rows: list[dict[str, Any]], most: float) -> str | None:
    counts = Counter(name for row in rows for name in row["failed"])
    if not counts:
        return None
    name, count = counts.most_common(1)[0]
    if count <= most * len(rows):
        return None
    reasons = Counter(row["error"][name] for row in rows if name in row["failed"])
    why = ", ".join(f"{number} × {reason}" for reason, number in sorted(reasons.items()))
    return f"{system} on {test_set}: {count} of {len(rows)} without {name} ({why})"
