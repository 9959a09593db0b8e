"""The command line: `python -m metis_lightning VERB …`.

Help and mistakes answer at once: torch and Lightning are imported by the verb that needs them, not here.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple, NoReturn

from metis_lightning.errors import UserError
from metis_lightning.prepare import add_prepare_options


class Verb(NamedTuple):
    """What `--help` says of a verb."""

    about: str
    example: str


TRAINER_VERBS = {
    "fit": Verb("train a model as a config says", "fit -c configs/tse_lora.yaml"),
    "validate": Verb("one pass over the validation set", "validate -c configs/tse_lora.yaml --ckpt_path last.ckpt"),
    "test": Verb("one pass over the test set", "test -c configs/tse_lora.yaml --ckpt_path last.ckpt"),
    "predict": Verb("run a model over a data set", "predict -c configs/tse_lora.yaml --ckpt_path last.ckpt"),
}

OTHER_VERBS = {
    "evaluate": Verb("run systems over the test sets and score them", "evaluate --task tse --limit 10"),
    "tables": Verb("write the tables: our results and the paper's", "tables --out evaluation/tables"),
    "compare": Verb("listen to systems side by side", "compare --task tse --systems input target nano"),
    "prepare": Verb("list a corpus as a manifest", "prepare emilia --root /data/Emilia-Dataset --out emilia.jsonl"),
    "import": Verb("make a bundle of the published weights", "import published --out bundles/metis --tasks se tse"),
}

CONFIG_VERBS = {
    "prepare tokens": Verb(
        "store the tokens that a config trains on", "prepare tokens -c configs/pretrain.yaml --out runs/tokens"
    ),
    "bench data": Verb("how fast a config's batches come", "bench data -c configs/pretrain.yaml"),
}
"""Verbs of two words that take `fit`'s configs and options beside their own."""

VERBS = TRAINER_VERBS | OTHER_VERBS | CONFIG_VERBS


class OneLineParser(argparse.ArgumentParser):
    """An argparse parser whose errors are `UserError`s: one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError` with argparse's message and where to look."""
        raise UserError(f"{message} (see: {self.prog} --help)")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, or 2 for a mistake of the user's.

    Args:
        argv: arguments after the program's name; those of the process if None.
    """
    # peft and others ask the model hub on occasion; without a network each question costs seconds of retries.
    # A user who wants the hub says HF_HUB_OFFLINE=0, or runs `import hub`.
    args = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "0" if args[:1] == ["import"] else "1")
    try:
        _dispatch(args)
    except UserError as error:
        print(f"metis-lightning: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("metis-lightning: stopped", file=sys.stderr)
        return 130
    return 0


def _dispatch(args: list[str]) -> None:
    """Call the function of the verb that `args` starts with."""
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
    elif args[0] in TRAINER_VERBS:
        from metis_lightning.lightning_cli import run_trainer_verb

        run_trainer_verb(args, {name: verb.example for name, verb in TRAINER_VERBS.items()})
    elif " ".join(args[:2]) in CONFIG_VERBS:
        _run_config_verb(" ".join(args[:2]), args[2:])
    elif args[0] in OTHER_VERBS:
        options = _other_verbs_parser().parse_args(args)
        options.run(options)
    else:
        guess = get_close_matches(args[0], VERBS, n=1)
        hint = f"did you mean {guess[0]!r}?" if guess else f"the verbs are {', '.join(VERBS)}"
        raise UserError(f"unknown verb {args[0]!r}: {hint}")


def _overview() -> str:
    """Return the text of the bare command: every verb with an example."""
    lines = ["usage: python -m metis_lightning VERB [options]", "", "verbs:"]
    for name, verb in VERBS.items():
        lines += [f"  {name:<14} {verb.about}", f"  {'':<14}   python -m metis_lightning {verb.example}"]
    lines += ["", "python -m metis_lightning VERB --help lists a verb's options."]
    return "\n".join(lines)


def _other_verbs_parser() -> OneLineParser:
    """Return the parser of the verbs that do not belong to Lightning."""
    parser = OneLineParser(prog="python -m metis_lightning")
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=OneLineParser)
    for name, about in OTHER_VERBS.items():
        verb = verbs.add_parser(
            name, description=about.about, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
        )
        options = {
            "evaluate": _add_evaluate_options,
            "tables": _add_tables_options,
            "compare": _add_compare_options,
            "prepare": add_prepare_options,
            "import": _add_import_options,
        }
        options[name](verb)
    return parser


def _add_evaluate_options(verb: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate`."""
    verb.set_defaults(run=_run_evaluate)
    add = verb.add_argument
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
    add("--limit", type=_positive, metavar="N", help="only the first N items of each test set")
    add("--seeds", "--seed", nargs="+", type=int, default=[0], metavar="K", help="seeds of the sampler (default: 0)")
    add("--num-steps", type=_positive, metavar="N", help="sampling steps (default: those released for the task)")
    add("--guidance-scale", type=float, metavar="W", help="guidance of stage 1 (default: that released for the task)")
    add("--base", default="nano", metavar="BUNDLE", help="bundle of checkpoints and of resynthesis (default: nano)")
    add("--out", type=Path, metavar="DIR", help="folder of the results (default: evaluation/results/TASK)")
    add("--device", choices=("cpu", "cuda"), help="where to run (default: cuda where there is one)")
    add(
        "--devices",
        type=_positive,
        default=1,
        metavar="N",
        help="processes, each with a share of the items (default: 1)",
    )
    add("--scoring-processes", type=_positive, default=1, metavar="N", help="of each of them, beside it (default: 1)")
    add(
        "--max-failed-share",
        type=_share,
        default=0.1,
        metavar="X",
        help="exit with status 2 if a metric failed on a larger share of a test set (default: 0.1)",
    )
    verb.epilog = (
        "examples:\n"
        "  python -m metis_lightning evaluate --task tse\n"
        "  python -m metis_lightning evaluate --task se --system runs/se_lora/checkpoints/last.ckpt --seeds 0 1 2\n"
        "  python -m metis_lightning evaluate --task se --system input theirs=wavs:enhanced --limit 10\n"
        "  python -m metis_lightning evaluate --task tse --system nano last.ckpt --test-sets test-unseen --devices 4"
    )


