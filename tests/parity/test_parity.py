"""Is a new model as good as the one that it replaces: scores, verdicts and the card."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from typing import Any

import pytest

from core.errors import FabulaError
from core.evaluation import scoring
from core.message import sentences
from core.parity import json_schema, report, row_scores, verdict
from core.parity.json_schema import BadSchema
from core.parity.markdown import to_markdown
from core.parity.report import CallUsage, ParityReport
from core.parity.row_scores import ComparedRow, JsonAnswers
from core.parity.verdict import ComparedPart


def calls(*listed: tuple[str, dict[str, Any]]) -> str:
    """An answer that calls tools."""
    return json.dumps({"tool_calls": [{"name": name, "arguments": arguments} for name, arguments in listed]})


LABELS = ("billing", "refunds", "delivery", "account", "other")


# --- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("references", "task"),
    [
        (["billing", "refunds", "billing", "refunds."], "label"),
        (['{"a": 1}'] * 9 + ["damaged"], "json"),
        (['{"a": 1}'] * 5 + ["a text"] * 5, "label"),
        (["Once upon a time, there was a hero.", "In the Tang dynasty, a girl could fly."], "text"),
        (["[1, 2]", "[1, 3]"], "text"),
        (["", "  "], "text"),
        ([], "text"),
    ],
)
def test_the_task_is_recognised_by_the_answers(references: list[str], task: str) -> None:
    assert row_scores.task_of(references) == task


@pytest.mark.parametrize(
    ("task", "answer", "reference", "score"),
    [
        ("label", "Billing.", "billing", 1.0),
        ("label", "**refunds**\nbecause…", "refunds", 1.0),
        ("label", "refunds", "billing", 0.0),
        ("label", None, "billing", 0.0),
        ("json", '```json\n{"name": "Li", "age": 3}\n```', '{"age": 3.0, "name": "li "}', 1.0),
        ("json", '{"name": "Li"}', '{"name": "Li", "age": 3}', 0.5),
        ("json", '{"name": "Li", "age": 3, "extra": 1, "more": 2}', '{"name": "Li", "age": 3}', 0.5),
        ("json", '{"items": [{"n": 1}, {"n": 2}]}', '{"items": [{"n": 1}, {"n": 3}]}', 0.5),
        ("json", '{"yes": true}', '{"yes": 1}', 0.0),
        ("json", "[" * 100_000, '{"a": 1}', 0.0),
        ("json", "Sorry, I cannot.", '{"a": 1}', 0.0),
        ("text", "从前有一位英雄", "从前有一位英雄", 1.0),
        ("text", "", "从前有一位英雄", 0.0),
        ("text", calls(("track", {"n": 1, "day": "Mon"})), calls(("track", {"day": "mon", "n": 1})), 1.0),
        ("label", calls(("track", {"n": 1, "day": "Mon"})), calls(("track", {"n": 1, "day": "Tue"})), 0.5),
        ("json", calls(("find", {"n": 1})), calls(("track", {"n": 1})), 0.0),
        ("json", calls(("track", {})), calls(("track", {})), 1.0),
        ("json", calls(("track", {"n": 1})), calls(("track", {"n": 1}), ("track", {"n": 2})), 0.5),
        ("text", "It is in Rome.", calls(("track", {"n": 1})), 0.0),
        ("text", calls(("track", {"n": 1})), "It is in Rome.", 0.0),
    ],
)
def test_answers_are_scored(task: row_scores.Task, answer: str | None, reference: str, score: float) -> None:
    assert row_scores.score(task, answer, reference) == score


# --- the verdict ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gained", "lost", "both", "outcome", "sentence"),
    [
        (0, 0, 200, "as_good", "As good within 2 points on 200 rows (95 % confidence)."),
        (30, 0, 170, "better", "Better by 10 to 21 points on 200 rows (95 % confidence)."),
        (2, 22, 176, "worse", "Worse by 5 to 16 points on 200 rows (95 % confidence)."),
        (0, 0, 8, "undecided", "Not decided: on 8 rows the difference is between -32 and +32 points."),
        (5, 12, 183, "undecided", "Not decided: on 200 rows the difference is between -8 and +1 points."),
    ],
)
def test_the_verdict(gained: int, lost: int, both: int, outcome: str, sentence: str) -> None:
    new = [1.0] * gained + [0.0] * lost + [1.0] * both
    old = [0.0] * gained + [1.0] * lost + [1.0] * both
    found = verdict.decide(new, old)
    assert (found.outcome, sentences(found.sentence)[: len(sentence)]) == (outcome, sentence)
    assert (found.rows_needed is not None) == (outcome == "undecided")


def test_a_model_that_loses_ten_points_is_never_called_as_good() -> None:
    chance = random.Random(0)
    outcomes = set()
    for _ in range(300):
        old = [float(chance.random() < 0.9) for _ in range(200)]
        new = [float(right and chance.random() > 0.11) for right in old]
        outcomes.add(verdict.decide(new, old).outcome)
    assert outcomes <= {"worse", "undecided"}


@pytest.mark.parametrize("margin", [0.0, 1.0, -0.1])
def test_an_impossible_margin_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match="margin"):
        verdict.decide([1.0], [1.0], margin=margin)


def test_parts_are_worse_only_beyond_chance() -> None:
    bad, unlucky = ComparedPart("refunds", 14, 14, 3, 11, 0), ComparedPart("billing", 40, 38, 35, 3, 0)
    assert verdict.significantly_worse([unlucky, bad]) == (bad,)
    many = [ComparedPart(f"label {number}", 6, 6, 1, 5, 0) for number in range(40)]  # p = 0.06 for each
    assert verdict.significantly_worse(many) == ()


# --- the card ---------------------------------------------------------------------------------------------------------


def _labelled(wrong: dict[str, int]) -> list[ComparedRow]:
    """200 rows of five labels; the old model is right, the new one is wrong at the first rows of some labels."""
    rows = []
    for label in LABELS:
        for number in range(40):
            new = "other thing" if number < wrong.get(label, 0) else label.title()
            rows.append(ComparedRow(f"{label}-{number}", f"a question about {label}", label, label, new, 1.0, 0.5))
    return rows


def test_a_model_that_is_worse_at_one_label_is_named_with_it() -> None:
    card = report.compare(_labelled({"refunds": 9}), "ft:gpt-4o-mini:acme::1", "ours")
    assert (card.task, card.verdict.outcome) == ("label", "worse")
    assert "most at refunds: 9 of 40 wrong" in sentences(card.verdict.sentence)
    assert [row.key for row in card.worst] == [f"refunds-{number}" for number in range(9)]
    assert card.worse_rows == 9 and card.new.seconds == 0.5
    assert {one.label: one.right for one in card.new.labels}["refunds"] == 31


def test_rows_without_a_right_answer_are_compared_with_the_old_model() -> None:
    rows = [ComparedRow(str(number), "a question", None, "yes" if number % 2 else "no", "yes") for number in range(100)]
    card = report.compare(rows, "old", "new")
    assert card.against_old and card.old.score is None
    assert card.new.score is not None and card.new.score.value == 0.5
    assert sentences(card.verdict.sentence).startswith("Worse by")


def test_fields_of_json_answers_are_parts() -> None:
    rows = [
        ComparedRow(
            str(number),
            "an order",
            expected := json.dumps({"name": f"n{number}", "items": [{"sku": number}, {"sku": 2}]}),
            expected,
            json.dumps({"name": f"n{number}", "items": [{"sku": number}, {"sku": 2 + number % 2}]}),
        )
        for number in range(60)
    ]
    card = report.compare(rows, "old", "new")
    assert card.task == "json" and card.new.valid is not None and card.new.valid.value == 1.0
    assert {part.name: part.new_right for part in card.parts} == {"name": 60, "items[].sku": 30}
    assert [part.name for part in card.verdict.worse_parts] == ["items[].sku"]


@pytest.mark.parametrize(
    "rows",
    [
        _labelled({"refunds": 9}),
        [ComparedRow("1", "p", '{"a": 1}', '{"a": 1}', '{"a": 2}')],
        [ComparedRow("1", "讲一个故事", None, "从前有一位英雄。", "从前，有一位少年。", 1.0, None)],
    ],
)
def test_a_card_is_kept_as_json(rows: list[ComparedRow]) -> None:
    card = report.compare(rows, "old", "new")
    assert ParityReport.from_dict(json.loads(json.dumps(card.to_dict()))) == card


@pytest.mark.parametrize(
    "rows", [[], [ComparedRow("1", "p", None, None, "an answer")], [ComparedRow("1", "", "", "", "")]]
)
def test_without_rows_there_is_no_card(rows: list[ComparedRow]) -> None:
    with pytest.raises(FabulaError, match="no rows that both models"):
        report.compare(rows, "old", "new")


def test_rows_that_a_model_could_not_be_asked_say_nothing_about_it() -> None:
    rows = [ComparedRow(str(n), "p", "yes", "yes", None if n % 2 else "yes") for n in range(200)]
    card = report.compare([*rows, ComparedRow("x", "p", "no", None, "yes")], "old", "new")
    assert (card.verdict.outcome, card.verdict.difference.n) == ("as_good", 100)
    assert (card.old.answered, card.new.answered) == (200, 101)


def test_a_bound_below_one_point_is_not_rounded_up_to_one() -> None:
    found = verdict.decide([1.0] * 6 + [0.0] * 194, [0.0] * 200)
    assert sentences(found.sentence).startswith("Better by 1 to 7 points")
    found = verdict.decide([1.0] * 6 + [0.0] * 394, [0.0] * 400)
    assert sentences(found.sentence).startswith("Better by 0.5 to 4 points")


def test_scores_of_texts_are_their_similarity() -> None:
    card = report.compare(
        [ComparedRow(str(n), "p", "从前有一位英雄", "从前有一位英雄", "一位英雄") for n in range(40)],
        "a",
        "b",
        task="text",
    )
    assert card.new.score is not None and card.new.score.value == pytest.approx(
        scoring.chrf("一位英雄", "从前有一位英雄")
    )
    assert card.verdict.outcome == "worse" and card.new.characters == 4


# --- time, tokens and cost --------------------------------------------------------------------------------------------


def test_time_is_shown_as_median_and_95th_percentile() -> None:
    rows = [ComparedRow(str(n), "p", "yes", "yes", "yes", n / 10, None) for n in range(1, 101)]
    card = report.compare(rows, "old", "new")
    assert (card.old.seconds, card.old.seconds_p95) == (pytest.approx(5.05), 9.5)
    assert (card.new.seconds, card.new.seconds_p95) == (None, None)


@pytest.mark.parametrize(
    ("usage", "shown"),
    [
        (CallUsage(212.4, 3, Decimal("0.12345"), machine_time=False), ["212 + 3", "\\$0.12"]),
        (CallUsage(212.4, None), ["212 + unknown", "unknown"]),
        (CallUsage(50, 2, None, machine_time=True), ["50 + 2", "machine time, not priced"]),
        (CallUsage(50, 2, Decimal("0.5"), machine_time=True), ["50 + 2", "\\$0.50 (machine time)"]),
    ],
)
def test_cost_and_tokens_are_in_the_markdown_and_the_json(usage: CallUsage, shown: list[str]) -> None:
    rows = [ComparedRow("1", "p", "yes", "yes", "yes", 1.0, 1.0)]
    card = report.compare(rows, "old", "new", new_usage=usage)
    lines = [line for line in to_markdown(card).splitlines() if line.startswith(("| Tokens", "| Cost"))]
    assert [line.split(" | ")[2].removesuffix(" |") for line in lines] == shown
    assert [line.split(" | ")[1] for line in lines] == ["unknown + unknown", "unknown"]
    assert ParityReport.from_dict(json.loads(json.dumps(card.to_dict()))) == card


def test_a_card_of_an_earlier_version_is_still_read() -> None:
    kept = report.compare([ComparedRow("1", "p", "yes", "yes", "yes")], "old", "new").to_dict()
    for side in (kept["old"], kept["new"]):
        del side["usage"], side["seconds_p95"]
    assert ParityReport.from_dict(kept).old.usage == CallUsage()


def test_each_answer_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[str] = []

    def loads(text: str) -> Any:
        parsed.append(text)
        return _loads(text)

    _loads = json.loads
    monkeypatch.setattr(json, "loads", loads)
    rows = [ComparedRow(str(n), "p", f'{{"a": {n}}}', f'{{"a": {n}, "b": 1}}', f'{{"a": -{n}}}') for n in range(1, 51)]
    assert report.compare(rows, "old", "new").task == "json"
    assert len(parsed) == len(set(parsed)) == 150


# --- the JSON Schema --------------------------------------------------------------------------------------------------

_ORDER = {
    "type": "object",
    "required": ["sku", "items"],
    "properties": {"sku": {"type": "string", "pattern": "^[A-Z]{2}[0-9]+$"}, "items": {"$ref": "#/$defs/items"}},
    "$defs": {"items": {"type": "array", "items": {"type": "integer"}}},
}


def test_answers_are_checked_against_a_schema() -> None:
    good, bad = '{"sku": "AB1", "items": [1]}', '{"sku": "AB1", "items": [1, "two"]}'
    answers = [good] * 6 + [bad] * 2 + ['{"sku": "x", "items": []}', "Sorry, I can't."]
    rows = [ComparedRow(str(n), "p", good, good, answer) for n, answer in enumerate(answers)]
    card = report.compare(rows, "old", "new", schema=json_schema.read_schema(json.dumps(_ORDER)))
    assert card.old.schema is not None and card.old.schema.errors == ()
    assert card.new.schema is not None and card.new.schema.valid is not None
    assert (card.new.schema.valid.value, card.new.schema.valid.n) == (0.6, 10)
    assert [(one.path, one.rule, one.n) for one in card.new.schema.errors] == [
        ("items[]", "type", 2), ("sku", "pattern", 1), ("", "json", 1),
    ]  # fmt: skip
    shown = to_markdown(card)
    assert "| Follows the JSON Schema | 100 % (72.2 % to 100 %) | 60.0 % (31.3 % to 83.2 %) |" in shown
    assert "| items\\[\\] | type | 2 |" in shown and "| the answer | json | 1 |" in shown
    assert ParityReport.from_dict(json.loads(json.dumps(card.to_dict()))) == card


@pytest.mark.parametrize(
    "wrapped", [_ORDER, {"schema": _ORDER, "name": "order"}, {"type": "json_schema", "json_schema": {"schema": _ORDER}}]
)
def test_a_schema_may_be_wrapped_as_a_response_format(wrapped: dict[str, Any]) -> None:
    assert json_schema.read_schema(json.dumps(wrapped)) == _ORDER


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[1]", "not a JSON object"),
        ('{"type": "number of things"}', "not a valid JSON Schema"),
        ('{"pattern": "(["}', "pattern"),
        ('{"properties": {"a": {"$ref": "https://example.com/a.json"}}}', "another document: https://example.com"),
        ('{"items": {"$ref": "file:///etc/passwd"}}', "another document"),
        ('{"pattern": "^(?=.*a)b"}', "Look-around and back-references"),
        ('{"patternProperties": {"(x)\\\\1": {}}}', "Look-around and back-references"),
        ('{"patternProperties": {"x": {}}, "unevaluatedProperties": false}', "unevaluatedProperties can't be checked"),
        ('{"not": ' * 150 + "{}" + "}" * 150, "nested too deeply"),
        (json.dumps({"description": "x" * 200_000}), "longer than 200,000 characters"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadSchema, match=said):
        json_schema.read_schema(text)


@pytest.mark.parametrize(
    "pattern", ["^(a+)+$", "^(a|aa)+$", "^(a|a)*$", "^(a?){30}a{30}$", "(.*a){20}$", "^a*a*a*a*a*$"]
)
def test_no_pattern_takes_long_to_match(pattern: str) -> None:
    """With a backtracking engine, each of these takes hours for such texts."""
    text = "a" * 5_000 + "!"
    schema = {
        "properties": {"a": {"pattern": pattern}},
        "additionalProperties": False,
        "patternProperties": {pattern: {}},
    }
    answers = JsonAnswers()
    found = json_schema.validity(schema, [answers.parse(json.dumps(one)) for one in ({"a": text}, {text: 1})])
    assert {one.n for one in found.errors} == {1} and len(found.errors) == 2


@pytest.mark.parametrize(
    ("pattern", "text", "matches"),
    [
        ("^\\u4e2d\\d+$", "中12", True),
        ("^\\u4e2d", "u4e2d", False),
        ("^\\\\u4e2d$", "\\u4e2d", True),
        ("^[\\w.-]+@\\w+\\.\\w{2,}$", "me@example.com", True),
        ("^a\\/b$", "a/b", True),
        ("^x$", "x\n", False),
        ("^.$", "\ud800", True),  # a half of a pair
    ],
)
def test_patterns_mean_what_they_mean_in_a_schema(pattern: str, text: str, matches: bool) -> None:
    inside = {"$schema": "https://json-schema.org/draft/2020-12/schema", "properties": {"a": {"pattern": pattern}}}
    for schema in (inside, {"$ref": "#/$defs/x", "$defs": {"x": inside}}):
        read = json_schema.read_schema(json.dumps(schema))
        found = json_schema.validity(read, [JsonAnswers().parse(json.dumps({"a": text}))])
        assert (found.errors == ()) == matches


@pytest.mark.parametrize(
    ("answer", "rules"),
    [
        ({"a": 1, "x1": "s"}, []),
        ({"a": 1, "x1": 2}, ["type"]),
        ({"a": 1, "y": 2}, ["additionalProperties"]),
    ],
)
def test_properties_may_be_named_by_a_pattern(answer: dict[str, Any], rules: list[str]) -> None:
    schema = {
        "properties": {"a": {}}, "patternProperties": {"^x[0-9]$": {"type": "string"}}, "additionalProperties": False
    }  # fmt: skip
    read = json_schema.read_schema(json.dumps(schema))
    found = json_schema.validity(read, [JsonAnswers().parse(json.dumps(answer))])
    assert [one.rule for one in found.errors] == rules


@pytest.mark.parametrize(
    ("schema", "said"),
    [({"$ref": "#/$defs/missing"}, "does not contain"), ({"$ref": "#"}, None)],  # without end
)
def test_a_schema_that_leads_nowhere(schema: dict[str, Any], said: str | None) -> None:
    rows = [ComparedRow("1", "p", '{"a": 1}', '{"a": 1}', '{"a": 1}')]
    if said:
        with pytest.raises(BadSchema, match=said):
            report.compare(rows, "old", "new", schema=schema)
        return
    card = report.compare(rows, "old", "new", schema=schema)
    assert card.new.schema is not None and card.new.schema.valid is not None and card.new.schema.valid.value == 0
