"""Plan of a run, checked before anything is loaded: systems × seeds × test sets × trials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from metis_lightning import __version__
from metis_lightning.errors import UserError
from metis_lightning.evaluate.options import EvaluateOptions
from metis_lightning.evaluate.results.comparison import CONTROLS
from metis_lightning.evaluate.results.rows import RowKey
from metis_lightning.evaluate.results.runs import Protocol
from metis_lightning.evaluate.run.outputs import Items
from metis_lightning.evaluate.run.systems import System, make_systems, part_config, trial_task
from metis_lightning.evaluate.run.test_sets import TestSet, chosen_test_sets, contents
from metis_lightning.task_table import task_named
from metis_lightning.types import Trial
from metis_lightning.weights.build import missing_stage2
from metis_lightning.weights.bundle import bundle_folder

_DEFAULT_SYSTEM = "nano"


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


@dataclass(frozen=True)
class Plan:
    """All jobs of a call, in order; `left_out` are the controls that do not exist, as (control, test set)."""

    options: EvaluateOptions
    test_sets: Sequence[TestSet]
    systems: Sequence[System]
    left_out: Sequence[tuple[str, str]]

    def jobs_of(self, system: System) -> Iterator[EvaluationJob]:
        """Yield the jobs of a system."""
        for seed in self.options.seeds if system.is_seeded else (None,):
            for test_set in self.test_sets:
                if (system.control, test_set.name) not in self.left_out:
                    yield from (EvaluationJob(system, seed, test_set, trial) for trial in test_set.trials)

    def protocol(self, metrics: Mapping[str, Any]) -> Protocol:
        """Return all that decides the numbers, with the suite's part of it. A `UserError` if an item cannot be read."""
        seeds = {"seeds": list(self.options.seeds)}
        content = {
            "task": self.options.task,
            "data": self.options.data,
            "ids": {each.name: [trial.id for trial in each.trials] for each in self.test_sets},
            # How many items are left out by --limit is said beside the results.
            "sizes": {each.name: each.size for each in self.test_sets},
            "test_sets": contents(self.test_sets),
            "systems": {each.name: {**each.identity, **(seeds if each.is_seeded else {})} for each in self.systems},
            "metrics": metrics,
            "version": __version__,
        }
        return Protocol(content)


def make_plan(options: EvaluateOptions, device: str) -> Plan:
    """Return the plan of the options. A `UserError` for a mistake in them."""
    if doubled := {seed for seed in options.seeds if options.seeds.count(seed) > 1}:
        raise UserError(f"--seeds: {sorted(doubled)} twice; give each seed once")
    tasks = [task_named(name) for name in task_named(options.task).served]
    if options.text_guided and not any("text" in task.optional for task in tasks):
        raise UserError(f"--text-guided: it is for the tasks tse and omni, not for {options.task}")
    if options.tts_length != "predicted" and not any(task.speaks_text for task in tasks):
        raise UserError(f"--tts-length {options.tts_length}: it is for the tasks tts and omni, not for {options.task}")
    test_sets, all_ids = chosen_test_sets(options)
    chosen = {trial.id for each in test_sets for trial in each.trials}
    items = Items(chosen, all_ids, _other_names(test_sets))
    # Without a name it is the embedded bundle; where that does not do the task, the controls alone.
    names = list(options.system) or ([_DEFAULT_SYSTEM] if _default_serves(options.task, test_sets[0]) else [])
    if not options.no_controls and not any(name in CONTROLS for name in names):
        lacks_stage2 = missing_stage2(bundle_folder(options.base))
        names = [*(name for name in CONTROLS if name != "oracle" or not lacks_stage2), *names]
    if not names:
        raise UserError(
            f"--system: {_DEFAULT_SYSTEM} has no weights for the task {options.task!r} on these items; name a system"
        )
    systems = make_systems(names, options, device, items)
    left_out = _missing_controls(options.task, test_sets, systems)
    for control in CONTROLS:
        if control in options.system and {(control, each.name) for each in test_sets} <= set(left_out):
            raise UserError(f"--system {control}: the task {options.task} has no such control on these test sets")
    plan = Plan(options, test_sets, systems, left_out)
    # A control that no test set has is not listed, as no row is of it.
    return replace(plan, systems=[system for system in systems if any(True for _ in plan.jobs_of(system))])


def _default_serves(task: str, test_set: TestSet) -> bool:
    """Return whether the embedded bundle does a task, and takes lip features as wide as those of the test set."""
    config = part_config(_DEFAULT_SYSTEM, task)
    if config is None or task_named(task).condition != "features":
        return config is not None
    features = test_set.reader.load_item(test_set.trials[0]).features
    return features is None or features.shape[1] == config["cond_dim"]


def _other_names(test_sets: Sequence[TestSet]) -> dict[str, str]:
    """Map the names that other tools have for trials to their ids; a name of several trials names none."""
    ids: dict[str, set[str]] = {}
    for test_set in test_sets:
        for trial in test_set.trials:
            for name in test_set.reader.other_names(trial):
                ids.setdefault(name, set()).add(trial.id)
    return {name: next(iter(named)) for name, named in ids.items() if len(named) == 1}


def _missing_controls(task: str, test_sets: Sequence[TestSet], systems: Sequence[System]) -> list[tuple[str, str]]:
    """Return the controls that a test set does not have; its first item tells, the others are alike."""
    controls = [system.control for system in systems if system.control]
    missing = []
    for test_set in test_sets if controls else ():
        trial = test_set.trials[0]
        item, has_source = test_set.reader.load_item(trial), trial_task(task, trial).condition in ("source", "any")
        exists = {"input": has_source and item.mixture is not None}
        missing += [(name, test_set.name) for name in controls if not exists.get(name, item.target is not None)]
    return missing
