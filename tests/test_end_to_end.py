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
from metis_lightning import cli, pipeline
from metis_lightning.errors import UserError
from metis_lightning.pipeline import HOP, TSE_SETTINGS, Metis, Request
from metis_lightning.sampling.stages import Stage1Request
from metis_lightning.weights.export import export

FAST = replace(TSE_SETTINGS, stage1=replace(TSE_SETTINGS.stage1, num_steps=2), stage2_steps=(2, 1, 1))
GUIDED = replace(FAST, stage1=replace(FAST.stage1, guidance_scale=2.5))

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


@pytest.mark.parametrize(("name", "options"), [("tts", ()), ("tts_lora", ("--model.lora_rank=2",))])
def test_text_to_speech(
    name: str, options: tuple[str, ...], tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = fit_config(name, tmp_path, tiny_bundle, monkeypatch, *options)
    metis = Metis.from_pretrained(str(checkpoint), task="tts", base=str(tiny_bundle))
    saved = torch.load(checkpoint, weights_only=True)
    assert saved["bundle_parts"]["tts"]["config"]["text"] == "utf8"
    loaded = metis.stage1["tts"].state_dict()
    assert all(torch.equal(loaded[key.removeprefix("model.")], value) for key, value in saved["state_dict"].items())
    assert any("phone_emb" in key for key in saved["state_dict"])
    speech = metis.synthesize("Hello there.", noise(12_000), "Good morning.", seconds=0.7, settings=GUIDED)
    assert speech.wave.shape == (35 * HOP,)
    assert torch.isfinite(speech.wave).all()


def test_lip_to_speech(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = fit_config("l2s", tmp_path, tiny_bundle, monkeypatch)
    metis = Metis.from_pretrained(str(checkpoint), task="l2s", base=str(tiny_bundle))
    lips = noise(20 * 768).view(20, 768)
    speech = metis.lip_to_speech(lips, noise(12_000), settings=FAST)
    assert speech.wave.shape == (40 * HOP,)
    with pytest.raises(UserError, match="the video has 2 frames; give at least 3"):
        metis.lip_to_speech(lips[:2], noise(12_000))


def test_omni_answers_every_kind_of_request(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = fit_config("omni", tmp_path, tiny_bundle, monkeypatch)
    metis = Metis.from_pretrained(str(checkpoint), task="se", base=str(tiny_bundle))
    assert set(metis.stage1) == {"omni", "tts", "vc", "tse", "se"}
    asked: list[Stage1Request] = []
    sample = pipeline.sample_ssl_tokens
    monkeypatch.setattr(pipeline, "sample_ssl_tokens", lambda *args: (asked.append(args[1]), sample(*args))[1])
    voice, heard = noise(12_000), noise(14_000, 1)
    answers = {
        "tts": metis.synthesize("Hello there.", voice, "Good morning.", seconds=14_400 / 24_000, settings=GUIDED),
        "vc": metis.convert(heard, voice, settings=FAST),
        "tse": metis.extract(heard, voice, settings=FAST),
        "se": metis.enhance(heard, settings=FAST),
        "guided": metis.extract(heard, voice, settings=FAST, text="Good morning. Hello there."),
    }
    assert {len(speech.wave) for kind, speech in answers.items() if kind != "tts"} == {14_000}
    assert len(answers["tts"].wave) == 14_400
    assert all(torch.isfinite(speech.wave).all() for speech in answers.values())
    assert torch.equal(answers["vc"].wave, answers["tse"].wave)
    seen = {kind: (int(r.condition.any()), r.phones is not None) for kind, r in zip(answers, asked, strict=True)}
    assert seen == {"tts": (0, True), "vc": (1, False), "tse": (1, False), "se": (1, False), "guided": (1, True)}


def test_a_task_and_a_corpus_of_ones_own_need_one_file_and_a_yaml(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = shutil.copytree(tiny_bundle, tmp_path / "bundle")
    config = tmp_path / "toy.yaml"
    config.write_text(yaml.safe_dump(TOY))
    options = ("-c", str(config), f"--data.root={tmp_path}")
    checkpoint = fit(tmp_path, bundle, monkeypatch, *options)
    request = Request("unhum", 13_000, prompt=noise(12_000), source=noise(13_000, 1))
    metis = Metis.from_pretrained(str(checkpoint), task="unhum", base=str(bundle))
    speech = metis.generate(request, settings=FAST)
    assert speech.wave.shape == (13_000,)
    with pytest.raises(UserError, match="take no text"):
        metis.phones(("hello", "en"))
    with pytest.raises(UserError, match="loaded for unhum; load it with task='tse'"):
        metis.extract(noise(12_000), noise(12_000))
    export(checkpoint, bundle)
    bundled = Metis.from_pretrained(str(bundle), task="unhum")
    assert torch.isfinite(bundled.generate(request, settings=FAST).wave).all()
