"""Every module that trains, at tiny sizes, by name: a function from a tiny bundle's folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from metis_lightning.models.discriminators import DiscriminatorConfig
from metis_lightning.tasks.acoustic_codec import AcousticCodecModule
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.codec_losses import AdversarialConfig
from metis_lightning.tasks.conditioned import L2sModule, OmniModule, SeModule, TseModule, TtsModule, VcModule
from metis_lightning.tasks.pretrain import PretrainModule
from metis_lightning.tasks.semantic_codec import SemanticCodecModule
from metis_lightning.tasks.semantic_to_acoustic import FirstLayerModule, SemanticToAcousticModule
from tiny import ACOUSTIC, SEMANTIC, STAGE1, stage2_config

DECAYING = partial(torch.optim.AdamW, lr=0.1, weight_decay=0.5)
FALLING = partial(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda step: 1 / (step + 1))
OPTIONS = {"optimizer": DECAYING, "lr_scheduler": FALLING}
GAN = AdversarialConfig(DiscriminatorConfig((2,), (2, 2), (256,), band_channels=2), **OPTIONS)

MODULES: dict[str, Callable[[str], TrainableModule]] = {
    "pretrain": lambda bundle: PretrainModule(STAGE1, bundle, **OPTIONS),
    "tse_lora": lambda bundle: TseModule(bundle, lora_rank=2, **OPTIONS),
    "tse": lambda bundle: TseModule(bundle, lora_rank=0, **OPTIONS),
    "se": lambda bundle: SeModule(bundle, lora_rank=0, **OPTIONS),
    "vc": lambda bundle: VcModule(bundle, lora_rank=2, **OPTIONS),
    "tts": lambda bundle: TtsModule("utf8", base=bundle, **OPTIONS),
    "omni": lambda bundle: OmniModule("utf8", base=bundle, **OPTIONS),
    "l2s": lambda bundle: L2sModule(base=bundle, lora_rank=0, **OPTIONS),
    "s2a": lambda bundle: SemanticToAcousticModule("s2a_full", stage2_config(3, 1), bundle, **OPTIONS),
    "s2a_1layer": lambda bundle: FirstLayerModule("s2a_1layer", stage2_config(1, 0), bundle, **OPTIONS),
    "semantic_codec": lambda bundle: SemanticCodecModule(SEMANTIC, **OPTIONS),
    "acoustic_codec": lambda bundle: AcousticCodecModule(ACOUSTIC, linear_weight=1.0, **OPTIONS),
    "acoustic_codec_gan": lambda bundle: AcousticCodecModule(ACOUSTIC, adversarial=GAN, **OPTIONS),
}
