"""The parity card: scores of both models with intervals, the verdict, parts, format, and the worst rows. Pure.

A card is complete in itself: it is kept as JSON, so it can be shown after the old model is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from math import ceil
from statistics import median
from typing import Any

from core.errors import FabulaError
from core.evaluation import scoring
from core.evaluation.scoring import Interval, LabelScore
from core.message import from_json, msg, to_json
from core.parity import json_schema, row_scores, verdict
from core.parity.json_schema import InvalidPath, SchemaValidity
from core.parity.preference import JudgeResult, VoteResult
from core.parity.row_scores import ComparedRow, JsonAnswers, Task
from core.parity.verdict import DEFAULT_MARGIN, ComparedPart, Verdict

_WORST_ROWS = 50  # that a card keeps


@dataclass(frozen=True, slots=True)
class CallUsage:
    """What the calls of a model used on these rows. None means unknown.

    Attributes:
        prompt_tokens, completion_tokens: mean per call.
        usd_per_1000: cost of 1,000 calls of this length, in US dollars.
        machine_time: the cost is the time of this machine; None above means that no price per hour is set.
    """

    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    usd_per_1000: Decimal | None = None
    machine_time: bool = False


UNKNOWN_USAGE = CallUsage()


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two models.

    Attributes:
        answered: rows that it answered; only those that both answered are compared.
        score: its mean score, 0 to 1; None if the old model's answers count as right.
        valid: share of its answers that are valid JSON; None for other tasks.
        characters: median length of its answers.
        seconds, seconds_p95: time until an answer was complete, median and 95th percentile; None if unknown.
        labels: precision and recall by label; empty for other tasks.
        schema: how many of its answers follow the given JSON Schema; None if none was given.
    """

    model: str
    answered: int
    score: Interval | None
    valid: Interval | None
    characters: float
    seconds: float | None
    labels: tuple[LabelScore, ...]
    seconds_p95: float | None = None
    usage: CallUsage = UNKNOWN_USAGE
    schema: SchemaValidity | None = None


@dataclass(frozen=True, slots=True)
class WorstRow:
    """A row that the new model answers worse than the old one."""

    key: str
    prompt: str
    reference: str
    old: str | None
    new: str | None
    old_score: float
    new_score: float


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The comparison of two models.

    Attributes:
        against_old: the rows have no right answers, so the old model's answers count as right.
        parts: labels, or fields of JSON objects, most frequent first.
        worst: rows that the new model answers worse than the old one, worst first; at most 50.
        worse_rows: how many there are.
        judge, votes: what a judge model and people prefer; None if they were not asked.
    """

    task: Task
    against_old: bool
    old: Side
    new: Side
    verdict: Verdict
    parts: tuple[ComparedPart, ...]
    worst: tuple[WorstRow, ...]
    worse_rows: int
    judge: JudgeResult | None = None
    votes: VoteResult | None = None

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-compatible data."""
        data = asdict(self)
        data["verdict"]["sentence"] = to_json(self.verdict.sentence)
        data["judge"] = None if self.judge is None else self.judge.to_dict()
        data["votes"] = None if self.votes is None else self.votes.to_dict()
        for side in (data["old"], data["new"]):
            usd = side["usage"]["usd_per_1000"]
            side["usage"]["usd_per_1000"] = None if usd is None else str(usd)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ParityReport:
        """The inverse of `to_dict`."""
        decided = dict(data["verdict"])
        decided["difference"] = Interval(**decided["difference"])
        decided["worse_parts"] = tuple(ComparedPart(**part) for part in decided["worse_parts"])
        decided["sentence"] = from_json(decided["sentence"]) or ""
        return cls(
            **{
                **data,
                "old": _side_from(data["old"]),
                "new": _side_from(data["new"]),
                "verdict": Verdict(**decided),
                "parts": tuple(ComparedPart(**part) for part in data["parts"]),
                "worst": tuple(WorstRow(**row) for row in data["worst"]),
                "judge": None if data.get("judge") is None else JudgeResult.from_dict(data["judge"]),
                "votes": None if data.get("votes") is None else VoteResult.from_dict(data["votes"]),
            }
        )


