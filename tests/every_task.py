"""A tiny bundle that answers every task, and sounds to give it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import torch

from metis_lightning.models.stage1 import GatedAdapter, PlainAdapter, Stage1
from metis_lightning.weights.build import plain_config
from metis_lightning.weights.bundle import Part, read_part, write_part
from tiny import STAGE1, WIDTH

LIP_DIM = 6

Run = Callable[..., tuple[int, str]]
"""Runs a command; returns its status and standard error."""


def make_every_task_bundle(tiny: Path, folder: Path) -> Path:
    """Add to a copy of the tiny bundle Omni, which answers TTS, VC, TSE and SE too, and lip to speech."""
    shutil.copytree(tiny, folder)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        heard = Stage1(replace(STAGE1, use_phone_cond=True), GatedAdapter(160, WIDTH))
        torch.nn.init.constant_(heard.cond_adapter.gate_scale, 0.1)
        seen = Stage1(STAGE1, PlainAdapter(LIP_DIM, WIDTH))
    _write(
        folder,
        "omni",
        heard,
        {"adapter": "gated", "cond_dim": 160, "text": "utf8", "answers": ["tts", "vc", "tse", "se"]},
    )
    _write(folder, "l2s", seen, {"adapter": "plain", "cond_dim": LIP_DIM})
    return folder


def _write(folder: Path, name: str, model: Stage1, config: dict[str, object]) -> None:
    config |= {"lora_rank": 0, "base_sha256": read_part(folder, "stage1").sha256, "stage1": plain_config(STAGE1)}
    write_part(folder, name, Part(config, {f"model.{key}": value for key, value in model.state_dict().items()}))


def voice(seconds: float, rate: int = 24_000, pitch: float = 140.0, seed: int = 0, pauses: bool = True) -> np.ndarray:
    """Something like a voice (S,): a gliding tone with harmonics, with pauses or without, and some noise."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 0.7 * time + seed))) / rate
    tone = sum(np.sin(k * phase) / k for k in range(1, 12))
    loudness = np.sin(2 * np.pi * 2.3 * time + seed)
    syllables = np.clip(loudness, 0, None) ** 2 if pauses else 1 + 0.3 * loudness
    return 0.1 * tone * syllables + 0.001 * generator.standard_normal(len(time))


def write_voice(path: Path, seconds: float, rate: int = 24_000, channels: int = 1, seed: int = 0) -> Path:
    wave = voice(seconds, rate, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.stack([wave] * channels, axis=1), rate)
    return path
