"""Turns the many-line messages of jsonargparse and torch into one line: what is wrong, where, what to do."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

# What jsonargparse says of a key that it does not know: in a config, in a class's arguments, and as an option.
_UNKNOWN_KEY = re.compile(
    r"(?:Group '(?P<group>[^']+)' |Subcommand '\w+' )?(?:does not accept option|Option) '(?P<key>[^']+)'"
    r"|unrecognized arguments: --(?P<option>[^\s=]+)"
)
_OWNER = re.compile(r"Given value: \{'class_path': '([^']+)'")

# Lines of a message that tell of the parser's workings, not of the user's mistake.
_NOISE = re.compile(r"\s*(Does not validate|Subtypes:|Errors:|Given value|- Expected a <class 'NoneType'>)")
_PARENT_KEYS = re.compile(r'(?:Parser key "[^"]+": )+')

_WORKER = re.compile(r"Caught \w+ in \w+ worker process \d+")
# The last line of a traceback, in which an exception has its module.
_RAISED = re.compile(r"\n(?:\w+\.)*[A-Z]\w*: ")
_KILLED = re.compile(r"DataLoader worker \(pid\S* [\d, ]+\) (?:is killed by signal|exited unexpectedly)")

_SHAPES = re.compile(
    r"size mismatch for (\S+): copying a param with shape (?:torch\.Size\()?\[([\d, ]*)\]\)? from checkpoint, "
    r"the shape in current model is (?:torch\.Size\()?\[([\d, ]*)\]"
)
_KEYS = re.compile(r'(Missing|Unexpected) key\(s\) in state_dict: "([^"]+)"((?:, "[^"]+")*)')


def explain_parse_error(message: str, known: Iterable[str], files: Sequence[Path]) -> str:
    """Return one line for an error of the config parser.

    Args:
        message: what jsonargparse says.
        known: the keys of the config.
        files: the config files that were read, for naming the line of a misspelt key.
    """
    found = _UNKNOWN_KEY.search(message)
    if found is None:
        hint = " (a config gives them, e.g. -c configs/tse_lora.yaml)" if "arguments are required" in message else ""
        return f"{_without_noise(message)}{hint}"
    # A group is the dotted key of what the unknown key lies in.
    key = found["option"] or ".".join(filter(None, (found["group"], found["key"])))
    owner = _OWNER.search(message, found.end())
    # Of a class's arguments jsonargparse names the class in the value that was given.
    candidates = known if owner is None else _arguments_of(owner[1])
    of = f" of {owner[1]}" if owner else ""
    return f"unknown key {key!r}{of}{_place(key, files)}{_suggestion(key, candidates)}"


def explain_state_dict_error(message: str) -> str | None:
    """Return one line for an error of `load_state_dict`, a model's or an optimizer's; None for any other message.

    Names the first weight whose shape differs, or the first that is missing or unexpected, and counts the others.
    """
    if message.startswith("loaded state dict "):
        return f"the checkpoint's optimizer state is of another model: {message}"
    if not message.startswith("Error(s) in loading state_dict"):
        return None
    if shapes := _SHAPES.findall(message):
        key, theirs, ours = shapes[0]
        rest = f" (and {len(shapes) - 1} more)" if len(shapes) > 1 else ""
        return f"the checkpoint has another shape: {key} is [{theirs}] there and [{ours}] in the model{rest}"
    if keys := _KEYS.search(message):
        rest = f" (and {keys[3].count(', ')} more)" if keys[3] else ""
        where = "not in the checkpoint" if keys[1] == "Missing" else "not in the model"
        return f"the checkpoint is of another model: {keys[2]} is {where}{rest}"
    return message


def explain_worker_error(message: str) -> str:
    r"""Return the reason alone of a mistake that a loader's process met; any other message as it is.

    >>> explain_worker_error("Caught UserError in DataLoader worker process 0.\nTraceback …\nx.UserError: a.wav")
    'a.wav'
    """
    if not _WORKER.match(message):
        return message
    return _RAISED.split(message)[-1]


def explain_killed_worker(message: str) -> str | None:
    """Return one line for a loader's process that was killed; None if the message is of another kind."""
    if not _KILLED.search(message):
        return None
    reason = " ".join(message.split("\n")[0].split())
    return f"a process that prepares batches ended ({reason}): out of memory? Give fewer --data.num_workers"


def _without_noise(message: str) -> str:
    """Return a parser's message as one line that starts with the key it is about."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if not _NOISE.match(line)]
    text = " ".join(lines)
    parents = _PARENT_KEYS.match(text)
    if parents is None:
        return text
    path = ".".join(re.findall('"([^"]+)"', parents[0]))
    return f"{path}: {text[parents.end() :]}"


def _arguments_of(class_path: str) -> list[str]:
    """Return the names of a class's constructor arguments; empty if the class is not to be had."""
    module, _, name = class_path.rpartition(".")
    found = getattr(import_module(module), name, None) if module else None
    return list(inspect.signature(found).parameters) if found else []


def _place(key: str, files: Sequence[Path]) -> str:
    """Return ` (file:line)` of a key in the first config file that has it; empty if none has."""
    for file in files:
        lines = enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        number: int | None = None
        for part in key.split("."):
            # Each part stands below the one before. A key of a class's arguments is reported without its parents, so
            # the search does not start at the left margin.
            mapping_key = re.compile(rf"\s*(- )?{re.escape(part)}\s*:")
            number = next((number for number, line in lines if mapping_key.match(line)), None)
        if number is not None:
            return f" ({file}:{number})"
    return ""


def _suggestion(key: str, candidates: Iterable[str]) -> str:
    """Return `: did you mean 'x'?` for the candidate closest to a key; empty if none is close."""
    candidates = sorted(candidates)
    root, *rest = key.split(".")
    roots = sorted({candidate.split(".")[0] for candidate in candidates})
    # `dat.class_path` is best answered with `data`: everything under a misspelt root is unknown with it.
    siblings = [candidate for candidate in candidates if candidate.count(".") == len(rest)] if root in roots else roots
    guess = get_close_matches(key if root in roots else root, siblings, n=1)
    return f": did you mean {guess[0]!r}?" if guess else ""
