"""Names of UniSpeech's speaker verification checkpoint as names of our modules: WavLM in transformers, ECAPA in ours.

The checkpoint holds WavLM under fairseq's names (`feature_extract.model.…`), the weights of its hidden states, the
ECAPA-TDNN, and the classifier that training needed.

WavLM-large with ECAPA-TDNN: the paper's speaker encoder, from UniSpeech's `wavlm_large_finetune.pth`.

Chen et al., WavLM (2021); microsoft/UniSpeech, downstreams/speaker_verification; used so by seed-tts-eval. WavLM is
that of transformers, under the checkpoint's weights; the ECAPA-TDNN is ours.

Shape letters: C feature width, S samples, T frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.files import sha256_of
from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.packages import require, versions
from metis_lightning.metrics.signal import Wave, with_sound
from metis_lightning.metrics.speakers.ecapa import EcapaTdnn

WAVLM = "feature_extract.model."

UNUSED = ("loss_calculator.", WAVLM + "mask_emb", WAVLM + "final_proj.", WAVLM + "label_embs_concat")
"""Starts of names that only training needs."""

_WAVLM_RULES = (
    (r"post_extract_proj\.", r"feature_projection.projection."),
    (r"layer_norm\.", r"feature_projection.layer_norm."),
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.1\.", r"feature_extractor.conv_layers.\1.layer_norm."),
    (r"encoder\.pos_conv\.0\.weight_g", r"encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    (r"encoder\.pos_conv\.0\.weight_v", r"encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    (r"encoder\.pos_conv\.0\.", r"encoder.pos_conv_embed.conv."),
    (r"encoder\.layers\.0\.self_attn\.relative_attention_bias\.", r"encoder.layers.0.attention.rel_attn_embed."),
    (r"encoder\.layers\.(\d+)\.self_attn\.grep_linear\.", r"encoder.layers.\1.attention.gru_rel_pos_linear."),
    (r"encoder\.layers\.(\d+)\.self_attn\.grep_a", r"encoder.layers.\1.attention.gru_rel_pos_const"),
    (r"encoder\.layers\.(\d+)\.self_attn\.", r"encoder.layers.\1.attention."),
    (r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.", r"encoder.layers.\1.layer_norm."),
    (r"encoder\.layers\.(\d+)\.fc1\.", r"encoder.layers.\1.feed_forward.intermediate_dense."),
    (r"encoder\.layers\.(\d+)\.fc2\.", r"encoder.layers.\1.feed_forward.output_dense."),
    (r"encoder\.layers\.(\d+)\.final_layer_norm\.", r"encoder.layers.\1.final_layer_norm."),
    (r"encoder\.layer_norm\.", r"encoder.layer_norm."),
)
_ECAPA_RULES = (
    (r"(layer[234])\.Conv1dReluBn1\.", r"\1.before."),
    (r"(layer[234])\.Conv1dReluBn2\.", r"\1.after."),
    (r"(layer[234])\.Res2Conv1dReluBn\.convs\.(\d+)\.", r"\1.res2.groups.\2.conv."),
    (r"(layer[234])\.Res2Conv1dReluBn\.bns\.(\d+)\.", r"\1.res2.groups.\2.bn."),
    (r"(layer[234])\.SE_Connect\.", r"\1.gate."),
    (r"(layer1|conv|pooling|bn|linear)\.", r"\1."),
)


def wavlm_name(name: str) -> str | None:
    """Return transformers' name of a tensor of fairseq's WavLM, None if it has none.

    >>> wavlm_name("encoder.layers.3.self_attn.grep_a")
    'encoder.layers.3.attention.gru_rel_pos_const'
    """
    return _renamed(name, _WAVLM_RULES)


def ecapa_name(name: str) -> str | None:
    """Return our name of a tensor of UniSpeech's ECAPA-TDNN, None if it has none.

    >>> ecapa_name("layer2.Res2Conv1dReluBn.bns.6.running_mean")
    'layer2.res2.groups.6.bn.running_mean'
    """
    return _renamed(name, _ECAPA_RULES)


def our_names(checkpoint: Mapping[str, Tensor], source: object) -> dict[str, Tensor]:
    """Return a checkpoint's tensors under our names: `wavlm.…`, `ecapa.…` and `feature_weight`.

    Raises:
        UserError: it has tensors that belong nowhere.
    """
    found: dict[str, Tensor] = {}
    strange = []
    for name, tensor in checkpoint.items():
        if name.startswith(UNUSED):
            continue
        ours = _our_name(name)
        if ours is None:
            strange.append(name)
        else:
            found[ours] = tensor
    if strange:
        raise UserError(f"{source}: not UniSpeech's WavLM with ECAPA-TDNN: unexpected tensors {_listed(strange)}")
    return found


def require_same(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], source: object) -> None:
    """Check that two sets of tensors agree in names and shapes.

    Raises:
        UserError: one is missing, unexpected, or of another shape.
    """
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & found.keys())
        if found[name].shape != wanted[name].shape
    ]
    wrong = {"missing": missing, "unexpected": extra, "of another shape": shapes}
    said = "; ".join(f"{what}: {_listed(names)}" for what, names in wrong.items() if names)
    if said:
        raise UserError(f"{source}: not the checkpoint expected; tensors {said}")


def _our_name(name: str) -> str | None:
    if name == "feature_weight":
        return name
    if name.startswith(WAVLM):
        ours = wavlm_name(name.removeprefix(WAVLM))
        return ours and f"wavlm.{ours}"
    ours = ecapa_name(name)
    return ours and f"ecapa.{ours}"


def _renamed(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    for pattern, ours in rules:
        if re.match(pattern, name):
            return re.sub(rf"^{pattern}", ours, name)
    return None


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


_MIN_SAMPLES = 720
"""Two frames: one has no variance to be normalised by."""

LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "do_stable_layer_norm": True,
    "feat_extract_norm": "layer",
    "conv_bias": False,
    "mask_time_prob": 0.0,
}
"""Sizes of WavLM-large, for `transformers.WavLMConfig`. No masks: the encoder is never trained here."""


class WavLmEcapaNetwork(nn.Module):
    """WavLM's hidden states, averaged with the learnt weights, into the ECAPA-TDNN."""

    def __init__(self, sizes: dict[str, Any]) -> None:
        """Make the network with random weights; `sizes` for `transformers.WavLMConfig`."""
        super().__init__()
        transformers = require("transformers", "ssl")
        config = transformers.WavLMConfig(**sizes)
        self.wavlm = transformers.WavLMModel(config)
        self.feature_weight = nn.Parameter(torch.zeros(config.num_hidden_layers + 1))
        self.ecapa = EcapaTdnn(config.hidden_size)

    def forward(self, wave: Tensor) -> Tensor:
        """Map one utterance, (1, S) at 16 kHz, to its (1, 256) embedding."""
        normal = nn.functional.layer_norm(wave, wave.shape[-1:])
        states = self.wavlm(normal, output_hidden_states=True).hidden_states
        weights = self.feature_weight.softmax(dim=0)
        features = sum(weight * state for weight, state in zip(weights, states, strict=True))
        return self.ecapa(features.transpose(1, 2) + 1e-6)


