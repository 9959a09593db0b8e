"""The published checkpoints: where they lie, and what their tensors and sizes are called here.

A file's tensors keep their names but for a prefix; one file is computed on (the statistics hold a variance, the front
end a deviation).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from metis_lightning.models.lora import PUBLISHED_PREFIX
from metis_lightning.models.semantic_to_acoustic import SemanticToAcousticConfig
from metis_lightning.models.stage1 import Stage1Config
from metis_lightning.task_table import task_named
from metis_lightning.tokens.acoustic_codec import AcousticCodecConfig
from metis_lightning.tokens.phonemes import MASKGCT_PHONES
from metis_lightning.tokens.semantic_codec import SemanticCodecConfig
from metis_lightning.tokens.visual.encoder import LIP_DIM
from metis_lightning.tokens.w2v_bert import ENCODER_SETTINGS
from metis_lightning.weights.build import config_from, plain_config

# Hidden state of w2v-BERT that is the feature: what its first 17 layers give, so that those above are left out.
SSL_LAYER = 17

Config = dict[str, Any]


@dataclass(frozen=True)
class Repository:
    """A repository on the model hub, and the licence that its card states."""

    name: str
    licence: str
    licence_url: str


NON_COMMERCIAL = ("CC BY-NC 4.0, not for commercial use", "https://creativecommons.org/licenses/by-nc/4.0/")
METIS = Repository("amphion/metis", *NON_COMMERCIAL)
MASKGCT = Repository("amphion/MaskGCT", *NON_COMMERCIAL)
W2V_BERT = Repository("facebook/w2v-bert-2.0", "MIT", "https://opensource.org/license/mit")
# Not on the hub: a file of Amphion's source, models/tts/maskgct/ckpt/.
AMPHION = Repository("", "MIT, as Amphion's source", "https://opensource.org/license/mit")
REPOSITORIES = (METIS, MASKGCT, W2V_BERT)


@dataclass(frozen=True)
class PublishedFile:
    """One file of tensors, and how their names and values become ours."""

    path: str  # in its repository
    removed: str = ""  # prefix that is taken off the names that have it
    added: str = ""  # prefix that is then put before every name
    renamed: Mapping[str, str] = field(default_factory=dict)  # names that change altogether, after that
    computed: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)  # of the tensors, by new name
    left_out: str = ""  # start of names, a regular expression, that a smaller model of ours lacks on purpose


@dataclass(frozen=True)
class TaskLayout:
    """What a fine-tuned stage 1 adds to the base."""

    adapter: str | None = None  # a kind of `models.lora.ADAPTERS`
    cond_dim: int = 0  # width of what it takes; 0 for that of the SSL features
    text: str | None = None  # name of the text front end
    covers: tuple[str, ...] = ()  # tasks beside its own


def semantic_config(published: Mapping[str, Any]) -> Config:
    """Return the sizes of a semantic codec's configuration."""
    return plain_config(config_from(SemanticCodecConfig, published))


def stage1_config(published: Mapping[str, Any]) -> Config:
    """Return the sizes of a `t2s`/`metis` configuration."""
    same = ("hidden_size", "num_layers", "num_heads", "use_phone_cond")
    sizes = {name: published[name] for name in same}
    return plain_config(Stage1Config(**sizes, codebook_size=published["cond_codebook_size"]))


def s2a_config(published: Mapping[str, Any]) -> Config:
    """Return the sizes of an `s2a` configuration."""
    same = ("hidden_size", "num_layers", "num_heads", "codebook_size")
    sizes = SemanticToAcousticConfig(
        **{name: published[name] for name in same},
        num_quantizers=published["num_quantizer"],
        semantic_codebook_size=published["cond_codebook_size"],
        first_layer=0 if published["predict_layer_1"] else 1,
    )
    return plain_config(sizes)


def acoustic_config(published: Mapping[str, Any]) -> Config:
    """Return the sizes of an acoustic codec's `encoder` and `decoder` configuration."""
    encoder, decoder = published["encoder"], published["decoder"]
    same = (
        "num_quantizers", "codebook_size", "codebook_dim", "quantizer_dropout", "vocos_dim", "vocos_intermediate_dim",
        "vocos_num_layers", "n_fft", "hop_size",
    )  # fmt: skip
    sizes = AcousticCodecConfig(
        d_model=encoder["d_model"],
        up_ratios=tuple(encoder["up_ratios"]),
        latent_dim=encoder["out_channels"],
        **{name: decoder[name] for name in same},
    )
    return plain_config(sizes)


