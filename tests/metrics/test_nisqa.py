"""NISQA beside torchmetrics' port of it, with random weights in a file of the published form."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchmetrics.functional.audio import nisqa as theirs

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.nisqa import Nisqa, NisqaMetric
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.task_table import TASKS, Task

# As nisqa.tar describes itself, without what only training read.
ARGS: dict[str, Any] = {
    "model": "NISQA_DIM", "ms_sr": None, "ms_fmax": 20000, "ms_n_fft": 4096, "ms_hop_length": 0.01,
    "ms_win_length": 0.02, "ms_n_mels": 48, "ms_seg_length": 15, "ms_seg_hop_length": 4, "ms_max_segments": 1300,
    "cnn_model": "adapt", "cnn_c_out_1": 16, "cnn_c_out_2": 32, "cnn_c_out_3": 64, "cnn_kernel_size": [3, 3],
    "cnn_dropout": 0.2, "cnn_pool_1": [24, 7], "cnn_pool_2": [12, 5], "cnn_pool_3": [6, 3], "td": "self_att",
    "td_sa_d_model": 64, "td_sa_nhead": 1, "td_sa_num_layers": 2, "td_sa_h": 64, "td_sa_dropout": 0.1, "td_2": "skip",
    "pool": "att", "pool_att_h": 128, "pool_att_dropout": 0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(3)
    network = theirs._NISQADIM(ARGS)
    for name, buffer in network.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture(scope="module")
def weights(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nisqa") / "nisqa.tar"
    torch.save({"args": ARGS, "model_state_dict": network.state_dict(), "epoch": 1}, path)
    return path


def test_network_equals_torchmetrics(network: torch.nn.Module, weights: Path, clean: np.ndarray) -> None:
    ours = Nisqa(str(weights))
    decibels = ours._decibels(clean, 16_000)
    segments, count = theirs._segment_specs(decibels.T[None], ARGS)
    with torch.no_grad():
        expected = network(segments, count.expand(1))[0]
    assert list(ours(clean, 16_000)) == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("sample_rate", [16_000, 24_000, 48_000])
def test_decibels_equal_librosa(weights: Path, clean: np.ndarray, sample_rate: int) -> None:
    pytest.importorskip("librosa")
    # The same samples at another rate: only the filters and the frames differ.
    expected = theirs._get_librosa_melspec(clean[None], sample_rate, ARGS)[0]
    ours = Nisqa(str(weights))._decibels(clean, sample_rate).T.numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-3)


def test_file_is_verified_and_named(weights: Path, tmp_path: Path) -> None:
    sha256 = sha256_of(weights)
    assert Nisqa(f"{weights}#{sha256}").identity["sha256"] == sha256
    with pytest.raises(UserError, match=f"its SHA-256 is {sha256}, not 0000"):
        Nisqa(f"{weights}#0000")
    with pytest.raises(UserError, match=r"no NISQA weights .*download weights/nisqa.tar"):
        Nisqa(str(tmp_path / "nisqa.tar"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model": "NISQA"}, "not NISQA v2.0 with dimensions .*'model': 'NISQA'"),
        ({"cnn_c_out_2": None}, "not NISQA v2.0 with dimensions .*cnn_c_out_2"),
        ({"td_sa_h": 32}, r"not the tensors of NISQA v2.0: .*layers\.\*\.linear\*\.weight"),
    ],
)
def test_another_model_is_refused(weights: Path, tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    content = torch.load(weights, weights_only=True)
    torch.save({**content, "args": ARGS | change}, tmp_path / "other.tar")
    with pytest.raises(UserError, match=f"(?s){reason}"):
        Nisqa(str(tmp_path / "other.tar"))


def test_what_it_cannot_rate_has_a_reason(weights: Path) -> None:
    rate = Nisqa(str(weights))
    noise = np.random.default_rng(0).standard_normal(16_000 * 55).astype(np.float32)
    with pytest.raises(MetricError, match="too long for NISQA: more than 52 s"):
        rate(noise, 16_000)
    for samples in (640, 2048, 2100):
        with pytest.raises(MetricError, match="too short for NISQA"):
            rate(noise[:samples], 16_000)
    with pytest.raises(MetricError, match="silent"):
        rate(np.zeros(16_000), 16_000)


def test_it_rates_at_the_rate_of_the_task(weights: Path, clean: np.ndarray) -> None:
    options, rate = SuiteOptions(nisqa=str(weights)), Nisqa(str(weights))
    own, resampled = NisqaMetric(options, Task("")), NisqaMetric(options, TASKS["se"])
    item = ScoringItem("a", clean, 24_000)
    assert [value.value for value in own.score(item).values()] == list(rate(clean, 24_000))
    assert [value.value for value in resampled.score(item).values()] == list(rate(item.wave("generated"), 16_000))
    assert not NisqaMetric(SuiteOptions(), Task("")).score(item)
