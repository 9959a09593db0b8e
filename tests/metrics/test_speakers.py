"""Speaker encoders beside UniSpeech's structure, transformers and SpeechBrain, with random weights under real names."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector, WavLMModel

from metis_lightning.errors import UserError
from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.speakers.ecapa import SpeechBrainEcapa
from metis_lightning.metrics.speakers.similarity import speaker_encoder
from metis_lightning.metrics.speakers.wavlm import LARGE, WavLmEcapa, WavLmEcapaNetwork, WavLmXVector
from tiny_metric_models import ENCODER, make_xvector

SIZES = {**LARGE, **ENCODER, "conv_bias": False}

# transformers' name -> fairseq's, as its conversion of the published WavLM has them, most special first.
TO_FAIRSEQ = [
    ("encoder.pos_conv_embed.conv.parametrizations.weight.original0", "encoder.pos_conv.0.weight_g"),
    ("encoder.pos_conv_embed.conv.parametrizations.weight.original1", "encoder.pos_conv.0.weight_v"),
    ("encoder.pos_conv_embed.conv.bias", "encoder.pos_conv.0.bias"),
    ("feature_projection.layer_norm", "layer_norm"),
    ("feature_projection.projection", "post_extract_proj"),
    (".attention.rel_attn_embed", ".self_attn.relative_attention_bias"),
    (".attention.gru_rel_pos_linear", ".self_attn.grep_linear"),
    (".attention.gru_rel_pos_const", ".self_attn.grep_a"),
    (".attention.", ".self_attn."),
    (".feed_forward.intermediate_dense", ".fc1"),
    (".feed_forward.output_dense", ".fc2"),
]


def fairseq_name(name: str) -> str:
    for theirs, fairseq in TO_FAIRSEQ:
        if theirs in name:
            return name.replace(theirs, fairseq)
    parts = name.split(".")
    if parts[:2] == ["feature_extractor", "conv_layers"]:
        inner = {"conv": "0", "layer_norm": "2.1"}[parts[3]]
        return ".".join([*parts[:3], inner, *parts[4:]])
    if parts[:2] == ["encoder", "layers"] and parts[3] == "layer_norm":
        return ".".join([*parts[:3], "self_attn_layer_norm", *parts[4:]])
    return name


def unispeech_head(features: int) -> dict[str, Tensor]:
    """Random tensors of `ECAPA_TDNN_SMALL` under the names of its checkpoint."""
    generator = torch.Generator().manual_seed(1)
    found: dict[str, Tensor] = {}

    def conv(name: str, out: int, into: int, *kernel: int) -> None:
        found[f"{name}.weight"] = (
            torch.randn(out, into, *kernel, generator=generator) / (into * max(kernel or (1,))) ** 0.5
        )
        found[f"{name}.bias"] = 0.1 * torch.randn(out, generator=generator)

    def norm(name: str, size: int) -> None:
        found[f"{name}.weight"] = 1 + 0.1 * torch.randn(size, generator=generator)
        found[f"{name}.bias"] = 0.1 * torch.randn(size, generator=generator)
        found[f"{name}.running_mean"] = 0.1 * torch.randn(size, generator=generator)
        found[f"{name}.running_var"] = 1 + 0.1 * torch.rand(size, generator=generator)
        found[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("layer1.conv", 512, features, 5)
    norm("layer1.bn", 512)
    for layer in (2, 3, 4):
        for part in ("Conv1dReluBn1", "Conv1dReluBn2"):
            conv(f"layer{layer}.{part}.conv", 512, 512, 1)
            norm(f"layer{layer}.{part}.bn", 512)
        for group in range(7):
            conv(f"layer{layer}.Res2Conv1dReluBn.convs.{group}", 64, 64, 3)
            norm(f"layer{layer}.Res2Conv1dReluBn.bns.{group}", 64)
        conv(f"layer{layer}.SE_Connect.linear1", 128, 512)
        conv(f"layer{layer}.SE_Connect.linear2", 512, 128)
    conv("conv", 1536, 1536, 1)
    conv("pooling.linear1", 128, 1536, 1)
    conv("pooling.linear2", 1536, 128, 1)
    norm("bn", 3072)
    conv("linear", 256, 3072)
    return found


def reference_embedding(p: dict[str, Tensor], x: Tensor) -> Tensor:
    """The published head as a formula over its checkpoint's names: (1, C, T) features to (1, 256)."""

    def conv(name: str, x: Tensor, dilation: int = 1) -> Tensor:
        weight = p[f"{name}.weight"]
        return F.conv1d(x, weight, p[f"{name}.bias"], padding=dilation * (weight.shape[2] // 2), dilation=dilation)

    def norm(name: str, x: Tensor) -> Tensor:
        return F.batch_norm(x, *(p[f"{name}.{k}"] for k in ("running_mean", "running_var", "weight", "bias")))

    def block(name: str, x: Tensor, dilation: int) -> Tensor:
        y = norm(f"{name}.Conv1dReluBn1.bn", F.relu(conv(f"{name}.Conv1dReluBn1.conv", x)))
        outputs: list[Tensor] = []
        for group, part in enumerate(y.split(64, dim=1)):
            if group == 7:
                outputs.append(part)
                continue
            entry = part if group == 0 else outputs[-1] + part
            convolved = conv(f"{name}.Res2Conv1dReluBn.convs.{group}", entry, dilation)
            outputs.append(norm(f"{name}.Res2Conv1dReluBn.bns.{group}", F.relu(convolved)))
        y = norm(f"{name}.Conv1dReluBn2.bn", F.relu(conv(f"{name}.Conv1dReluBn2.conv", torch.cat(outputs, dim=1))))
        squeezed = F.linear(y.mean(2), p[f"{name}.SE_Connect.linear1.weight"], p[f"{name}.SE_Connect.linear1.bias"])
        gate = F.linear(squeezed.relu(), p[f"{name}.SE_Connect.linear2.weight"], p[f"{name}.SE_Connect.linear2.bias"])
        return y * torch.sigmoid(gate)[:, :, None] + x

    x = F.instance_norm(x)
    first = norm("layer1.bn", F.relu(conv("layer1.conv", x)))
    second = block("layer2", first, 2)
    third = block("layer3", second, 3)
    whole = F.relu(conv("conv", torch.cat([second, third, block("layer4", third, 4)], dim=1)))
    weights = torch.softmax(conv("pooling.linear2", torch.tanh(conv("pooling.linear1", whole))), dim=2)
    mean = (weights * whole).sum(2)
    deviation = ((weights * whole**2).sum(2) - mean**2).clamp(min=1e-9).sqrt()
    pooled = norm("bn", torch.cat([mean, deviation], dim=1)[:, :, None])[:, :, 0]
    return F.linear(pooled, p["linear.weight"], p["linear.bias"])


@pytest.fixture(scope="module")
def wavlm() -> WavLMModel:
    torch.manual_seed(0)
    return WavLMModel(WavLMConfig(**SIZES)).eval()


@pytest.fixture(scope="module")
def tensors(wavlm: WavLMModel) -> dict[str, Tensor]:
    """A checkpoint as UniSpeech's: WavLM under fairseq's names, the head, and what only training needs."""
    encoder = {f"feature_extract.model.{fairseq_name(name)}": t for name, t in wavlm.state_dict().items()}
    head = unispeech_head(SIZES["hidden_size"])
    training = {"feature_extract.model.mask_emb": torch.ones(16), "loss_calculator.projection.weight": torch.ones(9, 4)}
    return {**encoder, "feature_weight": torch.tensor([0.5, -1.0, 2.0]), **head, **training}


def saved(tensors: dict[str, Tensor], path: Path) -> Path:
    torch.save({"model": tensors}, path)
    return path


def test_wavlm_ecapa_is_the_published_computation(
    wavlm: WavLMModel, tensors: dict[str, Tensor], clean: np.ndarray, tmp_path: Path
) -> None:
    ours = WavLmEcapa(saved(tensors, tmp_path / "a.pth"), sizes=SIZES).embed(clean)
    wave = torch.from_numpy(clean)[None]
    with torch.no_grad():
        states = wavlm(F.layer_norm(wave, wave.shape), output_hidden_states=True).hidden_states
        shares = torch.tensor([0.5, -1.0, 2.0]).softmax(0)
        features = sum(share * state for share, state in zip(shares, states, strict=True)).transpose(1, 2) + 1e-6
        theirs = reference_embedding(tensors, features)[0]
    torch.testing.assert_close(ours, F.normalize(theirs.double(), dim=0), atol=1e-5, rtol=0)


def test_full_size_has_the_published_tensors() -> None:
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in WavLmEcapaNetwork(LARGE).state_dict().items()}
    encoder = {fairseq_name(name.removeprefix("wavlm.")): s for name, s in shapes.items() if name.startswith("wavlm.")}
    assert encoder["encoder.layers.0.self_attn.relative_attention_bias.weight"] == (320, 16)
    assert encoder["encoder.layers.23.self_attn.grep_a"] == (1, 16, 1, 1)
    assert encoder["encoder.layers.23.self_attn.grep_linear.weight"] == (8, 64)
    assert encoder["encoder.pos_conv.0.weight_g"] == (1, 1, 128)
    assert encoder["encoder.pos_conv.0.weight_v"] == (1024, 64, 128)
    assert encoder["feature_extractor.conv_layers.6.2.1.weight"] == (512,)
    assert "feature_extractor.conv_layers.0.0.bias" not in encoder
    assert encoder["post_extract_proj.weight"] == (1024, 512)
    assert shapes["feature_weight"] == (25,)
    head = {name for name in shapes if name.startswith("ecapa.")}
    assert len(head) == len(unispeech_head(1024))


def test_tensors_that_do_not_fit_are_named(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    without = {name: t for name, t in tensors.items() if name != "layer3.SE_Connect.linear1.bias"}
    with pytest.raises(UserError, match=r"a\.pth: .*they lack 'ecapa\.layer3\.gate\.linear1\.bias'"):
        WavLmEcapa(saved(without, tmp_path / "a.pth"), sizes=SIZES)
    with pytest.raises(UserError, match=r"unexpected 'layer5\.conv\.weight'"):
        WavLmEcapa(saved({**tensors, "layer5.conv.weight": torch.ones(1)}, tmp_path / "b.pth"), sizes=SIZES)
    with pytest.raises(UserError, match=r"'feature_weight' has shape \(4,\), the model needs \(3,\)"):
        WavLmEcapa(saved({**tensors, "feature_weight": torch.ones(4)}, tmp_path / "c.pth"), sizes=SIZES)
    with pytest.raises(UserError, match="no speaker verification checkpoint .*wavlm_large_finetune.pth"):
        WavLmEcapa(tmp_path / "nowhere.pth")
    with pytest.raises(UserError, match=r"they lack 'wavlm\.encoder\.layers\.\*\.[\w.]+' \(24 such\)"):
        WavLmEcapa(saved({"feature_weight": torch.ones(25)}, tmp_path / "d.pth"))


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
        WavLmEcapa(tmp_path / "trap.pth")
    assert not (tmp_path / "ran").exists()


def test_x_vector_is_what_transformers_makes_of_it(clean: np.ndarray, tmp_path: Path) -> None:
    folder = make_xvector(tmp_path / "toy-sv")
    ours = WavLmXVector(str(folder))
    model = WavLMForXVector.from_pretrained(folder).eval()
    inputs = Wav2Vec2FeatureExtractor(do_normalize=True)(clean, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**inputs).embeddings[0]
    torch.testing.assert_close(ours.embed(clean), F.normalize(theirs.double(), dim=0), atol=1e-6, rtol=0)
    assert ours.name == "toy-sv"
    with pytest.raises(MetricError, match="too short for toy-sv: 0.33 s are needed"):
        ours.embed(clean[:5000])
    ours.embed(clean[: ours.min_samples])
    folder.rename(tmp_path / "wavlm-base-plus-sv")
    with pytest.raises(UserError, match="the model called wavlm-base-plus-sv is another one"):
        WavLmXVector(str(tmp_path / "wavlm-base-plus-sv"))


def test_speechbrain_is_what_its_own_loader_makes_of_it(clean: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("speechbrain")
    from speechbrain.inference.speaker import EncoderClassifier
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN

    torch.manual_seed(0)
    channels = [1024, 1024, 1024, 1024, 3072]
    network = ECAPA_TDNN(
        80, channels=channels, kernel_sizes=[5, 3, 3, 3, 1], dilations=[1, 2, 3, 4, 1], lin_neurons=192
    )
    torch.save(network.state_dict(), tmp_path / "embedding_model.ckpt")
    (tmp_path / "hyperparams.yaml").write_text(HYPERPARAMS.format(folder=tmp_path))
    theirs = EncoderClassifier.from_hparams(source=str(tmp_path), savedir=str(tmp_path / "copy"))
    embedding = theirs.encode_batch(torch.from_numpy(clean)[None])[0, 0]
    ours = SpeechBrainEcapa(tmp_path)
    torch.testing.assert_close(ours.embed(clean), F.normalize(embedding.double(), dim=0), atol=1e-6, rtol=0)
    with pytest.raises(UserError, match=r"no speaker encoder .*embedding_model\.ckpt"):
        SpeechBrainEcapa(tmp_path / "copies")


HYPERPARAMS = """
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 80
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 80
    channels: [1024, 1024, 1024, 1024, 3072]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 128
    lin_neurons: 192
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 192
    out_neurons: 7
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    classifier: !ref <classifier>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: {folder}/embedding_model.ckpt
"""


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("wavlm-large", "needs a path: wavlm-large:PATH, the path of wavlm_large_finetune.pth"),
        ("speechbrain", "needs a path"),
        ("wavlm-sv", "microsoft/wavlm-base-plus-sv is not on this machine"),
        ("gee", "unknown speaker encoder 'gee': give .*ge2e, wavlm-large"),
    ],
)
def test_encoders_that_cannot_be_had_say_why(spec: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        speaker_encoder(spec)
