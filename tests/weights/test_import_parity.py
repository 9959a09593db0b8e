"""Imported from the published layout, every model gives the parity vectors' outputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")

import transformers

from metis_lightning.cli.main import main
from metis_lightning.pipeline import Metis
from metis_lightning.weights.build import load_features, load_stage2, load_task, load_tokenizer
from metis_lightning.weights.bundle import read_index, read_part
from parity_vectors import (
    FOLDER,
    check_acoustic_codec,
    check_lora,
    check_semantic_codec,
    check_stage1,
    check_stage2,
    part,
    read,
)
from published_layout import write_full, write_lora

TASKS = ("tts", "vc", "tse", "se", "l2s", "omni")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_full(tmp_path_factory.mktemp("published"))


@pytest.fixture(scope="module")
def bundle(published: Path) -> Path:
    out = published.parent / "bundle"
    assert main(["import", str(published), "--out", str(out)]) == 0
    return out


def io_of(name: str) -> dict[str, torch.Tensor]:
    return part(read(FOLDER / f"{name}.safetensors")[1], "io.")


@pytest.mark.parametrize("task", TASKS)
def test_a_task_computes_what_the_published_implementation_does(bundle: Path, task: str) -> None:
    check_stage1(load_task(bundle, task), io_of(f"stage1_{task}"))


def test_the_shared_models_compute_what_the_published_ones_do(bundle: Path) -> None:
    tokenizer = load_tokenizer(bundle)
    assert tokenizer.acoustic_codec is not None
    check_semantic_codec(tokenizer.semantic_codec, io_of("semantic_codec"))
    check_acoustic_codec(tokenizer.acoustic_codec, io_of("acoustic_codec"))
    first, full = load_stage2(bundle)
    check_stage2(first, io_of("s2a_1layer"))
    check_stage2(full, io_of("s2a_full"))


def test_the_features_are_hidden_state_17_normalised(bundle: Path, published: Path) -> None:
    features = load_features(bundle)
    wave = 0.1 * torch.randn(16_000, generator=torch.Generator().manual_seed(0))
    inputs = transformers.SeamlessM4TFeatureExtractor()(wave.numpy(), sampling_rate=16_000, return_tensors="pt")
    encoder = transformers.Wav2Vec2BertModel.from_pretrained(published / "w2v-bert-2.0").eval()
    with torch.no_grad():
        hidden = encoder(**inputs, output_hidden_states=True).hidden_states[17]
    statistics = torch.load(published / "wav2vec2bert_stats.pt", weights_only=True)
    expected = (hidden - statistics["mean"]) / statistics["var"].sqrt()
    ours, frames = features(wave[None], torch.tensor([16_000]))
    torch.testing.assert_close(ours, expected[:, : int(frames)], rtol=0, atol=2e-3)
    assert read_part(bundle, "w2v_bert").config["num_hidden_layers"] == 17


def test_a_lora_with_its_adapter_computes_what_the_published_ones_do(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    assert main(["import", str(write_lora(tmp_path / "published")), "--out", str(out)]) == 0
    check_lora(load_task(out, "tse"), io_of("stage1_tse_lora"))
    rank = read(FOLDER / "stage1_tse_lora.safetensors")[0]["lora_r"]
    parts = read_index(out)["parts"]
    assert parts["tse"]["config"]["lora_rank"] == rank
    assert parts["tse"]["config"]["base_sha256"] == parts["stage1"]["sha256"]


def test_omni_answers_four_tasks_and_its_own_name(bundle: Path) -> None:
    omni = Metis.from_pretrained(str(bundle), task="omni")
    assert set(omni.stage1) == {"omni", "tts", "vc", "tse", "se"}
    check_stage1(omni.stage1["vc"], io_of("stage1_omni"))
