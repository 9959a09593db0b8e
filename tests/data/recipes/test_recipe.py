import pytest
import torch

from metis_lightning.data.recipes.recipe import (
    PlainRecipe,
    crop_start,
    derived_generator,
    draw_int,
    draw_uniform,
    whole_frames,
)


def test_whole_utterance(corpus):
    item = PlainRecipe()(corpus, 1, derived_generator(0))
    assert torch.equal(item.wave, corpus.wave(1))
    assert (item.id, item.speaker, item.text) == ("ada_1", "ada", "ada says number 1")
    assert (item.source, item.prompt_length) == (None, None)
    assert PlainRecipe().seconds(corpus, 1) == 1.5


def test_crops_lie_in_the_utterance_and_short_ones_are_padded(corpus):
    recipe = PlainRecipe(crop_seconds=1.2)
    crop = recipe(corpus, 2, derived_generator(1)).wave
    assert crop.shape == (28_800,)
    assert any(torch.equal(crop, part) for part in corpus.wave(2).unfold(0, 28_800, 1))
    short = recipe(corpus, 0, derived_generator(1)).wave
    assert torch.equal(short, torch.cat([corpus.wave(0), torch.zeros(4800)]))
    assert {recipe.seconds(corpus, i) for i in range(3)} == {1.2}


def test_max_seconds_keeps_short_utterances(corpus):
    recipe = PlainRecipe(max_seconds=1.2)
    assert [recipe(corpus, i, derived_generator(0)).wave.numel() for i in range(3)] == [24_000, 28_800, 28_800]
    assert [recipe.seconds(corpus, i) for i in range(3)] == [1.0, 1.2, 1.2]


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="not both"):
        PlainRecipe(max_seconds=1, crop_seconds=1)
    with pytest.raises(ValueError, match="shorter than one token frame"):
        PlainRecipe(crop_seconds=0.001)


def test_whole_frames():
    assert [whole_frames(s) for s in (0.02, 1.0, 1.009, 1.011)] == [480, 24_000, 24_000, 24_480]


def test_generators_depend_on_every_part_and_on_nothing_else():
    seeds = {derived_generator(*parts).initial_seed() for parts in ((0, 0, "a"), (0, 1, "a"), (1, 0, "a"), (0, 0, "b"))}
    assert len(seeds) == 4
    # SHA-256 of "0\\x001\\x00a": the same on every machine.
    assert derived_generator(0, 1, "a").initial_seed() == 3521141406132466449


def test_draws_cover_their_range():
    generator = derived_generator("draws")
    assert {draw_int(3, generator) for _ in range(50)} == {0, 1, 2}
    values = [draw_uniform(-5, 5, generator) for _ in range(200)]
    assert -5 <= min(values) < -4.5 < 4.5 < max(values) < 5
    starts = {crop_start(torch.arange(5), 3, generator) for _ in range(50)}
    assert starts == {0, 1, 2}
