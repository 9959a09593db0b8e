"""Measures what the variants that exist for speed alone gain on this CPU, each beside its plain form.

    python bench/variants.py [--width 1536] [--frames 500] [--threads 1]

A line for each variant: how many times as fast it is, as the median of paired runs.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from metis_lightning.metrics.dnsmos import P835, model_files, session, windows
from metis_lightning.metrics.signal import METRIC_RATE
from metis_lightning.models.backbone import Backbone
from metis_lightning.models.inference import PRECISIONS, has_fast_int8, prepare_for_inference

CLIPS = (3, 5, 10, 30)
"""Seconds."""


def gain(plain: Callable[[], object], variant: Callable[[], object], pairs: int = 5) -> float:
    """Return how many times as fast a variant is: the median of pairs that run one after the other."""
    ratios = []
    for _ in range(pairs + 1):
        marks = [time.perf_counter()]
        for work in (plain, variant):
            work()
            marks.append(time.perf_counter())
        ratios.append((marks[1] - marks[0]) / (marks[2] - marks[1]))
    # The first pair warms up.
    return statistics.median(ratios[1:])


@torch.inference_mode()
def backbone_gains(width: int, frames: int, layers: int = 2) -> dict[str, float]:
    """Return the gains of a pass through a backbone, by precision, beside `nn.Linear` in float32."""
    plain = Backbone(width, layers, 16, cond_mlp=False).eval()

    def one_pass(model: Backbone) -> Callable[[], object]:
        dtype = next(model.parameters()).dtype
        x, step = torch.randn(1, frames, width).to(dtype), torch.full((1,), 0.5).to(dtype)
        return lambda: model(x, step)

    gains = {}
    for precision in PRECISIONS if has_fast_int8() else PRECISIONS[:2]:
        variant = copy.deepcopy(plain)
        prepare_for_inference(variant, precision)
        gains[precision] = gain(one_pass(plain), one_pass(variant))
    return gains


def dnsmos_gains(clips: tuple[int, ...], threads: int) -> dict[int, float]:
    """Return the gains of the P.835 network by seconds of sound, beside the published network on every window."""
    path = model_files()["dnsmos_p835"]
    whole, variant = session(path, threads), P835(path, threads)
    gains = {}
    for seconds in clips:
        sound = np.random.default_rng(0).standard_normal(seconds * METRIC_RATE).astype(np.float32) / 20
        cuts = windows(sound)
        batch = np.stack(list(cuts.values()))
        gains[seconds] = gain(lambda batch=batch: whole.run(None, {"input_1": batch}), lambda cuts=cuts: variant(cuts))
    return gains


def main() -> None:
    """Print the gains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for precision, times in backbone_gains(options.width, options.frames).items():
        print(f"backbone {options.width} wide, {options.frames} frames, {precision}: {times:.1f} times as fast")
    for seconds, times in dnsmos_gains(CLIPS, options.threads).items():
        print(f"DNSMOS P.835, {seconds} s: {times:.1f} times as fast")


if __name__ == "__main__":
    main()
