from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torchaudio
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.metrics.optional.mos import DistillMosMetric, ScoreqMetric, UtmosMetric
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.task_table import TASKS

MakeItem = Callable[..., ScoringItem]
SE = TASKS["se"]


@pytest.fixture(scope="module")
def distillmos() -> DistillMosMetric:
    pytest.importorskip("distillmos")
    return DistillMosMetric(SuiteOptions(), SE)


@pytest.mark.parametrize("samples", [640, 43_000, 122_880, 122_881, 160_000, 300_000])
def test_distillmos_equals_the_package(
    distillmos: DistillMosMetric, longer: np.ndarray, item_of: MakeItem, samples: int
) -> None:
    import distillmos as package

    theirs = package.ConvTransformerSQAModel().eval()
    wave = np.concatenate([longer, longer])[:samples]
    with torch.no_grad():
        expected = float(theirs(torch.from_numpy(wave)[None]))
    assert distillmos.score(item_of(wave))["DISTILLMOS"].value == pytest.approx(expected, abs=2e-5)


def test_distillmos_rates_noise_lower_and_the_level_not_at_all(
    distillmos: DistillMosMetric, clean: np.ndarray, noisy: np.ndarray, item_of: MakeItem
) -> None:
    rated = [distillmos.score(item_of(wave))["DISTILLMOS"].value or 0.0 for wave in (clean, noisy, 0.1 * clean)]
    assert rated[1] < rated[0] - 0.5
    assert rated[2] == pytest.approx(rated[0], abs=1e-3)


# wav2vec 2.0 of two narrow layers, for both implementations.
WIDTH, HEADS, FEED, DIM = 24, 4, 48, 32
SIZES: dict[str, Any] = {
    "hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": HEADS, "intermediate_size": FEED,
    "conv_dim": (DIM,) * 7, "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
# torchaudio's names, and those of the published file, which are fairseq's.
TO_PUBLISHED = (
    (r"feature_extractor\.conv_layers\.0\.layer_norm\.", "feature_extractor.conv_layers.0.2."),
    (r"feature_extractor\.conv_layers\.(\d+)\.conv\.", r"feature_extractor.conv_layers.\1.0."),
    (r"encoder\.feature_projection\.layer_norm\.", "layer_norm."),
    (r"encoder\.feature_projection\.projection\.", "post_extract_proj."),
    (r"encoder\.transformer\.pos_conv_embed\.conv\.parametrizations\.weight\.original0", "encoder.pos_conv.0.weight_g"),
    (r"encoder\.transformer\.pos_conv_embed\.conv\.parametrizations\.weight\.original1", "encoder.pos_conv.0.weight_v"),
    (r"encoder\.transformer\.pos_conv_embed\.conv\.", "encoder.pos_conv.0."),
    (r"encoder\.transformer\.layer_norm\.", "encoder.layer_norm."),
    (r"encoder\.transformer\.layers\.(\d+)\.attention\.", r"encoder.layers.\1.self_attn."),
    (r"encoder\.transformer\.layers\.(\d+)\.layer_norm\.", r"encoder.layers.\1.self_attn_layer_norm."),
    (r"encoder\.transformer\.layers\.(\d+)\.feed_forward\.intermediate_dense\.", r"encoder.layers.\1.fc1."),
    (r"encoder\.transformer\.layers\.(\d+)\.feed_forward\.output_dense\.", r"encoder.layers.\1.fc2."),
    (r"encoder\.transformer\.layers\.(\d+)\.final_layer_norm\.", r"encoder.layers.\1.final_layer_norm."),
)


def published(name: str) -> str:
    return next(re.sub(rule, new, name) for rule, new in TO_PUBLISHED if re.match(rule, name))


class TheirUtmos(nn.Module):
    """UTMOS over torchaudio's wav2vec 2.0."""

    def __init__(self) -> None:
        super().__init__()
        convs = [(DIM, 10, 5)] + [(DIM, 3, 2)] * 4 + [(DIM, 2, 2)] * 2
        self.ssl = torchaudio.models.wav2vec2_model(
            "group_norm", convs, False, WIDTH, 0.0, 128, 4, 2, HEADS, 0.0, FEED, 0.0, 0.0, False, 0.0, None
        )
        self.domain_emb, self.judge_emb = nn.Parameter(torch.randn(1, 128)), nn.Parameter(torch.randn(1, 128))
        self.blstm = nn.LSTM(WIDTH + 256, 512, batch_first=True, bidirectional=True)
        self.projection = nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 1))

    def forward(self, wave: Tensor) -> Tensor:
        frames = self.ssl(wave)[0]
        both = [each.unsqueeze(1).expand(len(wave), frames.shape[1], -1) for each in (self.domain_emb, self.judge_emb)]
        return self.projection(self.blstm(torch.cat([frames, *both], 2))[0]).mean(1).squeeze(1) * 2 + 3

    def file(self) -> dict[str, Tensor]:
        content = {}
        for name, tensor in self.state_dict().items():
            inner = name.removeprefix("ssl.")
            content[name if inner == name else f"wav2vec2.{published(inner)}"] = tensor
        # A remnant of training that the published file holds.
        return content | {"wav2vec2.mask_emb": torch.zeros(WIDTH)}


