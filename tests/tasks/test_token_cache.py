"""Tokens that are kept belong to their audio; without keeping, audio may change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.tasks.base import frame_mask
from metis_lightning.tasks.semantic_to_acoustic import SemanticToAcousticModule, TokenCache
from metis_lightning.weights.build import load_tokenizer
from one_batch import speech_batch
from pretended_gpu import CPU, GPU, PretendedGPU, send
from tiny import stage2_config


def test_kept_tokens_are_those_of_each_row_alone_and_computed_once(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, batch = load_tokenizer(tiny_bundle), speech_batch()
    cache = TokenCache(tokenizer)
    ssl, acoustic, frames = cache.tokens(batch)
    # The padded row has 40 frames of audio, of which the front end's last window lacks one.
    assert frames.tolist() == [49, 39]
    assert ssl.shape == (2, 49)
    assert acoustic.shape == (2, 49, 3)
    alone, length = batch.wave[1:, :19_200], batch.lengths[1:]
    assert torch.equal(ssl[1:, :39], tokenizer.ssl_tokens(alone, length)[0])
    assert torch.equal(acoustic[1:, :39], tokenizer.acoustic_tokens(alone)[:, :39])
    assert not ssl[1, 39:].any()
    monkeypatch.setattr(cache, "tokenizer", None)
    assert all(torch.equal(a, b) for a, b in zip(cache.tokens(batch), (ssl, acoustic, frames), strict=True))


def test_a_crop_under_a_known_id_is_the_users_mistake(tiny_bundle: Path) -> None:
    cache, batch = TokenCache(load_tokenizer(tiny_bundle)), speech_batch()
    cache.tokens(batch)
    with pytest.raises(UserError, match=r"'a' came twice .* model\.cache_tokens"):
        cache.tokens(replace(batch, wave=batch.wave.roll(480, dims=1) * 0.9))
    with pytest.raises(UserError, match="'b' came twice"):
        cache.tokens(replace(batch, lengths=torch.tensor([24_000, 12_000])))


def test_without_keeping_a_batch_is_encoded_as_it_is(tiny_bundle: Path) -> None:
    tokenizer, batch = load_tokenizer(tiny_bundle), speech_batch()
    cache = TokenCache(tokenizer, keep=False)
    cache.tokens(batch)
    crop = replace(batch, wave=batch.wave.flip(1), lengths=torch.tensor([24_000, 24_000]))
    ssl, acoustic, frames = cache.tokens(crop)
    assert frames.tolist() == [49, 49]
    assert torch.equal(ssl, tokenizer.ssl_tokens(crop.wave, crop.lengths)[0])
    assert torch.equal(acoustic, tokenizer.acoustic_tokens(crop.wave)[:, :49])


@pytest.mark.parametrize(("device", "kept"), [(CPU, True), (GPU, False)])
def test_what_is_kept_follows_the_device_and_the_tokens_do_not(
    device: torch.device, kept: bool, tiny_bundle: Path
) -> None:
    module = SemanticToAcousticModule("s2a_full", stage2_config(3, 1), str(tiny_bundle))
    whole = speech_batch()
    padded = replace(whole, wave=whole.wave * frame_mask(whole.lengths, 24_000))
    expected = TokenCache(load_tokenizer(tiny_bundle)).tokens(padded)
    with PretendedGPU():
        send(module.tokenizer, device)
        ssl, acoustic, frames = (value.cpu() for value in module.cache.tokens(padded.to(device)))
    assert bool(module.cache._rows) == kept
    assert torch.equal(frames, expected[2])
    for row, count in enumerate(frames.tolist()):
        assert torch.equal(ssl[row, :count], expected[0][row, :count])
        assert torch.equal(acoustic[row, :count], expected[1][row, :count])
