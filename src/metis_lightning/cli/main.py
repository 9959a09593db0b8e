"""The command line, `python -m metis_lightning COMMAND …`; torch and Lightning are imported by those that need them."""

from __future__ import annotations

import io
import os
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from metis_lightning import __version__
from metis_lightning.bench.options import (
    BenchDataOptions,
    BenchEvaluateOptions,
    BenchGenerateOptions,
    BenchStartOptions,
    BenchTrainOptions,
)
from metis_lightning.child_processes import end_with_launcher
from metis_lightning.cli.command import Command, completion_lines
from metis_lightning.cli.prepare import CORPORA
from metis_lightning.doctor.main import DoctorOptions
from metis_lightning.doctor.new import NewOptions
from metis_lightning.errors import Stopped, UserError
from metis_lightning.evaluate.options import CompareOptions, EvaluateOptions, TablesOptions
from metis_lightning.files import NO_ROOM
from metis_lightning.generate.options import AppOptions, GenerateOptions
from metis_lightning.options import PROGRAM
from metis_lightning.trainer.config_keys import check_config
from metis_lightning.trainer.options import PrepareTokensOptions
from metis_lightning.weights.published.options import ImportOptions, PushOptions

_WORKER = re.compile(r"Caught \w+ in \w+ worker process \d+")
# The last line of a traceback, in which an exception has its module.
_RAISED = re.compile(r"\n(?:\w+\.)*[A-Z]\w*: ")
_KILLED = re.compile(r"DataLoader worker \(pid\S* [\d, ]+\) (?:is killed by signal|exited unexpectedly)")
# Commands that make what is missing when they are run again.
_RESUMED = ("evaluate", "generate", "prepare", "import")

TRAINER_COMMANDS = {
    "fit": ("train a model as a config says", "-c configs/tse_lora.yaml"),
    "validate": ("one pass over the validation set", "-c configs/tse_lora.yaml --ckpt_path last.ckpt"),
    "test": ("one pass over the test set", "-c configs/tse_lora.yaml --ckpt_path last.ckpt"),
    "predict": ("run a model over a data set", "-c configs/tse_lora.yaml --ckpt_path last.ckpt"),
}
"""Lightning's own commands: what `--help` says of each, and an example of its options."""

