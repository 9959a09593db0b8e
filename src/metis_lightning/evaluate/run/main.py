"""`evaluate`: systems × test sets × trials -> waveforms, rows, summary, tables."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import BENCHMARKS, EvaluateOptions
from metis_lightning.evaluate.results.comparison import margin_column, margin_gain
from metis_lightning.evaluate.results.intervals import PairedDifference, few_notes
from metis_lightning.evaluate.results.rows import ROWS, ResultRow
from metis_lightning.evaluate.results.runs import PROTOCOL, RUN_SUMMARY, RunFolder, write_json
from metis_lightning.evaluate.results.summary import GroupSummary, summarize
from metis_lightning.evaluate.run.launch import Launch, device_of, joined, run_in_processes
from metis_lightning.evaluate.run.plan import Plan, make_plan
from metis_lightning.evaluate.run.shard import run_share
from metis_lightning.evaluate.run.test_sets import chosen_test_sets, export_test_sets
from metis_lightning.evaluate.tables.benchmarks import benchmark_folder
from metis_lightning.evaluate.tables.main import RESULTS, TABLES, write_tables
from metis_lightning.files import check_output, locked
from metis_lightning.metrics.metric import Column
from metis_lightning.metrics.pool import ScoringPool
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.task_table import TASKS
from metis_lightning.types import WAVE_RATE

# The files of folders of audio that belong to no item of the test sets.
EXTRA_FILES = "extra_files.json"

# Makes what scores, of the suite's options and a number of processes.
MakePool = Callable[[SuiteOptions, int], ScoringPool]


@dataclass(frozen=True)
class Machine:
    """Where a run's speech was made: on which device, by how many processes of how many threads."""

    device: str
    threads: int
    processes: int


def run_evaluate(options: EvaluateOptions, make_pool: MakePool = ScoringPool) -> None:
    """Run `evaluate`. A `UserError` for a mistake in the options, or if more failed than they allow."""
    if options.export is not None:
        check_output(options.export, "--export", is_folder=True)
        return export_test_sets(chosen_test_sets(options)[0], options.export)
    launch = Launch.of(options.devices, os.environ)
    device = device_of(options.device, launch.local_rank)
    folder = options.out or RESULTS / options.task
    # A process that starts others leaves the memory of GPUs to them.
    if launch.rank is not None and device.startswith("cuda"):
        torch.cuda.set_device(device)
    if launch.rank:
        _run_share(make_plan(options, device), launch, folder, options, make_pool)
        return
    # The tables are the project's, if this is one of its runs.
    tables = TABLES if folder.resolve().parent == RESULTS.resolve() else folder / "tables"
    # A folder that cannot be written into is refused before hours are spent.
    for part in (folder, folder / "wavs", tables):
        check_output(part, is_folder=True)
    for name in (ROWS, RUN_SUMMARY, PROTOCOL, EXTRA_FILES):
        check_output(folder / name)
    with locked(folder):
        plan = make_plan(options, device)
        run, columns = _run_share(plan, launch, folder, options, make_pool)
        name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
        rows = run.merge(is_whole=True)
        groups = summarize(rows, columns)
        _report(plan, folder, rows, groups, Machine(name, torch.get_num_threads(), launch.count))
        for path in write_tables(RESULTS if tables == TABLES else folder, tables, benchmark_folder(BENCHMARKS)):
            print(f"table: {path}")
        # Last, so that a run that failed leaves everything to look into.
        check_failures(groups, options.max_failed_share)


def _run_share(
    plan: Plan, launch: Launch, folder: Path, options: EvaluateOptions, make_pool: MakePool
) -> tuple[RunFolder, Mapping[str, Column]]:
    """Do this process's share: all of the plan, here or in processes that it starts, if there is no launcher."""
    rank, starts_others = launch.rank or 0, launch.rank is None and launch.count > 1
    # To start others, the models of one scoring process tell their fingerprint; ranks have their own.
    processes = 1 if starts_others else options.scoring_processes
    with joined(launch) as wait_for_all, make_pool(_suite_options(options), processes) as pool:
        keys = [job.key for system in plan.systems for job in plan.jobs_of(system)]
        run = RunFolder(folder, plan.protocol(pool.fingerprint()), keys, is_owner=rank == 0)
        columns = pool.columns
        if not starts_others:
            # The first process merges what earlier calls left, before the others look for what is done.
            wait_for_all()
            run_share(plan, folder / (ROWS if launch.rank is None else f"{ROWS}.{rank}"), pool, rank, launch.count)
            wait_for_all()
    if starts_others:
        run_in_processes(run_rank, launch.count, folder, options, make_pool)
    return run, columns


