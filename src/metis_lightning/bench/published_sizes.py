"""The published sizes with random weights: what a pipeline of that size takes, without its weights."""

from __future__ import annotations

from typing import TypeVar

import torch

from metis_lightning.models.inference import prepare_for_inference
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic, SemanticToAcousticConfig
from metis_lightning.models.stage1 import GatedAdapter, Stage1, Stage1Config
from metis_lightning.options import Precision
from metis_lightning.pipeline import Metis
from metis_lightning.tokens.acoustic_codec import AcousticCodec, AcousticCodecConfig
from metis_lightning.tokens.semantic_codec import SemanticCodec, SemanticCodecConfig
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.tokens.w2v_bert import W2vBertFeatures, build_encoder
from metis_lightning.weights.build import config_from
from metis_lightning.weights.bundle import bundle_folder, read_index

Kind = TypeVar("Kind", bound=Metis)


@torch.no_grad()
def random_metis(
    kind: type[Kind], task: str, device: str, precision: Precision | None, compile: bool = False, seed: int = 0
) -> Kind:
    """Return a pipeline of the published sizes for a task that hears something, always with the same weights.

    Args:
        kind: the pipeline's class.
        task: for example `se`.
        device: where the models run.
        precision: of both stages; None leaves them as they were built.
        compile: see `Metis`.
        seed: of the weights.
    """
    config = {name: part["config"] for name, part in read_index(bundle_folder("paper"))["parts"].items()}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        features = W2vBertFeatures()
        encoder = build_encoder({"num_hidden_layers": features.layer})
        features.load = lambda: encoder
        semantic = SemanticCodec(config_from(SemanticCodecConfig, config["semantic_codec"]))
        acoustic = AcousticCodec(config_from(AcousticCodecConfig, config["acoustic_codec"]))
        stage1 = Stage1(config_from(Stage1Config, config["stage1"]))
        stage1.cond_adapter = GatedAdapter(features.dim, stage1.config.hidden_size)
        stage1.cond_adapter.gate_scale.fill_(0.1)
        stages = [stage1.to(device).eval()]
        if precision is not None:
            prepare_for_inference(stages[0], precision)
        sizes = (config_from(SemanticToAcousticConfig, config[name]) for name in ("s2a_1layer", "s2a_full"))
        first, full = (SemanticToAcoustic(size).to(device).eval() for size in sizes)
        for model in (first, full):
            if precision is not None:
                prepare_for_inference(model, precision)
    tokenizer = SpeechTokenizer(features, semantic, acoustic).to(device)
    return kind(tokenizer, {task: stage1}, (first, full), compile=compile)
