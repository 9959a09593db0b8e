"""Our models with the parity vectors' weights give the parity vectors' outputs, see `parity_vectors`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import pytest
from torch import Tensor, nn

from metis_lightning.models.lora import PUBLISHED_PREFIX, add_lora
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic, SemanticToAcousticConfig
from metis_lightning.models.stage1 import GatedAdapter, PlainAdapter, Stage1, Stage1Config
from metis_lightning.tokens.acoustic_codec import AcousticCodec, AcousticCodecConfig
from metis_lightning.tokens.semantic_codec import SemanticCodec, SemanticCodecConfig
from metis_lightning.weights.build import config_from
from metis_lightning.weights.published.layout import acoustic_config, s2a_config, stage1_config
from parity_vectors import (
    FILES,
    FOLDER,
    check_acoustic_codec,
    check_lora,
    check_semantic_codec,
    check_stage1,
    check_stage2,
    part,
    read,
)


def test_the_folder_holds_every_kind_of_file() -> None:
    assert FILES, f"no parity vectors in {FOLDER}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_parity(path: Path) -> None:
    config, tensors = read(path)
    io = part(tensors, "io.")
    if path.stem == "semantic_codec":
        codec = SemanticCodec(SemanticCodecConfig(**config))
        check_semantic_codec(loaded(codec, part(tensors, "weights.")), io)
    elif path.stem == "acoustic_codec":
        weights = {key: value for key, value in tensors.items() if not key.startswith("io.")}
        codec = AcousticCodec(config_from(AcousticCodecConfig, acoustic_config(config)))
        check_acoustic_codec(loaded(codec, weights), io)
    elif path.stem.startswith("s2a"):
        stage2 = SemanticToAcoustic(config_from(SemanticToAcousticConfig, s2a_config(config)))
        check_stage2(loaded(stage2, part(tensors, "weights.")), io)
    elif path.stem.endswith("_lora"):
        check_lora(lora_of(config, tensors), io)
    elif path.stem.startswith("stage1"):
        check_stage1(stage1_of(config, part(tensors, "weights.")), io)
    else:
        pytest.fail(f"{path}: a kind of file that this test does not know")


def stage1_of(config: dict[str, Any], weights: dict[str, Tensor]) -> Stage1:
    adapter = None
    hidden = config["hidden_size"]
    if "cond_adapter.gate_scale" in weights:
        adapter = GatedAdapter(config["cond_dim"], hidden)
    elif "cond_adapter.0.weight" in weights:
        adapter = PlainAdapter(config["cond_dim"], hidden)
    return loaded(Stage1(config_from(Stage1Config, stage1_config(config)), adapter), weights)


def lora_of(config: dict[str, Any], tensors: dict[str, Tensor]) -> Stage1:
    model = stage1_of(config, part(tensors, "base.") | part(tensors, "adapter.model."))
    assert config["lora_alpha"] == 2 * config["lora_r"]
    add_lora(model, rank=config["lora_r"])
    weights = part(tensors, f"lora.{PUBLISHED_PREFIX}")
    assert weights.keys() == {key for key in model.state_dict() if "lora_" in key}
    model.load_state_dict(weights, strict=False)
    return model.eval()


Model = TypeVar("Model", bound=nn.Module)


def loaded(model: Model, weights: dict[str, Tensor]) -> Model:
    model.load_state_dict(weights)
    return model.eval()
