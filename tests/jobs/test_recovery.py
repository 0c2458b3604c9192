"""Entries of rescue files are restored once, even if read twice; unmatched lines stay and are reported."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import select, update

from core import processes
from core.actor import LOCAL, Actor
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db import leases, rescue_files
from core.db.rescue_files import RescueFile
from core.db.store import Store
from core.db.tables import (
    Batch,
    Evaluation,
    EvaluationAnswer,
    Row,
    Run,
    Spend,
    Story,
    TrainingJob,
    WorkerHeartbeat,
    utcnow,
)
from core.errors import BadRequest, DatabaseLost, FabulaError
from core.finetuning import job_form, job_views, jobs
from core.finetuning.job_context import JobContext
from core.finetuning.submit import submit_to_provider
from core.generation import previewing, reservations, row_store, run_store, runs
from core.generation.previewing import PreviewRow
from core.generation.row_store import RowOutcome, RowResult, row_entry
from core.jobs import recovery
from core.pricing import custom_prices, spend
from core.providers import Client, CompletionRequest
from core.stories import library
from core.stories.story_record import StoryFacts, StoryPlacement, StoryRecord
from core.stories.stream import StoryStream, StreamRequest
from tests.support.fault_server import FaultServer, error, held, text
from tests.support.job_server import JobServer
from tests.support.ledger_rows import put_job
from tests.support.stores import fresh
from tests.support.waiting import at_once

_ELSEWHERE = "another-machine"
_USED = {"prompt_tokens": 10, "completion_tokens": 5, "cost_usd": "0.5"}


def run_of(store: Store, rows: int = 3) -> tuple[str, str]:
    """(run, data set); the request of its first row is in flight."""
    columns = (Column("n", tuple(f"n{i}" for i in range(rows))),)
    made = Recipe("stories", columns, "{n}", provider="fault", model="writer", max_tokens=9)
    dataset_id = datasets.create(store, LOCAL, made)
    run_id = runs.enqueue(store, LOCAL, dataset_id)
    with store.session() as session:
        first = select(Row.id).where(Row.dataset_id == dataset_id).order_by(Row.position).limit(1)
        session.execute(update(Row).where(Row.id == session.scalar(first)).values(state="sent", run_id=run_id))
    return run_id, dataset_id


def row_line(store: Store, run_id: str, dataset_id: str, /, **changed: Any) -> dict[str, Any]:
    with store.session() as session:
        key = session.scalar(select(Row.key).where(Row.dataset_id == dataset_id).order_by(Row.position).limit(1))
        line = spend.record(
            session, LOCAL, "dataset", provider="fault", model="writer", reference=run_id, cost_usd=Decimal(1)
        )
    charge = {"id": line, "actor": "local", "page": "dataset", "provider": "fault", "model": "writer"}
    given = {
        "kind": "row", "run_id": run_id, "dataset_id": dataset_id, "key": key, "state": "done", "reason": None,
        "text": "A story.", "finish_reason": "stop", **_USED, "spend": {**charge, "reference": run_id, **_USED},
    }  # fmt: skip
    return {**given, **changed}


def write(store: Store, *entries: dict[str, Any]) -> Path:
    file = RescueFile(store.home)
    assert file.add(entries)
    assert file.path is not None
    return file.path


def lines(store: Store) -> list[tuple[int | None, Decimal | None]]:
    with store.reading() as session:
        return [(line.prompt_tokens, line.cost_usd) for line in session.scalars(select(Spend).order_by(Spend.id))]


def first_row(store: Store, dataset_id: str) -> Row:
    with store.reading() as session:
        return session.scalars(select(Row).where(Row.dataset_id == dataset_id).order_by(Row.position)).all()[0]


@pytest.mark.parametrize(("model", "sharing"), [("ft:secret", "private"), ("writer", "team_read")])
def test_a_story_of_a_private_model_is_private_when_it_is_restored(store: Store, model: str, sharing: str) -> None:
    put_job(store, fine_tuned_model="ft:secret", created_by="olga", sharing="private")
    story = StoryRecord(
        store, Actor("olga", "Olga", "editor"), "engine", CompletionRequest(model, "p"), StoryPlacement()
    )
    entry = story.rescue_entry("Once upon a time.", StoryFacts(model), None)
    charge = {"id": None, "actor": "olga", "page": "story", "provider": "engine", "model": model, "reference": story.id}
    write(store, {"kind": "story", **entry, "spend": {**charge, **_USED}})
    assert recovery.restore(store) == 0
    with store.reading() as session:
        assert session.get_one(Story, story.id).sharing == sharing


# --- files ---------------------------------------------------------------------------------------------------------


def test_a_file_is_beside_the_home_and_belongs_to_its_owner_alone(store: Store) -> None:
    before = os.umask(0o022)
    try:
        path = write(store, {"kind": "odd", "text": "a\u2028b\nc"})
    finally:
        os.umask(before)
    assert path.parent == store.home.parent
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["text"] == "a\u2028b\nc"


def test_where_the_home_has_no_folder_around_it_that_can_be_written_it_is_in_the_home(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = store.home / "missing"
    monkeypatch.setattr(rescue_files, "folders", lambda home: [(nowhere, "x-"), (home, "rescue-")])
    assert write(store, {"kind": "odd"}).parent == store.home
    assert len(rescue_files.files(store.home)) == 1


def test_lines_that_are_added_while_the_file_is_read_are_not_lost(store: Store) -> None:
    """One process appends while another restores the file: the second one waits, or finds the file deleted."""
    file = RescueFile(store.home)
    assert file.add([{"kind": "spend", "n": -1}])
    numbers = iter(range(40))
    seen: list[int] = []
    lock = threading.Lock()

    def accept(entry: dict[str, Any]) -> bool:
        with lock:
            seen.append(entry["n"])
        return True

    def work() -> None:
        with lock:
            n = next(numbers)
        if n % 2:
            assert file.add([{"kind": "spend", "n": n}])
        else:
            for path in rescue_files.files(store.home):
                try:
                    rescue_files.consume(path, accept)
                except FileNotFoundError:
                    continue

    for _ in range(10):
        at_once(4, work)
    for path in rescue_files.files(store.home):
        rescue_files.consume(path, accept)
    assert sorted(seen) == [-1, *range(1, 40, 2)]


@pytest.mark.parametrize("broken", [b"{", b"[]\n", b"\xff\xfe\n", b"{}\n", b'{"kind":"row","id":"x"}\n'])
def test_a_line_that_makes_no_sense_stays_and_the_others_are_taken_in(store: Store, broken: bytes) -> None:
    run_id, dataset_id = run_of(store)
    path = write(store, row_line(store, run_id, dataset_id))
    with path.open("ab") as file:
        file.write(broken)
    assert recovery.restore(store) == 1
    assert path.read_bytes() == broken
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first_row(store, dataset_id).text == "A story."


# --- rows ----------------------------------------------------------------------------------------------------------


def test_a_row_comes_back_with_its_cost(store: Store) -> None:
    run_id, dataset_id = run_of(store)
    write(store, row_line(store, run_id, dataset_id))
    assert recovery.restore(store) == 0
    row = first_row(store, dataset_id)
    assert (row.state, row.text, row.prompt_tokens, row.cost_usd) == ("done", "A story.", 10, Decimal("0.5"))
    assert lines(store) == [(10, Decimal("0.5"))]
    assert rescue_files.files(store.home) == []


def test_what_is_read_twice_counts_once(store: Store) -> None:
    """Killed between the commit and the removal of the file, even if the reservation is not in this database."""
    run_id, dataset_id = run_of(store)
    entry = row_line(store, run_id, dataset_id)
    entry["spend"]["id"] = 10_000
    path = write(store, entry)
    whole = path.read_bytes()
    for _ in range(3):
        path.write_bytes(whole)
        assert recovery.restore(store) == 0
    assert lines(store) == [(None, Decimal(1)), (10, Decimal("0.5"))]


@pytest.mark.parametrize(
    ("now", "entry", "after", "stays"),
    [
        ({"state": "pending"}, {}, ("done", "A story."), 0),
        ({"state": "done", "text": "A story."}, {}, ("done", "A story."), 0),
        ({"state": "done", "text": "Bought again."}, {}, ("done", "Bought again."), 1),
        ({"state": "failed", "reason": "x"}, {}, ("done", "A story."), 0),
        ({"state": "failed", "text": "Half a"}, {}, ("done", "A story."), 0),
        ({"state": "failed", "text": "Half a"}, {"state": "failed", "text": "Half"}, ("failed", "Half a"), 1),
        ({"state": "excluded", "text": "Edited."}, {}, ("excluded", "Edited."), 1),
        ({"state": "sent", "batch_id": "b"}, {}, ("sent", None), 1),
        ({"state": "sent"}, {"key": "of another grid"}, ("sent", None), 1),
        ({"state": "sent"}, {"dataset_id": "of another home"}, ("sent", None), 1),
    ],
)
def test_a_text_never_replaces_another_and_is_never_thrown_away(
    store: Store, now: dict[str, Any], entry: dict[str, Any], after: tuple[str, str | None], stays: int
) -> None:
    run_id, dataset_id = run_of(store)
    write(store, row_line(store, run_id, dataset_id, **entry))
    with store.session() as session:
        session.execute(update(Row).where(Row.id == first_row(store, dataset_id).id).values(**now))
    assert recovery.restore(store) == stays
    row = first_row(store, dataset_id)
    assert (row.state, row.text) == after
    assert lines(store) == [(10, Decimal("0.5"))]  # the cost counts in any case
    assert [file.lines for file in recovery.unrestored_files(store.home)] == [stays] * bool(stays)


@pytest.mark.parametrize(
    ("holder", "entry_names_it", "placed"),
    [
        ("this process", True, True),  # its own row: the file was written while the disk was full
        ("this process", False, False),
        ("a dead process", False, True),
        ("another machine", False, True),  # none of its workers has a heartbeat
        ("another machine, listed", False, False),
        ("another machine, listed", True, True),
        (None, False, True),
    ],
)
def test_a_row_that_a_living_worker_holds_is_left_to_it(
    store: Store, holder: str | None, entry_names_it: bool, placed: bool
) -> None:
    run_id, dataset_id = run_of(store)
    with leases.hold_lease() as living:
        elsewhere = hashlib.sha256(_ELSEWHERE.encode()).hexdigest()[:12] + living[12:]
        dead = living.replace(living.split(":")[1], "999999999")  # a process that cannot exist
        who = {"this process": living, "a dead process": dead, None: None}.get(holder, elsewhere)
        with store.session() as session:
            if holder == "another machine, listed":
                session.add(WorkerHeartbeat(id="there", host=_ELSEWHERE, process=processes.identity()))
            session.execute(update(Row).where(Row.id == first_row(store, dataset_id).id).values(claimed_by=who))
        write(store, row_line(store, run_id, dataset_id, claimed_by=who if entry_names_it else "of another worker"))
        assert recovery.restore(store) == (0 if placed else 1)
    row = first_row(store, dataset_id)
    assert (row.state, row.text) == (("done", "A story.") if placed else ("sent", None))
    assert row.claimed_by == (None if placed else who)
    assert lines(store) == [(10, Decimal("0.5"))]  # the cost counts in any case


def test_of_two_workers_the_one_that_has_the_lease_settles_the_row(store: Store) -> None:
    """An executor is killed with a result in its rescue file, restored while another generates the row again."""
    run_id, _dataset = run_of(store, rows=1)
    with leases.hold_lease() as living:
        killed = living.replace(living.split(":")[1], "999999999")
        first = run_store.begin(store, run_id, killed)
        assert first is not None
        claimed = _claimed(store, first)
        result = RowResult("done", None, "Of the first.", "stop", 10, 5, Decimal("0.5"))
        answer = RowOutcome(claimed, result, utcnow())
        path = write(store, row_entry(first, answer))
        second = run_store.begin(store, run_id, living)  # resumes the items of the killed one
        assert second is not None
        again = _claimed(store, second)
        assert recovery.restore(store) == 1
        assert first_row(store, first.dataset_id).claimed_by == living
        with store.session() as session:
            own = RowOutcome(again, result._replace(text="Of the second."), utcnow())
            row_store.settle(session, [own], living)
        assert recovery.restore(store) == 1
    row = first_row(store, first.dataset_id)
    assert (row.state, row.text, row.claimed_by) == ("done", "Of the second.", None)
    assert lines(store) == [(10, Decimal("0.5"))] * 2  # both answers are paid for, and each is recorded once
    assert "Of the first." in path.read_text()


def test_the_text_of_a_killed_worker_is_taken_in_once_the_next_has_failed(store: Store) -> None:
    run_id, dataset_id = run_of(store)
    with leases.hold_lease() as living:
        where = Row.id == first_row(store, dataset_id).id
        with store.session() as session:
            session.execute(update(Row).where(where).values(claimed_by=living))
        write(store, row_line(store, run_id, dataset_id, claimed_by="killed"))
        assert recovery.restore(store) == 1
        with store.session() as session:
            session.execute(update(Row).where(where).values(state="failed", reason="x", claimed_by=None))
        assert recovery.restore(store) == 0
    assert first_row(store, dataset_id).text == "A story." and rescue_files.files(store.home) == []


def _claimed(store: Store, context: run_store.RunContext) -> row_store.Claim:
    """The only row, claimed and marked as sent."""
    with store.session() as session:
        (claimed,), _ = row_store.claim(session, context, 1, lambda prompt: Decimal(1), None)
        reservations.mark(session, [claimed.spend_id])
    return claimed


def test_a_new_database_keeps_the_lines_of_the_old_one(store: Store, settings: Any, tmp_path: Path) -> None:
    run_id, dataset_id = run_of(store)
    path = write(store, row_line(store, run_id, dataset_id))
    store.close()
    (settings.home / "fabula.db").unlink()
    for old in settings.home.glob("fabula.db-*"):
        old.unlink()
    new = fresh(settings)
    assert recovery.restore(new) == 1 and path.exists()
    assert lines(new) == [(10, Decimal("0.5"))]
    assert recovery.restore(new) == 1 and lines(new) == [(10, Decimal("0.5"))]
    new.close()


# --- other paid requests -------------------------------------------------------------------------------------


@pytest.fixture
def priced(store: Store) -> Store:
    for kind in ("input", "output"):
        custom_prices.set_price(store, LOCAL, provider="fault", model="writer", kind=kind, amount="1000")
    return store


def lose(store: Store, aside: Path) -> None:
    """The file is moved away; `give_back` restores it."""
    store.close()
    for path in store.home.glob("fabula.db*"):
        path.rename(aside / path.name)


def give_back(store: Store, aside: Path) -> None:
    for path in aside.glob("fabula.db*"):
        path.rename(store.home / path.name)


@pytest.fixture
def aside(tmp_path: Path) -> Path:
    folder = tmp_path / "aside"
    folder.mkdir()
    return folder


def restored(store: Store, aside: Path) -> Store:
    """The same home at its next start."""
    assert rescue_files.files(store.home), "nothing was rescued"
    give_back(store, aside)
    again = Store(store.url)
    assert recovery.restore(again) == 0
    return again


def test_a_story_that_ends_without_a_database_is_on_the_shelf_at_the_next_start(
    priced: Store, server: FaultServer, aside: Path
) -> None:
    server.default = held(text("Once upon", " a time."))
    request = CompletionRequest("writer", "once", max_tokens=9)
    story = StoryStream(LOCAL, StreamRequest(priced, Client(server.provider()), request, custom_prices.book(priced)))
    server.wait_for(lambda s: s.flying == 1)
    lose(priced, aside)
    server.release()
    with pytest.raises(DatabaseLost):
        list(story)
    assert story.text == "Once upon a time."
    again = restored(priced, aside)
    (saved,) = library.recent(again)
    assert (saved.id, saved.text, saved.finish_reason) == (story.id, "Once upon a time.", "stop")
    assert [cost for _, cost in lines(again)] == [story.facts.cost_usd]
    assert story.facts.cost_usd


def test_nothing_is_bought_without_a_database(priced: Store, server: FaultServer, aside: Path) -> None:
    book, client = custom_prices.book(priced), Client(server.provider())
    recipe = Recipe("s", (Column("n", ("a",)),), "{n}", provider="fault", model="writer", max_tokens=9)
    lose(priced, aside)
    with pytest.raises(DatabaseLost):
        list(StoryStream(LOCAL, StreamRequest(priced, client, CompletionRequest("writer", "once", max_tokens=9), book)))
    with pytest.raises(DatabaseLost):
        list(previewing.preview(priced, LOCAL, client, recipe, 1, book=book))
    assert server.prompts() == []
    assert rescue_files.files(priced.home) == []


def preview_without_a_database(store: Store, server: FaultServer, aside: Path) -> list[PreviewRow]:
    """A preview of one row; the database is lost while its request is in flight."""
    recipe = Recipe("s", (Column("n", ("a",)),), "{n}", provider="fault", model="writer", max_tokens=9)
    book, client = custom_prices.book(store), Client(server.provider())

    def away() -> None:
        server.wait_for(lambda s: s.flying == 1)
        lose(store, aside)
        server.release()

    breaking = threading.Thread(target=away)
    breaking.start()
    try:
        return list(previewing.preview(store, LOCAL, client, recipe, 1, book=book))
    finally:
        breaking.join()


def test_a_preview_is_shown_and_its_cost_comes_back(priced: Store, server: FaultServer, aside: Path) -> None:
    server.default = held(text("A story."))
    (row,) = preview_without_a_database(priced, server, aside)
    assert row.text == "A story."
    ((tokens, cost),) = lines(restored(priced, aside))
    assert tokens == 10 and cost


def test_a_reservation_that_cannot_be_given_back_costs_nothing_after_the_next_start(
    priced: Store, server: FaultServer, aside: Path
) -> None:
    server.default = held(error(400, "Not this one."))
    with pytest.raises(BadRequest):
        preview_without_a_database(priced, server, aside)
    assert [cost for _, cost in lines(restored(priced, aside))] == [0]


def test_a_job_that_was_made_is_followed_at_the_next_start(
    store: Store, aside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The POST was processed, but its result cannot be stored: there is no second POST."""
    frame = pd.DataFrame({"power": ["a", "b"], "story": ["One.", "Two."]})
    dataset_id = datasets.from_frame(store, LOCAL, "two", frame, ["power"], "story")
    job_id = jobs.submit(store, LOCAL, job_form.JobForm(dataset_id, "First", "engine", "gemma-3-270m"))
    with JobServer() as server:
        monkeypatch.setenv("FABULA_ENGINE_URL", server.url)
        from core.providers import Registry
        from core.settings import Settings

        registry = Registry.from_settings(Settings.from_env(), os.environ)
        server.on_created = lambda: lose(store, aside)
        with pytest.raises(DatabaseLost):
            submit_to_provider(JobContext(store, job_id, threading.Event()), registry)
        again = restored(store, aside)
        assert (job_views.get(again, job_id).remote_id, job_views.get(again, job_id).status) == ("ftjob-1", "running")
        jobs.carry_out(again, registry, job_id)
    assert job_views.get(again, job_id).status == "succeeded"
    assert server.count("POST /v1/fine_tuning/jobs") == 1


