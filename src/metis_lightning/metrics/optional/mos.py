"""Predicted mean opinion scores: DistillMOS of a package, UTMOS and SCOREQ of files that the user gives.

DistillMOS (Stahl and Gamper, Distillation and pruning for scalable self-supervised representation-based speech quality
assessment, ICASSP 2025) is read from the package distillmos, which is not imported. UTMOS (Saeki et al., UTMOS:
UTokyo-SaruLab System for VoiceMOS Challenge 2022) is the strong learner as tarepan/SpeechMOS has it:
`utmos22_strong_step7459_v1.pt`. SCOREQ (Ragano et al., NeurIPS 2024) is one of its four ONNX files: `adapt_nr_…` rates
alone, `fixed_nmr_…` measures the distance to the reference.

Shape letters: B batch, S samples, F frequencies, T frames, C features.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.metrics.dnsmos import session
from metis_lightning.metrics.metric import Column, MetricError, OptionalMetric
from metis_lightning.metrics.model_files import file_identity, load_checkpoint, missing, model_name, require, verify
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem, Wave, with_sound
from metis_lightning.metrics.speakers.wavlm import FAIRSEQ_NAMES, rename
from metis_lightning.state_dicts import difference
from metis_lightning.task_table import Task

_DISTILL = ("weights/distill_mos_v7.pt", "b18b3ac60227267cfb91e5d00ce22cc7b73716fd92f269484da1446e27031a40")
_WINDOW, _MAX_HOP = 122_880, 16_000
_HOP, _N_FFT, _BINS = 160, 320, 161
_CHANNELS = (2, 64, 64, 128, 256, 256, 256)
_WIDTH, _LAYERS, _HEADS = 200, 7, 8
# Samples of one frame of wav2vec 2.0, and its hop.
_SSL_FRAME, _SSL_HOP = 400, 320


class DistillNetwork(nn.Module):
    """Convolutions over compressed spectra, a transformer, attentive pooling; (B, 122880) to (B,) ratings."""

    pe: Tensor

    def __init__(self) -> None:
        super().__init__()
        convs: list[nn.Module] = []
        bins = _BINS
        for index, (inner, outer) in enumerate(zip(_CHANNELS, _CHANNELS[1:], strict=False)):
            # Frequencies are halved from the second on, frames in the last.
            stride = (1 if index == 0 else 2, 2 if index == len(_CHANNELS) - 2 else 1)
            convs += [nn.Conv2d(inner, outer, 3, stride, padding=(0, 1)), nn.LeakyReLU(0.1)]
            bins = (bins - 3) // stride[0] + 1
        self.cnn, wide = nn.Sequential(*convs), _CHANNELS[-1] * bins
        self.norm_input, self.norm = nn.BatchNorm1d(wide), nn.BatchNorm1d(wide)
        self.linear_proj = nn.Linear(wide, _WIDTH)
        self.register_buffer("pe", torch.zeros(1, 384, _WIDTH))
        layer = nn.TransformerEncoderLayer(_WIDTH, _HEADS, 2 * _WIDTH, dropout=0.0, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(layer, _LAYERS, enable_nested_tensor=False)
        self.norm_trans = nn.BatchNorm1d(_WIDTH)
        self.linear1, self.linear2 = nn.Linear(_WIDTH, 2 * _WIDTH), nn.Linear(2 * _WIDTH, 1)
        self.linear3 = nn.Linear(_WIDTH, 1)

    def forward(self, wave_BS: Tensor) -> Tensor:
        """Rate windows of 7.68 s at 16 kHz, each brought to a peak of 1 first."""
        wave_BS = wave_BS / (wave_BS.abs().amax(dim=1, keepdim=True) + 1e-8)
        edge = (_N_FFT - _HOP) // 2
        padded = nn.functional.pad(wave_BS, (edge, edge), mode="reflect")
        window = torch.hann_window(_N_FFT)
        spectrum = torch.stft(padded, _N_FFT, _HOP, window=window, center=False, return_complex=True)
        parts_BFTC = torch.view_as_real(spectrum)
        magnitude = parts_BFTC.square().sum(dim=-1, keepdim=True).sqrt().clamp_min(1e-12)
        image = (magnitude**0.3 * parts_BFTC / magnitude).permute(0, 3, 1, 2)
        x_BCT = self.norm(self.norm_input(self.cnn(image).flatten(1, 2)))
        x_BTC = self.transformer_encoder(self.linear_proj(x_BCT.transpose(1, 2)) + self.pe)
        x_BTC = self.norm_trans(x_BTC.transpose(1, 2)).transpose(1, 2)
        weights = self.linear2(self.linear1(x_BTC).relu()).softmax(dim=1)
        return 1.0 + 4.0 * self.linear3((weights * x_BTC).sum(dim=1)).sigmoid().squeeze(1)


class DistillMosMetric(OptionalMetric):
    """DistillMOS: the mean over windows of 7.68 s that begin at most a second apart; shorter audio has zeros behind."""

    kind = "distillmos"
    extra = "metrics"
    columns = (Column("DISTILLMOS", "DISTILLMOS"),)
    definition = {"distillmos": "v7, 7.68 s windows, hop of at most 1 s"}

    def __init__(self, options: SuiteOptions, task: Task, source: str = "") -> None:
        spec = importlib.util.find_spec("distillmos")
        if spec is None or spec.origin is None:
            raise missing("distillmos", self.extra)
        path = Path(spec.origin).parent / _DISTILL[0]
        verify(path, _DISTILL[1], "distillmos==0.9.1")
        self.models = {self.kind: file_identity(self.kind, path, ("torch",))}
        tensors = load_checkpoint(path)["model"]
        # The package's parts lie in each other; names of ours do not repeat.
        own = {_distill_name(name): tensor for name, tensor in tensors.items()}
        self._network = DistillNetwork()
        self._network.load_state_dict(own)
        self._network.eval().requires_grad_(False)

    @torch.no_grad()
    def value(self, item: ScoringItem) -> float:
        """Return the rating, from 1 to 5."""
        samples = torch.from_numpy(with_sound(item.wave("generated")))
        samples = nn.functional.pad(samples, (0, max(0, _WINDOW - len(samples))))
        over = len(samples) - _WINDOW
        starts = (np.linspace(0, 1, -(-over // _MAX_HOP) + 1) * over).astype(int)
        return float(torch.cat([self._network(samples[None, start:][:, :_WINDOW]) for start in starts]).mean())


def _distill_name(name: str) -> str:
    if name.startswith("cnn."):
        return name.removeprefix("cnn.")
    inner = name.removeprefix("transformer_pool_attn.").removeprefix("transformer.").removeprefix("pool.")
    return inner.removeprefix("position_encoding.")


class UtmosNetwork(nn.Module):
    """wav2vec 2.0, beside whose frames stand a domain and a judge; an LSTM both ways and two layers rate each frame."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        """Make the network with random weights; `sizes` for `transformers.Wav2Vec2Config`, those of base by default."""
        super().__init__()
        transformers = require("transformers", "ssl")
        config = transformers.Wav2Vec2Config(mask_time_prob=0.0, **sizes)
        self.wav2vec2 = transformers.Wav2Vec2Model(config)
        self.domain_emb, self.judge_emb = (nn.Parameter(torch.zeros(1, 128)) for _ in range(2))
        self.blstm = nn.LSTM(config.hidden_size + 256, 512, batch_first=True, bidirectional=True)
        self.projection = nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 1))

    def forward(self, wave_BS: Tensor) -> Tensor:
        """Rate utterances of one length, (B, S) at 16 kHz as they are: (B,)."""
        frames_BTC = self.wav2vec2(wave_BS).last_hidden_state
        beside = torch.cat([self.domain_emb, self.judge_emb], dim=1).expand(*frames_BTC.shape[:2], -1)
        rated = self.projection(self.blstm(torch.cat([frames_BTC, beside], dim=2))[0])
        # The listening test's scale was brought to -1 … 1.
        return rated.mean(dim=(1, 2)) * 2.0 + 3.0


class UtmosMetric(OptionalMetric):
    """UTMOS: naturalness, about 1 to 5."""

    kind = "utmos"
    takes = "utmos22_strong_step7459_v1.pt of github.com/tarepan/SpeechMOS"
    columns = (Column("UTMOS", "UTMOS"),)

    def __init__(
        self, options: SuiteOptions, task: Task, source: str = "", sizes: dict[str, Any] | None = None
    ) -> None:
        """Load the checkpoint; other `sizes` of wav2vec 2.0 are for tests."""
        path = _existing(source, self.kind, self.takes)
        given = {_utmos_name(name): tensor for name, tensor in load_checkpoint(path).items()}
        with torch.device("meta"):
            self._network = UtmosNetwork(sizes or {})
        # Where training masks frames, the published file has the mask, and transformers none.
        given.pop("wav2vec2.masked_spec_embed", None)
        if wrong := difference(self._network.state_dict(), given):
            raise UserError(f"{path}: not the tensors of UTMOS: {wrong}; give {self.takes}")
        self._network.load_state_dict(given, assign=True)
        self._network.eval().requires_grad_(False).float()
        self.models = {self.kind: file_identity(self.kind, path, ("transformers", "torch"))}

    @torch.no_grad()
    def value(self, item: ScoringItem) -> float:
        """Return the rating of at least 25 ms."""
        samples = _long_enough(item.wave("generated"), self.kind, "signal")
        return float(self._network(torch.from_numpy(samples)[None]))


def _utmos_name(name: str) -> str:
    inner = name.removeprefix("wav2vec2.")
    if inner == "mask_emb":
        return "wav2vec2.masked_spec_embed"
    return name if inner == name else f"wav2vec2.{rename(inner, FAIRSEQ_NAMES)}"


class ScoreqMetric(OptionalMetric):
    """SCOREQ: a rating of about 1 to 5, or with a `fixed_nmr` file the distance to the reference from 0 on."""

    kind = "scoreq"
    takes = "an ONNX file of SCOREQ (adapt_nr_telephone.onnx, …)"

    def __init__(self, options: SuiteOptions, task: Task, source: str = "") -> None:
        path = _existing(source, self.kind, self.takes)
        self._session = session(path, options.num_threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1 or len(inputs[0].shape) != 2 or len(outputs[0].shape) != 2:
            raise UserError(f"{path}: not {self.takes}: it maps (batch, samples) to (batch, features)")
        self._input, self._is_rating = inputs[0].name, outputs[0].shape[1] == 1
        name = model_name(str(path.with_suffix("")), "")
        quantity = "SCOREQ" if self._is_rating else "SCOREQ_REF"
        self.columns = (Column.by_model(quantity, name, higher_is_better=self._is_rating),)
        self.models = {f"{self.kind} {name}": file_identity(name, path, ("onnxruntime",))}

    def _output(self, wave: Wave, name: str) -> np.ndarray:
        samples = _long_enough(wave, self.kind, name)
        # Whole hops, as the published code pads them.
        padded = np.pad(samples, (0, -len(samples) % _SSL_HOP))
        return np.asarray(self._session.run(None, {self._input: padded[None]})[0][0], dtype=np.float64)

    def value(self, item: ScoringItem) -> float:
        """Return the rating of what was generated, or its distance from the reference."""
        if self._is_rating:
            return float(self._output(item.wave("generated"), "signal")[0])
        reference = self._output(item.wave("reference"), "reference")
        return float(np.linalg.norm(self._output(item.wave("generated"), "signal") - reference))


def _existing(source: str, kind: str, what: str) -> Path:
    path = Path(source).expanduser()
    if not path.is_file():
        raise UserError(f"--metrics {kind}:{source}: no such file; give the path of {what}")
    return path


def _long_enough(wave: Wave, kind: str, name: str) -> np.ndarray:
    samples = with_sound(wave, name)
    if len(samples) < _SSL_FRAME:
        raise MetricError(f"the {name} is too short for {kind}: 25 ms are needed")
    return samples
