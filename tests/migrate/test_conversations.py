"""A tune that was trained on conversations of several turns and on tools: nothing of its rows is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from core.actor import LOCAL
from core.datasets import datasets, export, versions
from core.db.store import Store
from core.engine import finetune_format
from core.errors import BadTrainingFile
from core.evaluation import evaluations, preference_data, prompt_trials
from core.evaluation.evaluations import EvaluationForm, EvaluationView
from core.evaluation.prompt_trials import PromptTrial
from core.finetuning import file_checker, job_views, jobs, submit
from core.finetuning.job_form import JobForm
from core.migrate import tunes
from core.migrate.account_views import AccountView
from core.parity import from_evaluations, vote_pairs, votes
from core.providers import CompletionRequest
from tests.support.live_runs import NO_PRICES
from tests.support.openai_account import OpenAIAccount
from tests.support.scripted_evaluation import ScriptedModel, go

Move = Callable[..., AccountView]
TOOL = {"type": "function", "function": {"name": "track", "parameters": {"type": "object", "properties": {}}}}


def conversation(n: int) -> dict[str, Any]:
    """Of three kinds in turn: several turns with a weight, a call of a tool, and the answer after a tool's result."""
    system, asked = {"role": "system", "content": "Help."}, {"role": "user", "content": f"Where is parcel {n}?"}
    function = {"name": "track", "arguments": json.dumps({"parcel": n})}
    call = {"role": "assistant", "tool_calls": [{"id": f"call-{n}", "type": "function", "function": function}]}
    result = {"role": "tool", "tool_call_id": f"call-{n}", "content": "in Rome"}
    told, thanks = {"role": "assistant", "content": f"Parcel {n} is in Rome."}, {"role": "user", "content": "Thanks"}
    if n % 3 == 0:
        return {"messages": [asked, {**told, "weight": 0}, thanks, {"role": "assistant", "content": f"Bye {n}."}]}
    tools = {"tools": [TOOL], "parallel_tool_calls": False}
    return {"messages": [system, asked, call, *([result, told] if n % 3 == 1 else [])], **tools}


def jsonl(*rows: object) -> bytes:
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()


@pytest.fixture
def dataset_id(store: Store, account: OpenAIAccount, move: Move) -> str:
    """The data set of an archived tune with 12 training and 6 validation rows, and one that can't be used."""
    account.add_tune(1, training_file="file-train", validation_file="file-val")
    account.add_file(
        "file-train", jsonl(*map(conversation, range(12)), {"messages": [{"role": "user", "content": "?"}]})
    )
    account.add_file("file-val", jsonl(*map(conversation, range(12, 18))))
    (tune,) = tunes.list_tunes(store, move("archive").id)
    assert (tune.state, tune.trained_rows) == ("data", 12)
    assert tune.reason is not None and "Line 13" in tune.reason and "rows that can't be used: 1" in tune.reason
    assert tune.dataset_id is not None
    return tune.dataset_id


def test_the_job_gets_exactly_the_rows_of_the_old_one(store: Store, dataset_id: str, tmp_path: Path) -> None:
    (version,) = versions.list_versions(store, dataset_id)
    form = JobForm(dataset_id, "again", "engine", "tiny", separator=" ->", version_id=version.id)
    check = file_checker.check_form(store, form)
    assert (check.ok, check.lines, check.file_format) == (True, 18, "chat")
    job_id = jobs.submit(store, LOCAL, form)
    assert jobs.submit(store, LOCAL, form) == job_id
    job = job_views.get(store, job_id)
    assert (job.file_format, job.separator, job.stop) == ("chat", None, None)
    written = submit.write_training_file(store, job, tmp_path)
    assert written.validation is not None
    for path, numbers in ((written.path, range(12)), (written.validation, range(12, 18))):
        assert [json.loads(line) for line in path.read_bytes().splitlines()] == [*map(conversation, numbers)]
        assert finetune_format.check_file(path).examples == len(numbers)