def compare(
    rows: Sequence[ComparedRow],
    old_model: str,
    new_model: str,
    *,
    task: Task | None = None,
    margin: float = DEFAULT_MARGIN,
    old_usage: CallUsage = UNKNOWN_USAGE,
    new_usage: CallUsage = UNKNOWN_USAGE,
    schema: Mapping[str, Any] | None = None,
) -> ParityReport:
    """Compare two models on the rows that both have answered. Rows without any reference are left out.

    Args:
        task: what the answers are; None detects it from the right answers.
        margin: the loss that the user accepts, 0 to 1.
        schema: a JSON Schema that the answers should follow, see `json_schema.read_schema`.

    Raises:
        FabulaError: there are no rows to compare.
        BadSchema: see `json_schema.validity`.
        ValueError: the margin is not between 0 and 1.
    """
    asked = [row for row in rows if row.reference]
    rows = [row for row in asked if row.old is not None and row.new is not None]
    if not rows:
        raise FabulaError(
            msg("There are no rows that both models have answered."), msg("Evaluate both models on the same rows.")
        )
    parsed = JsonAnswers()
    task = task or row_scores.task_of([row.reference for row in rows], parsed)
    old = [row_scores.score(task, row.old, row.reference, parsed) for row in rows]
    new = [row_scores.score(task, row.new, row.reference, parsed) for row in rows]
    parts = _parts(task, rows, parsed)
    worse = sorted(
        (number for number in range(len(rows)) if new[number] < old[number]),
        key=lambda number: (new[number] - old[number], number),
    )
    against_old = all(row.expected is None for row in rows)
    return ParityReport(
        task=task,
        against_old=against_old,
        old=replace(
            _side(old_model, task, rows, "old", None if against_old else old, parsed),
            answered=_answered(asked, "old"),
            usage=old_usage,
            schema=_validity(schema, [row.old for row in rows], parsed),
        ),
        new=replace(
            _side(new_model, task, rows, "new", new, parsed),
            answered=_answered(asked, "new"),
            usage=new_usage,
            schema=_validity(schema, [row.new for row in rows], parsed),
        ),
        verdict=verdict.decide(new, old, parts, margin),
        parts=parts,
        worst=tuple(_worst(rows[number], old[number], new[number]) for number in worse[:_WORST_ROWS]),
        worse_rows=len(worse),
    )


def _validity(
    schema: Mapping[str, Any] | None, answers: Sequence[str | None], parsed: JsonAnswers
) -> SchemaValidity | None:
    return None if schema is None else json_schema.validity(schema, [parsed.parse(answer) for answer in answers])


def _answered(asked: Sequence[ComparedRow], which: str) -> int:
    return sum(getattr(row, which) is not None for row in asked)


def _side(
    model: str, task: Task, rows: Sequence[ComparedRow], which: str, scores: list[float] | None, parsed: JsonAnswers
) -> Side:
    answers: list[str] = [getattr(row, which) for row in rows]
    times = [seconds for row in rows if (seconds := getattr(row, f"{which}_s")) is not None]
    valid = None
    if task == "json":
        valid = scoring.wilson(sum(parsed.parse(answer).valid for answer in answers), len(answers))
    labels: tuple[LabelScore, ...] = ()
    if task == "label":
        pairs = zip((row.reference for row in rows), answers, strict=True)
        normalize = scoring.normalize_label
        labels = scoring.label_scores([(normalize(expected), normalize(answer)) for expected, answer in pairs])
    return Side(
        model=model,
        answered=len(rows),
        score=None if scores is None else scoring.mean_score(scores),
        valid=valid,
        characters=median(len(answer) for answer in answers),
        seconds=median(times) if times else None,
        seconds_p95=_percentile(times, 0.95) if times else None,
        labels=labels,
    )


def _percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values do not exceed."""
    return sorted(values)[ceil(share * len(values)) - 1]


def _parts(task: Task, rows: Sequence[ComparedRow], parsed: JsonAnswers) -> tuple[ComparedPart, ...]:
    found = verdict.parts_of([_answered_parts(task, row, parsed) for row in rows]) if task != "text" else ()
    return tuple(sorted(found, key=lambda part: (-part.n, part.name)))


def _answered_parts(task: Task, row: ComparedRow, parsed: JsonAnswers) -> dict[str, tuple[bool, bool]]:
    """Whether the old and the new model answered the row's label, or each of its fields, correctly."""
    if task == "label":
        name = scoring.normalize_label(row.reference)
        old, new = (bool(row_scores.score(task, answer, row.reference)) for answer in (row.old, row.new))
        return {name: (old, new)}
    if (expected := parsed.parse(row.reference)).value is None:
        return {}
    right: dict[str, tuple[bool, bool]] = {}
    answered = [parsed.parse(answer).fields for answer in (row.old, row.new)]
    for path, value in expected.fields.items():
        old, new = (row_scores.equal_fields(one.get(path, row_scores.MISSING), value) for one in answered)
        name = row_scores.without_item_numbers(path)  # the items of an array are one part
        before = right.get(name, (True, True))
        right[name] = (old and before[0], new and before[1])
    return right


def _worst(row: ComparedRow, old: float, new: float) -> WorstRow:
    return WorstRow(row.key, row.prompt, row.reference, row.old, row.new, old, new)


def _side_from(data: dict[str, Any]) -> Side:
    values = dict(data)
    for name in ("score", "valid"):
        values[name] = None if values[name] is None else Interval(**values[name])
    values["labels"] = tuple(LabelScore(**label) for label in values["labels"])
    usage = dict(values.get("usage") or {})  # cards of earlier versions have none
    usd = usage.get("usd_per_1000")
    values["usage"] = CallUsage(**{**usage, "usd_per_1000": None if usd is None else Decimal(usd)})
    if (schema := values.get("schema")) is not None:
        valid = None if schema["valid"] is None else Interval(**schema["valid"])
        values["schema"] = SchemaValidity(valid, tuple(InvalidPath(**error) for error in schema["errors"]))
    return Side(**values)
