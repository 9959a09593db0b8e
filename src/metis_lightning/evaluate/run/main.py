"""`evaluate`: systems × test sets × trials -> waveforms, rows, summary, tables."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.report import Machine, check_failures, real_time_factor, report_lines
from metis_lightning.evaluate.results.rows import ROWS, ResultRow, read_rows
from metis_lightning.evaluate.results.runs import PROTOCOL, RUN_SUMMARY, RunFolder, write_json
from metis_lightning.evaluate.results.summary import summarize
from metis_lightning.evaluate.run.launch import Launch, device_of, joined, run_in_processes, use_device
from metis_lightning.evaluate.run.plan import Plan, make_plan
from metis_lightning.evaluate.run.shard import run_share
from metis_lightning.evaluate.run.test_sets import chosen_test_sets, export_test_sets
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
        return export_test_sets(chosen_test_sets(options)[0], options.export)
    launch = Launch.of(options.devices, os.environ)
    device = device_of(options.device, launch.local_rank)
    folder = options.out or RESULTS / options.task
    # A process that starts others leaves the memory of GPUs to them.
    if launch.rank is not None:
        use_device(device)
    if launch.rank:
        _run_share(make_plan(options, device), launch, folder, options, make_pool)
        return
    # A folder that cannot be written into is refused before hours are spent.
    for part in (folder, folder / "wavs", _tables_folder(folder)):
        check_output(part, is_folder=True)
    for name in (ROWS, RUN_SUMMARY, PROTOCOL, EXTRA_FILES):
        check_output(folder / name)
    with locked(folder):
        plan = make_plan(options, device)
        run_all = _start_ranks if launch.rank is None and launch.count > 1 else _run_share
        run, columns = run_all(plan, launch, folder, options, make_pool)
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
        rows = run.merge(is_whole=True)
        _report(plan, folder, rows, columns, Machine(name, torch.get_num_threads(), launch.count))
        # Last, so that a run that failed leaves everything to look into.
        check_failures(rows, options.max_failed_share)


def _start_ranks(
    plan: Plan, launch: Launch, folder: Path, options: EvaluateOptions, make_pool: MakePool
) -> tuple[RunFolder, Mapping[str, Column]]:
    """Prepare the folder, and do the whole plan in processes of their own."""
    # The models of one scoring process tell their fingerprint; ranks have their own.
    with make_pool(_suite_options(options), 1) as pool:
        run = RunFolder(folder, plan.protocol(pool.fingerprint()), plan.keys)
        columns = pool.columns
    run_in_processes(run_rank, launch.count, folder, options, make_pool)
    return run, columns


def run_rank(rank: int, folder: Path, options: EvaluateOptions, make_pool: MakePool) -> None:
    """Do the share of one of the processes that `run_evaluate` starts on this machine."""
    device = device_of(options.device, rank)
    use_device(device)
    plan = make_plan(options, device)
    done = {row.key for row in read_rows(folder)}
    with make_pool(_suite_options(options), options.scoring_processes) as pool:
        run_share(plan, done, folder / f"{ROWS}.{rank}", pool, rank, options.devices)


def _run_share(
    plan: Plan, launch: Launch, folder: Path, options: EvaluateOptions, make_pool: MakePool
) -> tuple[RunFolder, Mapping[str, Column]]:
    """Do this process's share: all of the plan, if there is no launcher."""
    rank = launch.rank or 0
    with joined(launch) as wait_for_all, make_pool(_suite_options(options), options.scoring_processes) as pool:
        run = RunFolder(folder, plan.protocol(pool.fingerprint()), plan.keys, is_owner=rank == 0)
        columns = pool.columns
        # The first process merges what earlier calls left, before the others look for what is done.
        wait_for_all()
        done = {row.key for row in read_rows(folder)}
        run_share(plan, done, folder / (ROWS if launch.rank is None else f"{ROWS}.{rank}"), pool, rank, launch.count)
        wait_for_all()
    return run, columns


def _suite_options(options: EvaluateOptions) -> SuiteOptions:
    return SuiteOptions(
        protocol=options.protocol,
        task=options.task if options.task in TASKS else None,
        asr=options.asr,
        speakers=options.speakers,
        nisqa=options.nisqa,
        normalizer=options.normalizer,
        # The models of the offline protocol are small, and every scoring process has its own.
        device="cuda" if options.protocol == "paper" and torch.cuda.is_available() else "cpu",
    )


def _report(
    plan: Plan, folder: Path, rows: Sequence[ResultRow], columns: Mapping[str, Column], machine: Machine
) -> None:
    """Write the summary, the files of no item and the tables of a whole run, and say what comes of it."""
    groups = summarize(rows, columns)
    records = []
    for group in groups:
        factor = real_time_factor(group.rows, group.system, machine.processes)
        steps = sorted({row.steps for row in group.rows if row.steps is not None})
        records.append({**group.to_json(), "real_time_factor": factor, "machine": asdict(machine), "steps": steps})
    write_json(folder / RUN_SUMMARY, records)
    described = {name: summary.column for group in groups for name, summary in group.metrics.items()}
    print(*report_lines(rows, [system.name for system in plan.systems], machine, described), sep="\n")
    for control, test_set in plan.left_out:
        print(f"{control}: not on {test_set}, which has no such signal")
    extra = {system.name: list(system.extra_files) for system in plan.systems if system.extra_files}
    for name, files in extra.items():
        print(
            f"metis-lightning: {name}: {len(files)} files belong to no item of the test sets and are not scored, "
            f"first {files[0]}; all are in {folder / EXTRA_FILES}",
            file=sys.stderr,
        )
    if extra:
        write_json(folder / EXTRA_FILES, extra)
    print(f"rows, summary and protocol: {folder}")
    print(f"audio: {folder / 'wavs'}")
    if not _BENCHMARKS.is_dir():
        print(f"no table: {_BENCHMARKS} is not here; run `tables` in the repository's folder")
        return
    tables = _tables_folder(folder)
    for path in write_tables(RESULTS if tables == TABLES else folder, tables, _BENCHMARKS):
        print(f"table: {path}")


def _tables_folder(folder: Path) -> Path:
    """Return where the tables go that a run is in: of the project, if it is one of its runs, else beside its rows."""
    return TABLES if folder.resolve().parent == RESULTS.resolve() else folder / "tables"
