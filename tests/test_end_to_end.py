"""From a config to speech: two steps of every task on the tiny bundle, and requests that its checkpoint answers."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from documented import REPOSITORY
from metis_lightning.cli import main as cli
from metis_lightning.data.media.audio import read_audio, write_wav
from metis_lightning.errors import UserError
from metis_lightning.pipeline import Metis, Request
from metis_lightning.sampling import two_stages
from metis_lightning.sampling.denoisers import Stage1Request
from metis_lightning.task_table import TASKS
from metis_lightning.types import HOP
from metis_lightning.weights.build import load_task_model
from metis_lightning.weights.bundle import read_part
from metis_lightning.weights.export import export

FAST = TASKS["tse"].settings.chosen({"num_steps": 2, "stage2_steps": (2, 1, 1)})
GUIDED = replace(FAST, stage1=replace(FAST.stage1, guidance_scale=2.5))
LORA = ("--model.lora_rank=2",)

TOY = {
    "model": {"class_path": "toy_task.UnhumModule", "init_args": {"lora_rank": 2}},
    "data": {
        "class_path": "toy_task.TonesDataModule",
        "init_args": {"recipe": {"class_path": "toy_task.HumRecipe"}, "batch_seconds": 2.0},
    },
}


def fit(folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Path:
    """Run two steps on the command line and return the checkpoint."""
    saved = {"dirpath": str(folder / "checkpoints"), "save_last": True, "every_n_train_steps": 2}
    trainer = {
        "max_steps": 2,
        "limit_val_batches": 1,
        "val_check_interval": 2,
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "check_val_every_n_epoch": None,
        "num_sanity_val_steps": 0,
        "logger": {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": str(folder), "name": "run", "version": ""},
        },
        "callbacks": [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saved}],
    }
    overlay = folder / "overlay.yaml"
    overlay.write_text(yaml.safe_dump({"trainer": trainer}))
    monkeypatch.setattr(sys, "argv", ["metis_lightning"])
    assert cli.main(["fit", *options, "-c", str(overlay), f"--model.base={bundle}"]) == 0
    return folder / "checkpoints" / "last.ckpt"


def fit_config(name: str, folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch, *options: str) -> Path:
    config = str(REPOSITORY / "configs" / f"{name}.yaml")
    return fit(folder, bundle, monkeypatch, "-c", config, *options, "--data.batch_seconds=6")


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


def check_loaded(metis: Metis, task: str, checkpoint: Path, base: Path, lora: bool) -> dict[str, object]:
    """The model has the checkpoint's weights: all, or new layers and the base's plus its LoRA; return the config."""
    saved = torch.load(checkpoint, weights_only=True)
    loaded = metis.stage1[task].state_dict()
    trained = {key.removeprefix("model."): value for key, value in saved["state_dict"].items()}
    assert all(torch.equal(loaded[key], value) for key, value in trained.items() if "lora_" not in key)
    layers = {key.partition(".lora_")[0] for key in trained if "lora_" in key}
    assert bool(layers) == lora
    original = read_part(base, "stage1").tensors
    for layer in layers:
        down, up = (trained[f"{layer}.lora_{part}.default.weight"] for part in "AB")
        # Rank 2 with alpha 4 (LoRA, 2106.09685, section 4.1).
        torch.testing.assert_close(loaded[f"{layer}.weight"], original[f"{layer}.weight"] + 2.0 * up @ down)
    config = saved["bundle_parts"][task]["config"]
    assert config["lora_rank"] == (2 if lora else 0)
    return config


@pytest.mark.parametrize(("name", "options"), [("tts", ()), ("tts_lora", LORA)])
def test_text_to_speech(
    name: str, options: tuple[str, ...], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = fit_config(name, tmp_path, tiny_bundle, monkeypatch, *options)
    metis = Metis.from_pretrained(str(checkpoint), task="tts", base=str(tiny_bundle))
    assert check_loaded(metis, "tts", checkpoint, tiny_bundle, lora=bool(options))["text"] == "utf8"
    speech = metis.synthesize("Hello there.", noise(12_000), "Good morning.", seconds=0.7, settings=GUIDED)
    assert speech.wave.shape == (35 * HOP,)
    assert torch.isfinite(speech.wave).all()


@pytest.mark.parametrize("options", [(), LORA], ids=["full", "lora"])
def test_lip_to_speech(
    options: tuple[str, ...], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = fit_config("l2s", tmp_path, tiny_bundle, monkeypatch, *options)
    metis = Metis.from_pretrained(str(checkpoint), task="l2s", base=str(tiny_bundle))
    assert check_loaded(metis, "l2s", checkpoint, tiny_bundle, lora=bool(options))["adapter"] == "plain"
    lips = noise(20 * 768).view(20, 768)
    speech = metis.lip_to_speech(lips, noise(12_000), settings=FAST)
    assert speech.wave.shape == (40 * HOP,)
    assert torch.isfinite(speech.wave).all()


@pytest.mark.parametrize("options", [(), LORA], ids=["full", "lora"])
def test_omni_answers_every_kind_of_request(
    options: tuple[str, ...], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = fit_config("omni", tmp_path, tiny_bundle, monkeypatch, *options)
    metis = Metis.from_pretrained(str(checkpoint), task="se", base=str(tiny_bundle))
    assert set(metis.stage1) == {"omni", "tts", "vc", "tse", "se"}
    assert len({id(model) for model in metis.stage1.values()}) == 1
    check_loaded(metis, "omni", checkpoint, tiny_bundle, lora=bool(options))
    asked: list[Stage1Request] = []
    sample = two_stages.sample_ssl_tokens
    monkeypatch.setattr(two_stages, "sample_ssl_tokens", lambda *args: (asked.extend(args[1]), sample(*args))[1])
    voice, heard = noise(12_000), noise(14_000, 1)
    answers = {
        "tts": metis.synthesize("Hello there.", voice, "Good morning.", seconds=14_400 / 24_000, settings=GUIDED),
        "vc": metis.convert(heard, voice, settings=FAST),
        "tse": metis.extract(heard, voice, settings=FAST),
        "se": metis.enhance(heard, settings=FAST),
        "guided": metis.extract(heard, voice, 0, FAST, text="Hello there.", enrollment_text="Good morning."),
    }
    assert {len(speech.wave) for kind, speech in answers.items() if kind != "tts"} == {14_000}
    assert len(answers["tts"].wave) == 14_400
    assert all(torch.isfinite(speech.wave).all() for speech in answers.values())
    assert torch.equal(answers["vc"].wave, answers["tse"].wave)
    given = {
        kind: [name for name in ("condition", "phones") if getattr(request, name) is not None]
        for kind, request in zip(answers, asked, strict=True)
    }
    assert given == {
        "tts": ["phones"],
        **dict.fromkeys(("vc", "tse", "se"), ["condition"]),
        "guided": ["condition", "phones"],
    }
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    export(checkpoint, bundle)
    # The bundle's own TSE goes before Omni's.
    answering = {task: load_task_model(str(bundle), task, "nano").tasks[0] for task in ("tts", "vc", "tse", "se")}
    assert answering == {"tts": "omni", "vc": "omni", "tse": "tse", "se": "omni"}


def test_a_task_and_a_corpus_of_ones_own_need_one_file_and_a_yaml(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    config = tmp_path / "toy.yaml"
    config.write_text(yaml.safe_dump(TOY))
    options = ("-c", str(config), f"--data.root={tmp_path}")
    checkpoint = fit(tmp_path, bundle, monkeypatch, *options)
    request = Request("unhum", prompt=noise(12_000), source=noise(13_000, 1))
    metis = Metis.from_pretrained(str(checkpoint), task="unhum", base=str(bundle))
    check_loaded(metis, "unhum", checkpoint, tiny_bundle, lora=True)
    speech = metis.generate([request])[0]
    assert speech.wave.shape == (13_000,)
    with pytest.raises(UserError, match="take no text"):
        metis.phones(("hello", "en"))
    with pytest.raises(UserError, match="loaded for unhum; load it with task='tse'"):
        metis.extract(noise(12_000), noise(12_000))
    with pytest.raises(UserError, match="no weights for the task 'se', only for unhum"):
        Metis.from_pretrained(str(checkpoint), task="se", base=str(bundle))
    write_wav(tmp_path / "hummed.wav", request.source, 24_000)
    inputs = ("--source", str(tmp_path / "hummed.wav"), "--out", str(tmp_path / "said.wav"))
    weights = ("--model", str(checkpoint), "--base", str(bundle), "--num-steps", "2", "--stage2-steps", "2", "1", "1")
    assert cli.main(["generate", "--task", "unhum", *inputs, *weights]) == 0
    assert len(read_audio(tmp_path / "said.wav", 24_000)) == 13_000
    export(checkpoint, bundle)
    bundled = Metis.from_pretrained(str(bundle), task="unhum")
    assert torch.isfinite(bundled.generate([request], settings=FAST)[0].wave).all()
