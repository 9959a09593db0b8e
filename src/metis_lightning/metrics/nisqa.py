"""NISQA v2.0: predicted overall quality, noisiness, discontinuity, coloration and loudness of speech, 1 to 5.

Mittag et al., NISQA: A Deep CNN-Self-Attention Model for Multidimensional Speech Quality Prediction (2021). The weights
are those of gabrielmittag/NISQA, `weights/nisqa.tar`, which no package carries: the user gives their path. They are
loaded as plain tensors and must be of exactly this structure. A test compares with the network of torchmetrics.

Shape letters: M mel bands, N segments, S samples, T mel frames, W frames of a segment.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
import torch
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.metrics.metric import Column, MetricError, MetricValue, UtteranceMetric, measure
from metis_lightning.metrics.model_files import load_checkpoint
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import METRIC_RATE, RESAMPLER, ScoringItem, Wave, with_sound
from metis_lightning.state_dicts import difference
from metis_lightning.task_table import Task
from metis_lightning.tokens.mel import slaney_filters

NISQA_COLUMNS = tuple(Column(name, name) for name in ("NISQA", "NISQA_NOI", "NISQA_DIS", "NISQA_COL", "NISQA_LOUD"))
"""In the order of the network's outputs."""

_KIND = {"model": "NISQA_DIM", "cnn_model": "adapt", "td": "self_att", "pool": "att"}
_NUMBERS = (
    *(f"ms_{name}" for name in ("n_fft", "hop_length", "win_length", "n_mels", "fmax")),
    *("ms_seg_length", "ms_seg_hop_length", "ms_max_segments", "cnn_kernel_size"),
    *(f"cnn_{name}_{number}" for name in ("c_out", "pool") for number in (1, 2, 3)),
    *("td_sa_d_model", "td_sa_nhead", "td_sa_num_layers", "td_sa_h", "pool_att_h"),
)


class NisqaScores(NamedTuple):
    """Ratings from about 1 to 5, higher is better (less noise, fewer interruptions, …)."""

    mos: float
    noisiness: float
    discontinuity: float
    coloration: float
    loudness: float


class SegmentCnn(nn.Module):
    """Six convolutions that turn a piece of mel spectrogram into a vector; `args` are those of the checkpoint."""

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__()
        widths = [1, args["cnn_c_out_1"], args["cnn_c_out_2"], *[args["cnn_c_out_3"]] * 4]
        # As the checkpoint has it, a size is a number for both directions, a list or a tuple.
        sizes = [args["cnn_kernel_size"], *(args[f"cnn_pool_{number}"] for number in (1, 2, 3))]
        (height, width), *self.pools = [(size, size) if isinstance(size, int) else tuple(size) for size in sizes]
        kernels = [(height, width)] * 5 + [(height, self.pools[2][1])]
        paddings = [(1, 0 if height == 1 else 1)] * 5 + [(1, 0)]
        layers = zip(widths[:-1], widths[1:], kernels, paddings, strict=True)
        self.convs = nn.ModuleList(nn.Conv2d(i, o, kernel, padding=padding) for i, o, kernel, padding in layers)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths[1:])
        self.dim = widths[-1] * self.pools[2][0]

    def forward(self, segments: Tensor) -> Tensor:
        """Map (N, M, W) to (N, dim)."""
        # The published network pools after the first, second and fourth convolution.
        x, pools = segments[:, None], {0: self.pools[0], 1: self.pools[1], 3: self.pools[2]}
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x)).relu()
            if number in pools:
                x = nn.functional.adaptive_max_pool2d(x, pools[number])
        return x.flatten(1)


class AttentionPool(nn.Module):
    """A rating from vectors over time, weighted by attention."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, 1)
        self.linear3 = nn.Linear(dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, dim) to (1,)."""
        weights = self.linear2(self.linear1(x).relu()).softmax(dim=0)
        return self.linear3((weights * x).sum(dim=0))


class NisqaNetwork(nn.Module):
    """Segments, each through the CNN, then self-attention over time, then a pool for each rating."""

    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__()
        dim = args["td_sa_d_model"]
        self.cnn = SegmentCnn(args)
        self.linear = nn.Linear(self.cnn.dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(dim, args["td_sa_nhead"], args["td_sa_h"], batch_first=True)
            for _ in range(args["td_sa_num_layers"])
        )
        self.pools = nn.ModuleList(AttentionPool(dim, args["pool_att_h"]) for _ in NISQA_COLUMNS)

    def forward(self, segments: Tensor) -> Tensor:
        """Map (N, M, W) decibels to (5,) ratings."""
        x = self.norm1(self.linear(self.cnn(segments)))[None]
        for layer in self.layers:
            x = layer(x)
        return torch.cat([pool(x[0]) for pool in self.pools])


