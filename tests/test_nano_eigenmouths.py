"""The visual encoder that `experiments/nano/eigenmouths.py` fits: from drawn mouths to features and to speech."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch
import yaml

pytest.importorskip("av")

from every_task import write_voice
from metis_lightning.cli import main as cli
from metis_lightning.data.media.video import write_video
from metis_lightning.errors import UserError
from metis_lightning.generate.app import Studio
from metis_lightning.generate.options import AppOptions
from metis_lightning.models.lora import Extension
from metis_lightning.pipeline import Options
from metis_lightning.tasks.conditioned import L2sModule
from metis_lightning.tokens.visual.eigenmouths import EigenMouths
from metis_lightning.tokens.visual.lip_features import lip_features
from metis_lightning.weights.build import load_visual_encoder
from metis_lightning.weights.bundle import Part, read_index, write_index, write_part
from tiny import LORA_RANK, write_task

ROOT = Path(__file__).parents[1]
DIM, CLIPS, FRAMES = 3, 3, 25


def script(name: str) -> ModuleType:
    """Return a script of `experiments/nano` as a module."""
    spec = importlib.util.spec_from_file_location(f"nano_{name}", ROOT / f"experiments/nano/{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*args: object) -> int:
    return cli.main([str(arg) for arg in args])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn mouths of three speakers and a list of them, the last one's of the split test."""
    pytest.importorskip("pocketsphinx", reason="finds the phones whose mouths are drawn")
    mouths, folder = script("mouths"), tmp_path_factory.mktemp("mouths")
    rows = []
    for number in range(CLIPS):
        face, generator = mouths.Face.drawn(f"s{number}"), np.random.default_rng(number)
        names = generator.permutation(sorted(mouths.SHAPES))[:10]
        phones = [(name, 10 * start, 10) for start, name in enumerate(names)]
        track = mouths.lip_track(phones, generator.standard_normal(16_000) * 0.1)
        (folder / "video").mkdir(exist_ok=True)
        write_video(folder / f"video/c{number}.mp4", (mouths.draw(shape, face, generator) for shape in track))
        write_voice(folder / f"c{number}.wav", FRAMES / 25, seed=number)
        split = "test" if number == CLIPS - 1 else "train"
        rows.append({"id": f"c{number}", "video": f"video/c{number}.mp4", "audio": f"c{number}.wav", "split": split})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def bundle(corpus: Path, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle with the part that the script writes, and with lip to speech of its features."""
    folder = tmp_path_factory.mktemp("bundle") / "b"
    shutil.copytree(tiny_bundle, folder)
    write_task(folder, "l2s", Extension("plain", DIM, LORA_RANK))
    with pytest.MonkeyPatch.context() as patch:
        options = ("--manifest", corpus / "manifest.jsonl", "--bundle", folder, "--dim", DIM, "--videos", 2)
        patch.setattr(sys, "argv", ["eigenmouths.py", *map(str, options)])
        script("eigenmouths").main()
    return folder


def test_the_part_holds_what_the_training_videos_show(corpus: Path, bundle: Path) -> None:
    encoder = load_visual_encoder(bundle)
    assert isinstance(encoder, EigenMouths) and not encoder.training
    features = torch.cat([lip_features(corpus / f"video/c{number}.mp4", encoder) for number in range(2)])
    # Over the videos that it was fitted to, components are of unit deviation and do not go together.
    torch.testing.assert_close(features.T @ features / len(features), torch.eye(DIM), atol=0.02, rtol=0)
    assert lip_features(corpus / "video/c2.mp4", encoder).abs().max() > 0.1


def test_generate_reads_a_video_by_the_bundles_encoder(
    corpus: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--task", "l2s", "--prompt", corpus / "c0.wav", "--model", bundle, "--num-steps", 2, "--device", "cpu")
    assert run("generate", *given, "--video", corpus / "video/c2.mp4", "--out", tmp_path / "video.wav") == 0
    np.save(tmp_path / "lips.npy", lip_features(corpus / "video/c2.mp4", load_visual_encoder(bundle)).numpy())
    assert run("generate", *given, "--features", tmp_path / "lips.npy", "--out", tmp_path / "features.wav") == 0
    capsys.readouterr()
    by_video, by_features = (soundfile.read(tmp_path / f"{name}.wav")[0] for name in ("video", "features"))
    assert len(by_video) == 24_000
    assert np.array_equal(by_video, by_features)


def test_the_app_takes_videos_where_a_bundle_has_an_encoder(corpus: Path, bundle: Path, tmp_path: Path) -> None:
    inputs = {"video": str(corpus / "video/c0.mp4"), "prompt": str(corpus / "c1.wav")}
    studio = Studio(AppOptions(model=(str(bundle),), device="cpu"))
    rate, samples = studio.speak("l2s", inputs, 0, Options(num_steps=2))
    assert (rate, samples.shape) == (24_000, (24_000,))
    without = shutil.copytree(bundle, tmp_path / "without")
    index = read_index(without)
    del index["parts"]["visual_encoder"]
    write_index(without, index)
    with pytest.raises(UserError, match="The talking face: videos cannot be read here; give their lip features"):
        Studio(AppOptions(model=(str(without),), device="cpu")).speak("l2s", inputs, 0, Options(num_steps=2))


def test_prepare_takes_a_bundle_and_never_mixes(
    corpus: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("prepare", "video", "--root", corpus, "--list", corpus / "manifest.jsonl", "--out", tmp_path / "m.jsonl")
    given = (*given, "--features", tmp_path / "lips", "--encoder")
    assert run(*given, bundle) == 0
    assert f"lip features: {CLIPS} written" in capsys.readouterr().out
    encoder = load_visual_encoder(bundle)
    expected = lip_features(corpus / "video/c1.mp4", encoder)
    torch.testing.assert_close(torch.from_numpy(np.load(tmp_path / "lips/c1.npy")), expected)
    assert json.loads((tmp_path / "lips/features.json").read_text()) == encoder.identity()
    assert run(*given, bundle) == 0
    assert "lip features: 0 written" in capsys.readouterr().out
    other = shutil.copytree(bundle, tmp_path / "other")
    changed = {"components": encoder.components + 1}
    write_part(other, "visual_encoder", Part({"kind": "eigenmouths", "dim": DIM}, changed), torch.float32)
    calls = {
        other: "holds features of another encoder",
        "nobody": "bundle 'nobody': no such folder",
        "weights/vsr.pth": "--encoder weights/vsr.pth: no such weights",
        "paper": "--encoder paper: the bundle has no visual encoder",
    }
    for name, message in calls.items():
        assert run(*given, name) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.splitlines()) == 1


def test_mouth_pictures_train_through_the_bundles_encoder(
    corpus: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where a run without a logger leaves its checkpoint.
    monkeypatch.chdir(tmp_path)
    given = ("--root", corpus, "--list", corpus / "manifest.jsonl", "--out", tmp_path / "m.jsonl")
    assert run("prepare", "video", *given) == 0
    recipe = {"class_path": "metis_lightning.data.recipes.l2s.MouthRecipe"}
    overlay = {
        "data": {
            "class_path": "metis_lightning.data.batches.module.PreparedDataModule",
            "init_args": {"manifest": str(tmp_path / "m.jsonl"), "root": str(corpus), "recipe": recipe, "cache": False},
        },
        "trainer": {"max_steps": 1, "limit_val_batches": 0, "logger": False, "accelerator": "cpu", "callbacks": []},
    }
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump(overlay))
    model = (f"--model.base={bundle}", f"--model.encoder={bundle}", f"--model.lip_dim={DIM}")
    configs = ("-c", ROOT / "configs/l2s.yaml", "-c", tmp_path / "overlay.yaml")
    assert run("fit", *configs, *model, "--data.batch_seconds=3") == 0, capsys.readouterr().err
    # A checkpoint's videos are read by the encoder of its base.
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.ckpt")
    given = ("--task", "l2s", "--prompt", corpus / "c0.wav", "--video", corpus / "video/c2.mp4", "--num-steps", 2)
    assert run("generate", *given, "--model", checkpoint, "--base", bundle, "--out", tmp_path / "made.wav") == 0
    assert len(soundfile.read(tmp_path / "made.wav")[0]) == 24_000


def test_a_bundle_without_or_of_an_unknown_kind(tiny_bundle: Path, tmp_path: Path) -> None:
    assert load_visual_encoder(tiny_bundle) is None
    with pytest.raises(UserError, match="it has no visual encoder"):
        L2sModule(base=str(tiny_bundle), encoder=str(tiny_bundle))
    write_part(tmp_path, "visual_encoder", Part({"kind": "magic"}, {}))
    with pytest.raises(UserError, match="visual_encoder of kind 'magic'; known kinds: eigenmouths"):
        load_visual_encoder(tmp_path)
