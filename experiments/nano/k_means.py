"""Puts the semantic codec of nano into a bundle that has its front end: k-means units, as HuBERT's (2106.07447) are.

    python experiments/nano/k_means.py --bundle src/metis_lightning/assets/nano

The front end's features of utterances of the starter corpus's train split give its mean and deviation; the units are
directions among their principal components. A codec that is trained to give the features back, as the paper's, spends
its codes on what changes from frame to frame.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from metis_lightning.data.corpora.starter_tests import STARTER_ROOT
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.progress import tracked
from metis_lightning.tokens.semantic_codec import SemanticCodec, SemanticCodecConfig
from metis_lightning.tokens.ssl_features import SSLFeatures
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.weights.build import load_features, plain_config
from metis_lightning.weights.bundle import Part, read_part, write_part
from metis_lightning.weights.tensor_file import INT4

ITERATIONS = 30


@torch.no_grad()
def raw_features(features: SSLFeatures, codec: SemanticCodec, count: int) -> Tensor:
    """Return frames (N, C) of `count` training utterances, not normalised."""
    utterances = [u for u in read_manifest(STARTER_ROOT / "starter.jsonl") if u.split == "train"]
    corpus = SpeechCorpus(random.Random(0).sample(utterances, min(count, len(utterances))))
    resample = SpeechTokenizer(features, codec).resample
    waves = (corpus.wave(index)[None] for index in tracked(range(len(corpus)), "encoding", "utterances"))
    return torch.cat([features.unnormalised(resample(wave))[0] for wave in waves])


def spherical_k_means(directions: Tensor, num_codes: int) -> Tensor:
    """Return codes (V, K) of unit length fitted to directions (N, K); an empty one starts anew at one drawn."""
    generator = torch.Generator().manual_seed(0)

    def drawn() -> Tensor:
        return directions[torch.randperm(len(directions), generator=generator)[:num_codes]]

    codes = drawn()
    for _ in range(ITERATIONS):
        chosen = torch.cat([(part @ codes.T).argmax(dim=1) for part in directions.split(8192)])
        sums = torch.zeros_like(codes).index_add_(0, chosen, directions)
        empty = torch.bincount(chosen, minlength=num_codes) == 0
        codes = torch.where(empty[:, None], drawn(), F.normalize(sums))
    return codes


def main() -> None:
    """Write the parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--codes", type=int, default=1024)
    parser.add_argument("--components", type=int, default=128)
    parser.add_argument("--utterances", type=int, default=500)
    options = parser.parse_args()
    features, part = load_features(options.bundle), read_part(options.bundle, "ssl_features")
    sizes = SemanticCodecConfig(options.codes, features.dim, options.components, 0, 0, 0)
    codec = SemanticCodec(sizes)
    values = raw_features(features, codec, options.utterances)
    features.std.copy_(values.std(dim=0))
    features.mean.copy_(values.mean(dim=0))
    values = (values - features.mean) / features.std
    _, _, components = torch.pca_lowrank(values, options.components, center=False)
    quantizer = codec.quantizer.stages[0]
    with torch.no_grad():
        for projection, weight in ((quantizer.in_project, components.T), (quantizer.out_project, components)):
            projection.weight_v.copy_(weight[..., None])
            projection.weight_g.copy_(weight.norm(dim=1)[:, None, None])
            projection.bias.zero_()
        projected = values @ components
        quantizer.codebook.weight.copy_(spherical_k_means(F.normalize(projected), options.codes))
        # As long as what they stand for, for those who look at the features again.
        quantizer.codebook.weight.mul_(projected.norm(dim=1).mean())
    write_part(options.bundle, "ssl_features", Part(part.config, features.state_dict(), origin=part.origin), INT4)
    write_part(options.bundle, "semantic_codec", Part(plain_config(sizes), codec.state_dict(), origin={}), torch.int8)


if __name__ == "__main__":
    main()
