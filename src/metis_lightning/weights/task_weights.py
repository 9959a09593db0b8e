"""The weights of a bundle or of a checkpoint that serve a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.models.stage1 import Stage1
from metis_lightning.weights.build import apply_task, load_base, load_task
from metis_lightning.weights.bundle import bundle_folder, read_index
from metis_lightning.weights.export import checkpoint_parts

Configs = Mapping[str, Mapping[str, Any]]
"""Configurations by the names of their parts."""


@dataclass(frozen=True)
class TaskModel:
    """A fine-tuned stage 1.

    model: in evaluation mode.
    tasks: what it serves.
    text: name of the front end that it was trained with, if it takes text.
    folder: the bundle with everything else.
    """

    model: Stage1
    tasks: tuple[str, ...]
    text: str | None
    folder: Path


def load_task_model(name: str, task: str, base: str) -> TaskModel:
    """Return what serves a task.

    Args:
        name: a bundle, or a checkpoint file (`.ckpt`).
        task: as it was trained, or one of those that the trained weights serve, as Omni's do.
        base: the bundle that a checkpoint belongs to.

    Raises:
        UserError: if there is no such bundle or file, or nothing in it serves the task.
    """
    if name.endswith(".ckpt"):
        folder, parts, what = bundle_folder(base), dict(checkpoint_parts(name)), f"checkpoint {name}"
        configs: Configs = {key: value.config for key, value in parts.items()}
    else:
        folder, parts, what = bundle_folder(name), {}, f"bundle {name!r}"
        configs = _configs(name)
    part = part_for(configs, task)
    if part is None:
        raise UserError(
            f"{what}: it has no weights for the task {task!r}, only for {', '.join(_tasks(configs)) or 'none'}; "
            "name one of these, or fine-tune for it and give the checkpoint"
        )
    if parts:
        model, digest = load_base(folder)
        apply_task(model, parts[part], digest, what)
    else:
        model = load_task(folder, part)
    config = configs[part]
    return TaskModel(model.eval(), (part, *config.get("answers", ())), config.get("text"), folder)


def served_tasks(name: str) -> tuple[str, ...]:
    """Return the tasks that a bundle or a checkpoint serves, without loading a model.

    Raises:
        UserError: if there is no such bundle or file.
    """
    return _tasks(_configs(name))


def part_for(configs: Configs, task: str) -> str | None:
    """Return the name of the part that serves a task: its own, or else one whose `answers` name it.

    Args:
        configs: of all parts of a bundle or a checkpoint.
        task: name of a task.
    """
    others = (name for name, config in configs.items() if task in config.get("answers", ()))
    return task if "base_sha256" in configs.get(task, {}) else next(others, None)


def _tasks(configs: Configs) -> tuple[str, ...]:
    # What was fine-tuned belongs to a base; the others are the base, stage 2 and the front end.
    tuned = {name: config for name, config in configs.items() if "base_sha256" in config}
    return tuple(task for name, config in tuned.items() for task in (name, *config.get("answers", ())))


def _configs(name: str) -> Configs:
    """Return the configurations of the parts of a bundle or a checkpoint."""
    if name.endswith(".ckpt"):
        return {key: part.config for key, part in checkpoint_parts(name).items()}
    return {key: part["config"] for key, part in read_index(bundle_folder(name))["parts"].items()}
