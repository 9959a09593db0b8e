import pickle

import pytest
import torch

from metis_lightning.data.audio import read_audio
from metis_lightning.data.corpus import SpeechCorpus
from metis_lightning.errors import UserError


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
