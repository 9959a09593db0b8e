"""JSON of strangers: whatever a line holds, plain values that UTF-8 and floats can hold, or one reason why not."""

from __future__ import annotations

import json
from typing import Any


def load_json(text: str | bytes) -> Any:  # noqa: ANN401  what the text holds
    r"""Return what a JSON text holds.

    Raises:
        ValueError: if it is no JSON or no UTF-8, nests deeper than the parser goes, or holds a number too long to read
            or half of a sign (a lone surrogate, such as `"\ud83d"`).

    >>> load_json('{"a": 1}')
    {'a': 1}
    """
    try:
        plain = text if isinstance(text, str) else text.decode("utf-8-sig")
        value = json.loads(plain.removeprefix("\ufeff"))
        if "\\u" in plain:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at character {error.pos})") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 ({error.reason} at byte {error.start})") from error
    except UnicodeEncodeError as error:
        raise ValueError("half of a sign (a lone surrogate), which no text can hold") from error
    except RecursionError as error:
        raise ValueError("not JSON (nested too deep)") from error
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from error
    return value


def finite(value: object) -> float | None:
    """Return a finite number as a float; None if it is none, or no float can hold it.

    >>> finite(3), finite(10**400), finite("3"), finite(float("nan"))
    (3.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # Compared exactly, whatever the size of an int.
    return float(value) if -1e308 <= value <= 1e308 else None
