"""A training step at the published size, eager and compiled, and what the frozen front end takes beside it."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from metis_lightning.models.flops import training_flops
from metis_lightning.models.stage1 import Stage1Config
from metis_lightning.tasks.pretrain import PretrainModule
from metis_lightning.tokens.tokenizer import frozen_arithmetic
from metis_lightning.tokens.w2v_bert import W2vBertFeatures, build_encoder
from metis_lightning.types import SpeechBatch
from sections.report import Report
from sections.timing import seconds, waits

HOP = 480
STEP = "seconds of an eager step"


class Step:
    """A step of pre-training on random tokens: AdamW, bfloat16 autocast on a GPU."""

    def __init__(self, report: Report) -> None:
        self.device = torch.device(report.device)
        self.config = Stage1Config(64, 2, 2, 512) if report.tiny else Stage1Config()
        self.rows, self.frames = (2, 40) if report.tiny else (20, 500)
        optimizer = partial(torch.optim.AdamW, lr=1e-4, fused=self.device.type == "cuda")
        self.module = PretrainModule(self.config, "nano", optimizer=optimizer).to(self.device).train()
        self.optimizer = optimizer([p for p in self.module.parameters() if p.requires_grad])
        self.batch = self._batch()

    def _batch(self) -> SpeechBatch:
        # Rows of several lengths, a twentieth of padding, as batches have.
        frames = torch.linspace(0.9 * self.frames, self.frames, self.rows).long()
        tokens = torch.randint(self.config.codebook_size, (self.rows, self.frames))
        names = tuple(map(str, range(self.rows)))
        return SpeechBatch(
            ids=names,
            speakers=names,
            texts=("",) * self.rows,
            wave=torch.empty(self.rows, 0).to(self.device),
            # The front end has no frame for the last window.
            lengths=((frames + 1) * HOP).to(self.device),
            ssl_tokens=tokens.to(self.device),
        )

    def __call__(self) -> Tensor:
        """Take a step, and return its loss."""
        mixed = torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else nullcontext()
        with mixed:
            loss = self.module.losses(self.batch)["loss"]
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def measure(self, report: Report, name: str) -> float:
        """Note seconds, tokens a second and utilisation of a step; return the seconds."""
        taken = seconds(self, self.device, 2 if report.tiny else 6, warm_up=1 if report.tiny else 3)
        masked = int(self.module.losses(self.batch)["masked_tokens"])
        positions = self.rows * self.frames
        report.figure(
            f"{name} step of {positions:,} tokens", f"{1e3 * taken:.0f} ms, {positions / taken:,.0f} tokens/s"
        )
        if (peak := report.known("peak")) is not None:
            backbone = self.module.model.diff_estimator
            used = training_flops(backbone, [self.frames] * self.rows, self.config.codebook_size, masked) / taken / 1e12
            report.figure(f"{name} step, model FLOP/s", f"{used:.0f} TFLOP/s, MFU {used / peak:.1%}")
        return taken


def eager_step(report: Report) -> None:
    """Measure a step as it is, count what it waits for, and say what its parts take."""
    if report.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    step = Step(report)
    losses = [float(step().detach()) for _ in range(2)]
    report.figure("loss of the first two steps", ", ".join(f"{loss:.3f}" for loss in losses))
    if not all(loss == loss and loss < 1e4 for loss in losses):
        report.failed("losses are numbers", str(losses))
    report.number(STEP, step.measure(report, "eager"))
    report.figure("trained parameters", f"{sum(p.numel() for p in step.module.model.parameters()) / 1e6:.0f} M")
    if report.on_gpu:
        report.figure("peak memory", f"{torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
    found = waits(step, step.device)
    # How many tokens are masked, how long the longest row is; and on a CPU, whatever stands for a GPU there.
    report.figure("waits for the device", ", ".join(f"{place} {count}" for place, count in found.items()) or "none")
    if report.on_gpu:
        report.most("waits for the device in a step", found.total(), 3)
    _mask(report, step)


def _mask(report: Report, step: Step) -> None:
    """Say what a padding mask costs: without one, attention may run faster kernels."""
    backbone, width = step.module.model.diff_estimator, step.config.hidden_size
    x = torch.randn(step.rows, step.frames, width, device=step.device)
    t, mask = torch.rand(step.rows, device=step.device), torch.ones(x.shape[:2], device=step.device)

    def passes(x_mask: Tensor | None) -> None:
        mixed = torch.autocast("cuda", torch.bfloat16) if step.device.type == "cuda" else nullcontext()
        with mixed:
            loss = backbone(x, t, x_mask).square().mean()
        loss.backward()

    taken = [1e3 * seconds(partial(passes, each), step.device, 1 if report.tiny else 4) for each in (mask, None)]
    report.figure("transformer, both passes, with a mask and without", f"{taken[0]:.0f}, {taken[1]:.0f} ms")


def compiled_step(report: Report) -> None:
    """Measure a step whose transformer is compiled for changing lengths, as `BackboneSwitches` does."""
    step = Step(report)
    step.module.model.diff_estimator.compile(dynamic=True, backend="eager" if report.tiny else "inductor")
    first = seconds(step, step.device, 1, warm_up=0)
    report.figure("first compiled step", f"{first:.0f} s")
    taken = step.measure(report, "compiled")
    if (eager := report.known(STEP)) is not None:
        report.figure("compiled over eager", f"{eager / taken:.2f} times as fast")


@torch.no_grad()
def front_end(report: Report) -> None:
    """Measure w2v-BERT with random weights on the audio of a step, in float32 and in TF32."""
    device = torch.device(report.device)
    rows, length = (2, 1.0) if report.tiny else (20, 10.0)
    features, sizes = W2vBertFeatures(), {"num_hidden_layers": 17}
    if report.tiny:
        features = W2vBertFeatures(layer=1, dim=32)
        sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    encoder = build_encoder(sizes)
    features.load = lambda: encoder
    features = features.to(device)
    wave = 0.1 * torch.randn(rows, int(length * 16_000), device=device)
    lengths = torch.full((rows,), wave.shape[1], device=device)
    found, taken = {}, {}
    before = torch.get_float32_matmul_precision()
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        with frozen_arithmetic(wave):
            taken[precision] = seconds(lambda: features(wave, lengths), device, 1 if report.tiny else 3)
            found[precision] = features(wave, lengths)[0]
    torch.set_float32_matmul_precision(before)
    for precision, value in taken.items():
        step = report.known(STEP)
        share = "" if step is None else f", {value / (value + step):.0%} of a step with one pass of it"
        report.figure(f"w2v-BERT on {rows * length:g} s, {precision}", f"{1e3 * value:.0f} ms{share}")
    similar = F.cosine_similarity(found["highest"].flatten(0, 1), found["high"].flatten(0, 1), dim=-1)
    report.figure("cosine of its features in float32 and in TF32, least", f"{float(similar.min()):.6f}")
