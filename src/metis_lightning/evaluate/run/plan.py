"""What one call of `evaluate` runs, checked before anything is loaded: systems × seeds × test sets × trials."""

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
from metis_lightning.evaluate.results.run_files import Key
from metis_lightning.evaluate.run.systems import Items, System, SystemOptions, answers, has_control, make_systems
from metis_lightning.evaluate.run.tasks import task_of
from metis_lightning.evaluate.run.test_sets import TestSet, choose, contents, find_test_sets
from metis_lightning.types import TestItem, Trial

_DEFAULT_SYSTEM = "nano"
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Job:
    """One row to be: a system's answer to a trial by a seed."""

    system: System
    seed: int | None
    test_set: TestSet
    trial: Trial

    @property
    def key(self) -> Key:
        """What its row is found by."""
        return self.test_set.name, self.system.name, self.seed, self.trial.id

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

    def jobs_of(self, system: System) -> Iterator[Job]:
        """Yield the jobs of a system."""
        for seed in self.seeds if system.is_seeded else (None,):
            for test_set in self.test_sets:
                if (system.control, test_set.name) not in self.left_out:
                    yield from (Job(system, seed, test_set, trial) for trial in test_set.trials)

    @cached_property
    def keys(self) -> list[Key]:
        """What all rows are found by, in order."""
        return [job.key for system in self.systems for job in self.jobs_of(system)]

    def protocol(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Return all that decides the numbers, `metrics` for the suite's part of it; every item is read for it.

        Raises:
            UserError: an item cannot be read.
        """
        return {
            "task": self.task,
            "data": self.data,
            "ids": {each.name: [trial.id for trial in each.trials] for each in self.test_sets},
            "sizes": dict(self.sizes),
            "test_sets": contents(self.test_sets),
            "systems": {system.name: self._identity(system) for system in self.systems},
            "metrics": metrics,
            "version": __version__,
        }

    def _identity(self, system: System) -> dict[str, Any]:
        """Return what decides a system's output."""
        return {**system.identity, **({"seeds": list(self.seeds)} if system.is_seeded else {})}


def make_plan(options: EvaluateOptions, device: str) -> Plan:
    """Return what the options ask for.

    Raises:
        UserError: for a mistake in them.
    """
    if doubled := {seed for seed in options.seeds if options.seeds.count(seed) > 1}:
        raise UserError(f"--seeds: {sorted(doubled)} twice; give each seed once")
    there, whole = _test_sets(options)
    test_sets = limited(whole, options)
    systems = _systems(options, device, Items(_ids(test_sets), _ids(there), _other_names(test_sets)))
    left_out = _left_out(options.task, test_sets, systems)
    for control in CONTROLS:
        if control in options.system and {(control, each.name) for each in test_sets} <= set(left_out):
            raise UserError(f"--system {control}: the task {options.task} has no such control on these test sets")
    sizes = {each.name: len(each.trials) for each in whole}
    plan = Plan(options.task, options.data, test_sets, systems, options.seeds, sizes, left_out)
    return replace(plan, systems=[system for system in systems if any(True for _ in plan.jobs_of(system))])


def chosen_test_sets(options: EvaluateOptions) -> list[TestSet]:
    """Return the test sets that the options name, as far as they go.

    Raises:
        UserError: for a mistake in the options.
    """
    return limited(_test_sets(options)[1], options)


def limited(test_sets: Sequence[TestSet], options: EvaluateOptions) -> list[TestSet]:
    """Return the first trials of test sets, as many as the options say."""
    return [replace(each, trials=each.trials[: options.limit]) for each in test_sets]


def _test_sets(options: EvaluateOptions) -> tuple[list[TestSet], list[TestSet]]:
    """Return all test sets of the task, and those that are named."""
    there = find_test_sets(options.data, options.root, options.task, options.data_options)
    whole = choose(there, options.test_sets, options.data)
    _check_ids(whole)
    return there, whole


def _systems(options: EvaluateOptions, device: str, items: Items) -> list[System]:
    """Return the systems that are named, after the controls that no name calls for."""
    names = list(options.system)
    if not names and answers(_DEFAULT_SYSTEM, options.task):
        names = [_DEFAULT_SYSTEM]
    if not options.no_controls and not any(name in CONTROLS for name in names):
        names = [*CONTROLS, *names]
    if not names:
        raise UserError(
            f"--system: {_DEFAULT_SYSTEM} has no weights for the task {options.task!r}; name a system that has"
        )
    made = SystemOptions(
        options.task,
        options.base,
        device,
        options.num_steps,
        options.guidance_scale,
        options.precision,
        options.text_guided,
        options.tts_length,
    )
    return make_systems(names, made, items)


def _left_out(task: str, test_sets: Sequence[TestSet], systems: Sequence[System]) -> list[tuple[str, str]]:
    """Return the controls that a test set does not have; its first item tells, the others are alike."""
    controls = [system.control for system in systems if system.control]
    found = []
    for test_set in test_sets if controls else ():
        trial = test_set.trials[0]
        own, item = task_of(task, trial), test_set.reader.load_item(trial)
        found += [(control, test_set.name) for control in controls if not has_control(control, own, item)]
    return found


def _ids(test_sets: Sequence[TestSet]) -> set[str]:
    return {trial.id for test_set in test_sets for trial in test_set.trials}


def _other_names(test_sets: Sequence[TestSet]) -> dict[str, str]:
    """Map the names that other tools have for trials to their ids; a name of several trials names none."""
    found: dict[str, set[str]] = {}
    for test_set in test_sets:
        for trial in test_set.trials:
            for name in test_set.reader.other_names(trial):
                found.setdefault(name, set()).add(trial.id)
    return {name: next(iter(ids)) for name, ids in found.items() if len(ids) == 1}


def _check_ids(test_sets: Sequence[TestSet]) -> None:
    """Refuse ids that are no file names, or that two trials have: audio is stored and matched by them.

    Raises:
        UserError: naming the first.
    """
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
