"""The options of `evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from metis_lightning.cli.command import Verb
from metis_lightning.cli.parsing import PRECISIONS, positive, share


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate`."""
    add = parser.add_argument
    add("--task", required=True, help="what is evaluated: tts, vc, tse, se, l2s, omni")
    add(
        "--system",
        nargs="+",
        default=[],
        metavar="S",
        help="bundles, checkpoints, folders of audio by other tools (wavs:DIR, files named ID.wav), or the controls "
        "input, target, resynthesis; NAME=S gives one a name (default: the bundle nano, where it does the task)",
    )
    add("--no-controls", action="store_true", help="leave out the controls, which come first where none is named")
    add("--data", default="starter", metavar="D", help="corpus of the test sets (default: starter, which is embedded)")
    add("--root", type=Path, metavar="DIR", help="folder of the corpus")
    add(
        "--data-options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="more about its test sets, e.g. manifest=libri3mix.jsonl",
    )
    add("--test-sets", nargs="+", metavar="SET", help="test sets to run (default: all of the task)")
    add(
        "--export",
        type=Path,
        metavar="DIR",
        help="write the items for other tools instead (wavs, list.jsonl, wav.scp), and run nothing",
    )
    _add_metric_options(parser)
    _add_sampler_options(parser)
    _add_run_options(parser)


def _add_sampler_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose the items and how systems make their speech."""
    add = parser.add_argument
    add("--limit", type=positive, metavar="N", help="only the first N items of each test set")
    add("--seeds", "--seed", nargs="+", type=int, default=[0], metavar="K", help="seeds of the sampler (default: 0)")
    add("--num-steps", type=positive, metavar="N", help="sampling steps (default: those released for the task)")
    add("--guidance-scale", type=float, metavar="W", help="guidance of stage 1 (default: that released for the task)")
    add("--text-guided", action="store_true", help="tell weights that read text what the target says (tse, omni)")
    add(
        "--tts-length",
        choices=("predicted", "reference"),
        default="predicted",
        help="how long speech from text is: by the prompt's speaking rate, or as the recording (default: predicted)",
    )
    add("--base", default="nano", metavar="BUNDLE", help="bundle of checkpoints and of resynthesis (default: nano)")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of where the run works and writes, and when it counts as failed."""
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="folder of the results (default: evaluation/results/TASK)")
    add("--device", choices=("cpu", "cuda"), help="where to run (default: cuda where there is one)")
    add("--precision", choices=PRECISIONS, help="of both stages (default: bfloat16 on a GPU, float32 elsewhere)")
    add(
        "--devices",
        type=positive,
        default=1,
        metavar="N",
        help="processes, each with a share of the items (default: 1)",
    )
    add("--scoring-processes", type=positive, default=1, metavar="N", help="of each of them, beside it (default: 1)")
    add(
        "--max-failed-share",
        type=share,
        default=0.1,
        metavar="X",
        help="exit with status 2 if a metric failed on a larger share of a test set (default: 0.1)",
    )


def _add_metric_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that choose what scores."""
    add = parser.add_argument
    add("--protocol", default="offline", metavar="P", help="which metric models to use, offline or paper")
    add(
        "--asr",
        nargs="+",
        metavar="M",
        help="recognisers, [LANGUAGE=]KIND[:SOURCE] (default: the protocol's)",
    )
    add("--speakers", nargs="+", metavar="M", help="speaker encoders, KIND[:SOURCE] (default: the protocol's)")
    add("--nisqa", metavar="FILE", help="NISQA's published nisqa.tar (default: no NISQA)")
    add("--normalizer", metavar="RULES", help="of texts: whisper-english, seed-tts or none (default: the protocol's)")


VERB = Verb(
    name="evaluate",
    about="run systems over the test sets and score them",
    examples=(
        "--task tse --limit 10",
        "--task se --system runs/se_lora/checkpoints/last.ckpt --seeds 0 1 2",
        "--task se --system input theirs=wavs:enhanced --limit 10",
        "--task tse --system nano last.ckpt --test-sets test-unseen --devices 4",
        "--task tse --test-sets test-unseen --export items",
    ),
    add_options=add_options,
    run="metis_lightning.evaluate.run.main:run_evaluate",
)
