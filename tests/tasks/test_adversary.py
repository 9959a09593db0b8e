"""Adversarial training of the acoustic codec: whom gradients reach, both optimizers' steps, resuming, continuing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim.lr_scheduler import ConstantLR
from torch.utils.data import DataLoader

from metis_lightning.callbacks.gradients import GradientNorm
from metis_lightning.errors import UserError
from metis_lightning.models.discriminators import DiscriminatorConfig, DiscriminatorOutput
from metis_lightning.tasks.acoustic_codec import AcousticCodecModule
from metis_lightning.tasks.codec_losses import (
    AdversarialConfig,
    Adversary,
    adversarial_loss,
    discriminator_loss,
    feature_distance,
)
from metis_lightning.types import SpeechBatch
from metis_lightning.weights.checkpoint import checkpoint_parts
from tiny import ACOUSTIC

ADAM = partial(torch.optim.AdamW, lr=1e-2)
SCHEDULE = partial(ConstantLR, factor=1.0)
GAN = AdversarialConfig(
    DiscriminatorConfig((2, 3), (4, 8, 8), (256, 128), (0.0, 0.25, 1.0), 4),
    codec_clip=1.0,
    discriminator_clip=1.0,
    optimizer=partial(torch.optim.AdamW, lr=3e-3),
    lr_scheduler=SCHEDULE,
)


def speech_batch() -> SpeechBatch:
    time = torch.arange(9_600) / 24_000
    wave = 0.3 * torch.sin(2 * torch.pi * torch.tensor([[180.0], [240.0]]) * time * (1 + time))
    wave = wave + 0.01 * torch.randn(2, 9_600, generator=torch.Generator().manual_seed(0))
    return SpeechBatch(("a", "b"), ("x", "y"), ("", ""), wave, torch.tensor([9_600, 9_600]))


class OneBatch(lightning.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader([speech_batch()] * 100, batch_size=None)


def make(adversarial: AdversarialConfig | None = GAN, **options: Any) -> AcousticCodecModule:
    torch.manual_seed(0)
    settings = {"optimizer": ADAM, "lr_scheduler": SCHEDULE, **options}
    return AcousticCodecModule(ACOUSTIC, adversarial=adversarial, **settings)


def fit(module: AcousticCodecModule, steps: int, ckpt_path: Path | None = None, **options: Any) -> lightning.Trainer:
    settings = {"enable_checkpointing": "callbacks" in options, "accelerator": "cpu", "devices": 1, **options}
    run = lightning.Trainer(
        max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False, **settings
    )
    run.fit(module, datamodule=OneBatch(), ckpt_path=ckpt_path, weights_only=True)
    return run


def copies(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def mel(module: AcousticCodecModule) -> float:
    with torch.no_grad():
        return float(module.eval().losses(speech_batch())["mel"])


def test_losses_of_known_judgements() -> None:
    def judged(*values: float) -> list[DiscriminatorOutput]:
        rest = torch.zeros(2, 1, 2, 2)
        features = [(torch.full((2, 1, 4, 4), 1.0 * x), rest) for x in values]
        return [DiscriminatorOutput(torch.full((2, 3), 1.0 * x), f) for x, f in zip(values, features, strict=True)]

    assert float(adversarial_loss(judged(1, 1))) == 0
    assert float(adversarial_loss(judged(0, 3))) == pytest.approx((1 + 4) / 2)
    assert float(discriminator_loss(judged(1, 1), judged(0, 0))) == 0
    assert float(discriminator_loss(judged(0, 1), judged(2, 0))) == pytest.approx((1 + 4) / 2)
    assert float(feature_distance(judged(0, 1), judged(2, 1))) == pytest.approx((2 + 0) / 2)


@pytest.mark.parametrize("term", ["adversarial", "feature", "discriminator"])
def test_each_term_teaches_one_side_alone(term: str) -> None:
    torch.manual_seed(0)
    adversary, real = Adversary(GAN), speech_batch().wave
    fake = (real + 0.1 * torch.randn_like(real)).requires_grad_()
    adversary(fake, real)[term].backward()
    taught = [p for p in adversary.parameters() if p.grad is not None and bool(p.grad.any())]
    if term == "discriminator":
        assert fake.grad is None
        assert len(taught) > 0.9 * len(list(adversary.parameters()))
    else:
        assert fake.grad is not None and fake.grad.abs().sum() > 0
        assert taught == []
    assert all(p.requires_grad for p in adversary.parameters())


def test_discriminators_learn_to_tell_noise_from_tones() -> None:
    torch.manual_seed(0)
    adversary, real = Adversary(GAN), speech_batch().wave[:, :2400]
    fake = 0.1 * torch.randn(2, 2400, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(adversary.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = adversary(fake, real)["discriminator"]
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.2 * losses[0]


def test_a_codec_overfits_one_batch_against_discriminators() -> None:
    module = make(replace(GAN, from_step=10))
    fit(module, 1)
    before = mel(module)
    assert fit(module, 50).global_step == 50
    assert mel(module) < 0.7 * before


def test_without_weights_nothing_is_built() -> None:
    module = make(replace(GAN, adversarial_weight=0.0, feature_weight=0.0))
    assert module.adversary is None
    assert module.automatic_optimization
    assert copies(module).keys() == copies(make(None)).keys()


def test_discriminators_rest_until_their_step_and_count_their_own() -> None:
    module = make(replace(GAN, from_step=2))
    before = copies(module.adversary)
    fit(module, 2)
    assert all(torch.equal(value, before[name]) for name, value in module.adversary.state_dict().items())
    run = fit(module, 5)
    assert [config.scheduler.last_epoch for config in run.lr_scheduler_configs] == [5, 3]
    assert run.global_step == 5
    assert all(
        not torch.equal(value, before[name])
        for name, value in module.adversary.state_dict().items()
        if name.endswith("original1")
    )


def test_gradients_are_clipped_by_hand_and_the_decoder_alone_moves() -> None:
    sgd = partial(torch.optim.SGD, lr=1.0)
    clipped = replace(GAN, codec_clip=1e-3, discriminator_clip=2e-3, optimizer=sgd)
    module = make(clipped, optimizer=sgd, decoder_only=True)
    before = copies(module)
    run = fit(module, 1, callbacks=[GradientNorm()], enable_checkpointing=False)
    # Logged as they were before.
    assert run.callback_metrics["train/grad_norm"] > 2e-3
    assert run.callback_metrics["train/grad_norm_1"] > 4e-3
    assert run.callback_metrics["train/grad_norm"] != run.callback_metrics["train/grad_norm_1"]
    moved = {name: value - before[name] for name, value in module.state_dict().items() if value.is_floating_point()}

    def norm(prefix: str) -> float:
        return float(torch.cat([value.flatten() for name, value in moved.items() if name.startswith(prefix)]).norm())

    assert norm("codec.decoder.model.") == pytest.approx(1e-3, rel=1e-2)
    assert norm("adversary.") == pytest.approx(2e-3, rel=1e-2)
    assert norm("codec.encoder.") == norm("codec.decoder.quantizer.") == 0


def test_resuming_equals_an_uninterrupted_run(tmp_path: Path) -> None:
    def module() -> AcousticCodecModule:
        made = make(replace(GAN, from_step=1))
        made.restarts.every = 3  # unused codes are moved at steps 0 and 3
        return made

    saves = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=2, save_top_k=-1)
    whole, resumed = module(), module()
    reference = fit(whole, 4, callbacks=[saves])
    run = fit(resumed, 4, tmp_path / "step=2.ckpt")
    assert run.global_step == 4
    assert {path.name for path in tmp_path.iterdir()} == {"step=2.ckpt", "step=4.ckpt"}
    end = copies(whole)
    assert all(torch.equal(value, end[name]) for name, value in resumed.state_dict().items())
    assert len(run.optimizers) == 2
    for ours, theirs in zip(run.optimizers, reference.optimizers, strict=True):
        moments, expected = ours.state_dict()["state"], theirs.state_dict()["state"]
        assert moments
        assert all(torch.equal(value, expected[i][name]) for i, slot in moments.items() for name, value in slot.items())


def test_a_run_without_discriminators_is_continued_with_them(tmp_path: Path) -> None:
    plain = make(None)
    fit(plain, 2).save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(UserError, match=r"--model\.start_from"):
        fit(make(), 4, tmp_path / "plain.ckpt")
    continued = make(start_from=str(tmp_path / "plain.ckpt"))
    codec = copies(plain.codec)
    assert all(torch.equal(value, codec[name]) for name, value in continued.codec.state_dict().items())
    fit(continued, 1).save_checkpoint(tmp_path / "gan.ckpt")
    part = checkpoint_parts(tmp_path / "gan.ckpt")["acoustic_codec"]
    assert part.tensors.keys() == codec.keys()
    state = torch.load(tmp_path / "gan.ckpt", weights_only=True)["state_dict"]
    assert any(name.startswith("adversary.") for name in state)
    torch.save({"state_dict": {}, "bundle_parts": {"tse": {"config": {}, "prefix": ""}}}, tmp_path / "tse.ckpt")
    with pytest.raises(UserError, match="no 'acoustic_codec', only tse"):
        make(start_from=str(tmp_path / "tse.ckpt"))


def test_two_processes_on_the_same_batch_train_as_one() -> None:
    one, two = (make(replace(GAN, from_step=1)) for _ in range(2))
    fit(one, 3)
    fit(two, 3, devices=2, strategy="ddp_fork", use_distributed_sampler=False)
    expected = copies(one)
    for name, value in two.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4, msg=name)
