"""Sampling parameters of the requests in a file: what all rows share is proposed, what differs is named. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from core.datasets.importers.table import ImportProblems
from core.message import msg

PARAMETERS = (
    "temperature",
    "top_p",
    "max_tokens",
    "max_completion_tokens",
    "stop",
    "seed",
    "response_format",
    "model",
)
"""Parameters of a recipe, by their names in a request."""
# Parameters of requests that a recipe does not have.
_UNUSED = (
    *("frequency_penalty", "presence_penalty", "logit_bias", "tool_choice", "reasoning_effort", "reasoning"),
    *("verbosity", "logprobs", "top_k"),
)
_SHOWN_VALUES, _SHOWN_CHARS = 3, 40  # of a parameter that differs between rows


class RequestParameters:
    """Collects the sampling parameters of all rows, and keeps those that are the same everywhere."""

    def __init__(self) -> None:
        self._unused: set[str] = set()
        self._values: dict[str, Counter[str]] = {}
        self._rows = 0

    def add(self, request: Mapping[str, Any]) -> None:
        """Add the request of one row."""
        self._rows += 1
        self._unused |= {name for name in _UNUSED if request.get(name) not in (None, 0, {}, "auto")}
        for name in PARAMETERS:
            if request.get(name) is not None:
                value = json.dumps(request[name], sort_keys=True, ensure_ascii=False)
                self._values.setdefault(name, Counter())[value] += 1

    def shared(self, problems: ImportProblems) -> dict[str, Any]:
        """The parameters that all rows have with the same value; a note names the others."""
        result = {}
        for name, values in self._values.items():
            if list(values.values()) == [self._rows]:
                result[name] = json.loads(next(iter(values)))
            elif name != "model":
                problems.note(
                    msg(
                        "The rows have different values of {name} ({values}); one value is used for all.",
                        name=name,
                        values=_most_frequent(values, self._rows),
                    )
                )
        if self._unused:
            problems.note(msg("Parameters that a run does not send: {names}.", names=", ".join(sorted(self._unused))))
        if (limit := result.pop("max_completion_tokens", None)) is not None:
            result.setdefault("max_tokens", limit)
        return result


def _most_frequent(values: Counter[str], rows: int) -> str:
    """The most frequent values with their rows, for a note."""
    shown = [f"{value[:_SHOWN_CHARS]}: {n:,}" for value, n in values.most_common(_SHOWN_VALUES)]
    others, without = len(values) - len(shown), rows - sum(values.values())
    return ", ".join([*shown, *(["…"] if others > 0 else []), *([f"–: {without:,}"] if without else [])])
