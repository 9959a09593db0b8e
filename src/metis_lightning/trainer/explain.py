"""Turns the mistakes that Lightning, jsonargparse and torch report into one line: what is wrong, where, what to do."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path

from jsonargparse import set_parsing_settings
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException

from metis_lightning.errors import Stopped, UserError
from metis_lightning.trainer.config_keys import place_of
from metis_lightning.trainer.merging import find_class

# What jsonargparse says of a key that it does not know: in a config, in a class's arguments, and as an option.
_UNKNOWN_KEY = re.compile(
    r"(?:Group '(?P<group>[^']+)' |Subcommand '\w+' )?(?:does not accept option|Option) '(?P<key>[^']+)'"
    r"|unrecognized arguments: --(?P<option>[^\s=]+)"
)
_OWNER = re.compile(r"Given value: \{'class_path': '([^']+)'")
# Lines of a message that tell of the parser's workings, not of the user's mistake.
_NOISE = re.compile(r"\s*(Does not validate|Subtypes:|Errors:|Given value|- Expected a <class 'NoneType'>)")
_PARENT_KEYS = re.compile(r'(?:Parser key "[^"]+": )+')
_SHAPES = re.compile(
    r"size mismatch for (\S+): copying a param with shape (?:torch\.Size\()?\[([\d, ]*)\]\)? from checkpoint, "
    r"the shape in current model is (?:torch\.Size\()?\[([\d, ]*)\]"
)
_KEYS = re.compile(r'(Missing|Unexpected) key\(s\) in state_dict: "([^"]+)"((?:, "[^"]+")*)')


@contextmanager
def one_line_mistakes() -> Iterator[None]:
    """Within the block, say nothing beside the point, and raise what is no bug of ours as one line."""
    # Without this, a reference would have to start with the command: ${fit.trainer.max_steps}.
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    warnings.filterwarnings("ignore", "LightningCLI's args parameter is intended")
    # It knows of resumable loaders only, not of our data module, which does resume.
    warnings.filterwarnings("ignore", "You're resuming from a checkpoint that ended before the epoch ended")
    # Lightning recommends other products at the start of every run.
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: "Tip: For seamless" not in record.getMessage()
    )
    try:
        yield
    except ProcessExitedException as error:
        if error.exit_code in (130, 143):
            # It has said itself what was saved.
            raise Stopped(error.exit_code - 128) from error
        # A process that said nothing.
        status = error.exit_code
        how = f"ended with status {status}" if status >= 0 else "was killed, perhaps for want of memory"
        cure = "go on from the last checkpoint with --ckpt_path last"
        raise UserError(f"process {error.error_index} of the run {how}; {cure}") from error
    except Exception as error:
        if (mistake := _mistake_behind(error)) is None:
            raise
        raise mistake from error


def _mistake_behind(error: BaseException | None) -> UserError | None:
    """Return the user's mistake that an exception came from; None if it came from a bug."""
    # One in a class's constructor is the cause of a ValueError of jsonargparse's, one in a process of the run the text
    # of its traceback.
    while error is not None:
        if isinstance(error, UserError):
            return error
        if isinstance(error, MisconfigurationException):
            return UserError(f"trainer: {error}")
        if isinstance(error, ProcessRaisedException):
            name, _, text = str(error).strip().splitlines()[-1].partition(": ")
            return UserError(text) if name.endswith(UserError.__name__) else None
        if isinstance(error, RuntimeError | ValueError) and (reason := explain_state_dict_error(str(error))):
            return UserError(f"{reason}; check --ckpt_path and the sizes in the config")
        error = error.__cause__
    return None


def explain_parse_error(message: str, known: Iterable[str], files: Sequence[Path]) -> str:
    """Return one line for a message of jsonargparse: of a misspelt key also the nearest, and its place in `files`."""
    found = _UNKNOWN_KEY.search(message)
    if found is None:
        text = " ".join(line.strip().removeprefix("- ") for line in message.splitlines() if not _NOISE.match(line))
        if parents := _PARENT_KEYS.match(text):
            path = ".".join(re.findall('"([^"]+)"', parents[0]))
            text = f"{path}: {text[parents.end() :]}"
        hint = " (a config gives them, e.g. -c configs/tse_lora.yaml)" if "arguments are required" in message else ""
        return f"{text}{hint}"
    # A group is the dotted key of what the unknown key lies in.
    key = found["option"] or ".".join(filter(None, (found["group"], found["key"])))
    of = ""
    # Of a class's arguments jsonargparse names the class in the value that was given.
    if owner := _OWNER.search(message, found.end()):
        of, cls = f" of {owner[1]}", find_class(owner[1])
        known = inspect.signature(cls).parameters if cls else ()
    return f"unknown key {key!r}{of}{place_of(key, files)}{_suggestion(key, known)}"


def explain_state_dict_error(message: str) -> str | None:
    """Return one line for an error of `load_state_dict`, a model's or an optimizer's; None for any other message."""
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


def _suggestion(key: str, candidates: Iterable[str]) -> str:
    candidates = sorted(candidates)
    root, *rest = key.split(".")
    roots = sorted({candidate.split(".")[0] for candidate in candidates})
    # `dat.class_path` is best answered with `data`: everything under a misspelt root is unknown with it.
    siblings = [candidate for candidate in candidates if candidate.count(".") == len(rest)] if root in roots else roots
    guess = get_close_matches(key if root in roots else root, siblings, n=1)
    return f": did you mean {guess[0]!r}?" if guess else ""