def encoder_config(published: Mapping[str, Any]) -> Config:
    """Return the settings of the first layers of w2v-BERT."""
    kept = {key: published[key] for key in ENCODER_SETTINGS if key in published}
    return {**kept, "hidden_size": published["hidden_size"], "num_hidden_layers": SSL_LAYER}


@dataclass(frozen=True)
class PublishedPart:
    """A part of a bundle, and the files that it comes from."""

    name: str
    repository: Repository
    files: tuple[PublishedFile, ...]
    # From the published configuration to ours; None if no file states it.
    config: Callable[[Mapping[str, Any]], Config] | None = None
    config_file: str | None = None  # JSON file of the configuration beside the weights; None if in their metadata
    task: TaskLayout | None = None  # None for what all tasks share, and for the base
    whole: PublishedFile | None = None  # for a task that comes as a LoRA: taken where that is not there


def _fine_tuned(task: str, layout: TaskLayout, has_lora: bool = False) -> PublishedPart:
    whole = PublishedFile(f"metis_{task}/metis_{task}.safetensors")
    if not has_lora:
        return PublishedPart(task, METIS, (whole,), task=layout)
    stem = f"metis_{task}/metis_{task}_lora_32"
    files = (f"{stem}.safetensors", f"{stem}_adapter.safetensors")
    lora = tuple(PublishedFile(file, removed=PUBLISHED_PREFIX) for file in files)
    return PublishedPart(task, METIS, lora, task=layout, whole=whole)


_ENCODER = PublishedFile("model.safetensors", "wav2vec2_bert.", left_out=r"encoder\.layers\.(1[7-9]|[2-9]\d)\.")
_STATISTICS = PublishedFile("wav2vec2bert_stats.pt", renamed={"var": "std"}, computed={"std": torch.sqrt})
_ACOUSTIC_CODEC = (
    PublishedFile("acoustic_codec/model.safetensors", added="encoder."),
    PublishedFile("acoustic_codec/model_1.safetensors", added="decoder."),
)
_S2A_FIRST, _S2A_FULL = (PublishedFile(f"s2a_model/s2a_model_{name}/model.safetensors") for name in ("1layer", "full"))

# What every task needs; the encoder before the statistics, which are as wide as it.
SHARED = (
    PublishedPart("w2v_bert", W2V_BERT, (_ENCODER,), encoder_config, config_file="config.json"),
    PublishedPart("ssl_features", AMPHION, (_STATISTICS,)),
    PublishedPart("semantic_codec", MASKGCT, (PublishedFile("semantic_codec/model.safetensors"),), semantic_config),
    PublishedPart("acoustic_codec", MASKGCT, _ACOUSTIC_CODEC, acoustic_config),
    PublishedPart("s2a_1layer", MASKGCT, (_S2A_FIRST,), s2a_config),
    PublishedPart("s2a_full", MASKGCT, (_S2A_FULL,), s2a_config),
)
BASE = PublishedPart("stage1", METIS, (PublishedFile("metis_base/model.safetensors"),), stage1_config)

_TTS_FILE = PublishedFile("t2s_model/model.safetensors")
FINE_TUNED = (
    PublishedPart("tts", MASKGCT, (_TTS_FILE,), task=TaskLayout(text=MASKGCT_PHONES)),
    _fine_tuned("vc", TaskLayout("gated")),
    _fine_tuned("tse", TaskLayout("gated"), has_lora=True),
    _fine_tuned("se", TaskLayout("gated"), has_lora=True),
    _fine_tuned("l2s", TaskLayout("plain", LIP_DIM)),
    _fine_tuned("omni", TaskLayout("gated", text=MASKGCT_PHONES, covers=task_named("omni").covers)),
)

# The visual speech recogniser whose features L2S takes, carried along as it is: no model here has its names.
_LIP_FILE = PublishedFile("metis_l2s/vis_model.pth")
LIP_ENCODER = PublishedPart("lip_encoder", METIS, (_LIP_FILE,), dict, config_file="vis_model.json")

PARTS: Mapping[str, PublishedPart] = {part.name: part for part in (*SHARED, BASE, *FINE_TUNED, LIP_ENCODER)}
