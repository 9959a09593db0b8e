"""Recipes of TTS, L2S and Omni: scripts, feature files that cannot lead astray, and the tasks' shares."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.recipes.l2s import EnvelopeRecipe, LipRecipe, feature_file, read_feature_file
from metis_lightning.data.recipes.recipe import (
    OmniRecipe,
    Recipe,
    SpeechItem,
    TtsRecipe,
    WeightedRecipe,
    derived_generator,
)
from metis_lightning.data.recipes.tse import TseRecipe
from metis_lightning.errors import UserError


def test_tts_gives_the_whole_utterance_and_what_it_says(corpus: SpeechCorpus) -> None:
    item = TtsRecipe()(corpus, 1, derived_generator(0))
    assert torch.equal(item.wave, corpus.wave(1))
    assert (item.script, item.language) == ("ada says number 1", "en")
    assert item.source is None
    assert item.prompt_length is None
    assert TtsRecipe().seconds(corpus, 1) == 1.5


def test_tts_needs_a_text(corpus: SpeechCorpus) -> None:
    silent = SpeechCorpus([replace(corpus.utterances[0], text=" ")])
    with pytest.raises(UserError, match="'ada_0' has no text"):
        TtsRecipe()(silent, 0, derived_generator(0))


def test_lip_features_are_read_by_id(corpus: SpeechCorpus, tmp_path: Path) -> None:
    first, second = torch.rand(25, 768), torch.rand(37, 768)
    np.save(tmp_path / "ada_0.npy", first.double().numpy())
    save_file({"features": second}, tmp_path / "ada_1.safetensors")
    recipe = LipRecipe(tmp_path)
    items = [recipe(corpus, index, derived_generator(0)) for index in (0, 1)]
    assert torch.allclose(items[0].features, first)
    assert items[0].features.dtype == torch.float32
    assert torch.equal(items[1].features, second)
    assert torch.equal(items[1].wave, corpus.wave(1))


@pytest.mark.parametrize("frames", [10, 30, 50])
def test_lips_at_another_rate_are_the_users_mistake(corpus: SpeechCorpus, tmp_path: Path, frames: int) -> None:
    np.save(tmp_path / "ada_0.npy", np.zeros((frames, 6)))
    with pytest.raises(UserError, match=f"'ada_0': {frames} frames of features for 1.00 s; give 25 a second"):
        LipRecipe(tmp_path)(corpus, 0, derived_generator(0))


def test_bad_lip_features_are_the_users_mistake(tmp_path: Path) -> None:
    folder = tmp_path / "lips"
    folder.mkdir()
    with pytest.raises(UserError, match="no lip features of utterance 'a'"):
        read_feature_file(feature_file(folder, "a"))
    np.save(tmp_path / "outside.npy", np.zeros((3, 4)))
    with pytest.raises(UserError, match="outside the folder"):
        read_feature_file(feature_file(folder, "../outside"))
    (folder / "link.npy").symlink_to(tmp_path / "outside.npy")
    with pytest.raises(UserError, match="outside the folder"):
        read_feature_file(feature_file(folder, "link"))
    np.save(folder / "pickled.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="not one array of plain numbers"):
        read_feature_file(feature_file(folder, "pickled"))
    save_file({"a": torch.zeros(1, 2), "b": torch.zeros(1, 2)}, folder / "two.safetensors")
    with pytest.raises(UserError, match="not one array"):
        read_feature_file(feature_file(folder, "two"))
    np.save(folder / "flat.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"shape \(frames, width\), found \(3,\)"):
        read_feature_file(feature_file(folder, "flat"))
    np.save(folder / "nan.npy", np.full((3, 4), np.nan))
    with pytest.raises(UserError, match="finite"):
        read_feature_file(feature_file(folder, "nan"))


def test_the_stand_in_follows_the_loudness_of_four_bands(corpus: SpeechCorpus) -> None:
    recipe = EnvelopeRecipe(dim=32)
    features = recipe.features(corpus, 1)
    assert features.shape == (37, 32)
    assert torch.equal(features, recipe(corpus, 1, derived_generator(5)).features)
    assert torch.linalg.matrix_rank(features, atol=1e-3) <= 4
    quiet = SpeechCorpus(corpus.utterances)
    quiet._cache = {1: quiet.samples(1) // 2}
    assert not torch.allclose(recipe.features(quiet, 1), features)


class Named(Recipe):
    """A toy recipe that only signs its items."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> SpeechItem:
        return SpeechItem(self.name, "s", "t", torch.zeros(1))

    def seconds(self, corpus: SpeechCorpus, index: int) -> float:
        return float(len(self.name))


def test_tasks_are_drawn_with_their_shares(corpus: SpeechCorpus) -> None:
    shares = {"tts": 0.5, "vc": 0.1, "tse": 0.2, "se": 0.2}
    recipe = OmniRecipe([WeightedRecipe(Named(name), weight) for name, weight in shares.items()])
    draws = 4000
    drawn = Counter(recipe(corpus, 0, derived_generator("draw", n)).id for n in range(draws))
    for name, share in shares.items():
        deviation = (share * (1 - share) / draws) ** 0.5
        assert drawn[name] / draws == pytest.approx(share, abs=4 * deviation)
    assert recipe.seconds(corpus, 0) == 3.0


def test_the_draw_belongs_to_the_item(corpus: SpeechCorpus) -> None:
    recipe = OmniRecipe([WeightedRecipe(TtsRecipe(), 1.0), WeightedRecipe(TseRecipe(), 1.0)])
    first, again = (
        [recipe(corpus, index, derived_generator(index)).source is None for index in range(9)] for _ in range(2)
    )
    assert first == again
    assert set(first) == {True, False}


def test_nonsense_shares_are_refused() -> None:
    for tasks in ([], [WeightedRecipe(TtsRecipe(), 0.0)]):
        with pytest.raises(ValueError, match="weight above zero"):
            OmniRecipe(tasks)
