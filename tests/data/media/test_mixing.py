import numpy as np
import pytest
import torch

from metis_lightning.data.media.mixing import fit_length, mix_at_snr, peak_gain, rms


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 2.5])
@pytest.mark.parametrize("seconds", [0.3, 1.0, 1.7])
def test_snr_and_sum_hold(tone, snr_db, seconds):
    target, interferer = tone(1.0, 220), tone(seconds, 330, level=0.01)
    mixed = mix_at_snr(target, interferer, snr_db)
    assert torch.equal(mixed.mixture, mixed.target + mixed.interferer)
    assert mixed.gain == 1.0
    assert torch.equal(mixed.target, target)
    power = [float(np.mean(np.square(w.numpy(), dtype=np.float64))) for w in (mixed.target, mixed.interferer)]
    assert 10 * np.log10(power[0] / power[1]) == pytest.approx(snr_db, abs=1e-4)


def test_a_loud_mixture_is_lowered_as_a_whole(tone):
    target = tone(0.5, 220, level=0.9)
    mixed = mix_at_snr(target, target, 0.0)
    assert mixed.gain == pytest.approx(0.99 / 1.8, rel=1e-4)
    assert float(mixed.mixture.abs().max()) == pytest.approx(0.99, abs=1e-6)
    assert torch.equal(mixed.mixture, mixed.target + mixed.interferer)
    assert torch.allclose(mixed.target, target * mixed.gain)


def test_silence_has_no_snr():
    for pair in ((torch.zeros(10), torch.ones(10)), (torch.ones(10), torch.zeros(10))):
        with pytest.raises(ValueError, match="silent"):
            mix_at_snr(*pair, 0.0)


def test_helpers():
    assert rms(torch.tensor([1.0, -7.0])) == 5.0
    assert fit_length(torch.arange(3), 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert fit_length(torch.arange(3), 2).tolist() == [0, 1]
    assert peak_gain(torch.tensor([0.5, -0.98])) == 1.0
    assert peak_gain(torch.tensor([-1.98])) == pytest.approx(0.5)
