"""Turn the many-line messages of jsonargparse and torch into one line for the user.

Each function takes text and returns text: what is wrong, where, what to do.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path

# What jsonargparse says of a key that it does not know, in a config, in a class's arguments, and as an option.
_UNKNOWN_KEY = re.compile(r"(?:does not accept option|Option) '([^']+)'|unrecognized arguments: --([^\s=]+)")
_CLASS_PATH = re.compile(r"given class_path '([^']+)'")

# Lines of a message that tell of the parser's workings, not of the user's mistake.
_NOISE = re.compile(r"\s*(Does not validate|Subtypes:|Errors:|Given value|- Expected a <class 'NoneType'>)")

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
        lines = [line.strip().removeprefix("- ") for line in message.splitlines() if not _NOISE.match(line)]
        return " ".join(lines)
    key = found[1] or found[2]
    owners = _CLASS_PATH.findall(message)
    candidates = _arguments_of(owners[-1]) if owners else known
    owner = f" of {owners[-1]}" if owners else ""
    return f"unknown key {key!r}{owner}{_place(key, files)}{_suggestion(key, candidates)}"


def explain_state_dict_error(message: str) -> str | None:
    """Return one line for a `load_state_dict` error; None if the message is of another kind.

    Names the first weight whose shape differs, or the first that is missing or unexpected, and counts the others.
    """
    if not message.startswith("Error(s) in loading state_dict"):
        return None
    if shapes := _SHAPES.findall(message):
        key, theirs, ours = shapes[0]
        rest = f" (and {len(shapes) - 1} more)" if len(shapes) > 1 else ""
        return f"the checkpoint has another shape: {key} is [{theirs}] there and [{ours}] in the model{rest}"
    if keys := _KEYS.search(message):
        rest = f" (and {keys[3].count(', ')} more)" if keys[3] else ""
        where = "the model has and the checkpoint lacks" if keys[1] == "Missing" else "the checkpoint has and the model lacks"
        return f"the checkpoint is of another model: {where} {keys[2]}{rest}"
    return message


def _arguments_of(class_path: str) -> list[str]:
    """Return the names of a class's constructor arguments; empty if the class is not to be had."""
    module, _, name = class_path.rpartition(".")
    found = getattr(import_module(module), name, None) if module else None
    return list(inspect.signature(found).parameters) if found else []


def _place(key: str, files: Sequence[Path]) -> str:
    """Return ` (file:line)` of the last part of a key in the first config file that has it; empty if none has."""
    # A key of a class's arguments is reported without its parents, so only the last part can be looked for.
    line_of_key = re.compile(rf"\s*(- )?{re.escape(key.split('.')[-1])}\s*:")
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if line_of_key.match(line):
                return f" ({file}:{number})"
    return ""


def _suggestion(key: str, candidates: Iterable[str]) -> str:
    """Return `: did you mean 'x'?` for the candidate closest to a key; empty if none is close."""
    candidates = sorted(candidates)
    roots = {candidate.split(".")[0] for candidate in candidates}
    root = key.split(".")[0]
    # `dat.class_path` is best answered with `data`: everything under a misspelt root is unknown with it.
    guess = get_close_matches(key, candidates, n=1) if root in roots else get_close_matches(root, sorted(roots), n=1)
    return f": did you mean {guess[0]!r}?" if guess else ""