def _add_tables_options(verb: argparse.ArgumentParser) -> None:
    """Add the options of `tables`."""
    verb.set_defaults(run=_run_tables)
    add = verb.add_argument
    add("--results", type=Path, metavar="DIR", help="folder with one folder a run (default: evaluation/results)")
    folders = {
        "--out": ("evaluation/tables", "folder that the tables are written to"),
        "--benchmarks": ("evaluation/benchmarks", "folder with the paper's rows"),
    }
    for option, (default, about) in folders.items():
        add(option, type=Path, default=Path(default), metavar="DIR", help=f"{about} (default: {default})")
    add("--baseline", metavar="S", help="system that ours are tested against (default: as the benchmark file says)")
    verb.epilog = (
        "examples:\n"
        "  python -m metis_lightning tables\n"
        "  python -m metis_lightning tables --results evaluation/results --out evaluation/tables --baseline resynthesis"
    )


def _add_compare_options(verb: argparse.ArgumentParser) -> None:
    """Add the options of `compare`."""
    verb.set_defaults(run=_run_compare)
    add = verb.add_argument
    add("--task", required=True, help="whose results are compared, e.g. tse")
    add("--systems", nargs="+", metavar="S", help="names in the results, or RUN/SYSTEM (default: all)")
    add(
        "--results",
        type=Path,
        default=Path("evaluation/results"),
        metavar="DIR",
        help="folder with one folder a run, or one run (default: evaluation/results)",
    )
    add("--out", type=Path, metavar="DIR", help="folder of the page (default: evaluation/compare/TASK)")
    add("--limit", type=_positive, default=50, metavar="N", help="only the N worst utterances (default: 50)")
    add("--sort", metavar="METRIC", help="what worst is, of the first system that is no control (default: WER)")
    verb.epilog = (
        "examples:\n"
        "  python -m metis_lightning compare --task tse\n"
        "  python -m metis_lightning compare --task tse --systems input target nano --sort STOI --limit 20"
    )


