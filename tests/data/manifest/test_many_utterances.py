"""200,000 utterances: start-up, memory, resume, and what padding costs."""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path

import numpy as np
import pytest

from metis_lightning.data.batches.module import PreparedDataModule
from metis_lightning.data.batches.sampler import SecondsBatchSampler, padding_without_buckets
from metis_lightning.data.manifest.table import open_manifest
from metis_lightning.data.manifest.table_index import INDEX_SUFFIX
from metis_lightning.data.recipes.recipe import PlainRecipe

COUNT = 200_000


def durations() -> np.ndarray:
    """Seconds spread as in Emilia: 3 to 30, about 9 on average."""
    return np.clip(np.random.default_rng(0).lognormal(2.05, 0.55, COUNT), 3.0, 30.0).round(3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    with (folder / "manifest.jsonl").open("w", encoding="utf-8") as file:
        for n, seconds in enumerate(durations().tolist()):
            line = {
                "id": f"EN_B{n // 10_000:05}_S{n // 20:05}_W{n:06}",
                "path": f"EN_B{n // 10_000:05}/mp3/EN_W{n:06}.mp3",
                "speaker": f"EN_S{n // 20:05}",
                "text": "You can help my mother and you - no, you must not tell anyone of it " * 2,
                "language": "en",
                "seconds": seconds,
                "sample_rate": 24_000,
                "split": "dev" if n % 1000 == 0 else "train",
            }
            file.write(json.dumps(line) + "\n")
    return folder


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


@pytest.mark.parametrize("times", ["the first time", "again"])
def test_start_up_and_resume_are_quick_and_small(root: Path, times: str) -> None:
    indexed = root / f"manifest.jsonl{INDEX_SUFFIX}"
    assert indexed.exists() == (times == "again")
    gc.collect()
    memory, start = resident_megabytes(), time.process_time()
    module = PreparedDataModule(PlainRecipe(), root / "manifest.jsonl", batch_seconds=200.0, max_seconds=30.0)
    module.load_state_dict({"epoch": 3, "batches": 4_000})
    sampler = module.train_dataloader().batch_sampler
    first = next(iter(sampler))
    # Processor time, which other processes on the machine lengthen least; nothing here waits.
    assert time.process_time() - start < (5.0 if times == "the first time" else 2.0)
    assert resident_megabytes() - memory < 300.0
    assert indexed.exists()
    assert first[0][0] == 3
    whole = SecondsBatchSampler(sampler.lengths, 200.0, shuffle=True)
    whole.set_epoch(3)
    assert list(whole)[4_000] == first
    assert len(sampler) == len(whole)


def test_an_index_of_another_state_is_not_used(root: Path, tmp_path: Path) -> None:
    path, few = tmp_path / "manifest.jsonl", 10_000
    indexed = tmp_path / f"manifest.jsonl{INDEX_SUFFIX}"
    with (root / "manifest.jsonl").open(encoding="utf-8") as file:
        lines = [next(file) for _ in range(few + 1)]
    path.write_text("".join(lines[:few]), encoding="utf-8")
    assert len(open_manifest(path)) == few
    assert indexed.exists()
    path.write_text("".join(lines), encoding="utf-8")
    longer = open_manifest(path)
    assert len(longer) == few + 1
    assert longer[few].id.endswith(f"W{few:06}")
    # Read from its index, the table is the same; a damaged index is made anew.
    assert list(open_manifest(path)[:50]) == list(longer[:50])
    assert open_manifest(path).names().tolist() == longer.names().tolist()
    indexed.write_bytes(b"not an index")
    assert open_manifest(path).names().tolist() == longer.names().tolist()
    assert indexed.stat().st_size > few


def test_padding_is_below_a_twentieth_with_buckets() -> None:
    sampler = SecondsBatchSampler(durations(), 200.0, shuffle=True)
    batches = list(sampler)
    lengths = sampler.lengths
    padded = sum(len(batch) * max(lengths[i] for _, i in batch) for batch in batches)
    assert sampler.padding() == pytest.approx(1 - lengths.sum() / padded)
    assert sampler.padding() < 0.05
    assert padding_without_buckets(lengths, 200.0) > 0.3
    # Batches are full as well: their number is not the price of little padding.
    assert padded / len(batches) > 0.9 * 200.0