class Nisqa:
    """The network with published weights, on the CPU: a path, or `PATH#SHA256` to have the file's hash compared."""

    def __init__(self, weights: str) -> None:
        """Load the weights. A `UserError` if there is no such file, its hash is another, or it is not NISQA v2.0."""
        name, _, expected = weights.partition("#")
        path = Path(name).expanduser()
        if not path.is_file():
            source = "weights/nisqa.tar of github.com/gabrielmittag/NISQA"
            raise UserError(f"no NISQA weights {path}: download {source} and give its path")
        sha256 = sha256_of(path)
        if expected and expected != sha256:
            raise UserError(f"{path}: its SHA-256 is {sha256}, not {expected}: download the file again")
        self.identity: dict[str, Any] = {"name": "NISQA v2.0", "file": path.name, "sha256": sha256}
        content = load_checkpoint(path)
        if not {"args", "model_state_dict"} <= content.keys():
            raise UserError(f"{path}: not a NISQA checkpoint: it has no 'args' and 'model_state_dict'")
        args = self._args = content["args"]
        # The checkpoint describes itself: it must be of this network.
        wrong = {key: args.get(key) for key, value in _KIND.items() if args.get(key) != value}
        absent = [key for key in _NUMBERS if args.get(key) is None]
        if wrong or absent or args.get("td_2") not in (None, "skip"):
            reason = wrong or absent or args.get("td_2")
            raise UserError(f"{path}: not NISQA v2.0 with dimensions (nisqa.tar): {reason}")
        self._network = NisqaNetwork(args).eval().requires_grad_(False)
        tensors = {_our_name(name): tensor for name, tensor in content["model_state_dict"].items()}
        if mismatch := difference(self._network.state_dict(), tensors):
            raise UserError(f"{path}: not the tensors of NISQA v2.0: {mismatch}")
        self._network.load_state_dict(tensors)

    @torch.no_grad()
    def __call__(self, wave: Wave, sample_rate: int) -> NisqaScores:
        """Rate one utterance of 0.14 to 52 s, (S,) at `sample_rate` Hz. It sees up to 20 kHz, so the rate matters."""
        args, samples, native = self._args, with_sound(wave), self._args.get("ms_sr")
        if native and native != sample_rate:
            samples = soxr.resample(samples, sample_rate, native, quality=RESAMPLER.split()[-1])
            sample_rate = native
        decibels = self._decibels(samples, sample_rate)
        if len(decibels) < args["ms_seg_length"]:
            raise MetricError("the signal is too short for NISQA")
        segments = decibels.unfold(0, args["ms_seg_length"], args["ms_seg_hop_length"])
        if len(segments) > args["ms_max_segments"]:
            seconds = args["ms_max_segments"] * args["ms_seg_hop_length"] * args["ms_hop_length"]
            raise MetricError(f"the signal is too long for NISQA: more than {seconds:.0f} s")
        return NisqaScores(*self._network(segments).tolist())

    def _decibels(self, samples: np.ndarray, sample_rate: int) -> Tensor:
        """Map (S,) to (T, M): mel magnitudes in dB, at most 80 dB below the loudest, as librosa computes them."""
        args, n_fft = self._args, self._args["ms_n_fft"]
        length, hop = int(sample_rate * args["ms_win_length"]), int(sample_rate * args["ms_hop_length"])
        if len(samples) <= n_fft // 2:
            # The mirrored ends of a centred frame would be longer than the signal.
            raise MetricError(f"the signal is too short for NISQA: {n_fft / 2 / sample_rate:.2f} s are needed")
        wave, window = torch.from_numpy(samples), torch.hann_window(length)
        spectrum = torch.stft(wave, n_fft, hop, length, window, pad_mode="reflect", return_complex=True).abs()
        mel = slaney_filters(sample_rate, n_fft, args["ms_n_mels"], args["ms_fmax"]) @ spectrum
        decibels = 20.0 * torch.log10(mel.clamp_min(1e-4))
        return decibels.clamp_min(decibels.max() - 80.0).T


class NisqaMetric(UtteranceMetric):
    """NISQA and its dimensions; without weights it has no columns."""

    order = 20

    def __init__(self, options: SuiteOptions, task: Task) -> None:
        self._rate = None if options.nisqa is None else Nisqa(options.nisqa)
        self._sample_rate = task.nisqa_rate
        self.columns = () if options.nisqa is None else NISQA_COLUMNS
        self.models = {"nisqa": self._rate and self._rate.identity}
        self.definition = {"nisqa_rate": self._sample_rate}

    def score(self, item: ScoringItem) -> dict[str, MetricValue]:
        """Return the ratings of what was generated, at its own rate or at that of the task."""
        rate = self._rate
        if rate is None:
            return {}
        if self._sample_rate == METRIC_RATE:
            return measure(self.columns, lambda: rate(item.wave("generated"), METRIC_RATE))
        return measure(self.columns, rate, item.generated, item.sample_rate)


def _our_name(name: str) -> str:
    name = re.sub(r"^cnn\.model\.conv(\d)\.", lambda match: f"cnn.convs.{int(match[1]) - 1}.", name)
    name = re.sub(r"^cnn\.model\.bn(\d)\.", lambda match: f"cnn.norms.{int(match[1]) - 1}.", name)
    return re.sub(r"^pool_layers\.(\d)\.model\.", r"pools.\1.", name).removeprefix("time_dependency.model.")
