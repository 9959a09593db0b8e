"""TTS, L2S and Omni: what stands where, each overfits a batch at width 16, and new layers at zero change nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.models.masking import Masking, PromptRule
from metis_lightning.tasks.conditioned import L2sModule, OmniModule, TseModule, TtsModule
from metis_lightning.tasks.finetune import FinetuneModule
from metis_lightning.tasks.optimization import WarmupCosine
from metis_lightning.tokens.visual.encoder import double_rate
from metis_lightning.types import SpeechBatch
from one_batch import OPTIMIZER, SCHEDULE, changing_batch, mean_accuracy, normalise
from pretended_gpu import GPU, PretendedGPU, is_there, send

Make = Callable[..., FinetuneModule]
MODULES = {
    "tts": partial(TtsModule, text="utf8"),
    "l2s": partial(L2sModule, lip_dim=6),
    "omni": partial(OmniModule, text="utf8", gate_init=0.5),
}
LEARN = {"optimizer": OPTIMIZER, "lr_scheduler": SCHEDULE}


def batch() -> SpeechBatch:
    """Three rows that rise and fall in pitch: one with a script, one with a source, one with both."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(7_200) / 24_000
    pitches = torch.tensor([[180.0], [240.0], [320.0]])
    wave = 0.3 * torch.sin(2 * torch.pi * pitches * time * (1 + 3 * time))
    wave = wave + 0.01 * torch.randn(3, 7_200, generator=generator)
    return SpeechBatch(
        ids=("a", "b", "c"),
        speakers=("x", "y", "z"),
        texts=("yes", "no", "maybe"),
        wave=wave,
        lengths=torch.tensor([7_200, 6_000, 7_200]),
        source=(wave + wave.flip(0)) * torch.tensor([[0.0], [1.0], [1.0]]),
        prompt_lengths=torch.tensor([-1, 1_440, 1_440]),
        languages=("en", "", "en"),
        scripts=("yes", "", "maybe"),
        has_source=torch.tensor([False, True, True]),
        features=torch.randn(3, 7, 6, generator=generator),
        feature_lengths=torch.tensor([7, 6, 7]),
    )


def batch_for(module: FinetuneModule) -> SpeechBatch:
    """The batch as the module's recipe gives it: a script in every row for TTS."""
    whole = batch()
    return replace(whole, scripts=("yes", "no", "maybe"), languages=("en",) * 3) if module.task == "tts" else whole


def make(task: str, bundle: Path, **options: object) -> FinetuneModule:
    torch.manual_seed(0)
    module = MODULES[task](base=str(bundle), **{**LEARN, **options})
    normalise(module.tokenizer.features, module.tokenizer.resample(batch().wave))
    return module


def learn(module: FinetuneModule, steps: int) -> None:
    configured = module.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    data = batch_for(module)
    module.train()
    for _ in range(steps):
        optimizer.zero_grad()
        module.losses(data)["loss"].backward()
        optimizer.step()
        schedule.step()
    module.eval()


@pytest.mark.parametrize("task", MODULES)
def test_each_module_overfits_one_batch(task: str, tiny_bundle: Path) -> None:
    # Without prompt and phones there is nothing to tell the rows apart by.
    options = {"lora_rank": 0, "prompt_rule": PromptRule(drop=0.0)}
    optimizer = partial(torch.optim.AdamW, lr=5e-3)
    schedule = partial(WarmupCosine, total_steps=300, warmup_steps=10)
    module = make(task, tiny_bundle, optimizer=optimizer, lr_scheduler=schedule, **options)
    tokens, frames = module.tokenizer.ssl_tokens(batch().wave, batch().lengths)
    assert all(len(set(row[:count].tolist())) >= 8 for row, count in zip(tokens, frames, strict=True))
    learn(module, 300)
    assert mean_accuracy(module, batch_for(module)) > 0.95


@pytest.mark.parametrize("task", MODULES)
def test_lora_learns_and_trains_the_new_layers_alone(task: str, tiny_bundle: Path) -> None:
    module = make(task, tiny_bundle, lora_rank=2)
    trained = module.checkpoint_keys()
    fixed = {k: v.clone() for k, v in module.model.state_dict().items() if f"model.{k}" not in trained}
    new = ("lora_", "cond_adapter", "phone_emb", "cond_mlp")
    assert trained
    assert all(any(part in name for part in new) for name in trained)
    assert any("phone_emb" in name for name in trained) == (task != "l2s")
    with torch.no_grad():
        before = module.losses(batch_for(module), torch.Generator().manual_seed(0))["loss"]
    learn(module, 60)
    with torch.no_grad():
        after = module.losses(batch_for(module), torch.Generator().manual_seed(0))
    assert after["loss"] < 0.9 * before
    assert all(torch.equal(module.model.state_dict()[name], value) for name, value in fixed.items())
    assert after["base_loss"] > after["loss"]


