import pytest
import torch

from metis_lightning.data.corpora.starter import StarterDataModule
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.audio import resample
from metis_lightning.data.recipes.recipe import PlainRecipe
from metis_lightning.errors import UserError


def pitch(wave: torch.Tensor) -> float:
    """The strongest frequency in Hz."""
    return float(torch.fft.rfft(wave).abs().argmax()) * 24_000 / wave.numel()


@pytest.mark.parametrize("speed", [0.84, 0.9, 1.25])
def test_a_faster_tape_is_shorter_and_higher(tone, speed):
    wave = tone(2.0, 440.0)
    faster = resample(wave.numpy(), 24_000 * speed, 24_000)
    assert faster.dtype == torch.float32
    assert faster.numel() == pytest.approx(wave.numel() / speed, abs=2)
    assert pitch(faster) == pytest.approx(440 * speed, abs=1)
    assert torch.equal(resample(wave.numpy(), 24_000 * 1.0, 24_000), wave)


def test_other_speeds_are_other_speakers(corpus):
    heard = corpus.utterances.at_speeds([0.9, 1.0])
    assert list(heard[len(corpus) :]) == list(corpus.utterances)
    first = heard[0]
    assert (first.id, first.speaker, first.speed) == ("sp0.9-ada_0", "sp0.9-ada", 0.9)
    played = SpeechCorpus(heard)
    assert len(played.by_speaker) == 6
    for index in (0, len(corpus)):
        assert played.wave(index).numel() / 24_000 == pytest.approx(heard[index].seconds, abs=1e-3)


@pytest.mark.parametrize("speeds", [[], [0.0, 1.0], [1.0, 1.0], [-1.0]])
def test_wrong_speeds_are_named(corpus, speeds):
    with pytest.raises(UserError, match="`speeds` must be positive"):
        corpus.utterances.at_speeds(speeds)


def test_training_hears_all_speeds_and_validation_one():
    data = StarterDataModule(PlainRecipe(), speeds=[0.8, 1.0], max_seconds=4.0)
    train, dev = data.train_dataloader().dataset.corpus, data.val_dataloader().dataset.corpus
    assert {u.speed for u in train.utterances} == {0.8, 1.0}
    assert {u.speed for u in dev.utterances} == {1.0}
    # What lasts longer at a low speed than the longest utterance allowed is left out there.
    assert max(u.seconds for u in train.utterances) <= 4.0
    assert sum(u.speed == 1.0 for u in train.utterances) > sum(u.speed == 0.8 for u in train.utterances) > 0
