"""A complete bundle of tiny random models, for tests of everything around the models."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from metis_lightning.models.lora import Extension, add_lora, extend
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic, SemanticToAcousticConfig
from metis_lightning.models.stage1 import GatedAdapter, Stage1, Stage1Config
from metis_lightning.tokens.acoustic_codec import AcousticCodec, AcousticCodecConfig
from metis_lightning.tokens.semantic_codec import SemanticCodec, SemanticCodecConfig
from metis_lightning.tokens.ssl_features import FilterbankFeatures
from metis_lightning.weights.build import plain_config
from metis_lightning.weights.bundle import Part, read_part, write_part

WIDTH = 16
STAGE1 = Stage1Config(hidden_size=WIDTH, num_layers=1, num_heads=2, codebook_size=32)
SEMANTIC = SemanticCodecConfig(32, 160, 4, vocos_dim=WIDTH, vocos_intermediate_dim=WIDTH, vocos_num_layers=1)
ACOUSTIC = AcousticCodecConfig(
    d_model=2,
    up_ratios=(8, 5, 4, 3),
    latent_dim=8,
    num_quantizers=3,
    codebook_size=32,
    codebook_dim=4,
    quantizer_dropout=0.0,
    vocos_dim=WIDTH,
    vocos_intermediate_dim=WIDTH,
    vocos_num_layers=1,
)
LORA_RANK = 2


def stage2_config(num_quantizers: int, first_layer: int) -> SemanticToAcousticConfig:
    return SemanticToAcousticConfig(num_quantizers, WIDTH, 1, 2, 32, 32, first_layer)


@contextmanager
def wide_start() -> Iterator[None]:
    """Within the block maps of new models start as torch's do: N(0, 0.02²) hardly lets anything through at width 16.

    So a random model answers to what it reads, as a trained one does, and a small one learns in few steps.
    """

    def embeddings_alone(module: nn.Module) -> nn.Module:
        for part in module.modules():
            if isinstance(part, nn.Embedding):
                nn.init.normal_(part.weight, std=0.02)
        return module

    with ExitStack() as patches:
        for name in ("backbone", "semantic_to_acoustic", "stage1"):
            patches.enter_context(patch(f"metis_lightning.models.{name}.initialise", embeddings_alone))
        yield


def make_tiny_bundle(folder: Path) -> Path:
    """Write every part of a bundle with random weights, TSE LoRA among them."""
    with torch.random.fork_rng(), wide_start():
        torch.manual_seed(0)
        _write(folder, "ssl_features", {"kind": "filterbank"}, FilterbankFeatures())
        _write(folder, "semantic_codec", plain_config(SEMANTIC), SemanticCodec(SEMANTIC))
        _write(folder, "acoustic_codec", plain_config(ACOUSTIC), AcousticCodec(ACOUSTIC))
        _write(folder, "stage1", plain_config(STAGE1), Stage1(STAGE1))
        for name, config in (("s2a_1layer", stage2_config(1, 0)), ("s2a_full", stage2_config(3, 1))):
            _write(folder, name, plain_config(config), SemanticToAcoustic(config))
        _write_tse(folder)
    return folder


def make_bundle_of_every_task(folder: Path) -> Path:
    """Write a tiny bundle whose random weights answer every task, Omni's too."""
    make_tiny_bundle(folder)
    heard = Extension("gated", 160, LORA_RANK)
    with torch.random.fork_rng(), wide_start():
        torch.manual_seed(1)
        write_task(folder, "se", heard)
        write_task(folder, "vc", heard)
        write_task(folder, "l2s", Extension("plain", 768, LORA_RANK))
        write_task(folder, "tts", Extension(None, 0, LORA_RANK, phones=True), text="utf8")
        everything = Extension("gated", 160, LORA_RANK, phones=True)
        write_task(folder, "omni", everything, text="utf8", answers=["tts", "vc", "tse", "se"])
    return folder


def write_task(folder: Path, task: str, extension: Extension, **config: object) -> None:
    """Add a task's part with random weights to a bundle."""
    with wide_start():
        model = Stage1(STAGE1)
        trained = extend(model, extension)
    known = {
        "adapter": extension.adapter,
        "cond_dim": extension.cond_dim,
        "lora_rank": extension.lora_rank,
        "base_sha256": read_part(folder, "stage1").sha256,
    }
    tensors = {name: value for name, value in model.state_dict().items() if name in trained}
    write_part(folder, task, Part(known | config, tensors))


def _write(folder: Path, name: str, config: dict[str, object], model: nn.Module) -> None:
    write_part(folder, name, Part(config, model.state_dict()))


def _write_tse(folder: Path) -> None:
    model = Stage1(STAGE1, GatedAdapter(160, WIDTH))
    add_lora(model, LORA_RANK)
    trained = {f"model.{k}": v for k, v in model.state_dict().items() if "lora_" in k or k.startswith("cond_adapter.")}
    config = {
        "adapter": "gated",
        "cond_dim": 160,
        "lora_rank": LORA_RANK,
        "base_sha256": read_part(folder, "stage1").sha256,
    }
    write_part(folder, "tse", Part(config, trained))
