"""What a visual encoder sees of a mouth, and its recipe."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av")

from fake_corpora import encoded, put
from fake_faces import RATE, pictures, speech, write_clip
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.video import read_video
from metis_lightning.data.recipes.l2s import LipRecipe, MouthRecipe, encoder_input
from metis_lightning.data.recipes.recipe import derived_generator
from metis_lightning.errors import UserError
from metis_lightning.types import Utterance


def test_pixels_are_cut_greyed_and_normalised() -> None:
    mouths = np.zeros((2, 96, 96, 3), dtype=np.uint8)
    mouths[1, 4, 4] = (255, 0, 0)
    mouths[1, 91, 91] = (0, 255, 51)
    pixels = encoder_input(mouths)
    assert pixels.shape == (2, 88, 88)
    assert float(pixels[0, 0, 0]) == pytest.approx(-0.421 / 0.165)
    assert float(pixels[1, 0, 0]) == pytest.approx((0.2989 - 0.421) / 0.165, rel=1e-5)
    assert float(pixels[1, 87, 87]) == pytest.approx((0.587 + 0.114 * 0.2 - 0.421) / 0.165, rel=1e-5)
    assert torch.equal(encoder_input(mouths, (0, 8))[1, 4:, :80], pixels[1, : 88 - 4, 4 : 88 - 4])


@pytest.fixture
def corpus(tmp_path: Path) -> SpeechCorpus:
    write_clip(tmp_path / "mouths/one.mp4", pictures(30))
    put(tmp_path / "one.wav", encoded(speech(1.2), RATE))
    common = {"speaker": "s", "text": "", "language": "en", "sample_rate": RATE, "split": "train", "seconds": 1.2}
    return SpeechCorpus([Utterance("one", tmp_path / "one.wav", video=tmp_path / "mouths/one.mp4", **common)])


@pytest.mark.parametrize("listed", [True, False])
def test_mouths_are_found_in_the_folder_or_by_the_manifest(corpus: SpeechCorpus, tmp_path: Path, listed: bool) -> None:
    recipe = MouthRecipe(None if listed else tmp_path / "mouths", random_crop=False)
    item = recipe(corpus, 0, derived_generator(0))
    expected = encoder_input(read_video(tmp_path / "mouths/one.mp4")).flatten(1)
    assert item.features is not None
    assert item.features.shape == (30, 88 * 88)
    assert torch.equal(item.features, expected)
    assert torch.equal(recipe.features(corpus, 0), expected)
    assert torch.equal(item.wave, corpus.wave(0))


def test_training_cuts_elsewhere_each_time_and_always_the_same(corpus: SpeechCorpus) -> None:
    recipe = MouthRecipe()
    draws = [recipe(corpus, 0, derived_generator("draw", n)).features for n in range(8)]
    assert len({float(features.sum()) for features in draws}) > 4
    assert torch.equal(draws[3], recipe(corpus, 0, derived_generator("draw", 3)).features)
    first = encoder_input(read_video(corpus.utterances[0].video)[:1], (0, 0))[0]
    assert first.shape == (88, 88)


def test_missing_and_other_videos_are_the_users_mistake(corpus: SpeechCorpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'one': no mouth video"):
        MouthRecipe(tmp_path)(corpus, 0, derived_generator(0))
    with pytest.raises(UserError, match=r"no mouth video \(None\)"):
        bare = SpeechCorpus([replace(corpus.utterances[0], video=None)])
        MouthRecipe()(bare, 0, derived_generator(0))
    write_clip(tmp_path / "faces/one.mp4", pictures(30, (112, 128)))
    with pytest.raises(UserError, match="pictures of 128 x 112, not of a mouth in 96 x 96; crop with"):
        MouthRecipe(tmp_path / "faces")(corpus, 0, derived_generator(0))
    write_clip(tmp_path / "short/one.mp4", pictures(20))
    with pytest.raises(UserError, match="20 frames of features for 1.20 s"):
        MouthRecipe(tmp_path / "short")(corpus, 0, derived_generator(0))


def test_features_that_the_manifest_lists_need_no_folder(corpus: SpeechCorpus, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.full((30, 768), 2.0))
    listed = SpeechCorpus([replace(corpus.utterances[0], lips=tmp_path / "one.npy")])
    features = LipRecipe()(listed, 0, derived_generator(0)).features
    assert torch.equal(features, torch.full((30, 768), 2.0))
    with pytest.raises(UserError, match="'one': the manifest lists no lip features"):
        LipRecipe()(corpus, 0, derived_generator(0))
