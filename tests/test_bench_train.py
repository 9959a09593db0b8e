"""`bench train`: the variants train on the same loss, batches are what they are called, and memory adds up."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from metis_lightning.bench import train
from metis_lightning.bench.memory import memory, shared_out
from metis_lightning.bench.train import TRAINED, batches_of
from metis_lightning.bench.training_step import TokenRows, TrainingStep, Variant, masked_loss
from metis_lightning.cli import main as cli
from metis_lightning.models.stage1 import Stage1, Stage1Config

CONFIG, CPU = Stage1Config(32, 2, 2, 64), torch.device("cpu")
LENGTHS = (150, 400, 233, 1500)


@pytest.mark.parametrize("is_packed", [False, True])
def test_the_loss_of_a_token_is_the_same_in_whatever_batch(is_packed: bool) -> None:
    model = Stage1(CONFIG)
    torch.nn.init.normal_(model.to_logit.weight)
    apart = [TokenRows.drawn([length], CONFIG.codebook_size, 0, CPU) for length in LENGTHS]
    together = TokenRows.drawn(LENGTHS, CONFIG.codebook_size, 0, CPU)
    masked = torch.tensor([len(rows.places) for rows in apart], dtype=torch.float32)
    losses = torch.stack([masked_loss(model, rows) for rows in apart])
    assert losses.std() > 1e-2
    expected = (losses * masked).sum() / masked.sum()
    torch.testing.assert_close(masked_loss(model, together, is_packed), expected, rtol=0, atol=1e-5)


def test_batches_are_padded_as_they_are_called() -> None:
    padding = {}
    for kind in ("padded", "bucketed", "packed"):
        batches = list(batches_of(kind, 200, 8))
        assert len(batches) == 8 and all(150 <= length <= 1500 for batch in batches for length in batch)
        heard = sum(map(sum, batches))
        padded = heard if kind == "packed" else sum(len(batch) * max(batch) for batch in batches)
        assert padded <= 8 * 10_000
        padding[kind] = 1 - heard / padded
    assert padding["padded"] > 0.3 and padding["bucketed"] < 0.06


def test_memory_is_weights_states_and_what_a_backward_pass_needs() -> None:
    lengths = [100] * 8
    count = sum(p.numel() for p in Stage1(CONFIG).parameters())
    plain = memory(CONFIG, Variant("full"), lengths, is_mixed=False)
    assert plain["Parameter"] == 4 * count
    # Two moments and a number of steps for each weight.
    assert plain["Optstate"] == pytest.approx(8 * count, rel=0.01)
    assert plain["Total"] > 12 * count
    checkpointed = memory(CONFIG, Variant("full", checkpointed=True), lengths, is_mixed=False)
    assert checkpointed["Total"] < plain["Total"]
    lora = memory(CONFIG, Variant("LoRA", lora_rank=2), lengths, is_mixed=False)
    assert lora.get("Optstate", 0) < plain["Optstate"] / 10
    states = sum(plain.get(kind, 0) for kind in ("Parameter", "Gradient", "Optstate"))
    assert plain["Total"] - states < shared_out(CONFIG, plain, 8) < plain["Total"]


def allocated_peak(variant: Variant, config: Stage1Config, lengths: list[int]) -> int:
    """The most bytes that tensors and kernels hold of torch's allocator during two steps."""
    rows = TokenRows.drawn(lengths, config.codebook_size, 0, CPU)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False) as seen:
        step = TrainingStep(config, variant, CPU)
        step(rows)
        step(rows)
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda e: e.start_ns())))


@pytest.mark.parametrize("variant", TRAINED, ids=lambda variant: variant.name)
def test_memory_by_arithmetic_is_what_is_allocated(variant: Variant) -> None:
    config, lengths = Stage1Config(96, 3, 4, 256), [200] * 2
    predicted = memory(config, variant, lengths, is_mixed=False)["Total"]
    assert allocated_peak(variant, config, lengths) == pytest.approx(predicted, rel=0.06)


def test_the_command_compares_with_what_a_process_grows_by(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "MIDDLING", Stage1Config(256, 2, 4, 256))
    assert cli.main(["bench", "train", "--scale", "middling"]) == 0
    rows = [line.strip("|").split("|") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][2:]
    assert [row[0].strip() for row in rows] == [variant.name for variant in TRAINED]
    for _, predicted, measured, more in rows:
        assert float(predicted) > 0.04
        assert float(measured) == pytest.approx(float(predicted), rel=0.25)
        assert float(more.strip().removesuffix("%")) / 100 == pytest.approx(
            float(measured) / float(predicted) - 1, abs=0.03
        )


def test_the_command_writes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train, "NANO", CONFIG)
    assert cli.main(["bench", "train", "--steps", "1", "--batch-seconds", "30", "--out", str(tmp_path / "a.md")]) == 0
    lines = (tmp_path / "a.md").read_text().splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [row[0] for row in rows[2:]] == [variant.name for variant in train.VARIANTS if not variant.compiled]
    for row in rows[2:]:
        shares = [int(cell.removesuffix("%")) for cell in row[4:8]]
        assert sum(shares) == pytest.approx(100, abs=2)
        assert float(row[1].replace(",", "")) > 0
        assert (shares[0] > 0) == (row[0] == "buckets, tokens made of audio")
    assert lines == capsys.readouterr().out.splitlines()[-len(lines) :]
