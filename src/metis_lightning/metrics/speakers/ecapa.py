"""ECAPA-TDNN (Desplanques et al., 2020): from frames to one speaker embedding.

`EcapaTdnn` is the variant with 512 channels, without context in its attention, which microsoft/UniSpeech puts over
WavLM; every convolution is followed by ReLU, then batch normalisation. `SpeechBrainEcapa` is SpeechBrain's own, with
weights from a local copy of `speechbrain/spkrec-ecapa-voxceleb`: the network is built at its published sizes and only
its tensors are read. The folder's `hyperparams.yaml`, which SpeechBrain would run as code, is not opened.

Shape letters: B batch, C channels, T frames.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.model_files import file_identity, load_checkpoint, require
from metis_lightning.metrics.signal import METRIC_RATE, Wave, with_sound
from metis_lightning.state_dicts import difference

_WIDE = 1536
_BOTTLENECK = 128
_SCALE = 8

ECAPA_WEIGHTS = "embedding_model.ckpt"
_MELS = 80


class ConvReluNorm(nn.Sequential):
    """Convolution that keeps the length, ReLU, batch normalisation: (B, C, T) to (B, C', T)."""

    def __init__(self, inputs: int, outputs: int, kernel_size: int = 1, dilation: int = 1) -> None:
        padding = dilation * (kernel_size - 1) // 2
        conv = nn.Conv1d(inputs, outputs, kernel_size, padding=padding, dilation=dilation)
        super().__init__(OrderedDict(conv=conv, relu=nn.ReLU(), bn=nn.BatchNorm1d(outputs)))


class Res2(nn.Module):
    """Res2Net: channels in groups, each convolved after the group before was added to it; the last stays as it is."""

    def __init__(self, channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        width = channels // _SCALE
        self.groups = nn.ModuleList(ConvReluNorm(width, width, kernel_size, dilation) for _ in range(_SCALE - 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to the same shape."""
        *parts, untouched = x.chunk(_SCALE, dim=1)
        outputs: list[Tensor] = []
        for part, group in zip(parts, self.groups, strict=True):
            outputs.append(group(part + outputs[-1] if outputs else part))
        return torch.cat([*outputs, untouched], dim=1)


class SeRes2Block(nn.Module):
    """A residual block of Res2Net between convolutions, and a gate: squeeze and excitation."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.before = ConvReluNorm(channels, channels)
        self.res2 = Res2(channels, 3, dilation)
        self.after = ConvReluNorm(channels, channels)
        squeeze, excite = nn.Linear(channels, _BOTTLENECK), nn.Linear(_BOTTLENECK, channels)
        self.gate = nn.Sequential(OrderedDict(linear1=squeeze, relu=nn.ReLU(), linear2=excite, sigmoid=nn.Sigmoid()))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to the same shape."""
        y = self.after(self.res2(self.before(x)))
        # Each channel is scaled by a number between 0 and 1 that all channels' means decide.
        return x + y * self.gate(y.mean(dim=2)).unsqueeze(2)


class AttentivePooling(nn.Module):
    """Mean and standard deviation over time, weighted for each channel by attention."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear1 = nn.Conv1d(channels, _BOTTLENECK, 1)
        self.linear2 = nn.Conv1d(_BOTTLENECK, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, 2 C)."""
        weights = self.linear2(self.linear1(x).tanh()).softmax(dim=2)
        mean = (weights * x).sum(dim=2)
        variance = (weights * x.square()).sum(dim=2) - mean.square()
        return torch.cat([mean, variance.clamp_min(1e-9).sqrt()], dim=1)


class EcapaTdnn(nn.Module):
    """The network, of C input features, a width of `channels` inside, and embeddings of size `dim`."""

    def __init__(self, features: int, channels: int = 512, dim: int = 256) -> None:
        super().__init__()
        self.instance_norm = nn.InstanceNorm1d(features)
        self.layer1 = ConvReluNorm(features, channels, 5)
        self.layer2, self.layer3, self.layer4 = (SeRes2Block(channels, dilation) for dilation in (2, 3, 4))
        self.conv = nn.Conv1d(3 * channels, _WIDE, 1)
        self.pooling = AttentivePooling(_WIDE)
        self.bn = nn.BatchNorm1d(2 * _WIDE)
        self.linear = nn.Linear(2 * _WIDE, dim)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, T) features, normalised over time here, to (B, dim) embeddings, not of unit length."""
        first = self.layer2(self.layer1(self.instance_norm(features)))
        second = self.layer3(first)
        blocks = torch.cat([first, second, self.layer4(second)], dim=1)
        return self.linear(self.bn(self.pooling(self.conv(blocks).relu())))


class SpeechBrainEcapa:
    """SpeechBrain's encoder with its features: 80 log mel bands, each less its mean over the utterance."""

    name = "ecapa-voxceleb"

    def __init__(self, folder: str | Path, device: str = "cpu") -> None:
        """Load `embedding_model.ckpt` of a folder. A `UserError` if it is missing or of another network."""
        ecapa = require("speechbrain.lobes.models.ECAPA_TDNN", "speechbrain")
        features = require("speechbrain.lobes.features", "speechbrain")
        norm = require("speechbrain.processing.features", "speechbrain")
        path = Path(folder).expanduser() / ECAPA_WEIGHTS
        if not path.is_file():
            raise UserError(f"no speaker encoder {path}: give the folder of speechbrain/spkrec-ecapa-voxceleb")
        self._device = device
        self._filters = features.Fbank(n_mels=_MELS)
        self._normalize = norm.InputNormalization(norm_type="sentence", std_norm=False)
        self._network = ecapa.ECAPA_TDNN(
            _MELS,
            channels=[1024, 1024, 1024, 1024, 3072],
            kernel_sizes=[5, 3, 3, 3, 1],
            dilations=[1, 2, 3, 4, 1],
            attention_channels=128,
            lin_neurons=192,
        )
        tensors = load_checkpoint(path)
        if wrong := difference(self._network.state_dict(), tensors):
            raise UserError(f"{path}: not the weights of spkrec-ecapa-voxceleb: {wrong}")
        self._network.load_state_dict(tensors)
        self._network.eval().requires_grad_(False).to(device)
        self.identity = file_identity(self.name, path, ("speechbrain", "torch"))

    @torch.no_grad()
    def embed(self, wave: Wave) -> Tensor:
        """Return (192,); see `SpeakerEncoder.embed`."""
        samples = with_sound(wave)
        if len(samples) < METRIC_RATE // 10:
            raise MetricError(f"the signal is too short for {self.name}: 0.1 s are needed")
        # Lengths are shares of the batch's longest.
        whole = torch.ones(1)
        mels = self._normalize(self._filters(torch.from_numpy(samples)[None]), whole)
        embedding = self._network(mels.to(self._device), whole.to(self._device))[0, 0]
        return nn.functional.normalize(embedding.double().cpu(), dim=0)
