"""Names of UniSpeech's speaker verification checkpoint as names of our modules: WavLM in transformers, ECAPA in ours.

The checkpoint holds WavLM under fairseq's names (`feature_extract.model.…`), the weights of its hidden states, the
ECAPA-TDNN, and the classifier that training needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from metis_lightning.errors import UserError

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
