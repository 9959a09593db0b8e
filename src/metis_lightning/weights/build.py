"""From the parts of a bundle to models, in evaluation mode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.models.lora import PUBLISHED_PREFIX, add_lora
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic, SemanticToAcousticConfig
from metis_lightning.models.stage1 import PHONE_LAYERS, GatedAdapter, PlainAdapter, Stage1, Stage1Config
from metis_lightning.state_dicts import difference
from metis_lightning.tokens.acoustic_codec import AcousticCodec, AcousticCodecConfig
from metis_lightning.tokens.semantic_codec import SemanticCodec, SemanticCodecConfig
from metis_lightning.tokens.ssl_features import FilterbankFeatures, SSLFeatures
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.tokens.w2v_bert import W2vBertFeatures, build_encoder
from metis_lightning.tokens.whisper import WhisperFeatures
from metis_lightning.weights.bundle import Part, has_part, read_part

# By these names a part says what was trained; a class path would let a bundle choose what is imported.
ADAPTERS: Mapping[str, type[GatedAdapter] | type[PlainAdapter]] = {"gated": GatedAdapter, "plain": PlainAdapter}
FEATURES: Mapping[str, type[FilterbankFeatures] | type[W2vBertFeatures] | type[WhisperFeatures]] = {
    "filterbank": FilterbankFeatures,
    "w2v_bert": W2vBertFeatures,
    "whisper": WhisperFeatures,
}

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from transformers import Wav2Vec2BertModel

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
    kinds = get_type_hints(cls)
    for name, value in values.items():
        if not _is_of(value, kinds[name]):
            raise UserError(f"{cls.__name__}: {name!r} must be of the type {_shown(kinds[name])}, found {value!r}")
    try:
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except (TypeError, ValueError) as error:
        raise UserError(f"{cls.__name__}: {error}; this bundle needs another version") from error


def _is_of(value: object, kind: object) -> bool:
    """Tell whether a plain value is of a configuration's type."""
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and all(_is_of(each, get_args(kind)[0]) for each in value)
    if get_origin(kind) in (Union, UnionType):
        return any(_is_of(value, each) for each in get_args(kind))
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, int | float if kind is float else kind)  # type: ignore[arg-type]


def _shown(kind: object) -> str:
    return getattr(kind, "__name__", str(kind))


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], what: str, names: Set[str] | None = None) -> None:
    """Load all weights of a model, or those of `names`, by exactly their names and shapes.

    A model on the meta device takes the tensors themselves, and none from a bundle that gives sizes only.

    Raises:
        UserError: naming every tensor that is missing, unexpected or of another shape.
    """
    if not tensors and all(parameter.is_meta for parameter in model.parameters()):
        return
    own = {name: value for name, value in model.state_dict().items() if names is None or name in names}
    if text := difference(own, tensors):
        raise UserError(f"{what}: the weights do not fit: {text}")
    model.load_state_dict(dict(tensors), strict=names is None, assign=_unborn(model))


def _unborn(model: nn.Module) -> bool:
    """Return whether a model waits on the meta device for weights; not where all models are built there."""
    return any(parameter.is_meta for parameter in model.parameters()) and not nn.Linear(1, 1).weight.is_meta


def load_features(folder: Path) -> SSLFeatures:
    """Return the SSL front end of a bundle."""
    part = read_part(folder, "ssl_features")
    kind = str(part.config.get("kind"))
    if kind not in FEATURES:
        raise UserError(f"bundle {folder}: ssl_features of kind {kind!r}; known kinds: {', '.join(FEATURES)}")
    try:
        features = FEATURES[kind](**{key: value for key, value in part.config.items() if key != "kind"})
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"bundle {folder}: ssl_features: {error}; this bundle needs another version") from error
    load_weights(features, part.tensors, "ssl_features")
    if isinstance(features, W2vBertFeatures) and has_part(folder, "w2v_bert"):
        features.load = partial(load_w2v_bert, folder)
    return features.eval()


def load_w2v_bert(folder: Path) -> Wav2Vec2BertModel:
    """Return the encoder behind the SSL front end of a bundle that has its own."""
    part = read_part(folder, "w2v_bert")
    encoder = build_encoder(part.config)
    load_weights(encoder, part.tensors, "w2v_bert")
    return encoder


def load_acoustic_codec(folder: Path) -> AcousticCodec:
    """Return the acoustic codec of a bundle."""
    part = read_part(folder, "acoustic_codec")
    with torch.device("meta"):
        codec = AcousticCodec(config_from(AcousticCodecConfig, part.config))
    load_weights(codec, part.tensors, "acoustic_codec")
    return codec


def load_tokenizer(folder: Path) -> SpeechTokenizer:
    """Return the frozen front end of a bundle; without its acoustic codec where the bundle has none yet."""
    semantic = read_part(folder, "semantic_codec")
    with torch.device("meta"):
        semantic_codec = SemanticCodec(config_from(SemanticCodecConfig, semantic.config))
    load_weights(semantic_codec, semantic.tensors, "semantic_codec")
    acoustic_codec = load_acoustic_codec(folder) if has_part(folder, "acoustic_codec") else None
    return SpeechTokenizer(load_features(folder), semantic_codec, acoustic_codec)


