from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.table import utterance_at_speed
from metis_lightning.data.media.audio import write_wav
from metis_lightning.data.media.mixing import rms
from metis_lightning.data.recipes.prompts import draw_enrollment, draw_interferer, speech_crop
from metis_lightning.data.recipes.recipe import derived_generator
from metis_lightning.data.recipes.tse import TseRecipe
from metis_lightning.errors import UserError
from metis_lightning.types import Utterance


def snr(item):
    target = item.wave[item.prompt_length :]
    return 20 * float(torch.log10(torch.tensor(rms(target) / rms(item.source[item.prompt_length :] - target))))


@pytest.mark.parametrize("seed", range(5))
def test_prefix_is_the_utterance_itself_with_its_rest_mixed(corpus, seed):
    item = TseRecipe(snr_range=(-5, 5))(corpus, 2, derived_generator(seed))
    prompt = item.prompt_length
    assert prompt % 480 == 0
    assert 0.1 * 48_000 - 480 < prompt < 0.4 * 48_000
    assert torch.equal(item.wave, corpus.wave(2))
    assert torch.equal(item.source[:prompt], item.wave[:prompt])
    assert -5.01 < snr(item) < 5.01


@pytest.mark.parametrize("seed", range(4))
def test_without_an_snr_the_interferer_is_as_loud_as_it_is(corpus, seed):
    item = TseRecipe(snr_range=None)(corpus, 2, derived_generator(seed))
    target = item.wave[item.prompt_length :]
    added = (item.source[item.prompt_length :] - target) / item.applied["gain"]
    other = corpus.wave(corpus.index_of(item.applied["interferer"]))
    assert "snr_db" not in item.applied
    if other.numel() <= target.numel():
        assert torch.allclose(added[: other.numel()], other, atol=1e-6)
        assert not added[other.numel() :].abs().gt(1e-6).any()
    else:
        windows = other.unfold(0, target.numel(), 1)
        assert (windows - added).abs().amax(dim=1).min() < 1e-6


def test_a_shorter_interferer_ends_before_the_target(corpus):
    waves = {0: torch.full((48_000,), 0.25), 1: torch.full((12_000,), 0.5)}
    mixed, _ = TseRecipe(snr_range=None)._mix(_TwoVoices(waves), 0, waves[0][:24_000], derived_generator(0))
    assert mixed.mixture.tolist() == [0.75] * 12_000 + [0.25] * 12_000
    assert mixed.gain == 1.0


class _TwoVoices:
    """A corpus of two utterances, by two speakers."""

    def __init__(self, waves):
        self.utterances = [Namespace(id=str(i), speaker=str(i), text=str(i)) for i in waves]
        self.wave = waves.get

    def __len__(self):
        return len(self.utterances)


def test_snr_is_as_asked(corpus):
    for enrollment in ("prefix", "utterance"):
        item = TseRecipe(snr_range=(3.0, 3.0), enrollment=enrollment)(corpus, 0, derived_generator(0))
        assert snr(item) == pytest.approx(3.0, abs=1e-3)


def test_utterance_enrollment_is_another_of_the_speaker(corpus):
    recipe = TseRecipe(enrollment="utterance", max_prompt_seconds=1.2)
    item = recipe(corpus, 0, derived_generator(0))
    assert item.prompt_length == 28_800
    assert torch.equal(item.wave[28_800:], corpus.wave(0))
    prompt = item.wave[:28_800]
    windows = [w for other in (1, 2) for w in corpus.wave(other).unfold(0, 28_800, 1)]
    assert any(torch.equal(prompt, window) for window in windows)
    assert recipe.seconds(corpus, 0) == pytest.approx(2.2)
    assert item.applied["enrollment"] in ("ada_1", "ada_2")
    assert item.applied["interferer"] not in ("ada_0", "ada_1", "ada_2")


def test_a_speaker_of_one_utterance_gets_a_prefix(corpus):
    few = SpeechCorpus([corpus.utterances[0], *corpus.utterances[3:]])
    item = TseRecipe(enrollment="utterance")(few, 0, derived_generator(0))
    assert 0 < item.prompt_length < 24_000
    assert torch.equal(item.wave, few.wave(0))


def test_the_same_generator_gives_the_same_item(corpus):
    recipe = TseRecipe()
    first, again, other = (recipe(corpus, 1, derived_generator(seed)) for seed in (7, 7, 8))
    assert torch.equal(first.source, again.source)
    assert first.source.shape == other.source.shape
    assert not torch.equal(first.source, other.source)


