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
from metis_lightning.generate.options import add_generate_options, add_model_options


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
    "generate": Verb("speech out of files", "generate --task tse --source mix.wav --prompt me.wav --out clean.wav"),
    "app": Verb("the five tasks in the browser", "app --model nano"),
}

VERBS = TRAINER_VERBS | OTHER_VERBS


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
    # A user who wants the hub says HF_HUB_OFFLINE=0.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        _dispatch(list(sys.argv[1:] if argv is None else argv))
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
        lines += [f"  {name:<10} {verb.about}", f"  {'':<10}   python -m metis_lightning {verb.example}"]
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
        add_options = {
            "evaluate": _add_evaluate_options,
            "tables": _add_tables_options,
            "compare": _add_compare_options,
            "generate": add_generate_options,
            "app": _add_app_options,
        }
        add_options[name](verb)
    return parser


def _add_evaluate_options(verb: argparse.ArgumentParser) -> None:
    """Add the options of `evaluate`."""
    verb.set_defaults(run=_run_evaluate)
    add = verb.add_argument
    add("--task", required=True, help="what is evaluated, e.g. tse")
    add(
        "--system",
        nargs="+",
        default=["nano"],
        metavar="S",
        help="bundle names, bundle folders or checkpoints (default: the bundle nano)",
    )
    add("--no-controls", action="store_true", help="leave out the systems input, target and resynthesis")
    add("--test-sets", nargs="+", metavar="SET", help="test sets to run (default: all of the task)")
    add("--protocol", default="offline", metavar="P", help="which metric models to use (default: offline)")
    add("--limit", type=_positive, metavar="N", help="only the first N items of each test set")
    add("--seed", type=int, default=0, help="seed of the sampler (default: 0)")
    add("--num-steps", type=_positive, metavar="N", help="sampling steps (default: the bundle's)")
    add("--out", type=Path, metavar="DIR", help="folder of the results (default: evaluation/results/TASK)")
    add("--device", choices=("cpu", "cuda"), help="where to run (default: cuda where there is one)")
    verb.epilog = (
        "examples:\n"
        "  python -m metis_lightning evaluate --task tse\n"
        "  python -m metis_lightning evaluate --task tse --system runs/demo/checkpoints/last.ckpt --limit 10\n"
        "  python -m metis_lightning evaluate --task tse --system nano last.ckpt --test-sets test-unseen"
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


def _add_app_options(verb: argparse.ArgumentParser) -> None:
    """Add the options of `app`."""
    verb.set_defaults(run=_run_app)
    add_model_options(verb, several=True)
    verb.add_argument("--host", default="127.0.0.1", metavar="H", help="address to listen at (default: 127.0.0.1)")
    verb.add_argument("--port", type=_positive, default=7860, metavar="N", help="port to listen at (default: 7860)")
    verb.epilog = (
        "examples:\n"
        "  python -m metis_lightning app\n"
        "  python -m metis_lightning app --model nano runs/se_lora/checkpoints/last.ckpt --port 8000"
    )


def _positive(text: str) -> int:
    """Convert an option's text to a whole number of at least one."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {number}")
    return number


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


def _run_app(options: argparse.Namespace) -> None:
    """Run the verb `app`."""
    from metis_lightning.app import run_app

    run_app(options)
