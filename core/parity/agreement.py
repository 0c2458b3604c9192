"""How far two models agree: the score of one pair of answers, and the lower bound over many calls. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from core.confidence_interval import lower_bound_at_any_time
from core.evaluation import scoring
from core.parity import row_scores
from core.parity.row_scores import JsonAnswers, Task

_MAX_LABEL_CHARS = 40  # as in `core.parity.row_scores`


@dataclass(frozen=True, slots=True)
class Agreement:
    """The mean score of `n` calls, and the lower bound for it, which holds however often it is looked at."""

    n: int
    value: float
    low: float


def task_of(old: str) -> Task:
    """What an answer is: a JSON object or array, a short label, or a text."""
    if isinstance(JsonAnswers().parse(old).value, dict | list):
        return "json"
    return "label" if len(scoring.normalize_label(old)) <= _MAX_LABEL_CHARS else "text"


def score(old: str, new: str | None) -> float:
    """Agreement of one pair, 0 to 1: equal labels, the share of equal fields, or the similarity of texts (chrF)."""
    return row_scores.score(task_of(old), new, old)


def over(total: float, n: int) -> Agreement:
    """Agreement over `n` calls with this sum of scores."""
    return Agreement(n, total / n if n else 0.0, lower_bound_at_any_time(total, n))


def may_flip(found: Agreement, threshold: float | None, min_calls: int) -> bool:
    """Whether the lower bound is high enough, on enough calls."""
    return threshold is not None and found.n >= max(1, min_calls) and found.low >= threshold


def last_message(request: str) -> str:
    """The last message of a request, in words; the request itself if it has another format."""
    try:
        value = json.loads(request)
    except ValueError:
        return request
    while isinstance(value, list) and value:
        value = value[-1]
        value = value.get("content", value) if isinstance(value, dict) else value
    if isinstance(value, dict):
        value = value.get("text", value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
