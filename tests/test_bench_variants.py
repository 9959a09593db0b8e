"""`bench/variants.py` compares the fast variants with their plain forms."""

import importlib.util
import time
from pathlib import Path

import pytest

from metis_lightning.models.backbone import Backbone
from metis_lightning.models.inference import PRECISIONS

spec = importlib.util.spec_from_file_location("bench_variants", Path(__file__).parents[1] / "bench/variants.py")
variants = importlib.util.module_from_spec(spec)
spec.loader.exec_module(variants)


def test_every_variant_has_a_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    convert, prepared = variants.prepare_for_inference, []

    def prepare(model: Backbone, precision: str) -> None:
        convert(model, precision)
        prepared.append(precision)

    monkeypatch.setattr(variants, "prepare_for_inference", prepare)
    gains = variants.backbone_gains(width=64, frames=8, layers=1)
    assert prepared == list(PRECISIONS)
    assert set(gains) == set(PRECISIONS)
    assert min(gains.values()) > 0
    assert variants.dnsmos_gains((3,), threads=1)[3] > 0


def test_a_gain_is_the_median_ratio_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three marks a pair: the plain form takes 9, 4, 6 and 8 s, the variant 1, 2, 2 and 2 s; the first pair is no gain.
    marks = iter([0, 9, 10, 0, 4, 6, 0, 6, 8, 0, 8, 10])
    monkeypatch.setattr(time, "perf_counter", lambda: next(marks))
    assert variants.gain(lambda: None, lambda: None, pairs=3) == 3.0
