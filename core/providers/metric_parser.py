"""Parses training metrics from providers, which write "not measured" in many ways.

Seen in result files and API responses: an empty cell, `N/A`, `None`, `null`, `nan`, `-`, and -1.0 (OpenAI's value for a
validation that did not take place). None of them may be charted as a number.
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
"""Lowercase texts that mean "not measured"; `nan` and `inf` parse as floats and are handled by `metric`."""

NOT_MEASURED = -1.0
"""The value that some providers use for a loss that was not measured."""


def metric(name: str, value: object) -> float | None:
    """One measured value; None if it was not measured.

    Args:
        name: name of the metric, e.g. `valid_loss`. A loss of exactly -1 and an accuracy or elapsed time below 0 mean
            "not measured"; a reward of -1 is valid.
        value: a number or its text.

    Raises:
        ValueError: the text is neither a number nor a known placeholder.
    """
    if isinstance(value, str):
        text = value.strip().strip("\"'").strip()
        if text.lower() in PLACEHOLDERS or _spaced(text) in PLACEHOLDERS:
            return None
        percent = "accuracy" in name and text.endswith("%")
        number = float(text[:-1]) / 100 if percent else float(text)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value)
    else:
        return None
    return None if not math.isfinite(number) or _is_not_measured(name, number) else number


def metrics(values: Mapping[str, object]) -> dict[str, float]:
    """Keep only the measured values; texts that are not numbers are also omitted."""
    measured = {}
    for name, value in values.items():
        try:
            number = metric(name, value)
        except ValueError:
            continue
        if number is not None:
            measured[name] = number
    return measured


def _spaced(text: str) -> str:
    """Write `NOT_MEASURED` and `not-measured` as "not measured"."""
    return re.sub(r"(?<=[a-z])[_-](?=[a-z])", " ", text.lower())


def _is_not_measured(name: str, number: float) -> bool:
    if "loss" in name:
        return number == NOT_MEASURED
    return number < 0 and ("accuracy" in name or "elapsed" in name)