def test_utmos_equals_another_wav2vec_on_the_published_layout(
    tmp_path: Path, speech: Callable[[str], np.ndarray], item_of: MakeItem
) -> None:
    torch.manual_seed(0)
    theirs = TheirUtmos().eval()
    torch.save(theirs.file(), tmp_path / "utmos22.pt")
    ours = UtmosMetric(SuiteOptions(), SE, str(tmp_path / "utmos22.pt"), SIZES)
    for name in ("if-sara_0069", "am-michael_0285"):
        wave = speech(name)
        with torch.no_grad():
            expected = float(theirs(torch.from_numpy(wave)[None]))
        assert ours.score(item_of(wave))["UTMOS"].value == pytest.approx(expected, abs=2e-5)
    assert len(ours.fingerprint()["models"]["utmos"]["sha256"]) == 64
    short = ours.score(item_of(np.ones(399, np.float32)))["UTMOS"]
    assert short.error == "the signal is too short for utmos: 25 ms are needed"


def test_utmos_refuses_another_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--metrics utmos:nowhere.pt: no such file; give the path of utmos22_strong"):
        UtmosMetric(SuiteOptions(), SE, "nowhere.pt")
    torch.save({"blstm.weight_ih_l0": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt: not the tensors of UTMOS"):
        UtmosMetric(SuiteOptions(), SE, str(tmp_path / "other.pt"), SIZES)

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("ran",)

    torch.save({"x": Code()}, tmp_path / "code.pt")
    with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
        UtmosMetric(SuiteOptions(), SE, str(tmp_path / "code.pt"), SIZES)


def scoreq_file(path: Path, width: int) -> np.ndarray:
    """Write an ONNX file of SCOREQ's interface: the mean over hops of 320 samples, times the matrix returned."""
    matrix = np.random.default_rng(0).normal(size=(320, width)).astype(np.float32)
    nodes = [
        helper.make_node("Reshape", ["audio_input", "shape"], ["hops"]),
        helper.make_node("ReduceMean", ["hops"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "matrix"], ["mos_output"]),
    ]
    weights = [
        numpy_helper.from_array(matrix, "matrix"),
        numpy_helper.from_array(np.array([1, -1, 320], np.int64), "shape"),
    ]
    given = helper.make_tensor_value_info("audio_input", TensorProto.FLOAT, ["batch_size", "samples"])
    made = helper.make_tensor_value_info("mos_output", TensorProto.FLOAT, ["batch_size", width])
    graph = helper.make_graph(nodes, "scoreq", [given], [made], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), path)
    return matrix


def mean_hop(wave: np.ndarray) -> np.ndarray:
    return np.pad(wave, (0, -len(wave) % 320)).reshape(-1, 320).mean(0)


def test_scoreq_alone_and_beside_the_reference(
    tmp_path: Path, clean: np.ndarray, noisy: np.ndarray, item_of: MakeItem
) -> None:
    rating = scoreq_file(tmp_path / "adapt_nr_telephone.onnx", 1)
    distance = scoreq_file(tmp_path / "fixed_nmr_telephone.onnx", 16)
    alone = ScoreqMetric(SuiteOptions(), SE, str(tmp_path / "adapt_nr_telephone.onnx"))
    beside = ScoreqMetric(SuiteOptions(), SE, str(tmp_path / "fixed_nmr_telephone.onnx"))
    item = item_of(noisy, reference=clean)
    (value,) = alone.score(item).values()
    assert value.value == pytest.approx(float(mean_hop(noisy) @ rating[:, 0]), abs=1e-6)
    (value,) = beside.score(item).values()
    assert value.value == pytest.approx(float(np.linalg.norm((mean_hop(noisy) - mean_hop(clean)) @ distance)), rel=1e-4)
    assert alone.columns[0].title == "SCOREQ (adapt-nr-telephone) ↑"
    assert beside.columns[0].title == "SCOREQ REF (fixed-nmr-telephone) ↓"
    (missing,) = beside.score(item_of(noisy)).values()
    assert missing.error == "no reference"
    with pytest.raises(UserError, match="no such file"):
        ScoreqMetric(SuiteOptions(), SE, str(tmp_path / "none.onnx"))
