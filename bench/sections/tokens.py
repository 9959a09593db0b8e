"""Whether a GPU gives the tokens and losses that a CPU gives, and what mixed precision does to codes.

Shape letters: B rows, S samples at 24 kHz, T frames, Q quantizers.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from metis_lightning.models.masking import PromptRule, draw_masking
from metis_lightning.pipeline import Metis, Options
from metis_lightning.sampling.mask_predict import Noise, gumbel
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.types import WAVE_RATE
from metis_lightning.weights.build import load_tokenizer
from metis_lightning.weights.bundle import bundle_folder
from sections.report import Report


class OneNoise(Metis):
    """The pipeline with the noise of a CPU, whatever its device."""

    def _noise(self, seed: int) -> Noise:
        return gumbel(torch.Generator().manual_seed(seed))


def waves(rows: int, seconds: float) -> Tensor:
    """Return speech-like waves (B, S): tones of changing pitch with pauses, and a little noise."""
    generator = torch.Generator().manual_seed(0)
    time = torch.arange(int(seconds * WAVE_RATE)) / WAVE_RATE
    pitch = 100 + 120 * torch.rand(rows, 1, generator=generator)
    phase = 2 * torch.pi * pitch * (time + 0.05 * torch.sin(2 * torch.pi * 0.7 * time))
    voice = torch.stack([torch.sin(k * phase) / k for k in range(1, 20)]).sum(dim=0)
    envelope = torch.sin(2 * torch.pi * (1.5 + torch.rand(rows, 1, generator=generator)) * time).clamp(min=0)
    return 0.1 * voice * envelope + 0.003 * torch.randn(rows, len(time), generator=generator)


def tokens_and_losses(report: Report) -> None:
    """Compare tokens, a loss and generated speech of the nano bundle, on the device and on the CPU."""
    rows, length = (2, 1.5) if report.tiny else (16, 5.0)
    wave = waves(rows, length)
    expected, found = (encoded(load_tokenizer(bundle_folder("nano")).to(d), wave) for d in ("cpu", report.device))
    for name, one, other in zip(("SSL", "acoustic"), expected, found, strict=True):
        report.least(f"{name} tokens equal to the CPU's, float32", equal(one, other), 0.999)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    loose = encoded(load_tokenizer(bundle_folder("nano")).to(report.device), wave)
    torch.set_float32_matmul_precision(before)
    shares = [f"{equal(one, other):.4f}" for one, other in zip(expected, loose, strict=True)]
    report.figure("SSL, acoustic tokens equal to the CPU's, TF32", ", ".join(shares))
    _losses(report, expected[0])
    _speech(report, wave)


def encoded(tokenizer: SpeechTokenizer, wave: Tensor) -> tuple[Tensor, Tensor]:
    """Return SSL tokens (B, T) and acoustic tokens (B, T, Q), on the CPU."""
    device = next(tokenizer.parameters()).device
    lengths = torch.full((len(wave),), wave.shape[1], device=device)
    ssl = tokenizer.ssl_tokens(wave.to(device), lengths)[0]
    return ssl.cpu(), tokenizer.acoustic_tokens(wave.to(device), lengths).cpu()


def equal(one: Tensor, other: Tensor) -> float:
    """Return the share of equal tokens."""
    return float((one == other).float().mean())


def _losses(report: Report, tokens: Tensor) -> None:
    frames = torch.full((len(tokens),), tokens.shape[1])
    masking = draw_masking(frames, tokens.shape[1], PromptRule(), torch.Generator().manual_seed(0))
    found = []
    for device in ("cpu", report.device):
        model = Metis.from_pretrained("nano", "tse", device=device).stage1["tse"]
        place, given = masking.places.to(device), tokens.to(device)
        with torch.no_grad():
            hidden = model(given, masking.mask.to(device), masking.t.to(device))
            logits = model.to_logit(hidden.flatten(0, 1).index_select(0, place))
            found.append(float(F.cross_entropy(logits, given.flatten().index_select(0, place))))
    report.figure("masked loss of stage 1, CPU and device", f"{found[0]:.6f}, {found[1]:.6f} nats")
    report.most("relative difference of the losses", abs(found[1] / found[0] - 1), 1e-4)


def _speech(report: Report, wave: Tensor) -> None:
    """Compare what target speaker extraction draws from the same noise; `float32` with graphs and without, and bf16."""
    asked = list(wave[: min(4, len(wave))])
    seeds, few = list(range(len(asked))), Options(num_steps=4, stage2_steps=(1, 1, 1))
    answers = {}
    for name, device, precision in (
        ("cpu", "cpu", "float32"),
        ("graphs", report.device, "float32"),
        ("eager", report.device, "float32"),
        ("bfloat16", report.device, "bfloat16"),
    ):
        metis = OneNoise.from_pretrained("nano", "tse", device=device, precision=precision)
        if name == "eager":
            metis.graphs = None
        answers[name] = metis.generate([metis.request("tse", asked[0], wave) for wave in asked], seeds, **few)

    def share(one: str, other: str) -> float:
        pairs = zip(answers[one], answers[other], strict=True)
        return equal(*(torch.cat(each) for each in zip(*((a.ssl_tokens, b.ssl_tokens) for a, b in pairs), strict=True)))

    report.least("SSL tokens drawn with graphs, equal to without", share("graphs", "eager"), 0.95)
    report.least("SSL tokens drawn, equal to the CPU's", share("eager", "cpu"), 0.95)
    report.figure("SSL tokens drawn in bfloat16, equal to the CPU's", f"{share('bfloat16', 'cpu'):.3f}")


def codecs_in_mixed_precision(report: Report) -> None:
    """Judge that both codecs choose the same codes under bfloat16 autocast: alone, and in a frozen tokenizer."""
    device = torch.device(report.device)
    tokenizer = load_tokenizer(bundle_folder("nano")).to(device)
    wave = waves(2 if report.tiny else 8, 1.0 if report.tiny else 4.0)
    expected = encoded(tokenizer, wave)
    with torch.autocast(device.type, torch.bfloat16):
        found = encoded(tokenizer, wave)
    for name, one, other in zip(("SSL", "acoustic"), expected, found, strict=True):
        report.least(f"{name} tokens of a frozen front end under autocast", equal(one, other), 1.0)
    acoustic, given = tokenizer.acoustic_codec, wave[:, : wave.shape[1] // 480 * 480].to(device)
    assert acoustic is not None
    lengths = torch.full((len(wave),), wave.shape[1], device=device)
    features = tokenizer.ssl_features(wave.to(device), lengths)[0]
    for name, codec, value in (
        ("acoustic codec", acoustic, given),
        ("semantic codec", tokenizer.semantic_codec, features),
    ):
        with torch.no_grad():
            exact = codec(value)[1].codes
            with torch.autocast(device.type, torch.bfloat16):
                mixed = codec(value)[1].codes
        shares = [equal(one, other) for one, other in zip(exact, mixed, strict=True)]
        report.least(f"codes of the {name} in a training step under autocast, worst quantizer", min(shares), 0.99)
