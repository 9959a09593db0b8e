"""Speaker encoders over WavLM (Chen et al., 2021): with ECAPA-TDNN, and with an x-vector head.

WavLM-large with ECAPA-TDNN is the paper's encoder: UniSpeech's `wavlm_large_finetune.pth` (microsoft/UniSpeech,
downstreams/speaker_verification), used so by seed-tts-eval. WavLM is that of transformers, under the checkpoint's
weights; the ECAPA-TDNN is ours. `microsoft/wavlm-base-plus-sv` of transformers is the paper's encoder for enhancement.

Shape letters: S samples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.metrics.metric import MetricError
from metis_lightning.metrics.model_files import TransformersModel, file_identity, load_checkpoint, require
from metis_lightning.metrics.signal import METRIC_RATE, Wave, with_sound
from metis_lightning.metrics.speakers.ecapa import EcapaTdnn
from metis_lightning.state_dicts import difference

_WAVLM = "feature_extract.model."
# Starts of names that only training needs.
_UNUSED = ("loss_calculator.", _WAVLM + "mask_emb", _WAVLM + "final_proj.", _WAVLM + "label_embs_concat")
# fairseq's names within wav2vec 2.0 and WavLM, and those of transformers.
FAIRSEQ_NAMES = (
    (r"post_extract_proj\.", r"feature_projection.projection."),
    (r"layer_norm\.", r"feature_projection.layer_norm."),
    (r"feature_extractor\.conv_layers\.(\d+)\.0\.", r"feature_extractor.conv_layers.\1.conv."),
    (r"feature_extractor\.conv_layers\.(\d+)\.2\.(1\.)?", r"feature_extractor.conv_layers.\1.layer_norm."),
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
_ECAPA_NAMES = (
    (r"(layer[234])\.Conv1dReluBn1\.", r"\1.before."),
    (r"(layer[234])\.Conv1dReluBn2\.", r"\1.after."),
    (r"(layer[234])\.Res2Conv1dReluBn\.convs\.(\d+)\.", r"\1.res2.groups.\2.conv."),
    (r"(layer[234])\.Res2Conv1dReluBn\.bns\.(\d+)\.", r"\1.res2.groups.\2.bn."),
    (r"(layer[234])\.SE_Connect\.", r"\1.gate."),
    (r"(layer1|conv|pooling|bn|linear)\.", r"\1."),
)

# Of WavLM-large, for `transformers.WavLMConfig`. No masks: the encoder is never trained here.
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


def our_name(name: str) -> str:
    """Return our name of a tensor of UniSpeech's checkpoint; a name that belongs nowhere stays as it is.

    >>> our_name("feature_extract.model.encoder.layers.3.self_attn.grep_a")
    'wavlm.encoder.layers.3.attention.gru_rel_pos_const'
    >>> our_name("layer2.Res2Conv1dReluBn.bns.6.running_mean")
    'ecapa.layer2.res2.groups.6.bn.running_mean'
    """
    rules, part = (FAIRSEQ_NAMES, "wavlm") if name.startswith(_WAVLM) else (_ECAPA_NAMES, "ecapa")
    renamed = rename(name.removeprefix(_WAVLM), rules)
    return name if renamed is None else f"{part}.{renamed}"


def rename(name: str, rules: Iterable[tuple[str, str]]) -> str | None:
    """Return a tensor's name by the first rule whose pattern it begins with; None if there is none."""
    return next((re.sub(f"^{rule}", new, name) for rule, new in rules if re.match(rule, name)), None)


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
        """Load `wavlm_large_finetune.pth`; other `sizes` of WavLM give another name. A `UserError` if it is another."""
        path, self._device = Path(checkpoint).expanduser(), device
        self.name = "wavlm-large" if sizes is None else "wavlm-other"
        if not path.is_file():
            source = "microsoft/UniSpeech, downstreams/speaker_verification"
            cure = f"download wavlm_large_finetune.pth as {source}, says, and give its path"
            raise UserError(f"no speaker verification checkpoint {path}: {cure}")
        content = load_checkpoint(path)
        tensors = content.get("model", content)
        if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
            raise UserError(f"{path}: no tensors under 'model': give UniSpeech's wavlm_large_finetune.pth")
        tensors = {our_name(name): tensor for name, tensor in tensors.items() if not name.startswith(_UNUSED)}
        # Random weights would take seconds to draw, and go again.
        with torch.device("meta"):
            self._network = WavLmEcapaNetwork(LARGE if sizes is None else sizes)
        if wrong := difference(self._network.state_dict(), tensors):
            raise UserError(f"{path}: not the tensors of UniSpeech's WavLM with ECAPA-TDNN: {wrong}")
        self._network.load_state_dict(tensors, assign=True)
        self._network.eval().requires_grad_(False).float().to(device)
        self.identity = file_identity(self.name, path, ("transformers", "torch"))

    @torch.no_grad()
    def embed(self, wave: Wave) -> Tensor:
        """Return (256,); see `SpeakerEncoder.embed`."""
        samples = torch.from_numpy(with_sound(wave))
        # Two frames: one has no variance to be normalised by.
        if len(samples) < 720:
            raise MetricError(f"the signal is too short for {self.name}: 45 ms are needed")
        embedding = self._network(samples[None].to(self._device))[0]
        return nn.functional.normalize(embedding.double().cpu(), dim=0)


class WavLmXVector(TransformersModel):
    """A WavLM speaker verification model as transformers has it."""

    processor_class = "AutoFeatureExtractor"
    model_class = "WavLMForXVector"
    source = "microsoft/wavlm-base-plus-sv"
    owner = "microsoft"
    published = {
        name: {"hidden_size": 768, "num_hidden_layers": 12, "xvector_output_dim": 512}
        for name in ("wavlm-base-plus-sv", "wavlm-base-sv")
    }

    @property
    def min_samples(self) -> int:
        """Samples at 16 kHz that leave two frames for the standard deviation over time."""
        config = self.model.config
        kernels = zip(config.tdnn_kernel, config.tdnn_dilation, strict=True)
        frames = 2 + sum((size - 1) * dilation for size, dilation in kernels)
        # The convolutions see 25 ms at first, and 20 ms for each further frame.
        return 400 + (frames - 1) * 320

    @torch.no_grad()
    def embed(self, wave: Wave) -> Tensor:
        """Return (512,) in the published model, of at least 0.33 s; see `SpeakerEncoder.embed`."""
        samples = with_sound(wave)
        if len(samples) < self.min_samples:
            needed = self.min_samples / METRIC_RATE
            raise MetricError(f"the signal is too short for {self.name}: {needed:.2f} s are needed")
        inputs = self.processor(samples, sampling_rate=METRIC_RATE, return_tensors="pt")
        embedding = self.model(inputs.input_values.to(self.device)).embeddings[0]
        return nn.functional.normalize(embedding.double().cpu(), dim=0)
