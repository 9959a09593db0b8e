"""Class paths of earlier releases and those of today, for configs and checkpoints that were written then."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PACKAGE = "metis_lightning."

RENAMED: Mapping[str, str] = {
    "callbacks.audio_samples.CodecSamples": "callbacks.validation_samples.CodecSamples",
    "callbacks.audio_samples.FeatureSamples": "callbacks.validation_samples.FeatureSamples",
    "callbacks.audio_samples.SpeechSamples": "callbacks.validation_samples.SpeechSamples",
    "callbacks.backbones.BackboneSwitches": "callbacks.switches.BackboneSwitches",
    "callbacks.finite_guard.FiniteGuard": "callbacks.gradients.FiniteGuard",
    "callbacks.gradient_norm.GradientNorm": "callbacks.gradients.GradientNorm",
    "callbacks.tokens_per_update.TokensPerUpdate": "callbacks.switches.TokensPerUpdate",
    "data.dns_synthesis.DnsRecipe": "data.recipes.dns.DnsRecipe",
    "data.dns_synthesis.DnsRules": "data.recipes.dns.DnsRules",
    "data.heard.HeardRecipe": "data.recipes.tse.PairedRecipe",
    "data.lips.EnvelopeRecipe": "data.recipes.l2s.EnvelopeRecipe",
    "data.lips.LipRecipe": "data.recipes.l2s.LipRecipe",
    "data.mouth_pictures.MouthRecipe": "data.recipes.l2s.MouthRecipe",
    "data.omni.OmniRecipe": "data.recipes.recipe.OmniRecipe",
    "data.omni.WeightedRecipe": "data.recipes.recipe.WeightedRecipe",
    "data.prepared.PreparedDataModule": "data.batches.module.PreparedDataModule",
    "data.recipe.PlainRecipe": "data.recipes.recipe.PlainRecipe",
    "data.se.Corruptions": "data.recipes.se.Corruptions",
    "data.se.SeRecipe": "data.recipes.se.SeRecipe",
    "data.selection.Selection": "data.manifest.selection.Selection",
    "data.starter.StarterDataModule": "data.corpora.starter.StarterDataModule",
    "data.timbre.VoiceChange": "data.recipes.vc.VoiceChange",
    "data.timbre.WorldConverter": "data.recipes.vc.WorldConverter",
    "data.tse.TseRecipe": "data.recipes.tse.TseRecipe",
    "data.tts.TtsRecipe": "data.recipes.recipe.TtsRecipe",
    "data.vc.VcRecipe": "data.recipes.vc.VcRecipe",
    "sampling.mask_predict.Sampling": "sampling.settings.Sampling",
    "tasks.l2s.L2sModule": "tasks.conditioned.L2sModule",
    "tasks.schedule.WarmupCosine": "tasks.optimization.WarmupCosine",
    "tasks.schedule.WarmupInverseSqrt": "tasks.optimization.WarmupInverseSqrt",
    "tasks.se.SeModule": "tasks.conditioned.SeModule",
    "tasks.omni.OmniModule": "tasks.conditioned.OmniModule",
    "tasks.tts.TtsModule": "tasks.conditioned.TtsModule",
    "tasks.tse.TseModule": "tasks.conditioned.TseModule",
    "tasks.vc.VcModule": "tasks.conditioned.VcModule",
    "tokens.auto_avsr.AutoAvsrFeatures": "tokens.visual.auto_avsr.AutoAvsrFeatures",
    "tokens.visual_encoder.AutoAvsrEncoder": "tokens.visual.encoder.AutoAvsrEncoder",
}
"""Of every class that a config can name and that was moved or renamed: the old path below the package to today's."""


def current_class_path(path: str) -> str:
    """Return today's path of a class; any other text is returned as it is."""
    below = path.removeprefix(_PACKAGE)
    return _PACKAGE + RENAMED[below] if path.startswith(_PACKAGE) and below in RENAMED else path


def with_current_class_paths(settings: Any) -> Any:  # noqa: ANN401  whatever a config holds
    """Return plain settings, mappings and lists of any depth, in which every `class_path` is today's."""
    if isinstance(settings, Mapping):
        result = {key: with_current_class_paths(value) for key, value in settings.items()}
        if isinstance(path := result.get("class_path"), str):
            result["class_path"] = current_class_path(path)
        return result
    return [with_current_class_paths(value) for value in settings] if isinstance(settings, list) else settings
