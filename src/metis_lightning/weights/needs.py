"""Which tensors a part of a bundle must have, by its configuration: names and shapes, on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic, SemanticToAcousticConfig
from metis_lightning.models.stage1 import Stage1, Stage1Config
from metis_lightning.tokens.acoustic_codec import AcousticCodec, AcousticCodecConfig
from metis_lightning.tokens.semantic_codec import SemanticCodec, SemanticCodecConfig
from metis_lightning.tokens.w2v_bert import build_encoder
from metis_lightning.weights.build import FEATURES, Extension, config_from, extend

Config = Mapping[str, Any]

SHARED_MODELS: Mapping[str, Callable[[Config], nn.Module]] = {
    "w2v_bert": build_encoder,
    "semantic_codec": lambda config: SemanticCodec(config_from(SemanticCodecConfig, config)),
    "acoustic_codec": lambda config: AcousticCodec(config_from(AcousticCodecConfig, config)),
    "s2a_1layer": lambda config: SemanticToAcoustic(config_from(SemanticToAcousticConfig, config)),
    "s2a_full": lambda config: SemanticToAcoustic(config_from(SemanticToAcousticConfig, config)),
    "stage1": lambda config: Stage1(config_from(Stage1Config, config)),
}


def needed_tensors(name: str, config: Config, base: Config) -> dict[str, Tensor]:
    """Return what the part `name` of this configuration holds.

    Args:
        name: of a part that all tasks share, or of a task.
        config: of the part.
        base: of the part `stage1`, which a LoRA extends.
    """
    if name == "ssl_features":
        settings = {key: value for key, value in config.items() if key != "kind"}
        return FEATURES[config["kind"]](**settings).state_dict()
    with torch.device("meta"):
        if name in SHARED_MODELS:
            return SHARED_MODELS[name](config).state_dict()
        model = Stage1(config_from(Stage1Config, config.get("stage1", base)))
        phones = config.get("text") is not None
        names = extend(model, Extension(config["adapter"], config["cond_dim"], config["lora_rank"], phones))
    return {key: value for key, value in model.state_dict().items() if key in names}
