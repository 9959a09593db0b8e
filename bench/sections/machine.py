"""What the run is on, and whether everything that the other sections import is there."""

from __future__ import annotations

import platform
from importlib.util import find_spec

import torch

from sections.report import Report

NEEDED = ("torchaudio", "transformers", "peft", "lightning", "torchmetrics", "safetensors", "yaml", "soundfile", "soxr")
PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "4090": 165.0}
"""TFLOP/s of dense bfloat16 products by the makers' data sheets, of devices whose name holds the key."""


def machine(report: Report) -> None:
    """Note versions and the speed of a product, and judge that the device is there."""
    report.figure("python, torch", f"{platform.python_version()}, {torch.__version__}, CUDA {torch.version.cuda}")
    for name in NEEDED:
        if find_spec(name) is None:
            report.skipped(f"package {name}", "missing; sections that need it are skipped")
    if report.on_gpu and not torch.cuda.is_available():
        report.failed("device", "PyTorch finds no GPU; try --device cpu --tiny for the script itself")
        return
    if not report.on_gpu:
        report.figure("device", f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads")
        return
    device = torch.device(report.device)
    free, total = torch.cuda.mem_get_info(device)
    capability = "{}.{}".format(*torch.cuda.get_device_capability(device))
    name = torch.cuda.get_device_name(device)
    report.figure("device", f"{name}, capability {capability}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free")
    reached = matmul_tflops(device, torch.bfloat16)
    report.figure("product of matrices, bfloat16, float32", f"{reached:.0f}, {matmul_tflops(device):.0f} TFLOP/s")
    sheet = next((peak for key, peak in PEAKS.items() if key in name), None)
    report.number("peak", sheet or reached)
    report.figure("MFU is against", f"{sheet or reached:.0f} TFLOP/s" + ("" if sheet else ", which was measured"))


def matmul_tflops(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 8192) -> float:
    """Return the 10¹² operations a second of a product of square matrices."""
    from sections.timing import seconds

    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / seconds(lambda: a @ b, device, 5) / 1e12
