"""Low-rank adaptation of stage 1 with peft (LoRA, 2106.09685), in the layout of the published files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PUBLISHED_PREFIX = "model."


def add_lora(model: nn.Module, rank: int, alpha: int | None = None, dropout: float = 0.01) -> None:
    """Wrap the linear maps of the backbone in place; alpha is 2 · rank unless given, as published.

    Load the base weights first: peft renames them. A model is wrapped once.
    """
    if any("lora_" in name for name, _ in model.named_parameters()):
        raise ValueError("this model already has LoRA weights")
    config = LoraConfig(
        r=rank, lora_alpha=alpha or 2 * rank, lora_dropout=dropout, target_modules=list(TARGETS), bias="none"
    )
    inject_adapter_in_model(config, model)


def merge_lora(model: nn.Module) -> None:
    """Add each LoRA map to the weights that it adapts, W + 2BA, in place; the model is a plain one afterwards."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            layer.merge()
            model.set_submodule(name, layer.base_layer)


@contextmanager
def lora_disabled(model: nn.Module) -> Iterator[None]:
    """Within the block the model computes as its base does."""
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