def test_both_models_are_asked_with_messages_and_tools_and_calls_are_compared(store: Store, dataset_id: str) -> None:
    (version,) = versions.list_versions(store, dataset_id)
    form = EvaluationForm(dataset_id, "engine", "tuned", version_id=version.id, file_format="chat")

    def said(request: CompletionRequest, *, wrong: bool) -> str:
        last = request.messages[-1]
        number = int(
            "".join(filter(str.isdigit, next(one["content"] for one in request.messages if one["role"] == "user")))
        )
        if last["content"] == "Thanks":
            return f"Bye {number}."
        if last["role"] == "tool":
            return f"Parcel {number} is in Rome."
        called = {"name": "track", "arguments": {"parcel": 0 if wrong else number}}
        return json.dumps({"tool_calls": [called]})

    ids, models = list[str](), list[ScriptedModel]()
    for model, wrong in (("old", False), ("new", True)):
        ids.append(evaluations.start(store, LOCAL, replace(form, model=model)))
        models.append(ScriptedModel(partial(said, wrong=wrong)))
        go(store, ids[-1], models[-1])
    asked = {len(request.messages): request for request in models[0].asked}
    assert sorted(asked) == [2, 3, 4]  # before the call, before "Bye", and after the result of the tool
    assert not any("weight" in message for request in models[0].asked for message in request.messages)
    assert json.loads(asked[4].tools) == [TOOL] and asked[4].parallel_tool_calls is False
    assert asked[3].tools == "" and asked[3].parallel_tool_calls is None
    prompts = {one.prompt for one in evaluations.answers(store, ids[0])}
    assert "user: Where is parcel 12?\n\nassistant: Parcel 12 is in Rome.\n\nuser: Thanks" in prompts
    rows = from_evaluations.compared_rows(store, evaluations.get(store, ids[0]), evaluations.get(store, ids[1]))
    assert sum(row.old == row.expected for row in rows) == 6
    assert sum(row.new == row.expected for row in rows) == 4


def test_votes_on_conversations_become_preferences_with_all_messages_tools_and_calls(
    store: Store, dataset_id: str
) -> None:
    (version,) = versions.list_versions(store, dataset_id)
    form = EvaluationForm(dataset_id, "engine", "tuned", version_id=version.id, file_format="chat", system="Be kind.")

    def said(request: CompletionRequest, text: str) -> str:
        called = {"tool_calls": [{"name": "track", "arguments": {"parcel": 1}}], "content": f"{text} looks."}
        return json.dumps(called) if request.tools and request.messages[-1]["role"] == "user" else text

    def answered(model: str) -> EvaluationView:
        evaluation_id = evaluations.start(store, LOCAL, replace(form, model=model))
        go(store, evaluation_id, ScriptedModel(partial(said, text=model)))
        return evaluations.get(store, evaluation_id)

    pair = answered("old"), answered("new")
    while ballot := votes.next_ballot(store, LOCAL, *pair):
        votes.cast(store, LOCAL, *pair, ballot.row_key, "left" if "new" in ballot.left else "right")
    found = vote_pairs.from_parity_votes(store, LOCAL, *pair)
    assert len(found.pairs) == 6
    made = preference_data.save(store, LOCAL, "votes", found.pairs)
    selection = export.Selection(store, made.dataset_id, made.version_id)
    lines = [
        json.loads(line) for line in export.preference_lines_of(selection, export.preference_plan(selection, "chat"))
    ]
    assert len(lines) == 6
    for line in lines:
        assert finetune_format.format_of(finetune_format.parse_line(json.dumps(line).encode())) == "preference"
        messages, answer = line["input"]["messages"], line["preferred_output"][0]
        own_system = any(message == {"role": "system", "content": "Help."} for message in messages)
        assert messages[0]["content"] == ("Help." if own_system else "Be kind.")
        assert own_system == (messages[-1]["content"] != "Thanks") == ("tools" in line["input"])
        if len(messages) == 2:
            assert answer["content"] == "new looks." and answer["tool_calls"][0]["function"]["name"] == "track"
            assert line["non_preferred_output"][0]["content"] == "old looks."
        else:
            assert answer == {"role": "assistant", "content": "new"}


def test_what_can_not_be_done_with_conversations_is_said(store: Store, dataset_id: str) -> None:
    with pytest.raises(BadTrainingFile, match="several turns or tools"):
        prompt_trials.plan(store, NO_PRICES, PromptTrial(dataset_id, "engine", "tiny"), None)
    assert datasets.summary(store, dataset_id).source == "chat"
