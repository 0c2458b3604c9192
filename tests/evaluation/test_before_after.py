"""Before and after: unseen prompts, answers of both models, and interruptions."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

import pandas as pd
import pytest
from sqlalchemy import select

from core.actor import LOCAL
from core.datasets import conversation_rows, datasets, export, versions
from core.db.store import Store
from core.db.tables import BeforeAfter, BeforeAfterAnswer, Row, Spend, Story, TrainingJob, utcnow
from core.db.tables.story import COMPARISON
from core.errors import FabulaError, NotFound, ServerError, Unavailable
from core.evaluation import before_after, before_after_prompts, before_after_runner, run_export
from core.finetuning import job_views, jobs
from core.finetuning.job_form import JobForm
from core.finetuning.job_views import JobView
from core.jobs.task_runner import KINDS
from core.pricing.price_book import PriceBook
from core.providers import CompletionRequest, Provider
from core.stories import library
from tests.support.fakes import NO_MODEL, FakeClient, FakeRegistry, FakeStream, remote_job
from tests.support.waiting import InstantStopSignal

_TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
_TUNED = "ft:gemma-3-270m:fabula:tour:AbC123"


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


def _frame(cells: Sequence[tuple[str, ...]], columns: str = "ab") -> pd.DataFrame:
    rows = [(*cell, f"text {i}") for i, cell in enumerate(cells)]
    return pd.DataFrame(rows, columns=[*columns, "text"])


def _dataset(store: Store, cells: Sequence[tuple[str, ...]], columns: str = "ab") -> str:
    return datasets.from_frame(store, LOCAL, "rows", _frame(cells, columns), list(columns), "text", "upload")


_GRID = [(a, b) for a in "123" for b in "xyz"]
_THREE_FREE = [cell for cell in _GRID if cell not in (("1", "z"), ("2", "x"), ("3", "y"))]


def _keep(store: Store, dataset_id: str, split: str, *positions: int) -> None:
    with store.session() as session:
        for row in session.scalars(select(Row).where(Row.dataset_id == dataset_id, Row.position.in_(positions))):
            row.split = split


def _trained(
    store: Store, client: FakeClient, dataset_id: str, *, provider: str = "engine", version: str | None = None
) -> JobView:
    """A succeeded job."""
    form = JobForm(dataset_id, "job", provider, "gemma-3-270m", version_id=version)
    job_id = jobs.submit(store, LOCAL, form)
    KINDS["job"].carry_out(store, FakeRegistry({provider: client}), job_id, InstantStopSignal())  # type: ignore[arg-type]  # a fake
    return job_views.get(store, job_id)


def _go(
    store: Store, client: FakeClient, job: JobView, hurry: InstantStopSignal | None = None
) -> before_after.BeforeAfterView:
    for before_after_id in KINDS["comparison"].unfinished(store):
        registry = FakeRegistry({job.provider: client})
        try:
            before_after_runner.carry_out(store, registry, before_after_id, hurry or InstantStopSignal())  # type: ignore[arg-type]  # a fake
        except FabulaError as exc:
            before_after_runner.give_up(store, before_after_id, exc)
    return _view(store, job)


def _view(store: Store, job: JobView) -> before_after.BeforeAfterView:
    view = before_after.get(store, job.id)
    assert view is not None
    return view


# --- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "kept", "source", "prompts", "expected"),
    [
        (_GRID, (1, 5, 6), "held_out", {"1,y", "2,z", "3,x"}, {"text 1", "text 5", "text 6"}),
        (
            [*_GRID, ("1", "y")],
            (1, 5, 6, 8),
            "held_out",
            {"2,z", "3,x", "3,z"},
            None,
        ),  # a repeated row is in the training data
        ([*_GRID[:6], ("3", "x")], (), "grid", {"3,y", "3,z"}, {None}),  # unused cells
        (_GRID[:7], (0,), "held_out", {"1,x", "3,y", "3,z"}, {"text 0", None}),  # completed from the grid
        (_GRID, (), "none", set(), set()),
        ([(f"a {i}", f"b {i}") for i in range(6)], (), "none", set(), set()),  # free text is not a grid
        ([(f"a {i}", "") for i in range(6)], (2, 4), "held_out", {"a 2", "a 4"}, None),
    ],
)
def test_prompts_that_training_has_not_seen(
    store: Store,
    client: FakeClient,
    cells: Sequence[tuple[str, ...]],
    kept: tuple[int, ...],
    source: str,
    prompts: set[str],
    expected: set[str | None] | None,
) -> None:
    dataset_id = _dataset(store, cells)
    _keep(store, dataset_id, "held_out", *kept)
    job = _trained(store, client, dataset_id)
    choice = before_after_prompts.choose_prompts(store, job)
    assert (choice.source, {one.prompt for one in choice.prompts}) == (source, prompts)
    assert expected is None or {one.expected for one in choice.prompts} == expected
    assert choice == before_after_prompts.choose_prompts(store, job)
    assert not {one.prompt for one in choice.prompts} & {prompt for prompt, _ in export.examples(store, dataset_id)}


def test_values_outside_the_grid_where_the_columns_are_those_of_a_preset(store: Store, client: FakeClient) -> None:
    columns = ["dynasty", "super_power", "story_type"]
    frame = pd.DataFrame([("唐", "隐形", "轻松", "从前")] * 4, columns=[*columns, "text"])
    dataset_id = datasets.from_frame(store, LOCAL, "rows", frame, columns, "text", "upload")
    choice = before_after_prompts.choose_prompts(store, _trained(store, client, dataset_id))
    assert choice.source == "preset"
    assert [one.prompt for one in choice.prompts] == ["秦,龙卷风,辛苦", "隋,流星火雨,努力", "宋,发射激光,艰难"]


def test_validation_rows_of_the_version_that_was_trained_on(store: Store, client: FakeClient) -> None:
    dataset_id = _dataset(store, [(f"prompt {i}", "") for i in range(40)])
    version = versions.freeze(store, LOCAL, dataset_id, validation_share=0.1)
    job = _trained(store, client, dataset_id, version=version)
    validation_prompts = {prompt for prompt, _ in versions.examples(store, version, "validation")}
    choice = before_after_prompts.choose_prompts(store, job)
    assert choice.source == "held_out" and len(choice.prompts) == 3
    assert {one.prompt for one in choice.prompts} <= validation_prompts


@pytest.mark.parametrize(
    ("prompts", "source", "chosen"), [(["t", "t"], "tools", 0), (["t", ""], "held_out", 1), ([], "none", 0)]
)
def test_held_out_conversations_with_tools_are_not_asked_and_said_so(
    store: Store, client: FakeClient, prompts: list[str], source: str, chosen: int
) -> None:
    def row(n: int, tools: str) -> tuple[str, str]:
        record = {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]}
        return conversation_rows.split(record | ({"tools": [_TOOL]} if tools else {}))

    rows = [row(n, tools) for n, tools in enumerate([*prompts, "t", "t"])]
    columns = [conversation_rows.COLUMN]
    dataset_id = datasets.from_frame(
        store, LOCAL, "rows", pd.DataFrame(rows, columns=[*columns, "text"]), columns, "text", "upload"
    )
    _keep(store, dataset_id, "held_out", *range(len(prompts)))
    choice = before_after_prompts.choose_prompts(store, _trained(store, client, dataset_id))
    assert (choice.source, len(choice.prompts)) == (source, chosen)


@pytest.mark.parametrize(
    ("texts", "kind", "tokens"),
    [(["refund", "billing"] * 10, "label", 16), (["从前有一位英雄。" * 200] * 20, "text", 600)],
)
def test_room_for_an_answer(store: Store, client: FakeClient, texts: list[str], kind: str, tokens: int) -> None:
    frame = pd.DataFrame({"q": [f"question {i}" for i in range(len(texts))], "text": texts})
    dataset_id = datasets.from_frame(store, LOCAL, "rows", frame, ["q"], "text", "upload")
    choice = before_after_prompts.choose_prompts(store, _trained(store, client, dataset_id))
    assert (choice.kind, choice.max_tokens) == (kind, tokens)


# --- writing ---------------------------------------------------------------------------------------------------------


def test_a_job_of_the_engine_ends_with_three_pairs(store: Store, client: FakeClient) -> None:
    dataset_id = _dataset(store, _GRID)
    _keep(store, dataset_id, "held_out", 1, 5, 6)
    job = _trained(store, client, dataset_id)
    assert _view(store, job).state == "queued"
    done = _go(store, client, job)
    assert (done.state, done.source, len(done.pairs)) == ("done", "held_out", 3)
    for pair in done.pairs:
        assert (pair.base.text, pair.base.model) == ("从前有一天", "gemma-3-270m")
        assert (pair.tuned.text, pair.tuned.model) == ("从前有一天", _TUNED)
        assert pair.finished and pair.tuned.finish_reason == "stop"
    requests = [request for call, request in client.sent if call == "stream"]
    assert len(requests) == 6 and all(one.prompt.endswith(job.separator or "?") for one in requests)
    assert {(one.endpoint, one.stop) for one in requests} == {("completion", (job.stop,))}
    assert {(one.temperature, one.top_p) for one in requests} == {(0.4, 0.7)}
    assert KINDS["comparison"].unfinished(store) == []
    assert library.recent(store) == [] and library.models(store) == []


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_job_without_a_model_gets_none(store: Store, client: FakeClient, status: str) -> None:
    client.enqueue("job", remote_job(status))
    job = _trained(store, client, _dataset(store, _GRID))
    assert before_after.get(store, job.id) is None
    with pytest.raises(FabulaError, match="no model"):
        before_after.start(store, LOCAL, job)


def test_at_a_paid_provider_a_person_asks_for_it(store: Store) -> None:
    client = _Paid()
    job = _trained(store, client, _dataset(store, _GRID[:7]), provider="openai")
    assert before_after.get(store, job.id) is None
    assert before_after.start(store, LOCAL, job) == before_after.start(store, LOCAL, job)
    done = _go(store, client, job)
    assert done.state == "done" and client.count("stream") == 4


def test_its_calls_are_booked_as_before_and_after(store: Store) -> None:
    client = _Paid()
    job = _trained(store, client, _dataset(store, _GRID[:7]), provider="openai")
    before_after.start(store, LOCAL, job)
    _go(store, client, job)
    with store.reading() as session:
        pages = session.execute(select(Spend.page, Spend.reference)).all()
    written = {side.story_id for pair in _view(store, job).pairs for side in (pair.base, pair.tuned)}
    assert {reference for page, reference in pages if page == "comparison"} == written
    assert "story" not in {page for page, _reference in pages}


def test_the_cost_is_estimated_before_the_start(store: Store) -> None:
    job = _trained(store, _Paid(), _dataset(store, _GRID[:7]), provider="openai")
    book, choice = PriceBook.load(), before_after_prompts.choose_prompts(store, job)
    assert before_after_prompts.estimate_usd(book, job, choice) is None
    with store.session() as session:
        row = session.get_one(TrainingJob, job.id)
        row.base_model = "gpt-4o-mini-2024-07-18"
        row.fine_tuned_model = "ft:gpt-4o-mini-2024-07-18:me::1"
    cost = before_after_prompts.estimate_usd(book, job_views.get(store, job.id), choice)
    assert cost is not None and Decimal(0) < cost < Decimal("0.001")


def test_a_model_that_is_not_served_yet_is_waited_for(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _GRID[:7]))
    starting = Unavailable("The engine is starting.", "Wait.")
    client.enqueue("stream", starting, starting, FakeStream(("好",), "m"))
    hurry, notes = InstantStopSignal(), set[str | None]()
    hurry.then = lambda _: notes.add(_view(store, job).reason)
    done = _go(store, client, job, hurry)
    assert done.state == "done" and done.reason is None
    assert "The engine is starting." in notes


def test_a_deleted_base_model_leaves_the_tuned_side_and_can_be_retried(store: Store) -> None:
    client = _Forgetting(gone={"gemma-3-270m"})
    job = _trained(store, client, _dataset(store, _GRID[:7]))
    failed = _go(store, client, job)
    assert failed.state == "failed" and "does not have gemma-3-270m" in (failed.reason or "")
    assert {(pair.base.state, pair.tuned.state) for pair in failed.pairs} == {("failed", "done")}
    before = client.count("stream")
    client.gone.clear()
    before_after.retry(store, LOCAL, job.id)
    assert _go(store, client, job).state == "done"
    assert client.count("stream") - before == len(failed.pairs)  # finished answers are not written again


@pytest.mark.parametrize(
    ("gone", "side", "next_step"),
    [
        (_TUNED, "tuned", "Duplicate the job to train it again."),
        ("gemma-3-270m", "base", "Add this base model again under Settings → Base models, then write again."),
    ],
)
def test_a_deleted_model_fails_at_once_with_a_next_step(store: Store, gone: str, side: str, next_step: str) -> None:
    client, hurry = _Forgetting(gone={gone}), InstantStopSignal()
    job = _trained(store, client, _dataset(store, _GRID[:7]))
    with store.session() as session:
        session.get_one(TrainingJob, job.id).finished_at = utcnow() - timedelta(hours=1)
    failed = _go(store, client, job, hurry)
    assert failed.state == "failed" and (failed.reason or "").endswith(next_step)
    assert {getattr(pair, side).state for pair in failed.pairs} == {"failed"}
    assert client.count("stream") == 4  # one request per answer, without waiting


def test_an_engine_that_is_down_is_waited_for(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _GRID[:7]))
    down = Unavailable("The engine is not running.", "Start Fabula: it starts the engine too.")
    registry, hurry, notes = FakeRegistry({"engine": down}), InstantStopSignal(), list[str | None]()

    def starts(waits: int) -> None:
        notes.append(_view(store, job).reason)
        if waits == 300:  # waits are split into half seconds, so that Stop ends them
            registry.clients["engine"] = client

    hurry.then = starts
    (before_after_id,) = KINDS["comparison"].unfinished(store)
    before_after_runner.carry_out(store, registry, before_after_id, hurry)  # type: ignore[arg-type]  # a fake
    assert _view(store, job).state == "done"
    assert set(notes[:300]) == {"The engine is not running."} and sum(hurry.waits[:300]) > 120


def test_a_fully_trained_data_set_accepts_custom_prompts(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _GRID))
    done = _go(store, client, job)
    assert (done.state, done.source, done.pairs) == ("done", "none", ())
    assert before_after_prompts.add_prompt(store, LOCAL, job, " 4,x ") == 0
    assert before_after_prompts.add_prompt(store, LOCAL, job, "5,x") == 1
    done = _go(store, client, job)
    assert [(pair.prompt, pair.expected, pair.finished) for pair in done.pairs] == [
        ("4,x", None, True),
        ("5,x", None, True),
    ]


def test_a_prompt_of_a_person_may_come_before_the_prompts_are_chosen(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _GRID[:7]))
    assert before_after_prompts.add_prompt(store, LOCAL, job, "4,x") == 0
    done = _go(store, client, job)
    assert done.state == "done" and len(done.pairs) == 3 and all(pair.finished for pair in done.pairs)
    assert done.pairs[0].prompt == "4,x" and len({pair.prompt for pair in done.pairs}) == 3


def test_answers_from_another_page_are_saved(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _GRID))
    _go(store, client, job)
    with store.session() as session:
        for side in ("base", "tuned"):
            session.add(
                Story(
                    id=side, actor="local", provider="engine", model=side, prompt="p", parameters={}, text=f"by {side}",
                    finish_reason="stop", step=COMPARISON,
                )
            )  # fmt: skip
    answers = {"base": before_after.SideAnswer("done", story_id="base")}
    answers["tuned"] = before_after.SideAnswer("failed", reason="It broke.", story_id="tuned")
    before_after_prompts.add_answered_prompt(store, LOCAL, job, "7,z", answers)  # type: ignore[arg-type]  # sides as plain strings
    view, requests_before = _view(store, job), client.count("stream")
    assert view.state == "done" and KINDS["comparison"].unfinished(store) == []
    (pair,) = view.pairs
    assert (pair.prompt, pair.base.text, pair.tuned.text) == ("7,z", "by base", "by tuned")
    assert (pair.tuned.state, pair.tuned.reason) == ("failed", "It broke.")
    before_after.retry(store, LOCAL, job.id)
    _go(store, client, job)
    assert client.count("stream") - requests_before == 1  # only failed answers


def test_a_job_keeps_a_limited_number_of_prompts(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _GRID))
    for number in range(before_after_prompts.MAX_PROMPTS + 2):
        before_after_prompts.add_answered_prompt(store, LOCAL, job, f"prompt {number}", {})
    assert len(_view(store, job).pairs) == before_after_prompts.MAX_PROMPTS
    with pytest.raises(FabulaError, match="can have up to 20 prompts"):
        before_after_prompts.add_prompt(store, LOCAL, job, "one more")


def test_a_removed_prompt_can_be_restored(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _THREE_FREE))
    before = _go(store, client, job)
    first, second, third = before.pairs
    removed = before_after_prompts.remove(store, LOCAL, job.id, second.position)
    assert _view(store, job).pairs == (first, third)
    with store.reading() as session:
        story = session.get_one(Story, second.tuned.story_id)
        assert story.deleted_at is not None
    with pytest.raises(NotFound):
        before_after_prompts.remove(store, LOCAL, job.id, second.position)
    before_after_prompts.restore(store, LOCAL, removed)
    assert _view(store, job) == before


def test_a_restored_prompt_goes_to_the_end_when_its_position_was_taken(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _THREE_FREE))
    third = _go(store, client, job).pairs[2]
    removed = before_after_prompts.remove(store, LOCAL, job.id, third.position)
    before_after_prompts.add_prompt(store, LOCAL, job, "4,x")
    _go(store, client, job)
    before_after_prompts.restore(store, LOCAL, removed)
    assert [pair.prompt for pair in _view(store, job).pairs[2:]] == ["4,x", third.prompt]


def test_a_prompt_that_is_still_to_be_answered_cannot_be_removed(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _GRID))
    _go(store, client, job)
    position = before_after_prompts.add_prompt(store, LOCAL, job, "4,x")
    with pytest.raises(FabulaError, match="still being answered"):
        before_after_prompts.remove(store, LOCAL, job.id, position)
    assert [pair.prompt for pair in _view(store, job).pairs] == ["4,x"]


def test_a_comparison_without_its_failed_prompt_is_done(store: Store) -> None:
    client = _Forgetting(gone={"gemma-3-270m"})
    job = _trained(store, client, _dataset(store, _GRID))
    before_after_prompts.add_prompt(store, LOCAL, job, "4,x")
    failed = _go(store, client, job)
    assert failed.state == "failed"
    removed = before_after_prompts.remove(store, LOCAL, job.id, failed.pairs[0].position)
    assert (_view(store, job).state, _view(store, job).reason) == ("done", None)
    before_after_prompts.restore(store, LOCAL, removed)
    assert _view(store, job) == failed


def test_removed_prompts_make_room_for_others(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _GRID))
    done = {side: before_after.SideAnswer("done") for side in before_after.SIDES}
    positions = [
        before_after_prompts.add_answered_prompt(store, LOCAL, job, f"prompt {n}", done)
        for n in range(before_after_prompts.MAX_PROMPTS + 1)
    ]
    assert positions == [*range(before_after_prompts.MAX_PROMPTS), None]
    before_after_prompts.remove(store, LOCAL, job.id, 0)
    assert (
        before_after_prompts.add_answered_prompt(store, LOCAL, job, "one more", done)
        == before_after_prompts.MAX_PROMPTS
    )
    assert before_after_prompts.add_answered_prompt(store, LOCAL, job, "too many", done) is None


@pytest.mark.parametrize("prompt", ["", "  \n", "x" * 20_001])
def test_a_prompt_that_cannot_be_asked(store: Store, client: FakeClient, prompt: str) -> None:
    job = _trained(store, client, _dataset(store, _GRID))
    _go(store, client, job)
    with pytest.raises(FabulaError, match="prompt needs"):
        before_after_prompts.add_prompt(store, LOCAL, job, prompt)


# --- stopped and killed ----------------------------------------------------------------------------------------------


def test_stopped_it_keeps_its_words_and_can_go_on(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _GRID[:7]))
    client.enqueue("stream", _Stopping(store, job.id), _Stopping(store, job.id))
    stopped = _go(store, client, job)
    assert stopped.state == "stopped"
    assert {side.state for pair in stopped.pairs for side in (pair.base, pair.tuned)} == {"stopped"}
    assert any(side.text == "从前" for side in (stopped.pairs[0].base, stopped.pairs[0].tuned))
    client._queues.clear()
    before_after.retry(store, LOCAL, job.id)
    assert _go(store, client, job).state == "done"


def test_a_queued_one_is_stopped_at_once(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _GRID[:7]))
    before_after.stop(store, LOCAL, job.id)
    assert _view(store, job).state == "stopped" and client.count("stream") == 0


@pytest.mark.parametrize(("provider", "state", "again"), [("engine", "done", 2), ("openai", "failed", 0)])
def test_after_a_kill_free_answers_are_written_again_and_paid_ones_are_not(
    store: Store, provider: str, state: str, again: int
) -> None:
    """The engine rewrites interrupted answers.

    Answers that may have been billed are not requested again automatically.
    """
    client = FakeClient() if provider == "engine" else _Paid()
    job = _trained(store, client, _dataset(store, _GRID[:7]), provider=provider)
    before_after.start(store, LOCAL, job)
    _go(store, client, job)
    before = client.count("stream")
    with store.session() as session:  # as after kill -9: a partial text, and an answer without a saved end
        session.scalars(select(BeforeAfter)).one().state = "running"
        answers = session.scalars(select(BeforeAfterAnswer).order_by(BeforeAfterAnswer.id)).all()
        for answer in answers[:3]:
            answer.state = "writing"
        for answer in answers[:2]:
            session.get_one(Story, answer.story_id).finish_reason = None
    killed = _go(store, client, job)
    assert killed.state == state
    assert client.count("stream") - before == again
    assert killed.pairs[1].base.state == "done"
    if provider == "openai":
        assert "billed again" in (killed.reason or "")
        before_after.retry(store, LOCAL, job.id)
        assert _go(store, client, job).state == "done" and client.count("stream") - before == 2


def test_a_worker_that_stops_leaves_it_for_the_next(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _GRID[:7]))
    hurry = InstantStopSignal()
    hurry.set()
    assert _go(store, client, job, hurry).state == "running"
    assert _go(store, client, job).state == "done"


def test_an_answer_without_a_word_is_an_answer(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _GRID[:7]))
    client.enqueue("stream", FakeStream((), "m"))
    done = _go(store, client, job)
    assert done.state == "done" and {pair.base.text for pair in done.pairs} == {""}
    assert {(pair.base.model, pair.tuned.model) for pair in done.pairs} == {("gemma-3-270m", _TUNED)}


def test_a_provider_that_disconnects_is_not_retried_automatically(store: Store) -> None:
    client = _Paid()
    job = _trained(store, client, _dataset(store, _GRID[:7]), provider="openai")
    client.enqueue("stream", *[FakeStream((ServerError("It broke.", "Try later."),), "m") for _ in range(9)])
    before_after.start(store, LOCAL, job)
    failed = _go(store, client, job)
    assert failed.state == "failed" and "It broke." in (failed.reason or "")
    assert client.count("stream") == 2 * len(failed.pairs)


# --- the export ------------------------------------------------------------------------------------------------------


def test_the_export_has_both_texts(store: Store, client: FakeClient) -> None:
    job = _trained(store, client, _dataset(store, _GRID[:7]))
    _go(store, client, job)
    with zipfile.ZipFile(io.BytesIO(run_export.run_zip(store, job.id))) as file:
        pairs = json.loads(file.read("before_after.json"))
        card = file.read("README.md").decode()
    assert card.count("> 从前有一天") == 2 * len(pairs) and "Prompt: 3,y" in card
    assert [pair["prompt"] for pair in pairs] == [pair.prompt for pair in _view(store, job).pairs]
    assert {pair[side]["text"] for pair in pairs for side in ("base", "tuned")} == {"从前有一天"}
    assert pairs[0]["tuned"]["model"] == _TUNED


class _Paid(FakeClient):
    """A client of a paid provider."""

    def __init__(self) -> None:
        super().__init__(Provider("openai", "openai", "OpenAI", "http://x/v1", "key"))

    def endpoint(self, model: str) -> str:
        return "chat"


class _Stopping(FakeStream):
    """A stream that stops the comparison at its first text."""

    def __init__(self, store: Store, job_id: str) -> None:
        super().__init__(("从前", ...), "m")
        self._stop = lambda: before_after.stop(store, LOCAL, job_id)

    def __next__(self) -> str:
        piece = super().__next__() if self.facts.chunks == 0 else self._wait()
        return piece

    def _wait(self) -> str:
        self._stop()
        return super().__next__()


@dataclass
class _Forgetting(FakeClient):
    """A client that does not have the models in `gone`."""

    gone: set[str] = field(default_factory=set)

    def stream(self, request: CompletionRequest) -> FakeStream:
        answer = super().stream(request)
        return FakeStream((NO_MODEL,), "m") if request.model in self.gone else answer
