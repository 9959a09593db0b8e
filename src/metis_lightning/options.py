"""Options of commands: frozen dataclasses, as in the packages' `options.py`, which do without torch for the help."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal, TypeAlias

from metis_lightning.errors import UserError

PROGRAM = "python -m metis_lightning"
Device: TypeAlias = Literal["cpu", "cuda"]
Precision: TypeAlias = Literal["float32", "bfloat16", "int8"]
"""What products of a stage are computed in."""


def option(
    about: str,
    default: Any = MISSING,  # noqa: ANN401  of the field's type
    *,
    metavar: str | None = None,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    aliases: Sequence[str] = (),
    repeats: bool = False,
    positional: bool = False,
) -> Any:  # noqa: ANN401  a field, as `dataclasses.field`
    """Return a field of an options class; without a default, the option is required.

    The help says what it is `about`; `metavar` stands for the value. A number is at `least` and at `most` so large, or
    `above` a bound. An option that `repeats` is given several times, one that is `positional` without its name.
    """
    limits = {"least": least, "most": most, "above": above}
    spelling = {"aliases": aliases, "repeats": repeats, "positional": positional}
    return field(default=default, metadata={"about": about, "metavar": metavar, **spelling, "limits": limits})


def flag(name: str) -> str:
    """Return a field's name as it is typed: `num_steps` as `--num-steps`."""
    return f"--{name.replace('_', '-')}"


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """Base of the options of a command; its fields are made by `option`."""

    def packages(self) -> Mapping[str, str]:
        """Return the modules beyond the core that the command needs, and the extras that bring them."""
        return {}

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            # Texts and paths have no limits, and True is no number to be compared with one.
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and (wanted := _broken_limit(number, **item.metadata["limits"])):
                    raise UserError(f"{flag(item.name)}: must be {wanted}, not {number}")


def _broken_limit(number: float, least: float | None, most: float | None, above: float | None) -> str | None:
    """Return what a number must be and is not; None if it is allowed."""
    # float("nan") is neither too small nor too large, so it would pass all that follows.
    if not math.isfinite(number):
        return "a finite number"
    if most is not None and not (least or 0) <= number <= most:
        return f"between {least or 0} and {most}"
    if least is not None and number < least:
        return f"at least {least:g}"
    if above is not None and number <= above:
        return f"more than {above:g}"
    return None
