"""Puts a task's new layers on stage 1: LoRA in its maps (2106.09685, with peft), adapter and phones before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from metis_lightning.errors import UserError
from metis_lightning.models.stage1 import PHONE_LAYERS, GatedAdapter, PlainAdapter, Stage1

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

# The linear maps that get LoRA: all of attention and feed-forward, in every layer, as published.
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PUBLISHED_PREFIX = "model."

# By these names a part says what was trained; a class path would let a bundle choose what is imported.
ADAPTERS: Mapping[str, type[GatedAdapter] | type[PlainAdapter]] = {"gated": GatedAdapter, "plain": PlainAdapter}


@dataclass(frozen=True)
class Extension:
    """What a task puts on stage 1."""

    adapter: str | None = "gated"  # a kind of `ADAPTERS`, for frame-level conditions; None if the task takes none
    cond_dim: int = 0  # width of those conditions
    lora_rank: int = 0  # rank r, with alpha 2r; 0 without LoRA
    phones: bool = False  # whether it reads phones
    spread_phones: bool = False  # whether they are spread over the frames, see `Stage1Config`
    full: bool = False  # whether all of stage 1 is the task's own


def extend(model: Stage1, extension: Extension, lora_dropout: float = 0.0) -> frozenset[str]:
    """Put a task's new layers on a base model in place, and return the names of the weights that are the task's.

    Those are the new layers: LoRA weights, adapter, phone embedding and its MLP; or with `full` all (but see
    `without_gradient`). A `UserError` if there is no such kind of adapter.
    """
    new: list[str] = []
    if extension.adapter is not None:
        if extension.adapter not in ADAPTERS:
            raise UserError(f"adapter {extension.adapter!r}: choose one of {', '.join(ADAPTERS)}")
        model.cond_adapter = ADAPTERS[extension.adapter](extension.cond_dim, model.config.hidden_size)
        new += ["cond_adapter."]
    if extension.phones:
        model.add_phones(extension.spread_phones)
        new += PHONE_LAYERS
    if extension.full:
        return frozenset(name for name, _ in model.named_parameters())
    if extension.lora_rank:
        add_lora(model, extension.lora_rank, dropout=lora_dropout)
    return frozenset(name for name, _ in model.named_parameters() if "lora_" in name or name.startswith(tuple(new)))


def add_lora(model: nn.Module, rank: int, dropout: float = 0.01) -> None:
    """Wrap the linear maps of the backbone in place, once, after the base weights are loaded; alpha is 2 · rank."""
    if any("lora_" in name for name, _ in model.named_parameters()):
        raise ValueError("this model already has LoRA weights")
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules=list(TARGETS), bias="none")
    inject_adapter_in_model(config, model)


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Return the maps that have LoRA, by name."""
    # Importing peft takes seconds, which a model without any need not wait for.
    if not any("lora_" in name for name, _ in model.named_parameters()):
        return {}
    from peft.tuners.lora import LoraLayer

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}


def without_gradient(names: Iterable[str], phones: bool) -> frozenset[str]:
    """Return those of stage 1's weights that no batch of a task gives a gradient, which so are not to be trained."""
    return frozenset(name for name in names if not phones and name.startswith(PHONE_LAYERS))


def merge_lora(model: nn.Module) -> None:
    """Add each LoRA map to the weights that it adapts, W + 2BA, in place; the model is a plain one afterwards."""
    for name, layer in lora_layers(model).items():
        layer.merge()
        model.set_submodule(name, layer.base_layer)


@contextmanager
def lora_disabled(model: nn.Module) -> Iterator[None]:
    """Within the block the model computes as its base does."""
    layers = lora_layers(model)
    for layer in layers.values():
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers.values():
            layer.enable_adapters(True)
