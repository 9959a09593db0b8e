"""Weights that training starts at, of a bundle or of an earlier run's checkpoint."""

from __future__ import annotations

from collections.abc import Set

from torch import nn

from metis_lightning.errors import UserError
from metis_lightning.models.lora import PUBLISHED_PREFIX
from metis_lightning.models.stage1 import Stage1
from metis_lightning.weights.build import fine_tuned_parts, load_weights, part_for
from metis_lightning.weights.bundle import Part, bundle_folder, read_index, read_part
from metis_lightning.weights.checkpoint import checkpoint_parts


def load_start(model: nn.Module, source: str, name: str, relative: str | None = None) -> Part:
    """Load the weights that training starts at, a part of a bundle or of a checkpoint file (`.ckpt`); return the part.

    Where there is none of the name, its `relative` gives what it has of the same names and shapes. A `UserError` if
    there is neither, or it is of another size.
    """
    is_checkpoint = source.endswith(".ckpt")
    parts = checkpoint_parts(source) if is_checkpoint else read_index(bundle_folder(source))["parts"]
    found = next((each for each in (name, relative) if each in parts), None)
    if found is None:
        raise UserError(f"start_from {source!r}: it holds no {name!r}, only {', '.join(parts) or 'nothing'}")
    part = parts[found] if is_checkpoint else read_part(bundle_folder(source), found)
    tensors, names = part.tensors, None
    if found != name:
        shapes = {key: value.shape for key, value in model.state_dict().items()}
        tensors = {key: value for key, value in tensors.items() if shapes.get(key) == value.shape}
        names = set(tensors)
    load_weights(model, tensors, f"start_from {source!r}, part {found!r}", names)
    return part


def start_task(model: Stage1, source: str, task: str, names: Set[str]) -> None:
    """Load where fine-tuning starts, of the weights `names`: what a bundle or checkpoint has that serves the task.

    LoRA that it lacks, or has of another rank, stays as it is. A `UserError` if it lacks, or has otherwise, the rest.
    """
    parts = fine_tuned_parts(source)
    part = part_for({key: value.config for key, value in parts.items()}, task)
    if part is None:
        raise UserError(f"start_from {source!r}: it has no weights that serve the task {task!r}")
    stored = parts[part].tensors or read_part(bundle_folder(source), part).tensors
    tensors = {name.removeprefix(PUBLISHED_PREFIX): value for name, value in stored.items()}
    own = {name: value for name, value in model.state_dict().items() if name in names}
    has = {name for name, value in own.items() if name in tensors and tensors[name].shape == value.shape}
    load_weights(
        model,
        {name: value for name, value in tensors.items() if name in own and ("lora_" not in name or name in has)},
        f"start_from {source!r}, part {part!r}",
        {name for name in names if "lora_" not in name or name in has},
    )