@torch.no_grad()
def test_zero_gate_and_zero_lora_leave_the_logits_of_the_base(tiny_bundle: Path) -> None:
    base = make("tts", tiny_bundle, lora_rank=0)
    tokens = torch.randint(32, (2, 9), generator=torch.Generator().manual_seed(0))
    mask, t = tokens % 2 == 0, torch.tensor([0.3, 0.8])
    expected = base.model.to_logit(base.model(tokens, mask, t))
    for module, condition in (
        (make("tts", tiny_bundle, lora_rank=2), None),
        (make("omni", tiny_bundle, lora_rank=2, gate_init=0.0), torch.randn(2, 9, 160)),
        (make("omni", tiny_bundle, lora_rank=0, gate_init=0.0), torch.randn(2, 9, 160)),
        (make("l2s", tiny_bundle, lora_rank=2), None),
    ):
        module.eval()
        assert torch.equal(module.model.to_logit(module.model(tokens, mask, t, None, condition)), expected)
    # The adapter of lips has no gate: what it adds is seen from the first step.
    l2s = make("l2s", tiny_bundle, lora_rank=2).eval()
    assert not torch.allclose(l2s.model.to_logit(l2s.model(tokens, mask, t, None, torch.randn(2, 9, 6))), expected)


def test_phones_stand_before_the_tokens_of_rows_with_a_script(tiny_bundle: Path) -> None:
    module = make("omni", tiny_bundle)
    phones = module.phones(batch())
    assert phones.shape == (3, 6)
    assert phones[0].tolist() == [-1, -1, *module.text(("yes", "en"))]
    assert phones[1].tolist() == [-1] * 6
    assert phones[2].tolist() == module.text(("maybe", "en"))


@torch.no_grad()
def test_a_row_with_phones_is_the_same_alone_and_in_a_batch(tiny_bundle: Path) -> None:
    module = make("omni", tiny_bundle).eval()
    phones = module.phones(batch())
    tokens = torch.randint(32, (3, 10), generator=torch.Generator().manual_seed(0))
    mask, t = tokens % 2 == 0, torch.tensor([0.3, 0.5, 0.8])
    valid = torch.arange(10) < torch.tensor([7, 10, 10])[:, None]
    together = module.model(tokens, mask, t, valid, phones=phones)
    first = module.model(tokens[:1, :7], mask[:1, :7], t[:1], phones=phones[:1, 2:])
    second = module.model(tokens[1:2], mask[1:2], t[1:2])
    torch.testing.assert_close(together[:1, :7], first, rtol=0, atol=1e-5)
    torch.testing.assert_close(together[1:2], second, rtol=0, atol=1e-5)


def masking(prompt_frames: list[int], length: int) -> Masking:
    prompt = torch.arange(length) < torch.tensor(prompt_frames)[:, None]
    return Masking(t=torch.ones(len(prompt_frames)), mask=~prompt, prompt=prompt)


def test_lips_are_doubled_and_zero_over_the_prompt(tiny_bundle: Path) -> None:
    module, data = make("l2s", tiny_bundle), batch()
    lips = double_rate(data.features, data.feature_lengths)
    condition, phones, _ = module._conditions(data, masking([0, 4, 9], 14))
    assert phones is None
    assert condition.shape == (3, 14, 6)
    assert torch.equal(condition[0], lips[0])
    assert condition[1, :4].abs().sum() == condition[2, :9].abs().sum() == 0
    assert torch.equal(condition[2, 9:], lips[2, 9:])


def test_a_row_that_loses_its_prompt_loses_its_phones(tiny_bundle: Path) -> None:
    module = make("omni", tiny_bundle)
    _, phones, _ = module._conditions(batch(), masking([0, 4, 4], 14))
    assert phones[0].tolist() == [-1] * 6
    assert phones[2].tolist() == module.text(("maybe", "en"))
    keeping = make("omni", tiny_bundle, prompt_rule=PromptRule(drop_phones=False))
    assert torch.equal(keeping._conditions(batch(), masking([0, 4, 4], 14))[1], keeping.phones(batch()))


