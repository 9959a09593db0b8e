"""A folder of the published layout with the parity vectors' weights, a tiny w2v-BERT and statistics beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from parity_vectors import FOLDER, part, read

LAYERS = 19
"""Of the tiny encoder: two more than are used."""

FULL = {
    "metis_base/model.safetensors": "base",
    "t2s_model/model.safetensors": "tts",
    "metis_vc/metis_vc.safetensors": "vc",
    "metis_tse/metis_tse.safetensors": "tse",
    "metis_se/metis_se.safetensors": "se",
    "metis_l2s/metis_l2s.safetensors": "l2s",
    "metis_omni/metis_omni.safetensors": "omni",
}
"""Published path to the parity file `stage1_*`; of TSE and SE the LoRA is what is usually imported."""

SHARED = {
    "semantic_codec/model.safetensors": ("semantic_codec", "weights."),
    "acoustic_codec/model.safetensors": ("acoustic_codec", "encoder."),
    "acoustic_codec/model_1.safetensors": ("acoustic_codec", "decoder."),
    "s2a_model/s2a_model_1layer/model.safetensors": ("s2a_1layer", "weights."),
    "s2a_model/s2a_model_full/model.safetensors": ("s2a_full", "weights."),
}

LORA = {
    "metis_base/model.safetensors": ("stage1_tse_lora", "base."),
    "metis_tse/metis_tse_lora_32.safetensors": ("stage1_tse_lora", "lora."),
    "metis_tse/metis_tse_lora_32_adapter.safetensors": ("stage1_tse_lora", "adapter."),
}


def write_shared(folder: Path) -> Path:
    """Write what every task needs."""
    _write(folder, SHARED)
    features = read(FOLDER / "semantic_codec.safetensors")[0]["hidden_size"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.Wav2Vec2BertConfig(
            hidden_size=features,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            intermediate_size=features,
            conv_depthwise_kernel_size=3,
        )
        transformers.Wav2Vec2BertModel(config).save_pretrained(folder / "w2v-bert-2.0")
        statistics = {"mean": torch.randn(features), "var": torch.rand(features) + 0.5}
    torch.save(statistics, folder / "wav2vec2bert_stats.pt")
    return folder


def write_full(folder: Path) -> Path:
    """Write what every task needs and every task as a whole stage 1."""
    _write(write_shared(folder), {path: (f"stage1_{task}", "weights.") for path, task in FULL.items()})
    return folder


def write_lora(folder: Path) -> Path:
    """Write what every task needs and TSE as a LoRA, an adapter and their base."""
    _write(write_shared(folder), LORA)
    return folder


def _write(folder: Path, files: Mapping[str, tuple[str, str]]) -> None:
    for path, (name, prefix) in files.items():
        config, tensors = read(FOLDER / f"{name}.safetensors")
        write(folder / path, part(tensors, prefix), config)


def write(path: Path, tensors: Mapping[str, Tensor], config: Mapping[str, object] | None = None) -> None:
    """Write a file of tensors that states its sizes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = None if config is None else {"config": json.dumps(config)}
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, metadata)


def write_consistent(folder: Path, models: Mapping[str, Mapping[str, Tensor]]) -> Path:
    """Write models whose widths fit each other, which do not state their sizes, by the names of a bundle's parts."""
    for path, (name, prefix) in SHARED.items():
        keep = "" if prefix == "weights." else prefix
        write(folder / path, part(dict(models[name]), keep))
    names = {"base": "stage1", **{task: task for task in FULL.values() if task != "base"}}
    for path, task in FULL.items():
        if names[task] in models:
            write(folder / path, models[names[task]])
    lora = models["tse_lora"]
    for end in ("", "_adapter"):
        own = {f"model.{name}": value for name, value in lora.items() if ("lora_" in name) != bool(end)}
        write(folder / f"metis_tse/metis_tse_lora_32{end}.safetensors", own)
    return folder