class WavLmEcapa:
    """The network with published weights. Not an `nn.Module`, as `Ge2eEncoder`."""

    def __init__(self, checkpoint: str | Path, device: str = "cpu", sizes: dict[str, Any] | None = None) -> None:
        """Load a checkpoint.

        Args:
            checkpoint: path of `wavlm_large_finetune.pth`.
            device: "cpu" or "cuda".
            sizes: of another WavLM than large; its name then says so.

        Raises:
            UserError: there is no such file, it is no checkpoint of tensors, or it is not this network's.
        """
        self._path, self._device = Path(checkpoint).expanduser(), device
        self.name = "wavlm-large" if sizes is None else "wavlm-other"
        with torch.device("meta"):
            self._network = WavLmEcapaNetwork(LARGE if sizes is None else sizes)
        found = our_names(_tensors(self._path), self._path)
        require_same(found, self._network.state_dict(), self._path)
        self._network.load_state_dict(found, assign=True)
        self._network.eval().requires_grad_(False).float().to(device)
        self._sha256 = sha256_of(self._path)

    @torch.no_grad()
    def embed(self, wave: Wave) -> Tensor:
        """Return the (256,) float64 embedding of unit length of one utterance, (S,) at 16 kHz.

        Raises:
            MetricError: the audio is empty, silent, not finite, or shorter than 45 ms.
        """
        samples = torch.from_numpy(with_sound(wave))
        if len(samples) < _MIN_SAMPLES:
            raise MetricError(f"the signal is too short for {self.name}: 45 ms are needed")
        embedding = self._network(samples[None].to(self._device))[0]
        return nn.functional.normalize(embedding.double().cpu(), dim=0)

    def fingerprint(self) -> dict[str, Any]:
        """Return the file, its hash and versions."""
        packages = versions(("transformers", "torch"))
        return {"name": self.name, "file": self._path.name, "sha256": self._sha256, "packages": packages}


def _tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, which cannot run code.

    Raises:
        UserError: there is no such file, or it holds anything but tensors and plain data.
    """
    if not path.is_file():
        raise UserError(
            f"no speaker verification checkpoint {path}: download wavlm_large_finetune.pth as microsoft/UniSpeech, "
            "downstreams/speaker_verification, says, and give its path"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{path}: not a checkpoint of plain tensors ({type(error).__name__}): {error}") from error
    tensors = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"{path}: no tensors under 'model': give UniSpeech's wavlm_large_finetune.pth")
    return tensors