COMMANDS = {
    "evaluate": Command(
        EvaluateOptions,
        "metis_lightning.evaluate.run.main:run_evaluate",
        "run systems over the test sets and score them",
        (
            "--task tse --limit 10",
            "--task se --system runs/se_lora/checkpoints/last.ckpt --seeds 0 1 2",
            "--task se --system input theirs=wavs:enhanced --limit 10",
            "--task tse --system nano last.ckpt --test-sets test-unseen --devices 4",
            "--task tse --test-sets test-unseen --export items",
        ),
    ),
    "tables": Command(
        TablesOptions,
        "metis_lightning.evaluate.tables.main:run_tables",
        "write the tables: our results and the paper's",
        ("--out evaluation/tables", "--results evaluation/results --out evaluation/tables --baseline resynthesis"),
    ),
    "compare": Command(
        CompareOptions,
        "metis_lightning.evaluate.compare.main:run_compare",
        "listen to systems side by side",
        ("--task tse --systems input target nano", "--task tse --systems input target nano --sort STOI --limit 20"),
    ),
    "generate": Command(
        GenerateOptions,
        "metis_lightning.generate.main:run_generate",
        "speech out of files",
        (
            "--task tse --source mix.wav --prompt me.wav --out clean.wav",
            "--task se --source recordings/ --out clean/ --model se.ckpt",
            "--task tts --prompt me.wav --prompt-text 'What I say.' --text 'What is to be said.' --language en "
            "--out said.wav --model tts.ckpt",
            "--task vc --list jobs.csv --prompt me.wav --out made/ --model vc.ckpt",
        ),
        note="A list names its inputs as the options do: id, source, prompt, text, prompt_text, language,\n"
        "prompt_language, seconds, video, features, seed. Paths are relative to the list; what a line leaves empty\n"
        "is taken from the option. Results are called by id. What a run that was stopped has finished is not made\n"
        "again. A source that does not fit into one piece is worked on in overlapping pieces, in bounded memory.\n"
        "Imitate voices only of people who agreed, and say that speech is generated where it is heard.",
    ),
    "app": Command(
        AppOptions,
        "metis_lightning.generate.app:run_app",
        "the five tasks in the browser",
        ("--model nano", "--model nano runs/se_lora/checkpoints/last.ckpt --port 8000"),
    ),
    **{f"prepare {name}": command for name, command in CORPORA.items()},
    "prepare tokens": Command(
        PrepareTokensOptions,
        "metis_lightning.trainer.token_extraction:run_prepare_tokens",
        "store the tokens that a config trains on",
        ("-c configs/pretrain.yaml --out runs/tokens",),
        takes_config=True,
    ),
    "import": Command(
        ImportOptions,
        "metis_lightning.weights.published.convert:run_import",
        "make a bundle of the published weights",
        (
            "published --out bundles/metis --tasks se tse",
            "hub --out bundles/metis --tasks se tse --file ssl_features=wav2vec2bert_stats.pt",
            "published --out bundles/metis --file w2v_bert=models/w2v-bert-2.0 --dtype bfloat16",
        ),
        note="wav2vec2bert_stats.pt lies in Amphion's source, models/tts/maskgct/ckpt/. An import that was interrupted "
        "goes on when it is run again.",
    ),
    "push": Command(
        PushOptions,
        "metis_lightning.weights.publish:run_push",
        "put a bundle and its model card on the hub",
        ("my_bundle me/my-metis --results evaluation/results/se", "my_bundle me/my-metis --private"),
        note="The hub is asked only with HF_HUB_OFFLINE=0, and after `hf auth login`.",
    ),
    "doctor": Command(
        DoctorOptions,
        "metis_lightning.doctor.main:run_doctor",
        "what would keep a run from working, and the cure",
        ("-c configs/tse_lora.yaml", "-c configs/tse_lora.yaml --largest-batch --memory-limit 8", "--json"),
        takes_config=True,
    ),
    "new": Command(
        NewOptions,
        "metis_lightning.doctor.new:run_new",
        "manifest and config for your own recordings",
        ("--task se --speech recordings", "--task tts --speech voice --speakers one --language de --out my_voice"),
    ),
    "bench data": Command(
        BenchDataOptions,
        "metis_lightning.bench.throughput:run_bench_data",
        "how fast a config's batches come",
        ("-c configs/pretrain.yaml",),
        takes_config=True,
    ),
    "bench start": Command(
        BenchStartOptions,
        "metis_lightning.bench.start:run_bench_start",
        "how long commands take to start",
        ("--runs 3",),
    ),
    "bench train": Command(
        BenchTrainOptions,
        "metis_lightning.bench.train:run_bench_train",
        "how fast a training step is and what it holds, by how batches are made",
        ("--steps 8", "--scale paper"),
    ),
    "bench evaluate": Command(
        BenchEvaluateOptions,
        "metis_lightning.bench.throughput:run_bench_evaluate",
        "how fast clips are scored, what each metric costs, and the memory",
        ("--clips 200",),
    ),
    "bench generate": Command(
        BenchGenerateOptions,
        "metis_lightning.bench.generate:run_bench_generate",
        "how fast requests are answered, by stage",
        (
            "--batch-sizes 1 4 8 --threads 2",
            "--scale paper --task se --batch-sizes 1 --released --precision float32 int8",
        ),
    ),
}
"""The project's own commands, by the one or two words that are typed."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, None for the process's; return its exit status: 0, 2 for a mistake, 128 + N for signal N."""
    # peft and others ask the model hub on occasion; without a network each question costs seconds of retries.
    # A user who wants the hub says HF_HUB_OFFLINE=0.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files may hold bytes that the terminal's encoding lacks.
        sys.stdout.reconfigure(errors="backslashreplace")
    end_with_launcher(os.environ)
    threading.excepthook = _say_unless_full
    try:
        _dispatch(list(sys.argv[1:] if argv is None else argv))
        return 0
    except UserError as error:
        # That of a loader's process comes with its traceback, which the reason ends.
        reason = _RAISED.split(str(error))[-1] if _WORKER.match(str(error)) else str(error)
    except RuntimeError as error:
        # A loader's worker that the system killed is no bug of ours.
        if not (reason := explain_killed_worker(str(error)) or ""):
            raise
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        # Of a logger, say; our own files say which they are.
        reason = f"{error.filename or 'a file of the run'} cannot be written: {error.strerror}; make room there"
    except Stopped as stop:
        if stop.text:
            print(stop.text, file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        words = " ".join(sys.argv[1:] if argv is None else argv)
        kept = "; what is finished is kept, and the same command goes on" if words.startswith(_RESUMED) else ""
        print(f"metis-lightning: stopped{kept}", file=sys.stderr)
        return 130
    print(f"metis-lightning: error: {' '.join(reason.split())}", file=sys.stderr)
    return 2


def _say_unless_full(ended: threading.ExceptHookArgs) -> None:
    """Tell why a thread ended, but not a logger's that a full disk ends: the next use of the logger says it."""
    if getattr(ended.exc_value, "errno", None) not in NO_ROOM:
        threading.__excepthook__(ended)


def explain_killed_worker(message: str) -> str | None:
    """Return one line for a loader's process that was killed; None if the message is of another kind."""
    if not _KILLED.search(message):
        return None
    reason = " ".join(message.split("\n")[0].split())
    return f"a process that prepares batches ended ({reason}): out of memory? Give fewer --data.num_workers"


def _dispatch(args: list[str]) -> None:
    listed = TRAINER_COMMANDS | {name: (command.about, command.examples[0]) for name, command in COMMANDS.items()}
    # The bare program, and the bare first word of several commands, answer as with --help.
    first, second = [*args[:2], *["--help"] * 2][:2]
    family = {name: shown for name, shown in listed.items() if name.startswith(f"{first} ")}
    if first == "--version":
        print(f"metis-lightning {__version__}")
    elif first == "completion":
        print(*completion_lines(COMMANDS, list(TRAINER_COMMANDS), "metis-lightning"), sep="\n")
    elif first in ("-h", "--help"):
        print(_overview(listed))
    elif first in TRAINER_COMMANDS:
        # Before torch and Lightning are imported, which takes a while.
        check_config(args)
        from metis_lightning.trainer.main import run_trainer_command

        run_trainer_command(args, {name: f"{name} {example}" for name, (_, example) in TRAINER_COMMANDS.items()})
    elif (name := f"{first} {second}") in COMMANDS:
        COMMANDS[name](name, args[2:])
    elif first in COMMANDS:
        COMMANDS[first](first, args[1:])
    elif family and second in ("-h", "--help"):
        print(_overview(family))
    else:
        raise UserError(_unknown(first, second, family or listed))


def _overview(listed: Mapping[str, tuple[str, str]]) -> str:
    lines = [f"usage: {PROGRAM} COMMAND [options]", "", "commands:"]
    for name, (about, example) in listed.items():
        lines += [f"  {name:<19} {about}", f"  {'':<19}   {PROGRAM} {name} {example}"]
    lines += ["", f"{PROGRAM} COMMAND --help lists a command's options; --version says the version,"]
    lines += [
        '`eval "$(metis-lightning completion)"` completes commands and options in bash, and in zsh after bashcompinit.'
    ]
    return "\n".join(lines)


def _unknown(first: str, second: str, listed: Mapping[str, object]) -> str:
    # Of `prepare emilias` the first word is right, so the second is the one to guess.
    name = first if first not in {each.split()[0] for each in listed} else f"{first} {second}"
    guess = get_close_matches(name, listed, n=1)
    hint = f"did you mean {guess[0]!r}?" if guess else f"the commands are {', '.join(listed)}"
    return f"unknown command {name!r}: {hint}"