def run_rank(rank: int, folder: Path, options: EvaluateOptions, make_pool: MakePool) -> None:
    """Do the share of one of the processes that `run_evaluate` starts on this machine."""
    device = device_of(options.device, rank)
    # Work that names no device goes there, too.
    if device.startswith("cuda"):
        torch.cuda.set_device(device)
    plan = make_plan(options, device)
    with make_pool(_suite_options(options), options.scoring_processes) as pool:
        run_share(plan, folder / f"{ROWS}.{rank}", pool, rank, options.devices)


def _suite_options(options: EvaluateOptions) -> SuiteOptions:
    return SuiteOptions(
        protocol=options.protocol,
        task=options.task if options.task in TASKS else None,
        asr=options.asr,
        speakers=options.speakers,
        nisqa=options.nisqa,
        normalizer=options.normalizer,
        metrics=options.metrics,
        # The models of the offline protocol are small, and every scoring process has its own.
        device="cuda" if options.protocol == "paper" and torch.cuda.is_available() else "cpu",
    )


def _report(
    plan: Plan, folder: Path, rows: Sequence[ResultRow], groups: Sequence[GroupSummary], machine: Machine
) -> None:
    """Write the summary and the files of no item of a whole run, and say what came of it."""
    records = []
    for group in groups:
        factor = system_speed(group.rows, group.system, machine.processes)
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


def report_lines(
    rows: Sequence[ResultRow], systems: Sequence[str], machine: Machine, columns: Mapping[str, Column]
) -> list[str]:
    """Return lines on each system: its speed, and its similarity margin against that of `input`."""
    processes = f"{machine.processes} process{'' if machine.processes == 1 else 'es'}"
    where = f"on {machine.device}, {processes}, {machine.threads} thread{'' if machine.threads == 1 else 's'} each"
    lines = []
    for system in systems:
        factor = system_speed(rows, system, machine.processes)
        speed = f"real-time factor {factor or 0:.2f} ({where}, without the first item, scoring beside it)"
        lines.append(f"{system}: {'its speed is not known' if factor is None else speed}")
    gains: list[PairedDifference] = []
    for test_set in dict.fromkeys(row.test_set for row in rows):
        part = [row for row in rows if row.test_set == test_set]
        column = margin_column(columns[name] for name in part[0].metrics if name in columns)
        if column is None or all(row.system != "input" for row in part):
            continue
        # The target bounds what can be reached; it is no system to compare.
        for system in (name for name in systems if name not in ("input", "target")):
            line, gain = margin_gain(part, system, column)
            lines.append(line)
            gains.append(gain)
    return [*lines, *few_notes(gains)]


def system_speed(rows: Iterable[ResultRow], system: str, processes: int = 1) -> float | None:
    """Return the seconds that a system took for a second of its speech; None if it is not known."""
    own = [(row.seconds, row) for row in rows if row.system == system and row.seconds is not None and row.n_samples]
    # A device warms up with the first item of each process.
    warm = own[processes:]
    spoken = sum(row.n_samples / (row.sample_rate or WAVE_RATE) for _, row in warm)
    return sum(seconds for seconds, _ in warm) / spoken if spoken else None


def check_failures(groups: Iterable[GroupSummary], max_share: float) -> None:
    """Raise a `UserError` if a metric failed in more than `max_share` (0 to 1) of a system's rows on a test set."""
    failures = []
    for group in groups:
        for name, count in Counter(name for row in group.rows for name in row.failed).most_common(1):
            if count > max_share * len(group.rows):
                reasons = Counter(row.error[name] for row in group.rows if name in row.failed)
                why = ", ".join(f"{number} × {reason}" for reason, number in sorted(reasons.items()))
                where = f"{group.system} on {group.test_set}"
                failures.append(f"{where}: {count} of {len(group.rows)} without {name} ({why})")
    if failures:
        failures.append(f"more than --max-failed-share {max_share:g}. All rows and tables are written")
        raise UserError("; ".join(failures))
