"""From a corpus of mouths on disk to speech: prepare, fit on features or on pictures, and say what a video shows."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from metis_lightning.types import HOP

pytest.importorskip("av")

from documented import REPOSITORY
from fake_faces import AVHUBERT, avhubert, clip, lrs2, lrs3
from metis_lightning.cli import main as cli
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.pipeline import Metis
from metis_lightning.tokens.visual import auto_avsr
from metis_lightning.tokens.visual.auto_avsr import AutoAvsrFeatures
from metis_lightning.tokens.visual.encoder import AutoAvsrEncoder, VisualSizes
from metis_lightning.tokens.visual.lip_features import lip_features

SIZES = {"dim": 12, "num_heads": 2, "hidden": 16, "num_layers": 1, "kernel_size": 5, "channels": [4, 4, 6, 8]}
SMALL = VisualSizes(**{**SIZES, "channels": (4, 4, 6, 8)})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(AutoAvsrEncoder(SMALL).state_dict(), tmp_path / "vsr.pth")
    return tmp_path / "vsr.pth"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["metis_lightning"])
        status = cli.main([str(arg) for arg in args])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def prepared(run, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """AV-HuBERT's preparation, its manifest, and features by a small encoder."""
    root = avhubert(tmp_path / "c")
    given = ("--root", root, "--out", tmp_path / "lrs3.jsonl", "--features", tmp_path / "lips", "--encoder", weights)
    with monkeypatch.context() as patched:
        patched.setattr(auto_avsr, "AutoAvsrFeatures", partial(AutoAvsrFeatures, sizes=SMALL))
        status, text, error = run("prepare", "lrs3", *given)
        assert (status, error) == (0, "")
        assert "lrs3: 4 utterances, 0.00 h, 2 speakers, 0 faults" in text
        assert "pictures a second: 25.0 (4)" in text
        assert "lip features: 4 written to" in text
        assert "lip features: 0 written to" in run("prepare", "lrs3", *given)[1]
    return tmp_path


def fit(run, folder: Path, bundle: Path, overlay: dict[str, object], *configs: str) -> Path:
    saved = {"dirpath": str(folder / "checkpoints"), "save_last": True, "every_n_train_steps": 2}
    trainer = {
        "max_steps": 2,
        "val_check_interval": 1,
        "limit_val_batches": 1,
        "accelerator": "cpu",
        "devices": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": {
            "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
            "init_args": {"save_dir": str(folder), "name": "run", "version": ""},
        },
        "callbacks": [{"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": saved}],
    }
    (folder / "overlay.yaml").write_text(yaml.safe_dump({**overlay, "trainer": trainer}))
    given = [part for name in (*configs, str(folder / "overlay.yaml")) for part in ("-c", str(REPOSITORY / name))]
    status, _, error = run("fit", *given, f"--model.base={bundle}", "--model.lip_dim=12", "--data.batch_seconds=6")
    assert status == 0, error
    return folder / "checkpoints/last.ckpt"


def test_features_on_disk_train_lip_to_speech(run, prepared: Path, weights: Path, tiny_bundle: Path) -> None:
    data = {
        "manifest": str(prepared / "lrs3.jsonl"),
        "root": str(prepared / "c"),
        "recipe": {
            "class_path": "metis_lightning.data.recipes.l2s.LipRecipe",
            "init_args": {"folder": str(prepared / "lips")},
        },
    }
    overlay = {"data": {"init_args": data}}
    checkpoint = fit(run, prepared, tiny_bundle, overlay, "configs/l2s.yaml", "configs/data/lrs3.yaml")
    metis = Metis.from_pretrained(str(checkpoint), task="l2s", base=str(tiny_bundle))
    lips = lip_features(prepared / f"c/video/{AVHUBERT[3]}.mp4", AutoAvsrFeatures(weights, SMALL))
    assert lips.shape == (34, 12)
    prompt = torch.randn(12_000, generator=torch.Generator().manual_seed(0)) * 0.1
    speech = metis.lip_to_speech(lips, prompt)
    assert speech.wave.shape == (68 * HOP,)
    assert torch.isfinite(speech.wave).all()


