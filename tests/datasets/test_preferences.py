"""Preferences: what is trained on, what is left out and why, and the way from a file to a version and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets, export, preferences, versions
from core.datasets.importers import column_mapping, table_reader
from core.datasets.preferences import DropReason, PreferenceRow
from core.db.store import Store
from core.engine import finetune_format
from core.engine.finetune_format import TrainingLine
from core.errors import BadTrainingFile

_TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
_CALL = {"id": "1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
_TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "And now?"},
]


def _said(text: str, **more: Any) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text, **more}]


def _line(asked: Any, good: list[dict[str, Any]], bad: list[dict[str, Any]]) -> dict[str, Any]:
    return {"input": asked, "preferred_output": good, "non_preferred_output": bad}


def _ask(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


_LINES = [
    _line(_ask("one"), _said("good"), _said("bad")),
    _line({"messages": _TURNS}, _said("later"), _said("never")),
    _line({**_ask("two"), "tools": [_TOOL]}, _said("text"), _said("other")),
    _line({**_ask("three"), "tools": [_TOOL]}, [{"role": "assistant", "tool_calls": [_CALL]}], _said("no")),
]


def _load(store: Store, lines: list[dict[str, Any]]) -> str:
    """A data set of a file, as the data page loads it."""
    data = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    imported = table_reader.read_table(data, "votes.jsonl")
    mapping = column_mapping.guess(imported.frame)
    return datasets.from_frame(
        store, LOCAL, "votes", imported.frame, mapping.prompts, mapping.completion, imported.source,
        rejected_column=mapping.rejected, other_columns=mapping.others([str(one) for one in imported.frame.columns]),
    )  # fmt: skip


def _written(store: Store, dataset_id: str, version_id: str | None = None) -> list[dict[str, Any]]:
    selection = export.Selection(store, dataset_id, version_id)
    plan = export.preference_plan(selection, "chat")
    return [json.loads(line) for line in export.preference_lines_of(selection, plan)]


def test_a_file_of_preferences_becomes_a_version_and_the_same_file_again(store: Store) -> None:
    dataset_id = _load(store, _LINES)
    assert datasets.preference_rows(store, dataset_id) == len(_LINES)
    assert _written(store, dataset_id) == _LINES
    version_id = versions.freeze(store, LOCAL, dataset_id)
    assert datasets.preference_rows(store, dataset_id, version_id) == len(_LINES)
    assert _written(store, dataset_id, version_id) == _LINES


def test_an_edited_answer_is_written_instead_of_the_one_in_the_file(store: Store) -> None:
    dataset_id = _load(store, _LINES)
    called = next(row for row in dataset_rows.page(store, dataset_id) if "three" in row.prompt)
    dataset_rows.edit(store, LOCAL, called.id, "in words")
    assert _written(store, dataset_id)[-1] == _line({**_ask("three"), "tools": [_TOOL]}, _said("in words"), _said("no"))


def _kept(asked: dict[str, Any]) -> str:
    return json.dumps({"input": asked}, ensure_ascii=False)


@pytest.mark.parametrize(
    ("asked", "prompt", "messages"),
    [
        ({"messages": _TURNS}, "User: Hi\n\nAssistant: Hello\n\nUser: And now?", _TURNS),
        ({"messages": _TURNS}, "Edited", [_TURNS[0], *_ask("Edited")["messages"]]),
        ({**_ask("Hi"), "tools": [_TOOL]}, "Hi ", _ask("Hi")["messages"]),
        ({**_ask("Hi"), "tools": [_TOOL]}, "Edited", _ask("Edited")["messages"]),
    ],
)
def test_an_edited_prompt_is_written_instead_of_the_one_in_the_file(
    asked: dict[str, Any], prompt: str, messages: list[dict[str, Any]]
) -> None:
    rows = [PreferenceRow(prompt, "good", "bad", _kept(asked))]
    (line,) = map(json.loads, preferences.plan(rows).lines(rows))
    assert line["input"] == {**asked, "messages": messages}


def test_a_model_that_continues_texts_learns_nothing_from_conversations_and_that_is_said() -> None:
    with_system = {"messages": [_TURNS[0], _TURNS[1]]}
    rows = [
        PreferenceRow("Hi", "good", "bad", _kept(with_system)),
        PreferenceRow("User: Hi …", "good", "bad", _kept({"messages": _TURNS})),
        PreferenceRow("Hi", "good", "bad", _kept({**_ask("Hi"), "tools": [_TOOL]})),
    ]
    plan = preferences.plan(rows, "completion", separator=" ->", stop=".")
    assert [json.loads(line)["prompt"] for line in plan.lines(rows)] == ["Hi ->"]
    assert plan.dropped == {"conversation": 2} and "only a chat model" in str(plan.sentences()[0])
    assert len(list(preferences.plan(rows).lines(rows))) == 3
    with pytest.raises(BadTrainingFile) as refused:
        preferences.plan(rows[1:], "completion")
    assert refused.value.next_step == "Start from a chat model."


def test_a_file_without_any_pair_says_why() -> None:
    with pytest.raises(BadTrainingFile) as refused:
        preferences.plan([PreferenceRow("p", "same", "same"), PreferenceRow("q", "same ", "same")])
    assert "nothing to prefer: 2." in refused.value.what and refused.value.next_step.startswith("Vote on answers")


def test_the_other_answer_is_part_of_a_versions_hash_and_old_hashes_stay(store: Store) -> None:
    hashes = []
    for bad in ("bad", "worse"):
        dataset_id = _load(store, [_line(_ask("one"), _said("good"), _said(bad))])
        hashes.append(versions.get(store, versions.freeze(store, LOCAL, dataset_id)).sha256)
    assert hashes[0] != hashes[1]
    example = {"split": "train", "row_key": "k", "column_values": {}, "prompt": "p", "completion": "c", "position": 0}
    assert versions._canonical(example) == versions._canonical({**example, "rejected": None})


def test_pairs_with_the_same_prompt_are_kept_for_validation_together(store: Store) -> None:
    lines = [_line(_ask(f"p{n % 10}"), _said(f"good {n}"), _said("bad")) for n in range(30)]
    dataset_id = _load(store, lines)
    version_id = versions.freeze(store, LOCAL, dataset_id, validation_share=0.3)
    chosen = export.Selection(store, dataset_id, version_id)
    trained, kept = ({row.prompt for row in chosen.preferences(part)} for part in ("train", "validation"))
    assert kept and trained and not kept & trained


def _pref(good: str, bad: str | None, prompt: str = "p") -> PreferenceRow:
    return PreferenceRow(prompt, good, bad)


@pytest.mark.parametrize(
    ("rows", "kept", "dropped"),
    [
        ([_pref("a", None)], [], {"single": 1}),
        ([_pref(" ", "b"), _pref("a", "")], [], {"empty": 2}),
        ([_pref("a", "a "), _pref("a", "b", "q")], [("q", "a")], {"equal": 1}),
        ([_pref("a", "b"), _pref("a", "b")], [("p", "a")], {"repeated": 1}),
        ([_pref("a", "b"), _pref("b", "a")], [], {"undecided": 2}),
        ([_pref("b", "a"), _pref("a", "b"), _pref("a", "b")], [("p", "a")], {"outvoted": 1, "repeated": 1}),
        ([_pref("a", "b"), _pref("b", "c"), _pref("b", "a", "q")], [("p", "a"), ("p", "b"), ("q", "b")], {}),
    ],
)
def test_each_choice_counts_once_and_the_rest_is_counted_by_its_reason(
    rows: list[PreferenceRow], kept: list[tuple[str, str]], dropped: dict[DropReason, int]
) -> None:
    if not kept:
        with pytest.raises(BadTrainingFile, match=f"no pair of answers.*{len(rows)}"):
            preferences.plan(rows)
        rows = [*rows, _pref("x", "y", "z")]
        kept = [("z", "x")]
    plan = preferences.plan(rows)
    assert [(row.prompt, row.preferred) for row in plan.preferences(rows)] == kept
    assert (plan.rows, plan.kept) == (len(rows), len(kept))
    assert plan.dropped == dropped
    assert len(plan.sentences()) == len(dropped)


def test_a_completion_file_has_the_marks_of_the_models_training_and_ends_answers_at_the_stop() -> None:
    rows = [
        PreferenceRow("a,b ->", "good. And more", "bad"),
        PreferenceRow("c", " fine", "equal. x"),
        _pref("same. x", "same"),
    ]
    plan = preferences.plan(rows, "completion", separator=" ->", stop=".", system="not used")
    assert list(map(json.loads, plan.lines(rows))) == [
        {"prompt": "a,b ->", "chosen": " good.", "rejected": " bad."},
        {"prompt": "c ->", "chosen": " fine.", "rejected": " equal."},
    ]
    assert plan.dropped == {"equal": 1}
    assert list(plan.pairs(rows))[:2] == [("a,b ->", " good."), ("a,b ->", " bad.")]


def test_the_system_text_begins_conversations_that_have_none(store: Store) -> None:
    dataset_id = _load(store, _LINES[:2])
    datasets.set_system_message(store, LOCAL, dataset_id, "Write well.")
    first, second = _written(store, dataset_id)
    assert first["input"]["messages"][0] == {"role": "system", "content": "Write well."}
    assert second["input"]["messages"] == _TURNS


def test_every_line_that_is_written_can_be_trained_on(store: Store) -> None:
    dataset_id = _load(store, _LINES)
    raw = [json.dumps(line).encode() for line in _written(store, dataset_id)]
    parsed: list[TrainingLine] = list(finetune_format.parse_lines(enumerate(raw, 1)))
    assert [finetune_format.format_of(line.parsed) for line in parsed] == ["preference"] * len(_LINES)  # type: ignore[arg-type]


def test_a_table_with_rejected_answers_keeps_them_in_its_exports(store: Store) -> None:
    data = b"prompt,chosen,rejected\np,good,bad\nq,fine,\n"
    imported = table_reader.read_table(data, "votes.csv")
    mapping = column_mapping.guess(imported.frame)
    dataset_id = datasets.from_frame(
        store, LOCAL, "v", imported.frame, mapping.prompts, mapping.completion, rejected_column=mapping.rejected
    )
    assert datasets.preference_rows(store, dataset_id) == 1
    assert export.to_csv(store, dataset_id) == ",prompt,story,rejected\n0,p,good,bad\n1,q,fine,\n"