def _run_config_verb(name: str, args: list[str]) -> None:
    """Run a verb of two words; what is not its own option is a config or an option of `fit`."""
    parser = OneLineParser(
        prog=f"python -m metis_lightning {name}",
        usage="%(prog)s -c CONFIG [-c OVERLAY ...] [options] [options of fit]",
        description=CONFIG_VERBS[name].about,
        epilog=f"example:\n  python -m metis_lightning {CONFIG_VERBS[name].example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    {"prepare tokens": _add_prepare_tokens_options, "bench data": _add_bench_data_options}[name](parser)
    options, config = parser.parse_known_args(args)
    options.run(options, config)


def _add_prepare_tokens_options(verb: argparse.ArgumentParser) -> None:
    """Add the options of `prepare tokens`."""
    verb.set_defaults(run=_run_prepare_tokens)
    add = verb.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the store; what is there is not made again")
    add("--kinds", nargs="+", metavar="KIND", help="ssl, acoustic, features (default: what the module trains on)")
    add("--batch-seconds", type=_positive, metavar="S", help="audio in a batch (default: the config's)")
    add("--shard-size", type=_positive, default=2000, metavar="N", help="recordings in a file (default: 2000)")


def _add_bench_data_options(verb: argparse.ArgumentParser) -> None:
    """Add the options of `bench data`."""
    verb.set_defaults(run=_run_bench_data)
    verb.add_argument("--seconds", type=_positive, default=30, metavar="S", help="how long to read (default: 30)")


def _add_import_options(verb: argparse.ArgumentParser) -> None:
    """Add the options of `import`."""
    verb.set_defaults(run=_run_import)
    add = verb.add_argument
    add("source", nargs="?", metavar="SOURCE", help="folder with the published files, or 'hub' to download them")
    add("--out", type=Path, required=True, metavar="DIR", help="the bundle: a new folder, or a bundle to add to")
    add("--tasks", nargs="+", metavar="T", help="of base tts vc tse se l2s omni (default: all whose files are there)")
    add(
        "--file",
        action="append",
        default=[],
        metavar="PART=PATH",
        help="a file that lies elsewhere; a task is one file, or two: LoRA and adapter (may be repeated)",
    )
    add(
        "--revision",
        action="append",
        default=[],
        metavar="OWNER/NAME=COMMIT",
        help="commit to download (default: the newest, which is noted in the bundle)",
    )
    add(
        "--dtype",
        choices=("published", "float32", "bfloat16", "float16"),
        default="published",
        help="how weights are stored (default: as published); bfloat16 halves their size, and rounds",
    )
    add("--sizes", default="paper", metavar="BUNDLE", help="sizes of the models (default: paper)")
    add(
        "--ignore",
        action="append",
        default=[],
        metavar="PATTERN",
        help="tensors that no model has and that are to be left out, noted in the bundle (may be repeated)",
    )
    verb.epilog = (
        "examples:\n"
        "  python -m metis_lightning import hub --out bundles/metis --tasks se tse --file "
        "ssl_features=wav2vec2bert_stats.pt\n"
        "  python -m metis_lightning import published --out bundles/metis\n"
        "  python -m metis_lightning import published --out bundles/metis --file w2v_bert=models/w2v-bert-2.0 --dtype "
        "bfloat16\n\n"
        "wav2vec2bert_stats.pt lies in Amphion's source, models/tts/maskgct/ckpt/. An import that was interrupted goes "
        "on when it is run again."
    )


def _positive(text: str) -> int:
    """Convert an option's text to a whole number of at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


def _share(text: str) -> float:
    """Convert an option's text to a number from 0 to 1."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, not {number:g}")
    return number


_share.__name__ = "number"
_positive.__name__ = "whole number"  # argparse names the type in its message


def _run_evaluate(options: argparse.Namespace) -> None:
    """Run the verb `evaluate`."""
    from metis_lightning.evaluate.main import run_evaluate

    run_evaluate(options)


def _run_tables(options: argparse.Namespace) -> None:
    """Run the verb `tables`."""
    from metis_lightning.evaluate.tables import run_tables

    run_tables(options)


def _run_compare(options: argparse.Namespace) -> None:
    """Run the verb `compare`."""
    from metis_lightning.evaluate.compare import run_compare

    run_compare(options)


def _run_prepare_tokens(options: argparse.Namespace, config: list[str]) -> None:
    """Run the verb `prepare tokens`."""
    from metis_lightning.prepare_tokens import run_prepare_tokens

    run_prepare_tokens(options, config)


def _run_bench_data(options: argparse.Namespace, config: list[str]) -> None:
    """Run the verb `bench data`."""
    from metis_lightning.bench_data import run_bench_data

    run_bench_data(options, config)


def _run_import(options: argparse.Namespace) -> None:
    """Run the verb `import`."""
    from metis_lightning.weights.import_verb import run_import

    run_import(options)