def test_mouth_pictures_train_through_the_frozen_encoder(run, prepared: Path, weights: Path, tiny_bundle: Path) -> None:
    recipe = "metis_lightning.data.recipes.l2s.MouthRecipe"
    data = {
        "manifest": str(prepared / "lrs3.jsonl"),
        "root": str(prepared / "c"),
        "recipe": {"class_path": recipe, "init_args": {"folder": None}},
        "val_recipe": {"class_path": recipe, "init_args": {"folder": None, "random_crop": False}},
    }
    model = {"encoder": {"init_args": {"weights": str(weights), "sizes": SIZES}}}
    overlay = {"data": {"init_args": data}, "model": {"init_args": model}}
    checkpoint = fit(run, prepared, tiny_bundle, overlay, "configs/l2s.yaml", "configs/data/lrs3_mouths.yaml")
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert state
    assert not any("encoder" in name or "frontend" in name for name in state)


@pytest.mark.parametrize("corpus", ["lrs2", "video"])
def test_lrs2_and_own_videos_are_prepared_too(run, tmp_path: Path, corpus: str) -> None:
    lrs2(tmp_path / "c")
    more: tuple[object, ...] = ()
    if corpus == "video":
        (tmp_path / "l.csv").write_text("video\nmvlrs_v1/main/11/00001.mp4\n")
        more = ("--list", tmp_path / "l.csv")
    given = ("--root", tmp_path / "c", "--out", tmp_path / "m.jsonl", "--check", "header")
    status, text, error = run("prepare", corpus, *given, *more)
    assert (status, error) == (0, "")
    assert f"{corpus}: {4 if corpus == 'lrs2' else 1} utterances" in text


def test_two_workers_and_two_jobs_list_what_one_does(run, tmp_path: Path) -> None:
    root = lrs3(tmp_path / "c")
    given = ("prepare", "lrs3", "--root", root, "--check", "header")
    assert run(*given, "--out", tmp_path / "one.jsonl")[0] == 0
    assert run(*given, "--out", tmp_path / "two.jsonl", "--workers", 2)[0] == 0
    assert "pieces are left to other jobs" in run(*given, "--out", tmp_path / "jobs.jsonl", "--shard", "0/2")[1]
    assert "5 utterances" in run(*given, "--out", tmp_path / "jobs.jsonl", "--shard", "1/2")[1]
    one, two, jobs = ((tmp_path / f"{name}.jsonl").read_bytes() for name in ("one", "two", "jobs"))
    assert one == two == jobs
    assert len(read_manifest(tmp_path / "one.jsonl", str(root))) == 5


def test_mistakes_are_one_line_before_any_work(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip(tmp_path / "c/test/UmvOgW6iV2s/00001.mp4")
    lrs = ("prepare", "lrs3", "--root", tmp_path / "c", "--out", tmp_path / "m.jsonl")
    own = ("prepare", "video", "--root", tmp_path / "c", "--out", tmp_path / "m.jsonl")
    calls = {
        (*lrs, "--features", "f"): "give --features and --encoder together",
        (*lrs, "--features", "f", "--encoder", tmp_path / "none.pth"): "none.pth: no such weights",
        ("prepare", "lrs3", "--root", "none", "--out", "m.jsonl"): "none: no such folder",
        ("prepare", "lrs2", "--root", "none", "--out", "m.jsonl"): "none: no such folder",
        (*lrs, "--layout", "x"): "--layout: must be one of auto, raw, avhubert, autoavsr, not x",
        own: "--list",
        (*own, "--list", tmp_path / "none.csv"): "no such list; give --list",
        lrs: "1 missing pair: a share of 100.0000% is faulty",
    }
    for call, message in calls.items():
        status, _, error = run(*call)
        assert status == 2
        assert len(error.splitlines()) == 1
        assert message in error
    monkeypatch.setitem(sys.modules, "mediapipe.python.solutions.face_mesh", None)
    assert "pip install 'metis-lightning[lips]'" in run(*lrs, "--mouths", tmp_path / "mouths")[2]
    monkeypatch.setitem(sys.modules, "av", None)
    assert "pip install 'metis-lightning[video]'" in run(*lrs)[2]


def test_a_corpus_without_faces_says_so(run, tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="finds faces; the extra `lips`, which is outside `all`")
    root = lrs3(tmp_path / "c")
    given = ("--root", root, "--out", tmp_path / "m.jsonl", "--mouths", tmp_path / "mouths")
    status, _, error = run("prepare", "lrs3", *given)
    assert status == 2
    assert "5 no face: a share of 100.0000% is faulty" in error.splitlines()[-1]
    assert "a face is seen in 0 of 25 pictures" in (tmp_path / "m.faults.jsonl").read_text()
    assert not (tmp_path / "mouths").exists() or not list((tmp_path / "mouths").iterdir())
