"""The token store gives back what was stored for exactly this audio and this tokenizer, or says what is missing."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.audio import write_wav
from metis_lightning.data.token_store.store import (
    AudioKey,
    ShardWriter,
    TokenStore,
    audio_hash,
    stamp_of,
)
from metis_lightning.errors import UserError
from metis_lightning.files import digest64
from metis_lightning.types import Utterance

PRINT, OTHER = "a" * 64, "b" * 64


def utterance(folder: Path, name: str, level: float = 0.2) -> Utterance:
    path = folder / f"{name}.wav"
    write_wav(path, level * torch.sin(torch.arange(2_400 + len(name)) / 9), 24_000)
    return Utterance(name, path, "s", "t", "en", 0.1, 24_000, "train")


def recording(corpus: SpeechCorpus, index: int) -> AudioKey:
    heard, samples = corpus.utterances[index], corpus.samples(index)
    return AudioKey(digest64(heard.id), stamp_of(heard), audio_hash(samples), len(samples))


def store(root: Path, corpus: SpeechCorpus, start: int = 0, size: int = 2, fingerprint: str = PRINT) -> None:
    """Store for utterance i the tokens i·100, i·100 + 1, …, i + 3 of them."""
    writer = ShardWriter(TokenStore(root, "ssl", fingerprint).folder, "ssl", fingerprint, size)
    for index in range(len(corpus)):
        writer.add(recording(corpus, index), torch.arange(index + 3, dtype=torch.int16) + start + 100 * index)
    writer.flush()


@pytest.fixture
def corpus(tmp_path: Path) -> SpeechCorpus:
    return SpeechCorpus([utterance(tmp_path / "audio", name) for name in ("a", "bb", "ccc", "dddd", "eeeee")])


def unread() -> torch.Tensor:
    raise AssertionError("the audio was read")


def read(tokens: TokenStore, corpus: SpeechCorpus, index: int) -> list[int]:
    return tokens.read(corpus.utterances[index], lambda: corpus.samples(index)).tolist()


def test_what_was_stored_comes_back_without_reading_audio(tmp_path: Path, corpus: SpeechCorpus) -> None:
    store(tmp_path, corpus)
    tokens = TokenStore(tmp_path, "ssl", PRINT)
    assert (len(tokens), len(tokens.shards)) == (5, 3)
    for index, heard in enumerate(corpus.utterances):
        assert tokens.holds(heard)
        assert tokens.read(heard, unread).tolist() == list(range(100 * index, 100 * index + index + 3))
        assert tokens.samples(heard, unread) == len(corpus.samples(index))
    tokens.check(corpus.utterances.names())
    copy = pickle.loads(pickle.dumps(tokens))
    assert copy.read(corpus.utterances[3], unread).tolist() == [300, 301, 302, 303, 304, 305]


def test_another_tokenizer_finds_nothing_and_cannot_be_slipped_in(tmp_path: Path, corpus: SpeechCorpus) -> None:
    store(tmp_path, corpus)
    other = TokenStore(tmp_path, "ssl", OTHER)
    assert len(other) == 0
    with pytest.raises(UserError, match="lacks 5 of 5 utterances"):
        other.check(corpus.utterances.names())
    TokenStore(tmp_path, "ssl", PRINT).folder.rename(TokenStore(tmp_path, "ssl", OTHER).folder)
    with pytest.raises(UserError, match="holds .*; remove it and prepare again"):
        TokenStore(tmp_path, "ssl", OTHER)


def test_a_touched_file_is_recognised_by_its_audio(tmp_path: Path, corpus: SpeechCorpus) -> None:
    store(tmp_path, corpus)
    os.utime(corpus.utterances[1].path, ns=(1, 1))
    tokens = TokenStore(tmp_path, "ssl", PRINT)
    assert not tokens.holds(corpus.utterances[1])
    assert read(tokens, corpus, 1) == [100, 101, 102, 103]
    # Known from now on.
    assert tokens.read(corpus.utterances[1], unread).tolist() == [100, 101, 102, 103]


def test_changed_audio_is_refused_and_its_own_tokens_are_found(tmp_path: Path, corpus: SpeechCorpus) -> None:
    store(tmp_path, corpus)
    utterance(tmp_path / "audio", "bb", level=0.1)
    changed = SpeechCorpus(corpus.utterances)
    with pytest.raises(UserError, match="'bb': its audio has changed; run `prepare tokens` again"):
        read(TokenStore(tmp_path, "ssl", PRINT), changed, 1)
    store(tmp_path, changed, start=50)
    tokens = TokenStore(tmp_path, "ssl", PRINT)
    assert read(tokens, changed, 1) == [150, 151, 152, 153]
    # The old audio, back in place with yet another time, has its old tokens.
    utterance(tmp_path / "audio", "bb")
    os.utime(corpus.utterances[1].path, ns=(2, 2))
    assert read(tokens, corpus, 1) == [100, 101, 102, 103]


def test_tokens_serve_where_the_audio_is_not(tmp_path: Path, corpus: SpeechCorpus) -> None:
    store(tmp_path, corpus)
    corpus.utterances[0].path.unlink()
    tokens = TokenStore(tmp_path, "ssl", PRINT)
    assert tokens.read(corpus.utterances[0], unread).tolist() == [0, 1, 2]
    assert not tokens.holds(corpus.utterances[0])


def test_what_is_missing_or_damaged_is_named(tmp_path: Path, corpus: SpeechCorpus) -> None:
    store(tmp_path, SpeechCorpus(list(corpus.utterances)[:4]))
    tokens = TokenStore(tmp_path, "ssl", PRINT)
    with pytest.raises(UserError, match="lacks 1 of 5 utterances"):
        tokens.check(corpus.utterances.names())
    with pytest.raises(UserError, match="'eeeee': it was never prepared"):
        read(tokens, corpus, 4)
    tokens.shards[0].write_bytes(tokens.shards[0].read_bytes()[:100])
    with pytest.raises(UserError, match="not a shard of a token store"):
        TokenStore(tmp_path, "ssl", PRINT)


def test_half_a_shard_never_carries_a_final_name(
    tmp_path: Path, corpus: SpeechCorpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="no space"):
            store(tmp_path, corpus)
    assert len(TokenStore(tmp_path, "ssl", PRINT)) == 0
    store(tmp_path, corpus)
    assert len(TokenStore(tmp_path, "ssl", PRINT)) == 5


def test_vectors_are_stored_too(tmp_path: Path, corpus: SpeechCorpus) -> None:
    writer = ShardWriter(TokenStore(tmp_path, "features", PRINT).folder, "features", PRINT, 10)
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(7, 3))).half()
    writer.add(recording(corpus, 0), values)
    writer.flush()
    assert torch.equal(TokenStore(tmp_path, "features", PRINT).read(corpus.utterances[0], unread), values)