def test_omni_hears_what_there_is(tiny_bundle: Path) -> None:
    module, data = make("omni", tiny_bundle), batch()
    features, _ = module.tokenizer.ssl_features(data.source, data.lengths)
    assert torch.equal(module.condition(data), features)
    assert module.has_source(data).tolist() == [False, True, True]
    assert module.has_source(replace(data, has_source=None)) is None
    deaf = replace(data, source=None, has_source=None)
    assert module.condition(deaf).shape == features.shape
    assert module.has_source(deaf).tolist() == [False] * 3
    wordless = module.phones(replace(data, scripts=("", "", "")))
    assert wordless.tolist() == [[-1], [-1], [-1]]


@torch.no_grad()
def test_to_a_row_that_hears_nothing_no_condition_is_added(tiny_bundle: Path) -> None:
    """As the released code reads texts with Omni; zeros would not do, of which the adapter makes something."""
    module, data = make("omni", tiny_bundle), batch()
    model, condition = module.model, module.condition(data)
    # Biases that training has moved; new ones are zero.
    torch.nn.init.normal_(model.cond_adapter.out_linear.bias)
    tokens = torch.randint(32, condition.shape[:2], generator=torch.Generator().manual_seed(0))
    mask = tokens % 2 == 0
    embedded = model.embed(tokens, mask, condition, module.has_source(data))
    plain = model.embed(tokens, mask)
    assert torch.equal(embedded[0], plain[0])
    torch.testing.assert_close(embedded[1:], model.embed(tokens, mask, condition)[1:])
    assert not torch.allclose(embedded[1:], plain[1:])
    assert not torch.allclose(model.embed(tokens, mask, torch.zeros_like(condition))[0], plain[0])


def test_every_weight_has_a_gradient_whatever_a_batch_lacks(tiny_bundle: Path) -> None:
    """Or processes that train together would wait for each other."""
    module, data = make("omni", tiny_bundle, lora_rank=2), batch()
    deaf = replace(data, source=None, has_source=None, prompt_lengths=None)
    for lacking in (deaf, replace(data, scripts=("", "", "")), data):
        module.zero_grad()
        module.losses(lacking)["loss"].backward()
        trained = {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
        assert [name for name, gradient in trained.items() if gradient is None] == []
        hears = lacking is not deaf
        assert bool(trained["model.cond_adapter.out_linear.weight"].any()) == hears


@pytest.mark.parametrize("task", MODULES)
def test_losses_are_the_same_on_a_gpu(task: str, tiny_bundle: Path) -> None:
    module = make(task, tiny_bundle, lora_rank=2)
    data = batch_for(module)
    torch.manual_seed(0)
    expected = module.losses(data)
    send(module)
    torch.manual_seed(0)
    with PretendedGPU():
        scores = module.losses(data.to(GPU))
    assert all(map(is_there, scores.values()))
    assert {name: float(value) for name, value in scores.items()} == {k: float(v) for k, v in expected.items()}


def test_a_batch_of_another_recipe_is_the_users_mistake(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="TtsRecipe"):
        make("tts", tiny_bundle).phones(batch())
    with pytest.raises(UserError, match="LipRecipe"):
        make("l2s", tiny_bundle).condition(replace(batch(), features=None))
    with pytest.raises(UserError, match="6 wide, lip_dim is 5"):
        make("l2s", tiny_bundle, lip_dim=5).condition(batch())


def test_rows_with_several_masks_share_one_pass_of_the_front_end(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = TseModule(str(tiny_bundle), masks_per_row=3, optimizer=OPTIMIZER, lr_scheduler=SCHEDULE).train()
    rows, seen = [], []
    encode, embed = module.tokenizer.ssl_features, module.model.embed
    monkeypatch.setattr(module.tokenizer, "ssl_features", lambda *given: rows.append(len(given[0])) or encode(*given))
    monkeypatch.setattr(module.model, "embed", lambda *given: seen.append(given) or embed(*given))
    given = changing_batch()
    module.losses(given)
    tokens, mask, condition, _ = seen[-1]
    # The source, beside the target's tokens, in two rows; all else in six.
    assert set(rows) == {2} and len(tokens) == len(mask) == len(condition) == 6
    assert torch.equal(condition[0], condition[2]) and not torch.equal(condition[2], condition[3])
    assert torch.equal(tokens[0], tokens[2]) and not torch.equal(mask[0], mask[2])
    seen.clear()
    module.eval().losses(given, torch.Generator().manual_seed(0))
    assert {len(given[0]) for given in seen} == {2}
