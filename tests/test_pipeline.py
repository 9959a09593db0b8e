"""The public API on a tiny bundle: lengths, seeds, alignment, and no Lightning."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.pipeline import HOP, TSE_SETTINGS, Metis
from metis_lightning.sampling.stages import sample_ssl_tokens

FAST = replace(TSE_SETTINGS, stage1=replace(TSE_SETTINGS.stage1, num_steps=2), stage2_steps=(2, 1, 1))


@pytest.fixture(scope="module")
def metis(tiny_bundle: Path) -> Metis:
    return Metis.from_pretrained(str(tiny_bundle))


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.mark.parametrize("samples", [24_000, 24_001, 30_479])
def test_extracted_speech_is_as_long_as_the_mixture(metis: Metis, samples: int) -> None:
    speech = metis.extract(noise(samples), noise(24_300, 1), settings=FAST)
    assert speech.wave.shape == (samples,)
    assert torch.isfinite(speech.wave).all()
    assert speech.acoustic_tokens.shape[1] == 3


@pytest.fixture(scope="module")
def all_tasks(metis: Metis) -> Metis:
    """The TSE model in every task's place: shapes and prompts do not depend on what it learned."""
    return Metis(metis.tokenizer, dict.fromkeys(("tse", "se", "vc"), metis.stage1["tse"]), metis.stage2)


def test_enhanced_and_converted_speech_is_as_long_as_the_source(all_tasks: Metis) -> None:
    for samples in (24_000, 30_479):
        assert all_tasks.enhance(noise(samples), settings=FAST).wave.shape == (samples,)
        assert all_tasks.convert(noise(samples), noise(24_300, 1), settings=FAST).wave.shape == (samples,)


def test_extract_and_convert_share_their_path_and_enhance_has_no_prompt(
    all_tasks: Metis, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, prompt = noise(24_000), noise(24_000, 1)
    converted = all_tasks.convert(source, prompt, settings=FAST)
    assert torch.equal(converted.wave, all_tasks.extract(source, prompt, settings=FAST).wave)
    requests = []

    def spy(model, request, *rest):
        requests.append(request)
        return sample_ssl_tokens(model, request, *rest)

    monkeypatch.setattr("metis_lightning.pipeline.sample_ssl_tokens", spy)
    enhanced = all_tasks.enhance(source, settings=FAST)
    assert requests[0].prompt.shape == (1, 0)
    features, frames = all_tasks.tokenizer.ssl_features(source[None], torch.tensor([24_000]))
    assert torch.equal(requests[0].condition, features)
    assert enhanced.ssl_tokens.shape == (int(frames),)


def test_the_wrong_task_is_the_users_mistake(metis: Metis) -> None:
    with pytest.raises(UserError, match="loaded for tse; load it with task='se'"):
        metis.enhance(noise(24_000))


def test_seeds_decide(metis: Metis) -> None:
    one, same, other = (metis.extract(noise(24_000), noise(24_000, 1), seed, FAST).wave for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_the_generated_part_is_aligned_with_the_mixture(metis: Metis, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a second stage that copies the acoustic tokens of the joined waveform, the mixture comes back in place."""
    enrollment, mixture = noise(HOP * 50), noise(HOP * 60, 1)
    joined = torch.cat([enrollment, mixture])
    tokens = metis.tokenizer.acoustic_tokens(joined[None])

    def copy(model, request, settings, steps, source):
        start, layers = request.prompt.shape[1], model.config.num_quantizers
        return tokens[:, start : request.ssl_tokens.shape[1], :layers]

    monkeypatch.setattr("metis_lightning.pipeline.sample_acoustic_tokens", copy)
    extracted = metis.extract(mixture, enrollment, settings=FAST).wave
    whole = metis.tokenizer.wave(tokens)[0, len(enrollment) :]
    # The last frame has no SSL token; near the ends the vocoder's context differs.
    inner = slice(10 * HOP, 40 * HOP)
    torch.testing.assert_close(extracted[inner], whole[inner], rtol=0, atol=1e-5)


def test_resynthesis_keeps_the_length(metis: Metis) -> None:
    wave = noise(24_500)
    assert metis.resynthesize(wave).wave.shape == wave.shape


def test_too_short_input_is_the_users_mistake(metis: Metis) -> None:
    with pytest.raises(UserError, match="prompt lasts 0.01 s"):
        metis.extract(noise(24_000), noise(240))
    with pytest.raises(UserError, match="source lasts 0.01 s"):
        metis.extract(noise(240), noise(24_000))


def test_a_bundle_without_the_task_says_so(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="no part for the task 'se'"):
        Metis.from_pretrained(str(tiny_bundle), task="se")


def test_inference_imports_no_lightning() -> None:
    code = (
        "import sys, metis_lightning.pipeline\n"
        "sys.exit(any(name.split('.')[0] in ('lightning', 'pytorch_lightning') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
