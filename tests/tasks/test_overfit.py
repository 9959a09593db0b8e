"""Pre-training, both models of stage 2 and both codecs learn one batch by heart, at widths 16 to 64.

The other modules do in files of their own: TSE, SE and VC in test_source_conditioned, TTS, L2S and Omni in
test_conditions, the codec against discriminators in test_adversary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from metis_lightning.models.masking import PromptRule
from metis_lightning.tasks.acoustic_codec import AcousticCodecModule
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.optimization import WarmupCosine
from metis_lightning.tasks.pretrain import PretrainModule
from metis_lightning.tasks.semantic_codec import SemanticCodecModule
from metis_lightning.tasks.semantic_to_acoustic import FirstLayerModule, SemanticToAcousticModule
from metis_lightning.types import SpeechBatch
from one_batch import changing_batch, mean_accuracy, normalise, trainer
from tiny import ACOUSTIC, SEMANTIC, STAGE1, stage2_config, wide_start

# Where only the tokens around it tell what a token is, a layer must find the place and another what stands there.
DEEPER = replace(STAGE1, hidden_size=64, num_layers=2, num_heads=4)


def short_batch(seconds: float) -> SpeechBatch:
    """The beginning of the batch of noise."""
    whole, samples = changing_batch(), round(24_000 * seconds)
    return replace(
        whole, wave=whole.wave[:, :samples], lengths=torch.tensor([samples] * 2), source=None, prompt_lengths=None
    )


def train(module: TrainableModule, batch: SpeechBatch, steps: int, folder: Path) -> None:
    trainer(folder, steps).fit(module, DataLoader([batch] * steps, batch_size=None))


def rates(steps: int, lr: float) -> dict[str, Any]:
    return {
        "optimizer": partial(torch.optim.AdamW, lr=lr),
        "lr_scheduler": partial(WarmupCosine, total_steps=steps, warmup_steps=10),
    }


@pytest.mark.parametrize(
    ("make", "steps", "lr"),
    [
        # Without a prompt there is nothing to tell the rows apart by.
        (lambda bundle, **r: PretrainModule(DEEPER, bundle, PromptRule(drop=0.0), **r), 300, 5e-3),
        (lambda bundle, **r: FirstLayerModule("s2a_1layer", stage2_config(1, 0), bundle, **r), 200, 1e-2),
        (lambda bundle, **r: SemanticToAcousticModule("s2a_full", stage2_config(3, 1), bundle, **r), 200, 1e-2),
    ],
    ids=["pretrain", "s2a_1layer", "s2a_full"],
)
def test_masked_tokens_are_learnt_by_heart(
    make: Callable[..., TrainableModule], steps: int, lr: float, tiny_bundle: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    with wide_start():
        module, batch = make(str(tiny_bundle), **rates(steps, lr)), short_batch(0.5)
    normalise(module.tokenizer.features, module.tokenizer.resample(batch.wave))
    before = mean_accuracy(module, batch)
    train(module.train(), batch, steps, tmp_path)
    assert before < 0.2
    assert mean_accuracy(module, batch) > 0.95


@pytest.mark.parametrize(
    ("make", "measure", "steps", "share"),
    [
        (lambda **r: SemanticCodecModule(SEMANTIC, **r), "reconstruction", 100, 0.4),
        (lambda **r: AcousticCodecModule(ACOUSTIC, **r), "mel", 80, 0.75),
    ],
    ids=["semantic", "acoustic"],
)
def test_the_loss_of_a_codec_falls(
    make: Callable[..., TrainableModule], measure: str, steps: int, share: float, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    module, batch = make(**rates(steps, 1e-2)), short_batch(0.4)
    if isinstance(module, SemanticCodecModule):
        normalise(module.features, module.resample(batch.wave))

    def score() -> float:
        with torch.no_grad():
            return float(module.eval().losses(batch)[measure])

    before = score()
    train(module.train(), batch, steps, tmp_path)
    assert score() < share * before
