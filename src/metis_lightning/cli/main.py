"""The command line: `python -m metis_lightning VERB …`.

Help and mistakes answer at once: torch and Lightning are imported by the verb that needs them, not here.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from metis_lightning.child_processes import end_with_launcher
from metis_lightning.cli import (
    app,
    bench_data,
    bench_evaluate,
    bench_generate,
    compare,
    evaluate,
    generate,
    import_weights,
    prepare,
    prepare_tokens,
    tables,
)
from metis_lightning.cli.command import PROGRAM
from metis_lightning.errors import Stopped, UserError
from metis_lightning.trainer.explain import explain_killed_worker, explain_worker_error

TRAINER_VERBS = {
    "fit": ("train a model as a config says", "-c configs/tse_lora.yaml"),
    "validate": ("one pass over the validation set", "-c configs/tse_lora.yaml --ckpt_path last.ckpt"),
    "test": ("one pass over the test set", "-c configs/tse_lora.yaml --ckpt_path last.ckpt"),
    "predict": ("run a model over a data set", "-c configs/tse_lora.yaml --ckpt_path last.ckpt"),
}
"""Lightning's own verbs: what `--help` says of each, and an example of its options."""

_OWN = (
    evaluate,
    tables,
    compare,
    generate,
    app,
    prepare,
    prepare_tokens,
    import_weights,
    bench_data,
    bench_evaluate,
    bench_generate,
)
VERBS = {module.VERB.name: module.VERB for module in _OWN}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 2 for a mistake of the user's, 128 + N for signal N.

    Args:
        argv: arguments after the program's name; those of the process if None.
    """
    # peft and others ask the model hub on occasion; without a network each question costs seconds of retries.
    # A user who wants the hub says HF_HUB_OFFLINE=0.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may hold bytes that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    end_with_launcher(os.environ)
    try:
        _dispatch(list(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        return _refused(explain_worker_error(str(error)))
    except RuntimeError as error:
        killed = explain_killed_worker(str(error))
        if killed is None:
            raise
        return _refused(killed)
    except Stopped as stop:
        if stop.text:
            print(stop.text, file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        print("metis-lightning: stopped", file=sys.stderr)
        return 130
    return 0


def _refused(reason: str) -> int:
    """Print what is wrong in one line and return the exit status."""
    print(f"metis-lightning: error: {' '.join(reason.split())}", file=sys.stderr)
    return 2


def _dispatch(args: list[str]) -> None:
    """Call the function of the verb that `args` starts with."""
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
    elif args[0] in TRAINER_VERBS:
        from metis_lightning.trainer.main import run_trainer_verb

        run_trainer_verb(args, {name: f"{name} {example}" for name, (_, example) in TRAINER_VERBS.items()})
    elif (name := " ".join(args[:2])) in VERBS:
        VERBS[name](args[2:])
    elif args[0] in VERBS:
        VERBS[args[0]](args[1:])
    else:
        raise UserError(_unknown(args))


def _overview() -> str:
    """Return the text of the bare command: every verb with an example."""
    listed = TRAINER_VERBS | {name: (verb.about, verb.examples[0]) for name, verb in VERBS.items()}
    lines = [f"usage: {PROGRAM} VERB [options]", "", "verbs:"]
    for name, (about, example) in listed.items():
        lines += [f"  {name:<14} {about}", f"  {'':<14}   {PROGRAM} {name} {example}"]
    lines += ["", f"{PROGRAM} VERB --help lists a verb's options."]
    return "\n".join(lines)


def _unknown(args: Sequence[str]) -> str:
    """Return what is wrong with a verb that is none, and which may have been meant."""
    known = [*TRAINER_VERBS, *VERBS]
    if second := [name for name in known if name.startswith(f"{args[0]} ")]:
        return f"{args[0]!r} takes a second word: {', '.join(second)}"
    guess = get_close_matches(args[0], known, n=1)
    hint = f"did you mean {guess[0]!r}?" if guess else f"the verbs are {', '.join(known)}"
    return f"unknown verb {args[0]!r}: {hint}"
