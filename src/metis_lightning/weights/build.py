"""Models from the parts of a bundle or a checkpoint, in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from metis_lightning.errors import UserError, nearest
from metis_lightning.models.lora import PUBLISHED_PREFIX, Extension, extend
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic, SemanticToAcousticConfig
from metis_lightning.models.stage1 import Stage1, Stage1Config
from metis_lightning.state_dicts import difference
from metis_lightning.tokens.acoustic_codec import AcousticCodec, AcousticCodecConfig
from metis_lightning.tokens.semantic_codec import SemanticCodec, SemanticCodecConfig
from metis_lightning.tokens.ssl_features import FilterbankFeatures, SSLFeatures
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.tokens.visual.eigenmouths import EigenMouths
from metis_lightning.tokens.visual.encoder import VisualEncoder
from metis_lightning.tokens.w2v_bert import W2vBertFeatures, build_encoder
from metis_lightning.tokens.whisper import WhisperFeatures
from metis_lightning.weights.bundle import Part, bundle_folder, read_index, read_part
from metis_lightning.weights.checkpoint import checkpoint_parts

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from transformers import Wav2Vec2BertModel

Config = TypeVar("Config", bound="DataclassInstance")
Model = TypeVar("Model", bound=nn.Module)
# By these names a part says what it is; a class path would let a bundle choose what is imported.
FEATURES: Mapping[str, type[FilterbankFeatures] | type[W2vBertFeatures] | type[WhisperFeatures]] = {
    "filterbank": FilterbankFeatures,
    "w2v_bert": W2vBertFeatures,
    "whisper": WhisperFeatures,
}
VISUAL_ENCODERS: Mapping[str, Callable[..., VisualEncoder]] = {"eigenmouths": EigenMouths}
# Its parts: the model of the first acoustic layer, and that of the others.
STAGE2 = ("s2a_1layer", "s2a_full")
MODELS: Mapping[str, tuple[type[nn.Module], type[DataclassInstance]]] = {
    "semantic_codec": (SemanticCodec, SemanticCodecConfig),
    "acoustic_codec": (AcousticCodec, AcousticCodecConfig),
    "stage1": (Stage1, Stage1Config),
    "s2a_1layer": (SemanticToAcoustic, SemanticToAcousticConfig),
    "s2a_full": (SemanticToAcoustic, SemanticToAcousticConfig),
}
"""What all tasks share, by the names of the parts."""


def plain_config(config: DataclassInstance) -> dict[str, Any]:
    """Return a frozen configuration as a plain dict that yaml and `weights_only` loading accept."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}


def config_from(cls: type[Config], values: Mapping[str, Any]) -> Config:
    """Return a part's configuration. A `UserError` if a name is unknown, or a value of another type."""
    if unknown := set(values) - {field.name for field in fields(cls)}:
        raise UserError(f"{cls.__name__}: unknown settings {sorted(unknown)}; this bundle needs another version")
    types = get_type_hints(cls)
    for name, value in values.items():
        if not _is_of(value, types[name]):
            expected = getattr(types[name], "__name__", types[name])
            raise UserError(f"{cls.__name__}: {name!r} must be of the type {expected}, found {value!r}")
    try:
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})
    except (TypeError, ValueError) as error:
        raise UserError(f"{cls.__name__}: {error}; this bundle needs another version") from error


def _is_of(value: object, expected: object) -> bool:
    if get_origin(expected) is tuple:
        return isinstance(value, list | tuple) and all(_is_of(each, get_args(expected)[0]) for each in value)
    if get_origin(expected) in (Union, UnionType):
        return any(_is_of(value, each) for each in get_args(expected))
    # To Python a bool is an int; in a configuration it is a mistake.
    if isinstance(value, bool) or expected is bool:
        return isinstance(value, bool) and expected is bool
    return isinstance(value, int | float if expected is float else cast(type, expected))


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], what: str, names: Set[str] | None = None) -> None:
    """Load all weights of a model, or those of `names`. A `UserError` names those of other names or shapes.

    A model on the meta device takes the tensors themselves, and none from a bundle that gives sizes only.
    """
    parameters = list(model.parameters())
    if not tensors and all(parameter.is_meta for parameter in parameters):
        return
    own = {name: value for name, value in model.state_dict().items() if names is None or name in names}
    if text := difference(own, tensors):
        raise UserError(f"{what}: the weights do not fit: {text}")
    # Where all models are built on the meta device, they stay there.
    takes_tensors = any(parameter.is_meta for parameter in parameters) and not nn.Linear(1, 1).weight.is_meta
    model.load_state_dict(dict(tensors), strict=names is None, assign=takes_tensors)


