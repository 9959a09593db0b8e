"""The published checkpoints' names, shapes and parameter counts, at their full size and without their weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

import pytest
from torch import Tensor

pytest.importorskip("transformers")

from metis_lightning.tokens.w2v_bert import ENCODER_SETTINGS
from metis_lightning.weights.bundle import bundle_folder, read_index
from metis_lightning.weights.published.inspect import needed_tensors
from metis_lightning.weights.published.layout import SSL_LAYER
from parity_vectors import FOLDER, part, read

PARTS = read_index(bundle_folder("paper"))["parts"]
BASE = PARTS["stage1"]["config"]
HEARD = {"adapter": "gated", "cond_dim": 1024, "lora_rank": 0, "stage1": BASE}
WITH_PHONES = {**BASE, "use_phone_cond": True}

# Millions of parameters: paper_facts of the released code for stage 1, MaskGCT's paper for the codecs.
COUNTS = {
    "stage1": (BASE, 725.9, 0.05),
    "vc": (HEARD, 725.9 + 15.74, 0.05),
    "tts": ({"adapter": None, "cond_dim": 0, "lora_rank": 0, "text": "maskgct", "stage1": WITH_PHONES}, 746.4, 0.05),
    "omni": ({**HEARD, "text": "maskgct", "stage1": WITH_PHONES}, 746.4 + 15.74, 0.05),
    "l2s": ({**HEARD, "adapter": "plain", "cond_dim": 768}, 725.9 + 14.16, 0.05),
    "tse": ({"adapter": "gated", "cond_dim": 1024, "lora_rank": 32}, 18.09 + 15.74, 0.01),
    "semantic_codec": (PARTS["semantic_codec"]["config"], 44.0, 0.5),
    "acoustic_codec": (PARTS["acoustic_codec"]["config"], 170.0, 1.0),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_parameters_are_as_many_as_published(name: str) -> None:
    config, expected, tolerance = COUNTS[name]
    assert millions(needed_tensors(name, config, BASE)) == pytest.approx(expected, abs=tolerance)


def test_w2v_bert_is_built_with_17_of_its_24_layers() -> None:
    import transformers

    settings = transformers.Wav2Vec2BertConfig().to_dict()
    config = {key: settings[key] for key in ENCODER_SETTINGS}
    used = needed_tensors("w2v_bert", {**config, "num_hidden_layers": SSL_LAYER}, BASE)
    assert millions(needed_tensors("w2v_bert", config, BASE)) == pytest.approx(580.5, abs=0.5)
    assert millions(used) == pytest.approx(411, abs=1)


# The parity vectors are small models under the published names: at full size the names are the same ones,
# for more layers, and a tensor has as many dimensions.
PARITY = {
    "stage1": ("stage1_base", "weights."),
    "vc": ("stage1_vc", "weights."),
    "tts": ("stage1_tts", "weights."),
    "omni": ("stage1_omni", "weights."),
    "l2s": ("stage1_l2s", "weights."),
    "semantic_codec": ("semantic_codec", "weights."),
    "s2a_1layer": ("s2a_1layer", "weights."),
    "s2a_full": ("s2a_full", "weights."),
}


@pytest.mark.parametrize("name", PARITY)
def test_the_names_at_full_size_are_the_published_ones(name: str) -> None:
    stem, prefix = PARITY[name]
    published = part(read(FOLDER / f"{stem}.safetensors")[1], prefix)
    config = COUNTS[name][0] if name in COUNTS else PARTS[name]["config"]
    assert kinds(needed_tensors(name, config, BASE)) == kinds(published)


def test_the_names_of_the_acoustic_codec_at_full_size_are_the_published_ones() -> None:
    tensors = read(FOLDER / "acoustic_codec.safetensors")[1]
    published = {name: value for name, value in tensors.items() if not name.startswith("io.")}
    assert kinds(needed_tensors("acoustic_codec", PARTS["acoustic_codec"]["config"], BASE)) == kinds(published)


def test_the_names_of_a_lora_at_full_size_are_the_published_ones() -> None:
    tensors = read(FOLDER / "stage1_tse_lora.safetensors")[1]
    published = part(tensors, "lora.model.") | part(tensors, "adapter.model.")
    needed = needed_tensors("tse", COUNTS["tse"][0], BASE)
    assert kinds(needed) == kinds(published)
    layers = Counter(re.findall(r"layers\.(\d+)\.", " ".join(needed)))
    assert sorted(map(int, layers)) == list(range(16))
    assert set(layers.values()) == {14}


def millions(tensors: Mapping[str, Tensor]) -> float:
    return sum(tensor.numel() for tensor in tensors.values()) / 1e6


def kinds(tensors: Mapping[str, Tensor]) -> set[tuple[str, int]]:
    """Return names without their numbers, but for those of a sequence's members, and the dimensions of each."""
    members = r"(layers|convnext|block|quantizers|token_emb|to_logits)\.\d+"
    return {(re.sub(members, r"\1.*", name), tensor.dim()) for name, tensor in tensors.items()}
