"""Options of `generate` and `app`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from metis_lightning.options import CommandOptions, Device, Precision, option
from metis_lightning.sampling.settings import SHORTEST_CHUNK, Preset


@dataclass(frozen=True, kw_only=True)
class WeightsOptions(CommandOptions):
    """Options of weights beside their names, and of where they run."""

    base: str = option("bundle that a checkpoint belongs to", "nano", metavar="BUNDLE")
    phone_vocabulary: Path | None = option(
        "vocab.json of MaskGCT's G2P, for the released weights", None, metavar="JSON"
    )
    visual_encoder: Path | None = option(
        "Auto-AVSR's weights, for --video (default: the visual encoder of the bundle)", None, metavar="FILE"
    )
    device: Device | None = option("where to run (default: cuda where there is one)", None)
    precision: Precision | None = option("of both stages (default: bfloat16 on a GPU, float32 elsewhere)", None)

    def bundle_of(self, model: str) -> str:
        """Return the bundle that weights belong to, by its name: their own, or a checkpoint's base."""
        return self.base if model.endswith(".ckpt") else model


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(WeightsOptions):
    """Options of `generate`: the inputs of a job or the list of jobs, the weights, and the sampler's settings."""

    task: str = option("what is wanted: tts, vc, tse, se, l2s, omni, or a task of your own that the weights serve")
    source: Path | None = option(
        "what is heard: an audio file of any length, or a folder of them", None, metavar="FILE"
    )
    prompt: Path | None = option("a few seconds of the wanted voice", None, metavar="FILE")
    voice: Path | None = option("the wanted voice as --save-voice wrote it, instead", None, metavar="FILE")
    save_voice: Path | None = option("write the prompt, encoded, for --voice (.safetensors)", None, metavar="FILE")
    video: Path | None = option("a silent talking face: a video file, or a folder of them", None, metavar="FILE")
    features: Path | None = option(
        "its lip features (.npy or .safetensors, 25 a second), or a folder of them", None, metavar="FILE"
    )
    text: str = option("what is to be said; for tse and omni: what the wanted speaker says", "", metavar="T")
    prompt_text: str = option("what the prompt says", "", metavar="T")
    language: str = option("of the text: en, zh, de, fr, ja, ko, it, ru (default: en)", "", metavar="T")
    prompt_language: str = option("of the prompt's text, if another", "", metavar="T")
    seconds: float | None = option(
        "length of the speech of a text (default: at the prompt's rate)", None, metavar="S", above=0
    )
    list: Path | None = option("csv or jsonl: an id and these inputs in each line, see below", None, metavar="FILE")
    out: Path = option("a .wav or .flac; of a list or folder: a folder", metavar="PATH")
    model: str = option("a bundle or a checkpoint", "nano", metavar="M")
    seed: int = option("of the sampler", 0, metavar="K", least=0, most=2**63 - 1)
    preset: Preset | None = option("fewer steps of both stages; what follows overrules it (default: released)", None)
    num_steps: int | None = option(
        "steps of stage 1 (default: those released for the task)", None, metavar="N", least=1
    )
    guidance_scale: float | None = option("guidance of stage 1 (default: as released)", None, metavar="W", least=0)
    temperature: float | None = option("temperature of stage 1 (default: as released)", None, metavar="X", least=0)
    stage2_steps: tuple[int, ...] | None = option(
        "of layer 1, 2, … and each other (default: 40 16 1)", None, metavar="N", least=1
    )
    batch_seconds: float = option("audio in a batch", 60.0, metavar="S", above=0)
    chunk_seconds: float | None = option(
        "longest piece of a long source or text (default: 30 less the prompt)", None, metavar="S", least=SHORTEST_CHUNK
    )
    play_list: Path | None = option("write one page with players and spectrograms of all results", None, metavar="HTML")


@dataclass(frozen=True, kw_only=True)
class AppOptions(WeightsOptions):
    """Options of `app`: weights, of which several serve different tasks, and the address."""

    model: tuple[str, ...] = option("bundles or checkpoints", ("nano",), metavar="M")
    host: str = option("address to listen at", "127.0.0.1", metavar="H")
    port: int = option("port to listen at", 7860, metavar="N", least=1)

    def packages(self) -> Mapping[str, str]:
        """Return what draws the page."""
        return {"gradio": "demo"}
