"""Which weights of a bundle or of a checkpoint answer a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metis_lightning.errors import UserError
from metis_lightning.models.stage1 import Stage1
from metis_lightning.weights.build import apply_task, load_base, load_task, part_for
from metis_lightning.weights.bundle import bundle_folder, read_index
from metis_lightning.weights.export import checkpoint_parts


@dataclass(frozen=True)
class TaskModel:
    """A fine-tuned stage 1.

    model: in evaluation mode.
    tasks: what it answers.
    text: name of the front end that it was trained with, if it takes text.
    folder: the bundle with everything else.
    """

    model: Stage1
    tasks: tuple[str, ...]
    text: str | None
    folder: Path


def load_task_model(name: str, task: str, base: str) -> TaskModel:
    """Return what answers a task.

    Args:
        name: a bundle, or a checkpoint file (`.ckpt`).
        task: as it was trained, or one of those that the trained weights answer, as Omni's do.
        base: the bundle that a checkpoint belongs to.

    Raises:
        UserError: if there is no such bundle or file, or nothing in it answers the task.
    """
    if name.endswith(".ckpt"):
        folder, parts = bundle_folder(base), checkpoint_parts(Path(name))
        found, config = _found({key: part.config for key, part in parts.items()}, task, f"checkpoint {name}")
        model, digest = load_base(folder)
        apply_task(model, parts[found], digest, what=f"checkpoint {name}")
    else:
        folder = bundle_folder(name)
        configs = _configs(name)
        found, config = _found(configs, task, f"bundle {name!r}")
        model = load_task(folder, found)
    return TaskModel(model.eval(), (found, *config.get("answers", ())), config.get("text"), folder)


def served_tasks(name: str) -> tuple[str, ...]:
    """Return the tasks that a bundle or a checkpoint answers, without loading a model.

    Raises:
        UserError: if there is no such bundle or file.
    """
    tuned = _tuned(_configs(name))
    return tuple(task for part, config in tuned.items() for task in (part, *config.get("answers", ())))


def _configs(name: str) -> dict[str, Mapping[str, Any]]:
    """Return the configuration of each part of a bundle or a checkpoint."""
    if name.endswith(".ckpt"):
        return {key: part.config for key, part in checkpoint_parts(Path(name)).items()}
    return {key: part["config"] for key, part in read_index(bundle_folder(name))["parts"].items()}


def _tuned(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return what was fine-tuned for a task: it belongs to a base. The others are base, stage 2 and front end."""
    return {name: config for name, config in configs.items() if "base_sha256" in config}


def _found(configs: Mapping[str, Mapping[str, Any]], task: str, what: str) -> tuple[str, Mapping[str, Any]]:
    """Return the name and the configuration of the part that answers a task."""
    tuned = _tuned(configs)
    found = part_for(tuned, task)
    if found is None:
        answered = [name for part, config in tuned.items() for name in (part, *config.get("answers", ()))]
        raise UserError(
            f"{what}: it has no weights for the task {task!r}, only for {', '.join(answered) or 'none'}; "
            "name one of these, or fine-tune for it and give the checkpoint"
        )
    return found, tuned[found]