def test_an_answer_a_batch_and_jobs_find_their_place_or_stay(store: Store) -> None:
    run_id, dataset_id = run_of(store)
    with store.session() as session:
        session.add(Batch(id="b1", run_id=run_id, state="submitting"))
        session.add(Batch(id="b2", run_id=run_id, state="waiting", remote_id="other"))
        session.add(
            Evaluation(
                id="e1", dataset_id=dataset_id, provider="fault", model="m", kind="text", settings={}, created_by="x"
            )
        )
    answer = {"row_key": "k", "prompt": "p", "expected": "e", "text": "t", "finish_reason": "stop", "reason": None}
    write(
        store,
        {"kind": "batch", "batch_id": "b1", "remote_id": "r1", "remote_status": "validating", "input_file_id": "f"},
        {"kind": "batch", "batch_id": "b2", "remote_id": "r2", "remote_status": "validating", "input_file_id": "f"},
        {"kind": "batch", "batch_id": "gone", "remote_id": "r3", "remote_status": "validating", "input_file_id": "f"},
        {"kind": "answer", "values": {**answer, "evaluation_id": "e1", "correct": True}},
        {"kind": "answer", "values": {**answer, "evaluation_id": "gone", "correct": True}},
        {"kind": "job", "job_id": "gone", "remote_id": "ftjob-9", "status": "running"},
    )
    assert recovery.restore(store) == 4
    with store.reading() as session:
        batch = session.get_one(Batch, "b1")
        assert (batch.state, batch.remote_id, batch.input_file_id) == ("waiting", "r1", "f")
        assert session.get_one(Batch, "b2").remote_id == "other"
        assert [one.text for one in session.scalars(select(EvaluationAnswer))] == ["t"]
        assert session.scalars(select(TrainingJob)).all() == [] == session.scalars(select(Story)).all()
        assert session.get_one(Run, run_id).state == "queued"


def test_a_database_that_is_lost_while_it_is_read_leaves_the_file_as_it_is(store: Store, aside: Path) -> None:
    run_id, dataset_id = run_of(store)
    path = write(store, row_line(store, run_id, dataset_id))
    whole = path.read_bytes()
    lose(store, aside)
    with pytest.raises(FabulaError):
        recovery.restore(store)
    assert path.read_bytes() == whole
