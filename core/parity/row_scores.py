"""Scores of one answer: right or wrong for labels, the share of correct fields for JSON, similarity for texts. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

from core.engine import message_text
from core.evaluation import scoring

Task = Literal["label", "json", "text"]

_MAX_LABEL_CHARS = 40  # the same limit as in the quality report
_MIN_ROWS_PER_LABEL = 2
_JSON_SHARE = 0.9  # of the expected answers; a few may be damaged
_FENCE = "```"
_ITEM = re.compile(r"\[\d+\]")
MISSING = object()


@dataclass(frozen=True, slots=True)
class ComparedRow:
    """One row that both models have answered.

    Attributes:
        expected: the right answer; None if there is none: then the old model's answer counts as right.
        old, new: the answers; None if the model gave none.
        old_s, new_s: seconds until the answer was complete; None if unknown.
    """

    key: str
    prompt: str
    expected: str | None
    old: str | None
    new: str | None
    old_s: float | None = None
    new_s: float | None = None

    @property
    def reference(self) -> str:
        """The answer that counts as right."""
        return (self.old or "") if self.expected is None else self.expected


@dataclass(frozen=True, slots=True)
class JsonAnswer:
    """An answer as JSON.

    Attributes:
        valid: whether it is valid JSON; if not, `value` is None and there are no fields.
        fields: the values by path, see `fields`.
    """

    valid: bool
    value: Any
    fields: Mapping[str, Any]


_INVALID = JsonAnswer(False, None, {})


@dataclass(slots=True)
class JsonAnswers:
    """Parses each text once, however often it is scored."""

    _parsed: dict[str, JsonAnswer] = field(default_factory=dict)

    def parse(self, text: str | None) -> JsonAnswer:
        """The JSON value of an answer, also from within a Markdown code block."""
        if text is None:
            return _INVALID
        found = self._parsed.get(text)
        if found is None:
            found = self._parsed[text] = _parse(text)
        return found


def task_of(references: Sequence[str], parsed: JsonAnswers | None = None) -> Task:
    """What kind of answers these are: JSON objects, few short labels that repeat, or texts."""
    parsed = parsed or JsonAnswers()
    texts = [text for text in references if text.strip()]
    if not texts:
        return "text"
    if sum(isinstance(parsed.parse(text).value, dict) for text in texts) >= _JSON_SHARE * len(texts):
        return "json"
    labels = {scoring.normalize_label(text) for text in texts}
    short = median(len(text.strip()) for text in texts) <= _MAX_LABEL_CHARS
    return "label" if short and len(labels) <= len(texts) / _MIN_ROWS_PER_LABEL else "text"


def score(task: Task, answer: str | None, reference: str, parsed: JsonAnswers | None = None) -> float:
    """The score of an answer, 0 (no or invalid answer) to 1."""
    if answer is None:
        return 0.0
    if (calls := _calls(reference)) is not None or _calls(answer) is not None:
        return _shared_calls(_calls(answer), calls)
    if task == "label":
        return float(scoring.normalize_label(answer) == scoring.normalize_label(reference))
    if task == "json":
        parsed = parsed or JsonAnswers()
        return _shared_fields(parsed.parse(answer), parsed.parse(reference))
    return scoring.chrf(answer, reference)


def _calls(text: str) -> list[tuple[str, Any]] | None:
    """The calls of tools in an answer, as (name, arguments); None if it is no call."""
    if not text.startswith(message_text.CALLS):
        return None
    value = _parse(message_text.calls_only(text)).value
    listed = value.get("tool_calls") if isinstance(value, dict) and len(value) == 1 else None
    if not isinstance(listed, list) or not all(isinstance(one, dict) and "name" in one for one in listed):
        return None
    return [(str(one["name"]), one.get("arguments")) for one in listed]


def _shared_calls(given: list[tuple[str, Any]] | None, wanted: list[tuple[str, Any]] | None) -> float:
    """How far calls of tools agree, in their order: of a call with the right name, the share of equal arguments."""
    if not given or not wanted:
        return 0.0
    matched = 0.0
    for (name, arguments), (wanted_name, wanted_arguments) in zip(given, wanted, strict=False):
        if name == wanted_name:
            one, other = (JsonAnswer(True, value, fields(value)) for value in (arguments, wanted_arguments))
            matched += _shared_fields(one, other)
    return matched / max(len(given), len(wanted))


def _parse(text: str) -> JsonAnswer:
    text = text.strip()
    if text.startswith(_FENCE) and text.endswith(_FENCE):
        text = text.removeprefix(_FENCE).removesuffix(_FENCE).removeprefix("json")
    try:
        value = json.loads(text)
        return JsonAnswer(True, value, fields(value))
    except (ValueError, RecursionError):
        return _INVALID


def fields(value: Any) -> dict[str, Any]:
    """The values of a JSON object by path: `{"a": {"b": [1]}}` has the field `a.b[0]`.

    Empty objects and arrays are fields. Only objects and arrays are traversed.
    """
    return dict(_leaves(value, ""))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    inside: Iterator[tuple[str, Any]] = iter(())
    if isinstance(value, Mapping):
        inside = ((f"{path}.{name}" if path else str(name), one) for name, one in value.items())
    elif isinstance(value, list):
        inside = ((f"{path}[{number}]", one) for number, one in enumerate(value))
    found = False
    for name, one in inside:
        found = True
        yield from _leaves(one, name)
    if not found:
        yield path, value


def without_item_numbers(path: str) -> str:
    """The path of a field for all items of an array: `a.b[0]` is `a.b[]`."""
    return _ITEM.sub("[]", path)


def equal_fields(one: Any, other: Any) -> bool:
    """Whether two field values are the same: texts as normalised, 1 and 1.0 alike, true and 1 not."""
    if isinstance(one, str) and isinstance(other, str):
        return scoring.normalize_text(one).casefold() == scoring.normalize_text(other).casefold()
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _shared_fields(answer: JsonAnswer, reference: JsonAnswer) -> float:
    """Share of the fields of both objects that have the same value in both (0 if the answer is not valid JSON)."""
    if not answer.valid:
        return 0.0
    given, wanted = answer.fields, reference.fields
    names = given.keys() | wanted.keys()
    return sum(equal_fields(given.get(name, MISSING), wanted.get(name, MISSING)) for name in names) / len(names)
