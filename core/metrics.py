"""Training metrics as providers write them, where "not measured" has many spellings.

Seen in results files and API answers: an empty cell, `N/A`, `None`, `null`, `nan`, `-`, and -1.0 (OpenAI writes it for
a validation that did not take place). None of them is a number, so none of them may be charted as one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

PLACEHOLDERS = frozenset(
    {
        "", "-", "--", "---", "–", "—", "?", ".", "_", "*", "\\n",
        "n/a", "na", "n.a.", "n.a", "#n/a", "#na", "<na>", "n/d", "nd", "#null!", "#value!",
        "none", "<none>", "(none)", "null", "<null>", "(null)", "nil", "undefined", "unknown", "missing", "empty",
        "not measured", "not available", "not applicable", "not computed", "not evaluated", "no validation", "pending",
        "off", "disabled", "skipped", "tbd", "1.#qnan", "-1.#ind",
        "nan(ind)", "-nan(ind)",
    }
)  # fmt: skip
"""Lower-case texts that stand for "not measured"; `nan` and `inf` are numbers to `float` and handled there."""

NOT_MEASURED = -1.0
"""What some providers write for a loss that was not measured."""


def metric(name: str, value: object) -> float | None:
    """One measured value, or None where it was not measured.

    Args:
        name: of the metric, e.g. `valid_loss`; what -1 means depends on it. A loss of exactly -1 and an accuracy or a
            count below 0 are "not measured"; a reward of -1 is a reward.
        value: a number or its text.

    Raises:
        ValueError: a text that is neither a number nor a known placeholder.
    """
    if isinstance(value, str):
        text = value.strip().strip("\"'").strip()
        if text.lower() in PLACEHOLDERS or _words(text) in PLACEHOLDERS:
            return None
        percent = "accuracy" in name and text.endswith("%")
        number = float(text[:-1]) / 100 if percent else float(text)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    else:
        return None
    return None if not math.isfinite(number) or _stands_for_nothing(name, number) else number


def metrics(values: Mapping[str, object]) -> dict[str, float]:
    """Those of `values` that were measured; what is no number at all is left out too."""
    found = {}
    for name, value in values.items():
        try:
            number = metric(name, value)
        except ValueError:
            continue
        if number is not None:
            found[name] = number
    return found


def _words(text: str) -> str:
    """`NOT_MEASURED` and `not-measured` as "not measured"."""
    return re.sub(r"(?<=[a-z])[_-](?=[a-z])", " ", text.lower())


def _stands_for_nothing(name: str, number: float) -> bool:
    if "loss" in name:
        return number == NOT_MEASURED
    return number < 0 and ("accuracy" in name or "elapsed" in name)