def build_shared(name: str, config: Mapping[str, Any]) -> nn.Module:
    """Return the model of a part of `MODELS` on the meta device. A `UserError` if the configuration does not fit."""
    model, sizes = MODELS[name]
    with torch.device("meta"), _SizesOnly():
        return model(config_from(sizes, config))


class _SizesOnly(TorchFunctionMode):
    """Within it a model's first values, which the meta device does not have, are not computed.

    Torch would compute them by reference code whose first call imports its compiler, half of the time to start.
    """

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  whatever the function returns
        given = kwargs or {}
        if function is nn.init.normal_:
            return given["tensor"]
        if function is torch.hann_window:
            return torch.empty(*args)
        # That of a convolution's weights, by output.
        if function is Tensor.norm:
            return torch.empty(len(args[0]), 1, 1)
        return function(*args, **given)


def load_shared(folder: Path, name: str) -> tuple[nn.Module, str]:
    """Return the model of a bundle's part of `MODELS`, and the SHA-256 of its weights."""
    part = read_part(folder, name)
    model = build_shared(name, part.config)
    load_weights(model, part.tensors, name)
    return model.eval(), part.sha256


def load_features(folder: Path) -> SSLFeatures:
    """Return the SSL front end of a bundle."""
    features = _load_kind(folder, "ssl_features", FEATURES)
    if isinstance(features, W2vBertFeatures) and "w2v_bert" in read_index(folder)["parts"]:
        # Read at its first use only: whoever trains on stored tokens has none.
        features.load = partial(_load_w2v_bert, folder)
    return features


def load_visual_encoder(folder: Path) -> VisualEncoder | None:
    """Return the frozen visual encoder of a bundle, None if it has none."""
    if "visual_encoder" not in read_index(folder)["parts"]:
        return None
    return _load_kind(folder, "visual_encoder", VISUAL_ENCODERS).requires_grad_(False)


def _load_kind(folder: Path, name: str, kinds: Mapping[str, Callable[..., Model]]) -> Model:
    """Return the model of a part that says its kind. A `UserError` if that is unknown, or the rest does not fit."""
    part = read_part(folder, name)
    kind = str(part.config.get("kind"))
    if kind not in kinds:
        raise UserError(f"bundle {folder}: {name} of kind {kind!r}; known kinds: {', '.join(kinds)}")
    try:
        model = kinds[kind](**{key: value for key, value in part.config.items() if key != "kind"})
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"bundle {folder}: {name}: {error}; this bundle needs another version") from error
    load_weights(model, part.tensors, name)
    return model.eval()


def _load_w2v_bert(folder: Path) -> Wav2Vec2BertModel:
    part = read_part(folder, "w2v_bert")
    # Not built on the meta device: it has buffers that are in no file.
    encoder = build_encoder(part.config)
    load_weights(encoder, part.tensors, "w2v_bert")
    return encoder


def load_tokenizer(folder: Path) -> SpeechTokenizer:
    """Return the frozen front end of a bundle; without its acoustic codec where the bundle has none yet."""
    semantic = cast(SemanticCodec, load_shared(folder, "semantic_codec")[0])
    has_codec = "acoustic_codec" in read_index(folder)["parts"]
    acoustic = cast(AcousticCodec, load_shared(folder, "acoustic_codec")[0]) if has_codec else None
    return SpeechTokenizer(load_features(folder), semantic, acoustic)


def load_base(folder: Path) -> tuple[Stage1, str]:
    """Return the unconditional stage 1 of a bundle and the SHA-256 of its weights."""
    model, digest = load_shared(folder, "stage1")
    return cast(Stage1, model), digest


def load_stage2(folder: Path) -> tuple[SemanticToAcoustic, SemanticToAcoustic]:
    """Return the two models of stage 2: of the first layer, and of the others."""
    first, full = (cast(SemanticToAcoustic, load_shared(folder, name)[0]) for name in STAGE2)
    return first, full


