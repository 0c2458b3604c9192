"""Runs over a list of prompts: each prompt is paid for once, in the same way as the cells of a grid."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets, export, heatmap, prompt_datasets
from core.datasets.importers import prompt_list, table_reader
from core.datasets.importers.prompt_list import PromptList
from core.datasets.quality import quality_store
from core.datasets.recipe import MAX_LISTED_ROWS, Recipe
from core.db.store import Store
from core.engine import finetune_format
from core.errors import BadRecipe
from core.generation import previewing, run_progress, runs
from core.generation.run_budget import RequestCost
from core.generation.run_store import RunContext
from core.pricing import tokens
from tests.support import batch_runs
from tests.support.batch_server import BatchServer
from tests.support.fault_server import FaultServer, error, held, raw, text
from tests.support.live_runs import NO_PRICES, all_rows, book, execute, execute_and_kill, executing, states
from tests.support.waiting import until

SYSTEM = {"role": "system", "content": "You sort tickets."}


def csv(rows: int) -> PromptList:
    return read(("prompt,id\n" + "".join(f"p{i:04},{i}\n" for i in range(rows))).encode(), "list.csv")


def chat(*conversations: list[dict[str, str]]) -> PromptList:
    return read("\n".join(json.dumps({"messages": one}) for one in conversations).encode(), "list.jsonl")


def read(data: bytes, filename: str) -> PromptList:
    imported = table_reader.read_table(data, filename, as_table=True)
    return prompt_list.build(imported, prompt_list.recognise(imported))


def recipe(listed: PromptList, provider: str = "fault", **given: Any) -> Recipe:
    made = Recipe("list", (), "{prompt}", system=listed.system, provider=provider, model="writer", max_tokens=99)
    return prompt_datasets.with_list(replace(made, **given), listed)


def queue(store: Store, listed: PromptList, budget_usd: Decimal | None = None, **given: Any) -> str:
    dataset_id = prompt_datasets.create(store, LOCAL, recipe(listed, **given), listed)
    return runs.enqueue(store, LOCAL, dataset_id, budget_usd=budget_usd)


def messages(server: FaultServer) -> list[list[dict[str, Any]]]:
    return sorted((r.body["messages"] for r in server.requests), key=json.dumps)


def test_each_prompt_is_bought_once_and_its_row_keeps_the_other_columns(store: Store, server: FaultServer) -> None:
    server.default = lambda prompt: text(f"Answer to {prompt}.")
    run_id = queue(store, csv(30))
    execute(store, server, run_id)
    assert states(store, run_id) == {"done": 30}
    assert Counter(server.prompts()) == {f"p{i:04}": 1 for i in range(30)}
    row = all_rows(store, run_id)[7]
    assert (row.values, row.prompt, row.text) == ({"prompt": "p0007", "id": "7"}, "p0007", "Answer to p0007.")
    with pytest.raises(BadRecipe):
        runs.enqueue(store, LOCAL, run_progress.get(store, run_id).dataset_id)


def test_several_answers_to_a_prompt_share_a_request(store: Store, server: FaultServer) -> None:
    run_id = queue(store, csv(4), repeats=3)
    execute(store, server, run_id)
    assert states(store, run_id) == {"done": 12}
    assert [r.body.get("n") for r in server.requests] == [3] * 4


def test_conversations_are_sent_as_they_are_and_exported_with_the_system_text(
    store: Store, server: FaultServer
) -> None:
    user, answer = {"role": "user", "content": "Where is it?"}, {"role": "assistant", "content": "Which one?"}
    last = {"role": "user", "content": "The blue one."}
    listed = chat([SYSTEM, user, answer], [SYSTEM, user, answer, last, answer])
    run_id = queue(store, listed, stop=("END",), response_format='{"type": "json_object"}', top_p=0.5, seed=3)
    execute(store, server, run_id)
    assert messages(server) == sorted([[SYSTEM, user], [SYSTEM, user, answer, last]], key=json.dumps)
    body = server.requests[0].body
    assert (body["stop"], body["response_format"], body["top_p"]) == (["END"], {"type": "json_object"}, 0.5)
    assert "seed" in body
    dataset_id = run_progress.get(store, run_id).dataset_id
    selection = export.Selection(store, dataset_id)
    lines = [json.loads(line) for line in export.jsonl_lines(selection, export.plan(selection, "chat"))]
    assert [line["messages"][:-1] for line in lines] == [[SYSTEM, user], [SYSTEM, user, answer, last]]


def test_a_call_of_a_tool_is_collected_and_becomes_a_training_row(store: Store, server: FaultServer) -> None:
    tool = {"type": "function", "function": {"name": "track", "parameters": {"type": "object", "properties": {}}}}
    user = {"role": "user", "content": "Where is parcel 7?"}
    listed = read(json.dumps({"messages": [user], "tools": [tool]}).encode(), "list.jsonl")
    function = {"name": "track", "arguments": '{"parcel": 7}'}
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "type": "function", "function": function}],
    }
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
    server.default = lambda prompt: raw(json.dumps({"model": "writer", "choices": [choice]}).encode())
    run_id = queue(store, listed)
    execute(store, server, run_id)
    assert states(store, run_id) == {"done": 1}
    assert server.requests[0].body["tools"] == [tool]
    selection = export.Selection(store, run_progress.get(store, run_id).dataset_id)
    (line,) = (json.loads(one) for one in export.jsonl_lines(selection, export.plan(selection, "chat")))
    assert (line["tools"], line["messages"][0]) == ([tool], user)
    assert line["messages"][1]["tool_calls"][0]["function"] == function
    finetune_format.parse_line(json.dumps(line).encode())


def test_a_legacy_model_reads_a_conversation_as_text(store: Store, server: FaultServer) -> None:
    listed = chat([SYSTEM, {"role": "user", "content": "a"}], [{"role": "user", "content": "b"}])
    execute(store, server, queue(store, listed, endpoint="completion", system="General."))
    assert sorted(server.prompts()) == ["General.\n\nb", "You sort tickets.\n\na"]


def test_failed_rows_are_retried_and_nothing_else(store: Store, server: FaultServer) -> None:
    server.when("p0003", error(400, "not this one"), text("Written."))
    run_id = queue(store, csv(8))
    execute(store, server, run_id)
    assert states(store, run_id) == {"done": 7, "failed": 1}
    dataset_id = run_progress.get(store, run_id).dataset_id
    execute(store, server, runs.retry_failed(store, LOCAL, dataset_id))
    assert Counter(server.prompts())["p0003"] == 2 and len(server.requests) == 9
    assert dataset_rows.count(store, dataset_id, dataset_rows.RowFilter(states=("done",))) == 8


def test_a_budget_ends_the_run_before_it_is_exceeded(store: Store, server: FaultServer) -> None:
    run_id = queue(store, csv(20), Decimal("0.2"))  # a row costs 14 cents at worst, and 1.3 cents in fact
    execute(store, server, run_id, book=book())
    progress = run_progress.get(store, run_id)
    assert progress.state == "stopped" and progress.max_usd is not None and progress.max_usd <= Decimal("0.2")
    assert 0 < states(store, run_id)["done"] < 20
    runs.raise_budget(store, LOCAL, run_id, Decimal(100))
    runs.resume(store, LOCAL, run_id)
    execute(store, server, run_id, book=book())
    assert states(store, run_id) == {"done": 20} and len(server.requests) == 20


def test_a_paused_list_goes_on_where_it_was(store: Store, server: FaultServer) -> None:
    server.when("p0005", held())
    run_id = queue(store, csv(12))
    with executing(store, server.registry(), run_id):
        until(lambda: states(store, run_id)["done"] == 11, "all but one")
        runs.request_pause(store, LOCAL, run_id)
        server.release()
    assert run_progress.get(store, run_id).state in ("paused", "done")
    if states(store, run_id)["pending"]:
        runs.resume(store, LOCAL, run_id)
    execute(store, server, run_id)
    assert states(store, run_id) == {"done": 12}


def test_after_kill_9_no_stored_answer_is_bought_again(store: Store, server: FaultServer) -> None:
    run_id = queue(store, csv(40))
    server.when("p0013", held())  # so that the kill happens in the middle, with this one in flight
    server.when("p0017", held())
    execute_and_kill(store, server, run_id, 20)
    stored = {row.prompt for row in all_rows(store, run_id) if row.state == "done"}
    server.release()
    execute(store, server, run_id)
    bought = Counter(server.prompts())
    assert states(store, run_id) == {"done": 40}
    assert all(bought[prompt] == 1 for prompt in stored)
    assert sum(bought.values()) <= 40 + 4  # at most the requests in flight were sent twice


def test_a_batch_answers_a_list(store: Store) -> None:
    listed = chat([SYSTEM, {"role": "user", "content": "a"}], [SYSTEM, {"role": "user", "content": "b"}])
    with BatchServer() as server:
        dataset_id = prompt_datasets.create(store, LOCAL, recipe(listed, "openai"), listed)
        run_id = runs.enqueue(store, LOCAL, dataset_id, mode="batch")
        assert batch_runs.execute(store, server, run_id).state == "done"
        sent = next(iter(server.files.values()))
    assert [json.loads(line)["body"]["messages"][0] for line in sent.splitlines()] == [SYSTEM, SYSTEM]
    assert batch_runs.states(store, run_id) == {"done": 2}


def test_the_estimate_counts_the_tokens_of_the_real_prompts() -> None:
    listed = read(("prompt\n" + "".join(f"{'word ' * n}{n}\n" for n in range(1, 41))).encode(), "list.csv")
    made = recipe(listed, system="You sort tickets.")
    exact = tokens.count([f"{'word ' * n}{n}" for n in range(1, 41)], "writer").tokens
    system = tokens.count([made.system], "writer").tokens
    assert made.listed_tokens == exact
    guess = previewing.estimate_run(made, NO_PRICES, [], None)
    assert abs(guess.tokens - (exact + 40 * (system + 99))) <= 40  # the mean prompt is rounded
    assert previewing.request_range(made, batch=False) == (40, 40)


def test_a_schema_counts_in_the_worst_case_and_in_the_estimate(store: Store) -> None:
    schema = json.dumps({"type": "json_schema", "json_schema": {"name": "label", "schema": {"type": "object"}}})
    plain, strict = recipe(csv(2)), recipe(csv(2), response_format=schema)
    context = RunContext("run", "dataset", "fault", "writer", "live", LOCAL, plain, None)
    worst = [RequestCost(book(), replace(context, recipe=made)).worst_case("p") for made in (plain, strict)]
    assert worst[0] is not None and worst[1] is not None
    assert worst[1] - worst[0] == Decimal(len(schema)) / 1000  # a dollar per 1,000 tokens, at most one per byte
    guesses = [previewing.estimate_run(made, NO_PRICES, [], None).tokens for made in (plain, strict)]
    assert guesses[1] - guesses[0] == 2 * tokens.count([schema], "writer").tokens


def test_a_preview_asks_prompts_of_the_list(store: Store, server: FaultServer) -> None:
    listed = csv(5)
    client = server.registry().get("fault")
    found = list(previewing.preview(store, LOCAL, client, recipe(listed), 2, prompts=listed.prompts))
    assert {row.prompt for row in found} < {f"p{i:04}" for i in range(5)} and len(found) == 2


def test_pages_read_a_list_like_loaded_rows(store: Store, server: FaultServer) -> None:
    run_id = queue(store, csv(12), repeats=2)
    execute(store, server, run_id)
    dataset_id = run_progress.get(store, run_id).dataset_id
    assert datasets.grid_recipe(store, dataset_id) is None and datasets.recipe(store, dataset_id) is not None
    assert len(heatmap.draw(store, dataset_id).squares) == 24
    assert quality_store.dataset_report(store, dataset_id).total == 24
    summary = datasets.summary(store, dataset_id)
    assert (summary.source, summary.total, summary.done) == ("prompts", 24, 24)


def test_a_list_that_is_too_long_says_so(store: Store) -> None:
    listed = csv(2)
    with pytest.raises(BadRecipe, match="the limit is"):
        prompt_datasets.create(store, LOCAL, replace(recipe(listed), listed=MAX_LISTED_ROWS, repeats=2), listed)


def test_a_stored_recipe_of_a_list_is_the_same_again() -> None:
    made = recipe(csv(3), stop=("END", "\n"), response_format='{"type": "json_object"}')
    assert Recipe.from_dict(json.loads(json.dumps(made.to_dict()))) == made
