"""No step of the decoding waits for the device: everything that it needs of the host is there before, or made there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from metis_lightning.models.runner import Graphs, runner_for
from metis_lightning.pipeline import Metis
from metis_lightning.sampling import denoisers as branches
from metis_lightning.sampling.denoisers import Stage1Request, Stage2Request, sample_acoustic_tokens, sample_ssl_tokens
from metis_lightning.sampling.mask_predict import Noise, State
from metis_lightning.sampling.settings import Sampling
from pretended_gpu import GPU, PretendedCuda, PretendedGPU, send
from sections.host_waits import HostWaits

# The shortest row ends a step before the others.
LENGTHS, PROMPTS, STEPS = (40, 3, 25), (12, 7, 0), 5


def noise_on_the_device(seed: int) -> Noise:
    """Noise that is drawn where the model runs, as `Metis` draws it on a GPU."""
    generator = torch.Generator().manual_seed(seed)

    def noise(shape: tuple[int, ...], index: tuple[Tensor, ...]) -> Tensor:
        uniform = torch.rand(shape, generator=generator, device=GPU)[index]
        return -torch.log(-torch.log(uniform.clamp(1e-6, 1 - 1e-6)))

    return noise


class Steps:
    """Counts waits and transfers from each step's start to the next one's: runner, branches, guidance and the loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pretended: PretendedGPU) -> None:
        self.pretended, self.seen = pretended, []
        step = branches.BranchDenoiser.__call__

        def counted(denoiser: branches.BranchDenoiser, state: State, number: int) -> Tensor:
            self.seen.append((number, 0, 0))
            self._mark()
            return step(denoiser, state, number)

        monkeypatch.setattr(branches.BranchDenoiser, "__call__", counted)
        self.waits = HostWaits()
        self._mark()

    def _mark(self) -> None:
        now = self.waits.counts.total(), len(self.pretended.transfers)
        if len(self.seen) > 1 and self.seen[-1][0] > 0:
            number = self.seen[-2][0]
            self.seen[-2] = (number, now[0] - self.before[0], now[1] - self.before[1])
        self.before = now

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        return iter(self.seen)


@pytest.fixture
def metis(tiny_bundle: Path) -> Metis:
    found = Metis.from_pretrained(str(tiny_bundle))
    for module in (*found.stage1.values(), *found.stage2):
        send(module)
    return found


@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_no_step_of_stage_1_waits(metis: Metis, guidance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, model = PretendedCuda(monkeypatch), metis.stage1["tse"]
    with PretendedGPU() as pretended:
        asked = [
            Stage1Request(torch.arange(prompt, device=GPU), length, torch.rand(prompt + length, 160, device=GPU))
            for prompt, length in zip(PROMPTS, LENGTHS, strict=True)
        ]
        runner, steps = runner_for(model.diff_estimator, GPU, graphs=Graphs(GPU)), Steps(monkeypatch, pretended)
        settings, noises = Sampling(STEPS, guidance_scale=guidance), [noise_on_the_device(seed) for seed in range(3)]
        sample_ssl_tokens(model, asked, settings, noises, runner)  # captures
        captured = len(cuda.events)
        steps.seen.clear()
        with steps.waits:
            tokens = sample_ssl_tokens(model, asked, settings, noises, runner)
    assert [len(row) for row in tokens] == list(LENGTHS)
    assert [step[0] for step in steps] == list(range(STEPS))
    assert [step[1:] for step in steps] == [(0, 0)] * STEPS
    assert {event[0] for event in cuda.events[captured:]} == {"replay"}


def test_no_step_of_stage_2_waits(metis: Metis, monkeypatch: pytest.MonkeyPatch) -> None:
    PretendedCuda(monkeypatch)
    model = metis.stage2[1]
    with PretendedGPU() as pretended:
        asked = [
            Stage2Request(
                torch.arange(prompt + length, device=GPU) % 32,
                torch.zeros(prompt, 3, dtype=torch.long, device=GPU),
                torch.zeros(length, 1, dtype=torch.long, device=GPU),
            )
            for prompt, length in zip(PROMPTS, LENGTHS, strict=True)
        ]
        runner, steps = runner_for(model.diff_estimator, GPU, graphs=Graphs(GPU)), Steps(monkeypatch, pretended)
        noises = [noise_on_the_device(seed) for seed in range(3)]
        sample_acoustic_tokens(model, asked, Sampling(guidance_scale=2.5), (1, STEPS, 2), noises, runner)
        steps.seen.clear()
        with steps.waits:
            sample_acoustic_tokens(model, asked, Sampling(guidance_scale=2.5), (1, STEPS, 2), noises, runner)
    assert [step[0] for step in steps] == [*range(STEPS), 0, 1]
    assert {step[1:] for step in steps} == {(0, 0)}


def test_what_makes_a_process_wait_is_counted() -> None:
    values, mask = torch.arange(4.0), torch.tensor([True, False, True, False])
    with HostWaits() as waits:
        values[mask].sum()
        values[mask] = 1.0
        float(values[0])
        mask.nonzero()
        values.long().bincount()
        values[torch.tensor([0, 2])].cpu().float()
        values.to("meta")
    assert waits.counts == {
        "index": 1,
        "index_put_": 1,
        "_local_scalar_dense": 1,
        "nonzero": 1,
        "bincount": 1,
        "_to_copy": 1,
    }