def missing_stage2(folder: Path) -> list[str]:
    """Return which models of stage 2 a bundle lacks: one that is being trained has its codecs first."""
    return [name for name in STAGE2 if name not in read_index(folder)["parts"]]


def load_task(folder: Path, task: str) -> Stage1:
    """Return stage 1 fine-tuned for a task: the base with the task's LoRA and adapter, or all of the task's own."""
    part = read_part(folder, task)
    if "stage1" in part.config:
        model = cast(Stage1, build_shared("stage1", part.config["stage1"]))
        digest = part.config.get("base_sha256", "")
    else:
        model, digest = load_base(folder)
    apply_task(model, part, digest, what=f"bundle {folder}, part {task!r}")
    return model.eval()


def apply_task(model: Stage1, part: Part, base_sha256: str, what: str) -> None:
    """Put a task's weights on a base model, in place. A `UserError` if they are of another base, or do not fit."""
    config = part.config
    if missing := sorted({"adapter", "base_sha256", "cond_dim", "lora_rank"} - config.keys()):
        raise UserError(f"{what}: its configuration lacks {', '.join(missing)}; copy the bundle again")
    if config["base_sha256"] != base_sha256:
        trained = f"trained on the base {config.get('base', '?')!r} with SHA-256 {config['base_sha256']}"
        raise UserError(f"{what}: {trained}, this base has {base_sha256}; name the base that it was trained on")
    names = extend(model, extension_of(config))
    tensors = {name.removeprefix(PUBLISHED_PREFIX): value for name, value in part.tensors.items()}
    load_weights(model, tensors, what, names)


def extension_of(config: Mapping[str, Any]) -> Extension:
    """Return what a task puts on stage 1, by the configuration of its part."""
    return Extension(
        config["adapter"],
        config["cond_dim"],
        config["lora_rank"],
        phones=config.get("text") is not None,
        spread_phones=config.get("spread_phones", False),
        full="stage1" in config,
    )


@dataclass(frozen=True)
class TaskModel:
    """A fine-tuned stage 1 in evaluation mode: the tasks it serves, its text front end, and the bundle of all else."""

    model: Stage1
    tasks: tuple[str, ...]
    text: str | None
    folder: Path


def load_task_model(name: str, task: str, base: str) -> TaskModel:
    """Return what of a bundle, or of a checkpoint file (`.ckpt`) of the bundle `base`, serves a task.

    A `UserError` if there is no such bundle or file, or none of its weights serve the task, as Omni's do several.
    """
    is_checkpoint = name.endswith(".ckpt")
    folder = bundle_folder(base if is_checkpoint else name)
    source, what = (name, f"checkpoint {name}") if is_checkpoint else (str(folder), f"bundle {name!r}")
    parts = fine_tuned_parts(source)
    part = part_for({key: value.config for key, value in parts.items()}, task)
    if part is None:
        raise UserError(
            f"{what}: it has no weights for the task {task!r}, only for {', '.join(served_tasks(source)) or 'none'}; "
            f"name one of these, or fine-tune for it and give the checkpoint{nearest(task, served_tasks(source))}"
        )
    if is_checkpoint:
        model, digest = load_base(folder)
        apply_task(model, parts[part], digest, what)
    else:
        model = load_task(folder, part)
    config = parts[part].config
    return TaskModel(model.eval(), (part, *config.get("answers", ())), config.get("text"), folder)


def served_tasks(name: str) -> tuple[str, ...]:
    """Return the tasks that a bundle or a checkpoint serves, without loading a model."""
    parts = fine_tuned_parts(name).items()
    return tuple(task for key, part in parts for task in (key, *part.config.get("answers", ())))


def part_for(configs: Mapping[str, Mapping[str, Any]], task: str) -> str | None:
    """Return the name of the part that serves a task: its own, or else one whose `answers` name it."""
    others = (name for name, config in configs.items() if task in config.get("answers", ()))
    return task if "base_sha256" in configs.get(task, {}) else next(others, None)


def fine_tuned_parts(name: str) -> dict[str, Part]:
    """Return the parts that belong to a base, those of a bundle without their weights."""
    if name.endswith(".ckpt"):
        parts = checkpoint_parts(name)
    else:
        entries = read_index(bundle_folder(name))["parts"]
        parts = {key: Part(entry["config"], {}) for key, entry in entries.items()}
    return {key: part for key, part in parts.items() if "base_sha256" in part.config}