def load_base(folder: Path) -> tuple[Stage1, str]:
    """Return the unconditional stage 1 of a bundle and the SHA-256 of its weights."""
    part = read_part(folder, "stage1")
    with torch.device("meta"):
        model = Stage1(config_from(Stage1Config, part.config))
    load_weights(model, part.tensors, "stage1")
    return model.eval(), part.sha256


def load_task(folder: Path, task: str) -> Stage1:
    """Return stage 1 fine-tuned for a task: the base with the task's LoRA and adapter, or all of the task's own."""
    part = read_part(folder, task)
    if "stage1" in part.config:
        with torch.device("meta"):
            model, digest = Stage1(config_from(Stage1Config, part.config["stage1"])), part.config.get("base_sha256", "")
    else:
        model, digest = load_base(folder)
    apply_task(model, part, digest, what=f"bundle {folder}, part {task!r}")
    return model.eval()


@dataclass(frozen=True)
class Extension:
    """What a task puts on stage 1.

    adapter: a kind of `ADAPTERS` for frame-level conditions `cond_dim` wide; None if the task takes none.
    lora_rank: rank r, with alpha 2r; 0 if all of stage 1 is trained.
    phones: whether phones stand before the tokens.
    """

    adapter: str | None = "gated"
    cond_dim: int = 0
    lora_rank: int = 0
    phones: bool = False


def extend(model: Stage1, extension: Extension, lora_dropout: float = 0.0) -> frozenset[str]:
    """Put a task's new layers on a base model in place, and return the names of the weights that are the task's.

    With LoRA those are the new layers alone: LoRA weights, adapter, phone embedding and its MLP. Else all are, those
    too that only phones reach where the base has them and the task takes none: see `out_of_reach`.

    Raises:
        UserError: if there is no such kind of adapter.
    """
    new: list[str] = []
    if extension.adapter is not None:
        if extension.adapter not in ADAPTERS:
            raise UserError(f"adapter {extension.adapter!r}: choose one of {', '.join(ADAPTERS)}")
        model.cond_adapter = ADAPTERS[extension.adapter](extension.cond_dim, model.config.hidden_size)
        new += ["cond_adapter."]
    if extension.phones:
        model.add_phones()
        new += PHONE_LAYERS
    if not extension.lora_rank:
        return frozenset(name for name, _ in model.named_parameters())
    add_lora(model, extension.lora_rank, dropout=lora_dropout)
    return frozenset(name for name, _ in model.named_parameters() if "lora_" in name or name.startswith(tuple(new)))


def out_of_reach(names: Iterable[str], phones: bool) -> frozenset[str]:
    """Return those of stage 1's weights that no batch of a task gives a gradient, which so are not to be trained."""
    return frozenset(name for name in names if not phones and name.startswith(PHONE_LAYERS))


def apply_task(model: Stage1, part: Part, base_sha256: str, what: str) -> None:
    """Put a task's trained weights on a base model, in place.

    Raises:
        UserError: if they were trained on another base, or do not fit.
    """
    config = part.config
    if missing := sorted({"adapter", "base_sha256", "cond_dim", "lora_rank"} - config.keys()):
        raise UserError(f"{what}: its configuration lacks {', '.join(missing)}; copy the bundle again")
    if config["base_sha256"] != base_sha256:
        raise UserError(
            f"{what}: trained on the base {config.get('base', '?')!r} with SHA-256 {config['base_sha256']}, "
            f"this base has {base_sha256}; name the base that it was trained on"
        )
    phones = config.get("text") is not None
    names = extend(model, Extension(config["adapter"], config["cond_dim"], config["lora_rank"], phones))
    tensors = {name.removeprefix(PUBLISHED_PREFIX): value for name, value in part.tensors.items()}
    load_weights(model, tensors, what, names)


def part_for(configs: Mapping[str, Mapping[str, Any]], task: str) -> str | None:
    """Return the name of the part that answers a task: its own, or else one whose `answers` name it."""
    answering = (name for name, config in configs.items() if task in config.get("answers", ()))
    return task if task in configs else next(answering, None)


def load_stage2(folder: Path) -> tuple[SemanticToAcoustic, SemanticToAcoustic]:
    """Return the two models of stage 2: of the first layer, and of the others."""
    first, full = (_load_s2a(folder, name) for name in ("s2a_1layer", "s2a_full"))
    return first, full


def _load_s2a(folder: Path, name: str) -> SemanticToAcoustic:
    part = read_part(folder, name)
    with torch.device("meta"):
        model = SemanticToAcoustic(config_from(SemanticToAcousticConfig, part.config))
    load_weights(model, part.tensors, name)
    return model.eval()
