"""What frozen front ends compute in: float32 on every device, or TF32 where it is asked for, and then they say so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from documented import REPOSITORY
from metis_lightning.tokens.tokenizer import fingerprints, frozen_arithmetic
from metis_lightning.trainer.main import MetisCLI
from metis_lightning.weights.build import load_tokenizer
from pretended_gpu import CPU, GPU, PretendedGPU

KINDS = ("ssl", "acoustic", "features")


@pytest.fixture(autouse=True)
def precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def of_convolutions() -> tuple[str, str, str]:
    """As they would be computed now: on a GPU, on a CPU; and products of matrices on a CPU."""
    cpu = torch.backends.mkldnn
    return torch.backends.cudnn.conv.fp32_precision, cpu.conv.fp32_precision, cpu.matmul.fp32_precision


@pytest.mark.parametrize(("allowed", "used"), [("highest", "ieee"), ("high", "tf32")])
def test_convolutions_on_a_gpu_are_as_exact_as_its_products(allowed: str, used: str) -> None:
    torch.set_float32_matmul_precision(allowed)
    before = of_convolutions()
    assert before[0] == "tf32"  # torch's default
    with PretendedGPU():
        like = torch.zeros(1, device=GPU)
        with frozen_arithmetic(like):
            assert of_convolutions()[0] == used
            with frozen_arithmetic(like):
                assert of_convolutions()[0] == used
            assert of_convolutions()[0] == used
    assert of_convolutions() == before
    with pytest.raises(KeyError), PretendedGPU(), frozen_arithmetic(like):
        raise KeyError
    assert of_convolutions() == before


@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
def test_a_cpu_computes_in_float32_whatever_a_gpu_may(allowed: str) -> None:
    torch.set_float32_matmul_precision(allowed)
    before = of_convolutions()
    with frozen_arithmetic(torch.zeros(1)):
        assert of_convolutions()[1:] == ("ieee", "ieee")
    assert of_convolutions() == before


def test_tokens_of_a_cpu_are_valid_on_a_gpu_unless_it_computes_in_tf32(tiny_bundle: Path) -> None:
    tokenizer = load_tokenizer(tiny_bundle)
    made = fingerprints(tokenizer, KINDS)
    assert fingerprints(tokenizer, KINDS, GPU) == made
    torch.set_float32_matmul_precision("high")
    assert fingerprints(tokenizer, KINDS, CPU) == made
    of_tf32 = fingerprints(tokenizer, KINDS, GPU)
    assert not set(of_tf32.values()) & set(made.values())
    assert len(set(of_tf32.values())) == 3


@pytest.mark.parametrize(("options", "expected"), [([], "highest"), (["--float32_matmul_precision=high"], "high")])
def test_a_run_says_how_products_are_computed(
    options: list[str], expected: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    command = ["-c", "configs/tse_lora.yaml", f"--model.base={tiny_bundle}", "--trainer.accelerator=cpu"]
    MetisCLI([*command, *options], {}, run=False)
    assert torch.get_float32_matmul_precision() == expected
