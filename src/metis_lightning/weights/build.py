"""From the parts of a bundle to models, in evaluation mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.models.condition import GatedAdapter, PlainAdapter
from metis_lightning.models.lora import add_lora
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic, SemanticToAcousticConfig
from metis_lightning.models.stage1 import Stage1, Stage1Config
from metis_lightning.tokens.acoustic_codec import AcousticCodec, AcousticCodecConfig
from metis_lightning.tokens.semantic_codec import SemanticCodec, SemanticCodecConfig
from metis_lightning.tokens.ssl_features import FilterbankFeatures, SSLFeatures
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.tokens.w2v_bert import W2vBertFeatures
from metis_lightning.weights.bundle import Part, has_part, read_part
from metis_lightning.weights.difference import difference

ADAPTERS: Mapping[str, type[GatedAdapter] | type[PlainAdapter]] = {"gated": GatedAdapter, "plain": PlainAdapter}
FEATURES: Mapping[str, type[FilterbankFeatures] | type[W2vBertFeatures]] = {
    "filterbank": FilterbankFeatures,
    "w2v_bert": W2vBertFeatures,
}

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def plain_config(config: DataclassInstance) -> dict[str, Any]:
    """Return a frozen configuration as a plain dict that yaml and `weights_only` loading accept."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}


def config_from(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """Return the configuration of a part.

    Raises:
        UserError: if a name is not one of the configuration's.
    """
    known = {field.name for field in fields(cls)}
    if unknown := set(values) - known:
        raise UserError(f"{cls.__name__}: unknown settings {sorted(unknown)}; this bundle needs another version")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load all weights of a model, by exactly its own names and shapes.

    A model on the meta device takes none from a bundle that gives sizes only.

    Raises:
        UserError: naming every tensor that is missing, unexpected or of another shape.
    """
    if not tensors and all(parameter.is_meta for parameter in model.parameters()):
        return
    if text := difference(model.state_dict(), tensors):
        raise UserError(f"{what}: the weights do not fit: {text}")
    model.load_state_dict(dict(tensors))


def load_features(folder: Path) -> SSLFeatures:
    """Return the SSL front end of a bundle."""
    part = read_part(folder, "ssl_features")
    kind = str(part.config.get("kind"))
    if kind not in FEATURES:
        raise UserError(f"bundle {folder}: ssl_features of kind {kind!r}; known kinds: {', '.join(FEATURES)}")
    features = FEATURES[kind](**{key: value for key, value in part.config.items() if key != "kind"})
    load_weights(features, part.tensors, "ssl_features")
    return features


def load_acoustic_codec(folder: Path) -> AcousticCodec:
    """Return the acoustic codec of a bundle."""
    part = read_part(folder, "acoustic_codec")
    codec = AcousticCodec(config_from(AcousticCodecConfig, part.config))
    load_weights(codec, part.tensors, "acoustic_codec")
    return codec


def load_tokenizer(folder: Path) -> SpeechTokenizer:
    """Return the frozen front end of a bundle; without its acoustic codec where the bundle has none yet."""
    semantic = read_part(folder, "semantic_codec")
    semantic_codec = SemanticCodec(config_from(SemanticCodecConfig, semantic.config))
    load_weights(semantic_codec, semantic.tensors, "semantic_codec")
    acoustic_codec = load_acoustic_codec(folder) if has_part(folder, "acoustic_codec") else None
    return SpeechTokenizer(load_features(folder), semantic_codec, acoustic_codec)


def load_base(folder: Path) -> tuple[Stage1, str]:
    """Return the unconditional stage 1 of a bundle and the SHA-256 of its weights."""
    part = read_part(folder, "stage1")
    model = Stage1(config_from(Stage1Config, part.config))
    load_weights(model, part.tensors, "stage1")
    return model.eval(), part.sha256


def load_task(folder: Path, task: str) -> Stage1:
    """Return stage 1 fine-tuned for a task: the base with the task's LoRA and adapter, or all of the task's own."""
    part = read_part(folder, task)
    if "stage1" in part.config:
        model, digest = Stage1(config_from(Stage1Config, part.config["stage1"])), part.config["base_sha256"]
    else:
        model, digest = load_base(folder)
    apply_task(model, part, digest, what=f"bundle {folder}, part {task!r}")
    return model.eval()


def apply_task(model: Stage1, part: Part, base_sha256: str, what: str) -> None:
    """Put a task's adapter, and its LoRA or its whole stage 1, on a base model, in place.

    Raises:
        UserError: if they were trained on another base, or do not fit.
    """
    if part.config["base_sha256"] != base_sha256:
        raise UserError(
            f"{what}: trained on the base with SHA-256 {part.config['base_sha256']}, this base has {base_sha256}"
        )
    model.cond_adapter = ADAPTERS[part.config["adapter"]](part.config["cond_dim"], model.config.hidden_size)
    tensors = {name.removeprefix("model."): value for name, value in part.tensors.items()}
    if not part.config["lora_rank"]:
        load_weights(model, tensors, what)
        return
    add_lora(model, part.config["lora_rank"])
    trained = {name: v for name, v in model.state_dict().items() if "lora_" in name or name.startswith("cond_adapter.")}
    if text := difference(trained, tensors):
        raise UserError(f"{what}: the weights do not fit: {text}")
    model.load_state_dict(tensors, strict=False)


def load_stage2(folder: Path) -> tuple[SemanticToAcoustic, SemanticToAcoustic]:
    """Return the two models of stage 2: of the first layer, and of the others."""
    first, full = (_load_s2a(folder, name) for name in ("s2a_1layer", "s2a_full"))
    return first, full


def _load_s2a(folder: Path, name: str) -> SemanticToAcoustic:
    part = read_part(folder, name)
    model = SemanticToAcoustic(config_from(SemanticToAcousticConfig, part.config))
    load_weights(model, part.tensors, name)
    return model.eval()