def test_level_changes_wave_and_source_alike_and_never_clips(corpus):
    plain = TseRecipe()(corpus, 1, derived_generator(3))
    quiet = TseRecipe(gain_db=(-20, -20))(corpus, 1, derived_generator(3))
    assert torch.allclose(quiet.wave, plain.wave * 0.1)
    assert torch.allclose(quiet.source, plain.source * 0.1)
    loud = TseRecipe(gain_db=(40, 40))(corpus, 1, derived_generator(3))
    assert float(loud.source.abs().max()) == pytest.approx(0.99, abs=1e-5)


def test_a_loud_prompt_is_lowered_with_the_rest(corpus):
    loud = SpeechCorpus(corpus.utterances)
    # Above full scale, as a lossy codec's overshoot.
    loud._cache = {index: corpus.samples(index) * (5 if index in (1, 2) else 1) for index in range(9)}
    item = TseRecipe(snr_range=(20, 20), enrollment="utterance")(loud, 0, derived_generator(0))
    assert float(loud.wave(1).abs().max()) > 1.2
    assert max(float(item.wave.abs().max()), float(item.source.abs().max())) == pytest.approx(0.99, abs=1e-5)
    assert torch.allclose(item.wave[item.prompt_length :], loud.wave(0) * item.applied["gain"], atol=1e-6)


@pytest.mark.parametrize("silent", ["ada_0", "others"])
def test_silence_is_not_mixed(corpus, tmp_path, silent):
    write_wav(tmp_path / "silent.wav", torch.zeros(24_000), 24_000)
    quiet = [
        replace(u, path=tmp_path / "silent.wav", seconds=1.0) if (u.id == "ada_0") == (silent == "ada_0") else u
        for u in corpus.utterances
    ]
    item = TseRecipe()(SpeechCorpus(quiet), 0, derived_generator(0))
    assert torch.equal(item.source, item.wave)
    assert item.applied == {"enrollment": "prefix", "gain": 1.0}


def test_a_rare_interferer_is_found(corpus):
    """Where nearly all utterances are the target's, chance alone would miss the other."""
    ada = corpus.utterances[0]
    many = SpeechCorpus([*(replace(ada, id=f"ada_{n}") for n in range(5000)), corpus.utterances[4]])
    assert {draw_interferer(many, 0, derived_generator(seed)) for seed in range(5)} == {5000}


def test_interferer_and_enrollment_are_who_they_should_be(corpus):
    generator = derived_generator(0)
    assert {draw_interferer(corpus, 4, generator) for _ in range(100)} == {0, 1, 2, 6, 7, 8}
    assert {draw_enrollment(corpus, 4, generator) for _ in range(30)} == {3, 5}
    assert draw_enrollment(SpeechCorpus(corpus.utterances[:1]), 0, generator) is None
    with pytest.raises(UserError, match="at least two speakers"):
        draw_interferer(SpeechCorpus(corpus.utterances[:3]), 0, generator)


def test_an_interferer_crop_is_never_the_pause():
    wave = torch.zeros(1000)
    wave[700] = 1.0
    for seed in range(20):
        assert speech_crop(wave, 100, derived_generator(seed)).max() == 1.0
        looped = speech_crop(wave, 2000, derived_generator(seed))
        assert looped.shape == (1000,)
        assert looped.max() == 1.0


@pytest.mark.parametrize(
    "arguments",
    [{"snr_range": (5, -5)}, {"gain_db": (1, 0)}, {"prompt_fraction": (0.5, 1.0)}, {"enrollment": "none"}],
)
def test_nonsense_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        TseRecipe(**arguments)


def test_no_target_of_librimix_is_its_own_enrollment_out_of_another_mixture() -> None:
    """Without transcripts nothing but the ids tells: mixtures name the LibriSpeech utterances they are made of."""

    def source(mixture: str, number: int, speed: float = 1.0) -> Utterance:
        listed = Utterance(
            id=f"{mixture}_s{number}",
            path=Path(f"{mixture}_s{number}.wav"),
            language="en",
            speaker=mixture.split("_")[number - 1].split("-")[0],
            text="",
            split="train",
            seconds=3.0,
            sample_rate=16_000,
            source="LibriMix train-100 mix_clean",
            license="",
        )
        return utterance_at_speed(listed, speed)

    for speed in (1.0, 0.9):
        mixtures = [("1-1-1_2-1-1", 1), ("1-1-1_3-1-1", 1), ("4-1-1_1-1-1", 2), ("1-1-2_2-1-2", 1)]
        corpus = SpeechCorpus([source(*mixture, speed=speed) for mixture in mixtures])
        generator = torch.Generator().manual_seed(0)
        for target in range(3):
            assert {draw_enrollment(corpus, target, generator) for _ in range(40)} == {3}
        assert {draw_enrollment(corpus, 3, generator) for _ in range(60)} == {0, 1, 2}
        assert draw_enrollment(SpeechCorpus(corpus.utterances[:3]), 0, generator) is None
