"""Plan of a run, checked before anything is loaded: systems × seeds × test sets × trials."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from metis_lightning import __version__
from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.comparison import CONTROLS
from metis_lightning.evaluate.results.protocol import Protocol
from metis_lightning.evaluate.results.rows import RowKey
from metis_lightning.evaluate.run.systems import (
    Items,
    System,
    check_task_options,
    has_control,
    make_systems,
    serves,
    trial_task,
)
from metis_lightning.evaluate.run.test_sets import TestSet, choose, contents, find_test_sets
from metis_lightning.types import TestItem, Trial

_DEFAULT_SYSTEM = "nano"
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class EvaluationJob:
    """One row to be made: of a system, a seed and a trial."""

    system: System
    seed: int | None
    test_set: TestSet
    trial: Trial

    @property
    def key(self) -> RowKey:
        """The key of its row."""
        return RowKey(self.test_set.name, self.system.name, self.seed, self.trial.id)

    def item(self) -> TestItem:
        """Read the trial's audio."""
        return self.test_set.reader.load_item(self.trial)


@dataclass(frozen=True)
class Plan:
    """All jobs of a call, in order.

    `sizes` are the numbers of trials of the whole test sets, by name; `left_out` are the controls that do not exist, as
    (control, test set).
    """

    task: str
    data: str
    test_sets: Sequence[TestSet]
    systems: Sequence[System]
    seeds: Sequence[int]
    sizes: Mapping[str, int]
    left_out: Sequence[tuple[str, str]]

    def jobs_of(self, system: System) -> Iterator[EvaluationJob]:
        """Yield the jobs of a system."""
        for seed in self.seeds if system.is_seeded else (None,):
            for test_set in self.test_sets:
                if (system.control, test_set.name) not in self.left_out:
                    yield from (EvaluationJob(system, seed, test_set, trial) for trial in test_set.trials)

    @cached_property
    def keys(self) -> list[RowKey]:
        """The keys of all rows, in order."""
        return [job.key for system in self.systems for job in self.jobs_of(system)]

    def protocol(self, metrics: Mapping[str, Any]) -> Protocol:
        """Return all that decides the numbers, `metrics` for the suite's part of it; every item is read for it.

        Raises:
            UserError: an item cannot be read.
        """
        seeds = {"seeds": list(self.seeds)}
        content = {
            "task": self.task,
            "data": self.data,
            "ids": {each.name: [trial.id for trial in each.trials] for each in self.test_sets},
            "sizes": dict(self.sizes),
            "test_sets": contents(self.test_sets),
            "systems": {each.name: {**each.identity, **(seeds if each.is_seeded else {})} for each in self.systems},
            "metrics": metrics,
            "version": __version__,
        }
        return Protocol(content)


def make_plan(options: EvaluateOptions, device: str) -> Plan:
    """Return the plan of the options.

    Raises:
        UserError: for a mistake in them.
    """
    if doubled := {seed for seed in options.seeds if options.seeds.count(seed) > 1}:
        raise UserError(f"--seeds: {sorted(doubled)} twice; give each seed once")
    check_task_options(options)
    all_sets, whole = _named_test_sets(options)
    test_sets = [replace(each, trials=each.trials[: options.limit]) for each in whole]
    chosen, all_ids = ({trial.id for each in part for trial in each.trials} for part in (test_sets, all_sets))
    items = Items(chosen, all_ids, _other_names(test_sets))
    systems = make_systems(_system_names(options), options, device, items)
    left_out = _missing_controls(options.task, test_sets, systems)
    for control in CONTROLS:
        if control in options.system and {(control, each.name) for each in test_sets} <= set(left_out):
            raise UserError(f"--system {control}: the task {options.task} has no such control on these test sets")
    # How many items are left out by --limit is said beside the results.
    sizes = {each.name: len(each.trials) for each in whole}
    plan = Plan(options.task, options.data, test_sets, systems, options.seeds, sizes, left_out)
    # A control that no test set has is not listed, as no row is of it.
    return replace(plan, systems=[system for system in systems if any(True for _ in plan.jobs_of(system))])


def chosen_test_sets(options: EvaluateOptions) -> list[TestSet]:
    """Return the test sets that the options name, with as many trials as they say.

    Raises:
        UserError: for a mistake in the options.
    """
    _, whole = _named_test_sets(options)
    return [replace(each, trials=each.trials[: options.limit]) for each in whole]


def _named_test_sets(options: EvaluateOptions) -> tuple[list[TestSet], list[TestSet]]:
    """Return all test sets of the task, and those that are named."""
    all_sets = find_test_sets(options.data, options.root, options.task, options.data_options)
    whole = choose(all_sets, options.test_sets, options.data)
    _check_ids(whole)
    return all_sets, whole


def _system_names(options: EvaluateOptions) -> list[str]:
    """Return the systems that are named, after the controls that no name calls for."""
    # Without a name it is the embedded bundle; where that does not do the task, the controls alone.
    names = list(options.system)
    if not names and serves(_DEFAULT_SYSTEM, options.task):
        names = [_DEFAULT_SYSTEM]
    if not options.no_controls and not any(name in CONTROLS for name in names):
        names = [*CONTROLS, *names]
    if not names:
        raise UserError(
            f"--system: {_DEFAULT_SYSTEM} has no weights for the task {options.task!r}; name a system that has"
        )
    return names


def _missing_controls(task: str, test_sets: Sequence[TestSet], systems: Sequence[System]) -> list[tuple[str, str]]:
    """Return the controls that a test set does not have; its first item tells, the others are alike."""
    controls = [system.control for system in systems if system.control]
    missing = []
    for test_set in test_sets if controls else ():
        trial = test_set.trials[0]
        own, item = trial_task(task, trial), test_set.reader.load_item(trial)
        missing += [(name, test_set.name) for name in controls if not has_control(name, own, item)]
    return missing


def _other_names(test_sets: Sequence[TestSet]) -> dict[str, str]:
    """Map the names that other tools have for trials to their ids; a name of several trials names none."""
    ids: dict[str, set[str]] = {}
    for test_set in test_sets:
        for trial in test_set.trials:
            for name in test_set.reader.other_names(trial):
                ids.setdefault(name, set()).add(trial.id)
    return {name: next(iter(named)) for name, named in ids.items() if len(named) == 1}


def _check_ids(test_sets: Sequence[TestSet]) -> None:
    """Refuse ids that are no file names, or that two trials have: audio is stored and matched by them."""
    seen: dict[str, str] = {}
    for test_set in test_sets:
        for trial in test_set.trials:
            if not _FILE_NAME.fullmatch(trial.id):
                raise UserError(
                    f"test set {test_set.name}: the id {trial.id!r} may hold only A-Z a-z 0-9 . _ - and may not start "
                    "with a dot, since audio is stored under it"
                )
            if trial.id in seen:
                raise UserError(f"test set {test_set.name}: the id {trial.id!r} occurs already in {seen[trial.id]}")
            seen[trial.id] = test_set.name
