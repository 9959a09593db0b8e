"""The options of `generate`."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from metis_lightning.cli.command import Verb
from metis_lightning.cli.parsing import PRECISIONS, positive
from metis_lightning.generate.options import SHORTEST_CHUNK

TEXTS = {
    "text": "what is to be said; for tse and omni: what the wanted speaker says",
    "prompt-text": "what the prompt says",
    "language": "of the text: en, zh, de, fr, ja, ko, it, ru (default: en)",
    "prompt-language": "of the prompt's text, if another",
}
FILES = {
    "source": "what is heard: an audio file of any length, or a folder of them",
    "prompt": "a few seconds of the wanted voice",
    "video": "a silent talking face: a video file, or a folder of them",
    "features": "its lip features (.npy or .safetensors, 25 a second), or a folder of them",
}


def add_generate_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `generate`."""
    add = parser.add_argument
    add("--task", required=True, choices=("tts", "vc", "tse", "se", "l2s", "omni"), help="what is wanted")
    for name, about in FILES.items():
        add(f"--{name}", type=Path, metavar="FILE", help=about)
    for name, about in TEXTS.items():
        add(f"--{name}", default="", metavar="T", help=about)
    add(
        "--seconds",
        type=_above_zero,
        metavar="S",
        help="length of the speech of a text (default: at the prompt's rate)",
    )
    add("--list", type=Path, metavar="FILE", help="csv or jsonl: an id and these inputs in each line, see below")
    add("--out", type=Path, required=True, metavar="PATH", help="a .wav or .flac; of a list or folder: a folder")
    add_model_options(parser)
    add("--seed", type=_seed, default=0, metavar="K", help="of the sampler (default: 0)")
    add("--num-steps", type=positive, metavar="N", help="steps of stage 1 (default: those released for the task)")
    add("--guidance-scale", type=_from_zero, metavar="W", help="guidance of stage 1 (default: as released)")
    add("--temperature", type=_from_zero, metavar="X", help="temperature of stage 1 (default: as released)")
    add("--stage2-steps", type=positive, nargs=3, metavar="N", help="of layer 1, 2, each other (default: 40 16 1)")
    add("--batch-seconds", type=_above_zero, default=60.0, metavar="S", help="audio in a batch (default: 60)")
    add(
        "--chunk-seconds", type=_chunk, metavar="S", help="longest piece of a long source (default: 30 less the prompt)"
    )
    add("--play-list", type=Path, metavar="HTML", help="write one page with players and spectrograms of all results")


def add_model_options(parser: argparse.ArgumentParser, several: bool = False) -> None:
    """Add the options that name weights and where they run; `several` weights answer different tasks."""
    add = parser.add_argument
    if several:
        add("--model", nargs="+", default=["nano"], metavar="M", help="bundles or checkpoints (default: nano)")
    else:
        add("--model", default="nano", metavar="M", help="a bundle or a checkpoint (default: the bundle nano)")
    add("--base", default="nano", metavar="BUNDLE", help="bundle that a checkpoint belongs to (default: nano)")
    add("--phone-vocabulary", type=Path, metavar="JSON", help="vocab.json of MaskGCT's G2P, for the released weights")
    add("--visual-encoder", type=Path, metavar="FILE", help="Auto-AVSR's weights, for --video")
    add("--device", choices=("cpu", "cuda"), help="where to run (default: cuda where there is one)")
    add("--precision", choices=PRECISIONS, help="of both stages (default: bfloat16 on a GPU, float32 elsewhere)")


def _seed(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2^63 - 1, not {number}")
    return number


def _from_zero(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number from 0 on, not {text}")
    return number


def _above_zero(text: str) -> float:
    number = _from_zero(text)
    if number == 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return number


def _chunk(text: str) -> float:
    number = _from_zero(text)
    if number < SHORTEST_CHUNK:
        raise argparse.ArgumentTypeError(f"must be at least {SHORTEST_CHUNK:g}, not {text}")
    return number


# argparse names the type in its message.
_seed.__name__ = "whole number"
_from_zero.__name__ = _above_zero.__name__ = _chunk.__name__ = "number"


VERB = Verb(
    name="generate",
    about="speech out of files",
    examples=(
        "--task tse --source mix.wav --prompt me.wav --out clean.wav",
        "--task se --source recordings/ --out clean/ --model se.ckpt",
        "--task tts --prompt me.wav --prompt-text 'What I say.' --text 'What is to be said.' --language en "
        "--out said.wav --model tts.ckpt",
        "--task vc --list jobs.csv --prompt me.wav --out made/ --model vc.ckpt",
    ),
    add_options=add_generate_options,
    run="metis_lightning.generate.main:run_generate",
    note="A list names its inputs as the options do: id, source, prompt, text, prompt_text, language,\n"
    "prompt_language, seconds, video, features, seed. Paths are relative to the list; what a line leaves empty\n"
    "is taken from the option. Results are called by id. What a run that was stopped has finished is not made\n"
    "again. A source that does not fit into one piece is worked on in overlapping pieces, in bounded memory.",
)
