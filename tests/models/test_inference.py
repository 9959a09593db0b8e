"""Models made ready for inference give what they gave: exactly, or within what eight and sixteen bits hold."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.models.backbone import Backbone
from metis_lightning.models.inference import (
    WORTH_PACKING,
    Int8Linear,
    PackedLinear,
    has_fast_int8,
    prepare_for_inference,
    usual_precision,
)
from metis_lightning.models.lora import add_lora, merge_lora
from metis_lightning.models.stage1 import GatedAdapter, Stage1, Stage1Config
from metis_lightning.sampling.denoisers import Stage1Request, sample_ssl_tokens
from metis_lightning.sampling.mask_predict import gumbel
from metis_lightning.sampling.settings import Sampling
from pretended_gpu import PretendedGPU, send

WIDE = Stage1Config(hidden_size=WORTH_PACKING, num_layers=2, num_heads=8, codebook_size=600)


def stage1(config: Stage1Config = WIDE, lora: bool = False) -> Stage1:
    torch.manual_seed(0)
    model = Stage1(config, GatedAdapter(WORTH_PACKING, config.hidden_size))
    nn.init.constant_(model.cond_adapter.gate_scale, 0.5)
    if lora:
        add_lora(model, 4)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                nn.init.normal_(parameter, std=0.1)
    return model.eval()


def drawn(model: Stage1, rows: slice = slice(None)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    requests = [
        Stage1Request(
            torch.randint(600, (prompt,), generator=generator),
            length,
            torch.randn(prompt + length, WORTH_PACKING, generator=generator),
        )
        for prompt, length in ((0, 40), (9, 23), (14, 70))
    ][rows]
    noises = [gumbel(torch.Generator().manual_seed(seed)) for seed in (5, 6, 7)][rows]
    return sample_ssl_tokens(model, requests, Sampling(num_steps=4, guidance_scale=1.5), noises)


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def shared(one: list[Tensor], other: list[Tensor]) -> float:
    return float((torch.cat(one) == torch.cat(other)).float().mean())


@pytest.mark.parametrize("kind", [PackedLinear, Int8Linear])
def test_a_row_of_the_input_gives_the_same_however_many_there_are(kind: type[nn.Module]) -> None:
    plain = nn.Linear(640, 512)
    linear, x = kind(plain.weight, plain.bias), torch.randn(300, 640)
    whole = linear(x)
    assert torch.equal(linear(x[None, 20:57]), whole[None, 20:57])
    error = (whole - plain(x)).std() / plain(x).std()
    assert error < (1e-6 if kind is PackedLinear else 0.02)


@pytest.mark.parametrize("lora", [False, True])
def test_packed_weights_and_merged_lora_draw_the_same_tokens_and_are_held_once(lora: bool) -> None:
    model = stage1(lora=lora)
    expected = drawn(model)
    prepare_for_inference(model)
    assert equal(drawn(model), expected)
    assert equal(drawn(model, slice(1, 2)), expected[1:2])
    kinds = {name for name, module in model.named_modules() if isinstance(module, PackedLinear)}
    layer = "diff_estimator.layers.0."
    parts = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj")
    assert kinds >= {layer + part for part in parts} | {"to_logit", "cond_adapter.in_linear"}
    left = [name for name, _ in model.named_parameters() if "proj" in name or "lora" in name]
    assert left == []


def test_narrow_models_are_merged_and_otherwise_stay_as_they_are() -> None:
    narrow = replace(WIDE, hidden_size=64)
    model = stage1(narrow, lora=True)
    expected = drawn(model)
    prepare_for_inference(model)
    assert model.state_dict().keys() == stage1(narrow).state_dict().keys()
    assert equal(drawn(model), expected)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_lora_is_merged_on_a_gpu(precision: str) -> None:
    model = stage1(lora=True)
    expected = stage1(lora=True)
    merge_lora(expected)
    with PretendedGPU():
        prepare_for_inference(send(model), precision)
    assert model.state_dict().keys() == expected.state_dict().keys()
    for name, value in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], value.to(getattr(torch, precision)))


def test_a_gpu_computes_in_bfloat16_unless_told_otherwise() -> None:
    assert [usual_precision(device) for device in ("cuda", "cuda:1", "cpu")] == ["bfloat16", "bfloat16", "float32"]


@pytest.mark.parametrize(
    "precision", [pytest.param("int8", marks=pytest.mark.skipif(not has_fast_int8(), reason="slow here")), "bfloat16"]
)
def test_lower_precision_draws_most_of_the_tokens_and_rows_stay_independent(precision: str) -> None:
    expected = drawn(stage1())
    model = stage1()
    prepare_for_inference(model, precision)
    found = drawn(model)
    # Unrelated draws share a few of a hundred.
    assert shared(found, expected) > 0.5
    if precision == "int8":
        assert equal(drawn(model, slice(1, 2)), found[1:2])
        assert model.diff_estimator.layers[0].mlp.down_proj.weight.dtype == torch.int8


def test_norm_scales_are_those_of_every_step() -> None:
    torch.manual_seed(0)
    backbone = Backbone(32, 2, 4, cond_mlp=False)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
    t = torch.tensor([1.0, 0.4])
    scales = backbone.norm_scales(t, torch.float32)
    assert scales.shape == (2, 2 * 2 + 1, 32)
    x, layout_of = torch.randn(2, 9, 32), backbone(torch.randn(1, 9, 32), t[:1]).shape
    assert layout_of == (1, 9, 32)
    norm = backbone.layers[1].post_attention_layernorm
    scale = norm.to_weight(backbone.step_embedding(t, torch.float32))
    torch.testing.assert_close(scales[:, 3], scale)
    root = x.square().mean(dim=-1, keepdim=True).sqrt()
    torch.testing.assert_close(norm(x, scales[:, 3, None]), x / root * scale[:, None])


def test_what_cannot_be_is_the_users_mistake() -> None:
    with pytest.raises(UserError, match="precision 'float8': choose one of float32, bfloat16, int8"):
        prepare_for_inference(stage1(), "float8")
    with pytest.raises(UserError, match="int8 weights run on the CPU, not on meta"):
        prepare_for_inference(stage1().to("meta"), "int8")


@pytest.mark.parametrize(("features", "is_fast"), [({"avx2": True}, False), ({"avx2": True, "avx_vnni": True}, True)])
def test_int8_is_offered_where_the_processor_has_it(
    features: dict[str, bool], is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    model = stage1()
    if is_fast:
        prepare_for_inference(model, "int8")
        assert model.diff_estimator.layers[0].mlp.down_proj.weight.dtype == torch.int8
    else:
        with pytest.raises(UserError, match="int8 is slower than float32 on this processor"):
            prepare_for_inference(model, "int8")
