import pickle

import pytest
import torch

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.audio import read_audio, write_wav
from metis_lightning.errors import UserError
from metis_lightning.types import Utterance


def test_cached_and_fresh_reads_are_equal(corpus):
    fresh = SpeechCorpus(corpus.utterances, cache=False)
    first, second = corpus.wave(4), corpus.wave(4)
    assert torch.equal(first, second)
    assert torch.equal(first, fresh.wave(4))
    assert (first - read_audio(corpus.utterances[4].path, 24_000)).abs().max() <= 0.5 / 2**14


def test_a_returned_wave_may_be_changed(corpus):
    before = corpus.wave(0)
    corpus.wave(0).zero_()
    assert torch.equal(corpus.wave(0), before)


def test_indices(corpus):
    assert len(corpus) == 9
    assert corpus.by_speaker == {"ada": [0, 1, 2], "bob": [3, 4, 5], "eve": [6, 7, 8]}
    assert corpus.index_of("bob_1") == 4
    with pytest.raises(UserError, match="no utterance 'zoe_1'"):
        corpus.index_of("zoe_1")


def test_the_cache_stays_behind_when_pickled(corpus):
    size = len(pickle.dumps(corpus))
    wave = corpus.wave(2)
    data = pickle.dumps(corpus)
    assert len(data) == size
    assert torch.equal(pickle.loads(data).wave(2), wave)


@pytest.mark.parametrize("seconds", [0.5, 1.9, 2.2, 90.0])
def test_audio_that_was_replaced_since_it_was_listed_is_noticed(tmp_path, tone, seconds):
    """Else a run that goes on hears other speech than the one that it goes on from."""
    utterance = Utterance("a", tmp_path / "a.wav", "ada", "", "en", 2.0, 24_000, "train")
    write_wav(tmp_path / "a.wav", tone(2.03, 440.0), 24_000)
    assert len(SpeechCorpus([utterance]).wave(0)) == round(2.03 * 24_000)
    write_wav(tmp_path / "a.wav", tone(seconds, 440.0), 24_000)
    with pytest.raises(UserError, match="the manifest lists 'a' with 2.00 s|lasts more than 62 s"):
        SpeechCorpus([utterance]).wave(0)
