"""Describes a column of results: quantity, unit, direction and model.

Imports neither numpy nor torch: tables and pages read descriptions, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Column:
    """One column of results rows.

    name: as in rows and summaries, e.g. "SIM_target_ge2e".
    quantity: what is measured, e.g. "SIM_target".
    unit: in which it is shown: "%" (its values are fractions), "dB", or empty for a score.
    model: the recogniser or speaker encoder whose measure it is, e.g. "ge2e"; None where the quantity says all.

    >>> Column.by_model("WER", "tiny.en", unit="%", higher_is_better=False).title
    'WER % (tiny.en) ↓'
    >>> Column("DNSMOS_SIG", "DNSMOS_SIG").title
    'DNSMOS SIG ↑'
    """

    name: str
    quantity: str
    unit: str = ""
    higher_is_better: bool = True
    model: str | None = None

    @classmethod
    def by_model(cls, quantity: str, model: str, unit: str = "", higher_is_better: bool = True) -> Column:
        """Return the column of a quantity that a model measures; its name ends in the model's."""
        return cls(f"{quantity}_{model}", quantity, unit, higher_is_better, model)

    @property
    def scale(self) -> float:
        """Factor from a value to a number in `unit`."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def is_word_errors(self) -> bool:
        """Whether it is a word error rate, beside which rows have edits and words."""
        return self.quantity in ("WER", "WER_asr")

    @property
    def label(self) -> str:
        """The quantity with its model in brackets."""
        words = self.quantity.replace("_", " ")
        return f"{words} ({self.model})" if self.model else words

    @property
    def title(self) -> str:
        """The label with the unit and the direction that is better."""
        words = [self.quantity.replace("_", " "), self.unit, f"({self.model})" if self.model else ""]
        return " ".join([*filter(None, words), "↑" if self.higher_is_better else "↓"])

    def to_json(self) -> dict[str, Any]:
        """Return the fields but the name, under which files keep them."""
        return {key: value for key, value in asdict(self).items() if key != "name"}

    @classmethod
    def from_json(cls, name: str, fields: Mapping[str, Any]) -> Column:
        """Return the column that `to_json` described."""
        return cls(name, fields["quantity"], fields["unit"], fields["higher_is_better"], fields["model"])
