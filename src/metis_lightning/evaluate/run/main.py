"""`evaluate`: systems × test sets × trials -> waveforms, rows, summary, tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.report import Machine, check_failures, real_time_factor, report_lines
from metis_lightning.evaluate.results.rows import ROWS, read_rows
from metis_lightning.evaluate.results.runs import PROTOCOL, RUN_SUMMARY, RunFolder, write_json
from metis_lightning.evaluate.results.summary import GroupSummary, summarize
from metis_lightning.evaluate.run.launch import Launch, device_of, joined, run_in_processes, use_device
from metis_lightning.evaluate.run.plan import Plan, chosen_test_sets, make_plan
from metis_lightning.evaluate.run.shard import run_share
from metis_lightning.evaluate.run.test_sets import export_test_sets
from metis_lightning.evaluate.tables.main import RESULTS, TABLES, write_tables
from metis_lightning.files import check_output, locked
from metis_lightning.metrics.column import Column
from metis_lightning.metrics.pool import ScoringPool
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.task_table import TASKS

# The files of folders of audio that belong to no item of the test sets.
EXTRA_FILES = "extra_files.json"

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
        return export_test_sets(chosen_test_sets(options), options.export)
    launch = Launch.of(options.devices, os.environ)
    device = device_of(options.device, launch.local_rank)
    # A process that starts others leaves the memory of GPUs to them.
    if launch.rank is not None:
        use_device(device)
    if launch.rank:
        _run_share(make_plan(options, device), launch, options, make_pool)
        return
    _check_outputs(_folder(options))
    with locked(_folder(options)):
        plan = make_plan(options, device)
        starts_others = launch.rank is None and launch.count > 1
        run = _start_ranks if starts_others else _run_share
        folder, columns = run(plan, launch, options, make_pool)
        _finish(plan, folder, columns, options)


def run_rank(rank: int, options: EvaluateOptions, make_pool: MakePool) -> None:
    """Do the share of one of the processes that `run_evaluate` starts on this machine."""
    device = device_of(options.device, rank)
    use_device(device)
    plan = make_plan(options, device)
    done = {row.key for row in read_rows(_folder(options))}
    with _pool(options, make_pool, options.scoring_processes) as pool:
        run_share(plan, done, _folder(options) / f"{ROWS}.{rank}", pool, rank, options.devices)


def _start_ranks(
    plan: Plan, launch: Launch, options: EvaluateOptions, make_pool: MakePool
) -> tuple[RunFolder, Mapping[str, Column]]:
    """Prepare the folder, and do the whole plan in processes of their own."""
    # The models of one scoring process tell their fingerprint; ranks have their own.
    with _pool(options, make_pool, 1) as pool:
        folder = RunFolder(_folder(options), plan.protocol(pool.fingerprint()), plan.keys)
        columns = pool.columns
    run_in_processes(run_rank, launch.count, options, make_pool)
    return folder, columns


def _run_share(
    plan: Plan, launch: Launch, options: EvaluateOptions, make_pool: MakePool
) -> tuple[RunFolder, Mapping[str, Column]]:
    """Do this process's share: all of the plan, if there is no launcher."""
    rank = launch.rank or 0
    with joined(launch) as wait_for_all, _pool(options, make_pool, options.scoring_processes) as pool:
        folder = RunFolder(_folder(options), plan.protocol(pool.fingerprint()), plan.keys, is_owner=rank == 0)
        columns = pool.columns
        # The first process merges what earlier calls left, before the others look for what is done.
        wait_for_all()
        done = {row.key for row in read_rows(folder.folder)}
        rows = folder.folder / (ROWS if launch.rank is None else f"{ROWS}.{rank}")
        run_share(plan, done, rows, pool, rank, launch.count)
        wait_for_all()
    return folder, columns


def _finish(plan: Plan, folder: RunFolder, columns: Mapping[str, Column], options: EvaluateOptions) -> None:
    """Merge the rows, and write and say what comes of them."""
    rows = folder.merge(is_whole=True)
    device = device_of(options.device)
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    machine = Machine(name, torch.get_num_threads(), Launch.of(options.devices, os.environ).count)
    groups = summarize(rows, columns)
    write_json(folder.folder / RUN_SUMMARY, [{**group.to_json(), **_speed(group, machine)} for group in groups])
    described = {name: summary.column for group in groups for name, summary in group.metrics.items()}
    print(*report_lines(rows, [system.name for system in plan.systems], machine, described), sep="\n")
    for control, test_set in plan.left_out:
        print(f"{control}: not on {test_set}, which has no such signal")
    _tell_extra_files(plan, folder.folder)
    print(f"rows, summary and protocol: {folder.folder}")
    print(f"audio: {folder.folder / 'wavs'}")
    _write_tables(folder.folder)
    # Last, so that a run that failed leaves everything to look into.
    check_failures(rows, options.max_failed_share)


def _speed(group: GroupSummary, machine: Machine) -> dict[str, Any]:
    """Return how fast a system was on a test set and where, and in how many steps."""
    factor = real_time_factor(group.rows, group.system, machine.processes)
    steps = sorted({row.steps for row in group.rows if row.steps is not None})
    return {"real_time_factor": factor, "machine": asdict(machine), "steps": steps}


def _tell_extra_files(plan: Plan, folder: Path) -> None:
    """List the files that belong to no item."""
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
    tables = _tables_folder(folder)
    for path in write_tables(RESULTS if tables == TABLES else folder, tables, _BENCHMARKS):
        print(f"table: {path}")


def _tables_folder(folder: Path) -> Path:
    """Return where the tables go that a run is in: the project's, if it is one of the runs that they are made of."""
    return TABLES if folder.resolve().parent == RESULTS.resolve() else folder / "tables"


def _check_outputs(folder: Path) -> None:
    """Refuse a folder that cannot be written into, before hours are spent."""
    for part in (folder, folder / "wavs", _tables_folder(folder)):
        check_output(part, is_folder=True)
    for name in (ROWS, RUN_SUMMARY, PROTOCOL, EXTRA_FILES):
        check_output(folder / name)


def _pool(options: EvaluateOptions, make_pool: MakePool, processes: int) -> ScoringPool:
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
    return make_pool(suite, processes)


def _folder(options: EvaluateOptions) -> Path:
    return options.out or RESULTS / options.task
