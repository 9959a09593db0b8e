"""Perplexity of known distributions, and unused codes that find a place."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from metis_lightning.errors import UserError
from metis_lightning.models.discriminators import DiscriminatorConfig
from metis_lightning.tasks.acoustic_codec import AcousticCodecModule
from metis_lightning.tasks.codebooks import CodebookRestarts, perplexity, spread_codes
from metis_lightning.tasks.codec_losses import AdversarialConfig
from metis_lightning.tasks.optimization import WarmupCosine, WarmupInverseSqrt
from metis_lightning.tasks.semantic_codec import SemanticCodecModule
from metis_lightning.tasks.semantic_to_acoustic import SemanticToAcousticModule
from metis_lightning.tokens.codec_layers import FactorizedVectorQuantizer, Quantized, ResidualVectorQuantizer
from one_batch import OPTIMIZER, SCHEDULE, OneBatch, trainer
from tiny import ACOUSTIC, SEMANTIC, stage2_config


def sgd(rvq: ResidualVectorQuantizer, lr: float = 0.0) -> torch.optim.Optimizer:
    return torch.optim.SGD(rvq.parameters(), lr=lr)


def test_perplexity_is_the_number_of_codes_in_effective_use() -> None:
    assert float(perplexity(torch.arange(8), 16)) == pytest.approx(8)
    assert float(perplexity(torch.zeros(5, dtype=torch.long), 16)) == pytest.approx(1)


def test_unused_codes_move_onto_encodings_and_used_ones_stay() -> None:
    torch.manual_seed(0)
    rvq = ResidualVectorQuantizer(8, 2, 64, 4)
    latents = torch.randn(2, 8, 40)
    quantized = rvq(latents)
    before = [stage.codebook.weight.clone() for stage in rvq.stages]
    restarts = CodebookRestarts(rvq, every=10)
    restarts.observe(quantized, step=3)
    restarts.after_update(sgd(rvq), step=3)
    assert all(torch.equal(stage.codebook.weight, old) for stage, old in zip(rvq.stages, before, strict=True))
    restarts.observe(quantized, step=10)
    restarts.after_update(sgd(rvq), step=10)
    for stage, old, codes, encodings in zip(rvq.stages, before, quantized.codes, quantized.encodings, strict=True):
        used = torch.bincount(codes.flatten(), minlength=64) > 0
        assert torch.equal(stage.codebook.weight[used], old[used])
        places = encodings.transpose(1, 2).flatten(0, 1)
        distance = torch.cdist(stage.codebook.weight[~used], places).amin(dim=1)
        torch.testing.assert_close(distance, torch.zeros_like(distance), rtol=0, atol=1e-3)
    assert perplexity(rvq(latents).codes[0], 64) > perplexity(quantized.codes[0], 64)


@pytest.mark.parametrize(
    ("schedule", "end"),
    [
        (partial(WarmupInverseSqrt, warmup_steps=32_000), 63_998),
        (partial(WarmupInverseSqrt, warmup_steps=200), 2_000),
        (partial(WarmupCosine, total_steps=100_000, warmup_steps=5_000), 9_998),
        (partial(LambdaLR, lr_lambda=lambda step: 1.0), 2_000),
    ],
)
def test_codes_move_through_the_warm_up_and_as_long_after_it(schedule: partial[LambdaLR], end: int) -> None:
    rvq = ResidualVectorQuantizer(2, 1, 4, 2)
    optimizer, quantized = sgd(rvq, lr=1e-4), rvq(torch.ones(1, 2, 3))
    rates = schedule(optimizer).lr_lambdas[0]
    restarts = CodebookRestarts(rvq, every=1)
    moved = []
    for step in range(0, 70_000, 2):
        optimizer.param_groups[0]["lr"] = 1e-4 * rates(step)
        restarts.observe(quantized, step)
        if restarts.counts_QV is not None:
            moved.append(step)
        restarts.after_update(optimizer, step)
    assert moved == list(range(0, moved[-1] + 2, 2))
    assert moved[-1] == pytest.approx(end, abs=4)


def test_a_resumed_run_ends_where_an_uninterrupted_one_does() -> None:
    rvq = ResidualVectorQuantizer(2, 1, 4, 2)
    first, again = CodebookRestarts(rvq), CodebookRestarts(rvq)
    for step, rate in ((0, 0.1), (9_000, 0.5), (9_500, 0.4)):
        first.after_update(sgd(rvq, rate), step)
    checkpoint: dict[str, object] = {}
    first.save(checkpoint)
    again.load(checkpoint)
    again.after_update(sgd(rvq, 0.4), 9_501)
    assert again.until == first.until == 18_000
    again.load({"code_counts": None})
    assert again.until == 2_000


def test_moved_codes_lose_the_optimizers_moments_and_used_ones_keep_them() -> None:
    torch.manual_seed(0)
    rvq = ResidualVectorQuantizer(8, 2, 64, 4)
    optimizer = torch.optim.AdamW(rvq.parameters(), lr=1e-3)
    for _ in range(3):
        quantized = rvq(torch.randn(2, 8, 40))
        optimizer.zero_grad()
        quantized.codebook_loss.backward()
        optimizer.step()
    restarts = CodebookRestarts(rvq)
    restarts.observe(quantized, 0)
    kept = [optimizer.state[stage.codebook.weight]["exp_avg_sq"].clone() for stage in rvq.stages]
    restarts.after_update(optimizer, 0)
    for stage, codes, old in zip(rvq.stages, quantized.codes, kept, strict=True):
        used = torch.bincount(codes.flatten(), minlength=64) > 0
        state = optimizer.state[stage.codebook.weight]
        assert old[~used].any()
        assert not state["exp_avg"][~used].any()
        assert not state["exp_avg_sq"][~used].any()
        assert torch.equal(state["exp_avg_sq"][used], old[used])


@pytest.mark.parametrize("kind", ["acoustic", "semantic"])
def test_codes_move_once_an_update_by_the_use_in_all_its_batches(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    options = {"optimizer": OPTIMIZER, "lr_scheduler": SCHEDULE}
    module = (
        AcousticCodecModule(ACOUSTIC, **options) if kind == "acoustic" else SemanticCodecModule(SEMANTIC, **options)
    )
    moves, batches = [], []
    observe = CodebookRestarts.observe

    def note(self: CodebookRestarts, quantized: Quantized, step: int) -> None:
        batches.append(step)
        observe(self, quantized, step)

    def move(self: CodebookRestarts, encodings: object, counts: torch.Tensor, *_: object) -> None:
        moves.append((module.global_step, int(counts[0].sum())))

    monkeypatch.setattr(CodebookRestarts, "observe", note)
    monkeypatch.setattr(CodebookRestarts, "_move_unused", move)
    module.restarts.every = 2
    run = trainer(tmp_path, 4, accumulate_grad_batches=3, limit_train_batches=12, limit_val_batches=0)
    run.fit(module, datamodule=OneBatch())
    assert batches == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    frames = moves[0][1] // 3
    assert moves == [(0, 3 * frames), (2, 6 * frames)]


def test_codes_move_beside_discriminators_too_and_not_where_the_codebooks_rest(tmp_path: Path) -> None:
    small = DiscriminatorConfig((2,), (2, 2), (256,), band_channels=2)
    adversarial = AdversarialConfig(small, optimizer=OPTIMIZER, lr_scheduler=SCHEDULE)
    for decoder_only, moves in ((False, True), (True, False)):
        torch.manual_seed(0)
        # Nothing but a move changes the codes: the rate of the codec is 0.
        still = partial(torch.optim.SGD, lr=0.0)
        module = AcousticCodecModule(
            ACOUSTIC, decoder_only=decoder_only, adversarial=adversarial, optimizer=still, lr_scheduler=SCHEDULE
        )
        before = module.codec.decoder.quantizer.stages[0].codebook.weight.clone()
        trainer(tmp_path, 1, limit_val_batches=0).fit(module, datamodule=OneBatch())
        assert torch.equal(module.codec.decoder.quantizer.stages[0].codebook.weight, before) == (not moves)


def test_embeddings_spread_from_codes_keep_their_neighbours() -> None:
    torch.manual_seed(0)
    quantizer = FactorizedVectorQuantizer(16, 200, 8)
    embedding = nn.Embedding(200, 96)
    nn.init.normal_(embedding.weight, std=0.02)
    directions = nn.functional.normalize(quantizer.codebook.weight.detach())
    nearest = (directions @ directions.T).fill_diagonal_(-1).argmax(dim=1)

    def found() -> float:
        weights = embedding.weight.detach()
        distances = torch.cdist(weights, weights).fill_diagonal_(torch.inf)
        among = distances.argsort(dim=1)[:, :10]
        return float((among == nearest[:, None]).any(dim=1).float().mean())

    assert found() < 0.15
    spread_codes(embedding, quantizer)
    assert found() > 0.8
    assert 0.08 < float(embedding.weight.detach().std()) < 0.13


def test_stage_2_begins_from_the_codes_of_both_codecs_where_it_is_asked(tiny_bundle: Path) -> None:
    def embeddings(is_asked: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        module = SemanticToAcousticModule("s2a_full", stage2_config(3, 1), str(tiny_bundle), init_from_codes=is_asked)
        return [embedding.weight.detach() for embedding in (module.model.cond_emb, *module.model.token_emb)]

    plain, from_codes = embeddings(False), embeddings(True)
    assert len(plain) == 4
    for before, after in zip(plain, from_codes, strict=True):
        # Added to what they were, along as many directions as a code vector has.
        assert torch.linalg.matrix_rank(after - before, tol=1e-4) == 4
    with pytest.raises(UserError, match="init_from_codes: the codebooks"):
        SemanticToAcousticModule("s2a_full", stage2_config(4, 1), str(tiny_bundle), init_from_codes=True)
