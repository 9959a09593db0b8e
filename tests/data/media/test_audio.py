import numpy as np
import pytest
import soundfile
import torch

from metis_lightning.data.corpora.starter_tests import STARTER_ROOT
from metis_lightning.data.media.audio import read_audio, write_wav
from metis_lightning.errors import UserError


def test_wav_round_trip_is_exact_to_16_bits(tmp_path):
    wave = torch.rand(4801, generator=torch.Generator().manual_seed(0)) * 2 - 1
    write_wav(tmp_path / "folder" / "a.wav", wave, 24_000)
    read = read_audio(tmp_path / "folder" / "a.wav", 24_000)
    assert read.dtype == torch.float32
    assert read.shape == (4801,)
    assert (read - wave).abs().max() <= 1 / 2**15
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["a.wav"]


def test_write_clips_and_refuses_what_is_not_a_wave(tmp_path):
    write_wav(tmp_path / "a.wav", torch.tensor([2.0, -2.0]), 24_000)
    assert read_audio(tmp_path / "a.wav", 24_000).abs().min() > 0.999
    with pytest.raises(ValueError, match="NaN"):
        write_wav(tmp_path / "b.wav", torch.tensor([float("nan")]), 24_000)
    with pytest.raises(ValueError, match="shape"):
        write_wav(tmp_path / "b.wav", torch.zeros(1, 5), 24_000)
    assert not (tmp_path / "b.wav").exists()


def test_resampling_keeps_a_tone_and_channels_are_averaged(tmp_path):
    time = np.arange(16_000) / 16_000
    tone = 0.5 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone * 2, tone * 0], axis=1), 16_000, subtype="FLOAT")
    read = read_audio(tmp_path / "stereo.wav", 24_000)
    expected = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(24_000) / 24_000)
    assert read.shape == (24_000,)
    # The ends are left out: the resampler's filter sees silence beyond them.
    assert (read - expected)[1000:-1000].abs().max() < 1e-3


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such audio file"), (b"not audio", "not a readable audio file")],
)
def test_unreadable_files_are_named(tmp_path, content, message):
    path = tmp_path / "x.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_audio(path, 24_000)
    assert str(path) in str(error.value)


def test_empty_and_nan_files_are_refused(tmp_path):
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 24_000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 24_000, subtype="FLOAT")
    with pytest.raises(UserError, match="no samples"):
        read_audio(tmp_path / "empty.wav", 24_000)
    with pytest.raises(UserError, match="NaN"):
        read_audio(tmp_path / "nan.wav", 24_000)


def test_opus_of_16_khz_has_the_listed_length():
    wave = read_audio(STARTER_ROOT / "audio/human/allison/allison_agent-alreadyon.opus", 24_000)
    # The manifest rounds to milliseconds, 24 samples.
    assert wave.numel() == pytest.approx(5.516 * 24_000, abs=12)
