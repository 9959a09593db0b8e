"""Auto-AVSR's visual encoder: names and shapes at full size, its mathematics written anew, padding, weights by name."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from metis_lightning.data.recipes.l2s import encoder_input
from metis_lightning.errors import UserError
from metis_lightning.tokens.visual import encoder as visual_frontend
from metis_lightning.tokens.visual.auto_avsr import AutoAvsrFeatures, load_auto_avsr
from metis_lightning.tokens.visual.encoder import (
    AutoAvsrEncoder,
    ConformerBlock,
    RelativeAttention,
    VisualFrontend,
    VisualSizes,
    relative_positions,
)

SMALL = VisualSizes(dim=16, num_heads=2, hidden=24, num_layers=2, kernel_size=5, channels=(4, 6, 8, 10))


def randomised(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """The module with every weight and statistic drawn, so that none is at its neutral value."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=generator) * 0.2
            scale = name.endswith("running_var") or (value.dim() == 1 and name.endswith("weight"))
            value.copy_(1 + drawn.abs() if scale else drawn)
    return module.eval()


@pytest.fixture(scope="module")
def encoder() -> AutoAvsrEncoder:
    return randomised(AutoAvsrEncoder(SMALL))


def pictures(batch: int, frames: int, seed: int = 0) -> Tensor:
    return torch.randn(batch, frames, 88, 88, generator=torch.Generator().manual_seed(seed))


# --- Names ----------------------------------------------------------------------------------------------------------


Shapes = dict[str, tuple[int, ...]]


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}


def linear(name: str, *shape: int) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def residual_block(name: str, width: int, out: int) -> Shapes:
    shapes = {f"{name}.conv1.weight": (out, width, 3, 3), f"{name}.conv2.weight": (out, out, 3, 3)}
    shapes |= norm(f"{name}.bn1", out) | norm(f"{name}.bn2", out)
    if width != out:
        shapes |= {f"{name}.downsample.0.weight": (out, width, 1, 1)} | norm(f"{name}.downsample.1", out)
    return shapes


def conformer_block(name: str) -> Shapes:
    shapes: Shapes = {f"{name}.self_attn.linear_pos.weight": (768, 768)}
    shapes |= {f"{name}.self_attn.pos_bias_{part}": (12, 64) for part in "uv"}
    for part in ("q", "k", "v", "out"):
        shapes |= linear(f"{name}.self_attn.linear_{part}", 768, 768)
    for part in ("feed_forward", "feed_forward_macaron"):
        shapes |= linear(f"{name}.{part}.w_1", 3072, 768) | linear(f"{name}.{part}.w_2", 768, 3072)
    for part in ("norm_ff", "norm_mha", "norm_ff_macaron", "norm_conv", "norm_final"):
        shapes |= linear(f"{name}.{part}", 768)
    shapes |= linear(f"{name}.conv_module.pointwise_cov1", 1536, 768, 1)
    shapes |= linear(f"{name}.conv_module.depthwise_conv", 768, 1, 31)
    shapes |= linear(f"{name}.conv_module.pointwise_cov2", 768, 768, 1)
    return shapes | norm(f"{name}.conv_module.norm", 768)


def published_shapes() -> Shapes:
    """Encoder tensors of the published recogniser, from its code: names in full and shapes."""
    shapes: Shapes = {"frontend.frontend3D.0.weight": (64, 1, 5, 7, 7)}
    shapes |= norm("frontend.frontend3D.1", 64) | linear("embed.0", 768, 512) | linear("after_norm", 768)
    for layer, (width, out) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512)), start=1):
        shapes |= residual_block(f"frontend.trunk.layer{layer}.0", width, out)
        shapes |= residual_block(f"frontend.trunk.layer{layer}.1", out, out)
    for number in range(12):
        shapes |= conformer_block(f"encoders.{number}")
    return shapes


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        encoder = AutoAvsrEncoder()
    ours = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    ours = {name: shape for name, shape in ours.items() if not name.endswith("num_batches_tracked")}
    assert ours == published_shapes()
    assert encoder.dim == 768
    assert sum(p.numel() for p in encoder.parameters()) == PARAMETERS


# 11.2 M in the convolutions, 0.4 M in the linear map, 14.2 M in each of 12 blocks.
PARAMETERS = 182_028_224


# --- Numbers --------------------------------------------------------------------------------------------------------


def batch_norm(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    part = {key: weights[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")}
    return functional.batch_norm(x, **part)


def test_the_front_end_is_a_resnet_18_behind_a_3d_convolution() -> None:
    frontend = randomised(VisualFrontend(SMALL.channels))
    weights = frontend.state_dict()
    x = functional.pad(pictures(1, 3)[:, None], (3, 3, 3, 3, 2, 2))
    # The convolution over time as one of each frame with its neighbours for channels.
    kernel = weights["frontend3D.0.weight"][:, 0]
    frames = torch.cat([functional.conv2d(x[:, 0, n : n + 5], kernel, stride=2) for n in range(3)])
    x = functional.silu(batch_norm(frames, weights, "frontend3D.1"))
    x = functional.max_pool2d(x, 3, 2, 1)
    for layer in range(1, 5):
        for block in range(2):
            name = f"trunk.layer{layer}.{block}"
            stride = 2 if block == 0 and layer > 1 else 1
            y = functional.conv2d(x, weights[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = functional.silu(batch_norm(y, weights, f"{name}.bn1"))
            y = batch_norm(functional.conv2d(y, weights[f"{name}.conv2.weight"], padding=1), weights, f"{name}.bn2")
            if stride == 2:
                x = functional.conv2d(x, weights[f"{name}.downsample.0.weight"], stride=2)
                x = batch_norm(x, weights, f"{name}.downsample.1")
            x = functional.silu(x + y)
    assert x.shape[-2:] == (3, 3)
    torch.testing.assert_close(frontend(pictures(1, 3))[0], x.mean(dim=(2, 3)), rtol=1e-4, atol=1e-4)


def sinusoid(distance: int, dim: int) -> list[float]:
    """Vaswani et al. (1706.03762), section 3.5, at a distance that may be negative."""
    angles = [distance / 10_000 ** (2 * (c // 2) / dim) for c in range(dim)]
    return [math.cos(a) if c % 2 else math.sin(a) for c, a in enumerate(angles)]


def test_attention_equals_a_loop_over_pairs() -> None:
    """Transformer-XL (1901.02860), section 3.3, one query and key at a time."""
    dim, heads, count = 8, 2, 5
    attention = randomised(RelativeAttention(dim, heads), 3)
    x = torch.randn(1, count, dim, generator=torch.Generator().manual_seed(1))
    ours = attention(x, relative_positions(count, dim, x), torch.ones(1, count, dtype=torch.bool))[0]
    q, k, v = (
        linear(x[0]).view(count, heads, -1) for linear in (attention.linear_q, attention.linear_k, attention.linear_v)
    )
    mixed = torch.zeros(count, heads, dim // heads)
    for a in range(heads):
        for i in range(count):
            scores = []
            for j in range(count):
                r = (attention.linear_pos.weight @ torch.tensor(sinusoid(i - j, dim))).view(heads, -1)[a]
                content = (q[i, a] + attention.pos_bias_u[a]) @ k[j, a]
                scores.append((content + (q[i, a] + attention.pos_bias_v[a]) @ r) / math.sqrt(dim // heads))
            mixed[i, a] = torch.stack(scores).softmax(0) @ v[:, a]
    torch.testing.assert_close(ours, attention.linear_out(mixed.flatten(1)), rtol=1e-4, atol=1e-5)


def test_a_block_is_half_steps_around_attention_and_convolution() -> None:
    block = randomised(ConformerBlock(8, 2, 12, 3), 5)
    x = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(2))
    distances, valid = relative_positions(6, 8, x), torch.ones(1, 6, dtype=torch.bool)

    def norm(name: str, x: Tensor) -> Tensor:
        layer = getattr(block, name)
        deviation = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True).sqrt()
        return (x - x.mean(-1, keepdim=True)) / deviation * layer.weight + layer.bias

    def feed_forward(name: str, x: Tensor) -> Tensor:
        layer = getattr(block, name)
        return layer.w_2(torch.relu(layer.w_1(x)))

    def convolution(x: Tensor) -> Tensor:
        module = block.conv_module
        value, gate = (x @ module.pointwise_cov1.weight[..., 0].T + module.pointwise_cov1.bias).chunk(2, -1)
        y = functional.pad(value * torch.sigmoid(gate), (0, 0, 1, 1))
        y = sum(y[:, n : n + 6] * module.depthwise_conv.weight[:, 0, n] for n in range(3)) + module.depthwise_conv.bias
        y = (y - module.norm.running_mean) / (module.norm.running_var + 1e-5).sqrt() * module.norm.weight
        y = y + module.norm.bias
        return (y * torch.sigmoid(y)) @ module.pointwise_cov2.weight[..., 0].T + module.pointwise_cov2.bias

    expected = x + 0.5 * feed_forward("feed_forward_macaron", norm("norm_ff_macaron", x))
    expected = expected + block.self_attn(norm("norm_mha", expected), distances, valid)
    expected = expected + convolution(norm("norm_conv", expected))
    expected = expected + 0.5 * feed_forward("feed_forward", norm("norm_ff", expected))
    torch.testing.assert_close(block(x, distances, valid), norm("norm_final", expected), rtol=1e-4, atol=1e-5)


def test_the_parts_are_joined_with_a_scaled_embedding(encoder: AutoAvsrEncoder) -> None:
    x = pictures(1, 4)
    y = functional.linear(encoder.frontend(x), encoder.embed[0].weight, encoder.embed[0].bias) * 16**0.5
    for block in encoder.encoders:
        y = block(y, relative_positions(4, 16, y), torch.ones(1, 4, dtype=torch.bool))
    expected = functional.layer_norm(y, (16,), encoder.after_norm.weight, encoder.after_norm.bias, 1e-12)
    torch.testing.assert_close(encoder(x, torch.tensor([4])), expected)


@torch.no_grad()
def test_a_row_of_a_batch_equals_the_video_alone(encoder: AutoAvsrEncoder) -> None:
    batch = pictures(3, 9)
    lengths = torch.tensor([9, 4, 1])
    together = encoder(batch, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = encoder(batch[row : row + 1, :length], torch.tensor([length]))[0]
        torch.testing.assert_close(together[row, :length], alone, rtol=1e-4, atol=1e-5)
        assert not together[row, length:].any()
    assert not torch.allclose(together[0, 3], together[1, 3], atol=1e-2)


@torch.no_grad()
def test_pieces_of_a_long_video_equal_the_whole(encoder: AutoAvsrEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoder.frontend(pictures(2, 11))
    monkeypatch.setattr(visual_frontend, "_CHUNK", 4)
    torch.testing.assert_close(encoder.frontend(pictures(2, 11)), whole, rtol=1e-5, atol=1e-5)


def test_one_videos_features_come_from_its_mouth_pictures(encoder: AutoAvsrEncoder) -> None:
    mouths = np.random.default_rng(0).integers(0, 256, (6, 96, 96, 3), dtype=np.uint8)
    features = encoder.features(mouths)
    assert features.shape == (6, 16)
    assert not features.requires_grad
    torch.testing.assert_close(features[None], encoder(encoder_input(mouths)[None], torch.tensor([6])))
    with pytest.raises(ValueError, match="not \\(88, 88\\)"):
        encoder(torch.zeros(1, 2, 96, 96), torch.tensor([2]))


# --- Weights --------------------------------------------------------------------------------------------------------


def recogniser(encoder: AutoAvsrEncoder, spelling: str) -> dict[str, Tensor]:
    """The encoder's weights as the published files spell them, beside other parts of the recogniser."""
    state = encoder.state_dict()
    others = {"decoder.output_layer.weight": torch.zeros(7, 3), "ctc.ctc_lo.bias": torch.zeros(7)}
    if spelling == "first":
        return (
            {f"encoder.{name}": value for name, value in state.items()}
            | {"encoder.embed.1.pe": torch.zeros(1)}
            | others
        )

    def later(name: str) -> str:
        if name.startswith("frontend."):
            return name
        return name.replace("embed.0.", "proj_encoder.") if name.startswith("embed.") else f"encoder.{name}"

    named = {later(name): value for name, value in state.items()} | others
    return {f"model.{name}": value for name, value in named.items()} if spelling == "lightning" else named


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = ((one.state_dict()[name], value) for name, value in other.state_dict().items() if "num_batches" not in name)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("spelling", ["first", "later", "lightning"])
def test_published_weights_are_read_by_name(encoder: AutoAvsrEncoder, tmp_path: Path, spelling: str) -> None:
    tensors = recogniser(encoder, spelling)
    torch.save({"state_dict": tensors} if spelling == "lightning" else tensors, tmp_path / "w.pth")
    save_file({name: value.contiguous() for name, value in tensors.items()}, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        loaded = load_auto_avsr(tmp_path / name, SMALL)
        assert equal(loaded, encoder)
        assert not loaded.training
        assert not any(p.requires_grad for p in loaded.parameters())
        torch.testing.assert_close(
            loaded(pictures(1, 3), torch.tensor([3])), encoder(pictures(1, 3), torch.tensor([3]))
        )


def test_every_difference_is_named(encoder: AutoAvsrEncoder, tmp_path: Path) -> None:
    tensors = recogniser(encoder, "first")
    del tensors["encoder.after_norm.bias"]
    tensors["encoder.encoders.1.self_attn.pos_bias_u"] = torch.zeros(4, 4)
    tensors["encoder.encoders.2.norm_ff.weight"] = torch.zeros(16)
    torch.save(tensors, tmp_path / "w.pth")
    with pytest.raises(UserError) as caught:
        load_auto_avsr(tmp_path / "w.pth", SMALL)
    message = str(caught.value)
    assert "they lack 'after_norm.bias'" in message
    assert "unexpected 'encoders.2.norm_ff.weight'" in message
    assert "'encoders.1.self_attn.pos_bias_u' has shape (4, 4), the model needs (2, 8)" in message
    assert "\n" not in message


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def test_files_that_are_no_weights_are_refused_and_cannot_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("pickle.pth").write_bytes(pickle.dumps({"a": Harmful()}))
    torch.save({"a": Harmful()}, "zip.pth")
    torch.save([torch.zeros(1)], "list.pth")
    Path("text.pth").write_text("no weights")
    Path("text.safetensors").write_text("no weights")
    for name in ("pickle.pth", "zip.pth", "text.pth", "text.safetensors"):
        with pytest.raises(UserError, match="not a file of plain weights"):
            load_auto_avsr(Path(name), SMALL)
    with pytest.raises(UserError, match="not a file of named tensors"):
        load_auto_avsr(Path("list.pth"), SMALL)
    with pytest.raises(UserError, match="no such weights"):
        load_auto_avsr(Path("none.pth"), SMALL)
    assert not Path("harm").exists()


def test_the_frozen_encoder_is_no_part_of_the_weights(encoder: AutoAvsrEncoder, tmp_path: Path) -> None:
    torch.save(recogniser(encoder, "later"), tmp_path / "w.pth")
    features = AutoAvsrFeatures(tmp_path / "w.pth", SMALL)
    assert not features._encoder
    lengths = torch.tensor([3, 2])
    ours = features(pictures(2, 3).double(), lengths)
    torch.testing.assert_close(ours, encoder(pictures(2, 3), lengths))
    assert not ours.requires_grad
    assert list(features.state_dict()) == []
