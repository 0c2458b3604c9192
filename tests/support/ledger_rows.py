"""Creates ledger rows as the worker would leave them, without running it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any

import pandas as pd

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.importers import table_reader
from core.db.store import Store, new_id
from core.db.tables import (
    AccountArchive,
    ArchivedTune,
    BeforeAfter,
    BeforeAfterAnswer,
    Row,
    Story,
    TrainingEvent,
    TrainingJob,
    utcnow,
)
from core.db.tables.story import COMPARISON
from core.errors import BadRequest
from core.evaluation import evaluation_run, evaluations
from core.finetuning import job_views
from core.providers import Choice, Completion, CompletionRequest, Provider
from tests.support.fakes import FakeRegistry

_RESULTS = (
    "step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy\n"
    "1,625,1,0.88,0.0,0.75\n2,1258,2,0.81,0.0,0.78\nbroken\n3,1859,3,0.40,0.0,0.95\n"
)


def hours_ago(hours: int) -> object:
    return utcnow() - timedelta(hours=hours)


def run_evaluation(store: Store, evaluation_id: str, say: Callable[[str], str | None]) -> None:
    """Run the evaluation like the worker: `say` creates an answer from the expected one, or None to fail."""
    expected = {row.prompt: row.expected for row in evaluations.examples(store, evaluations.get(store, evaluation_id))}

    def complete(request: CompletionRequest, *, once: bool, stop: threading.Event) -> Completion:
        said = say(next(label for text, label in expected.items() if request.prompt == f"{text} ->"))
        if said is None:
            raise BadRequest("The provider refuses this text.")
        return Completion((Choice(f" {said}.", "stop"),), request.model, 5, 2)

    client = SimpleNamespace(
        provider=Provider("engine", "engine", "The engine", "http://x/v1", ""), complete=complete,
        endpoint=lambda model: "completion", parallel=lambda model: None,
    )  # fmt: skip
    registry: Any = FakeRegistry({"engine": client})
    evaluation_run.carry_out(store, registry, evaluation_id, threading.Event())


def put_labelled_rows(store: Store, *, held_out: int, rows: int = 30) -> str:
    """Store short rows with one of three labels, some of them held out."""
    lines = [f"text {n},{('red', 'green', 'blue')[n % 3]}" for n in range(rows)]
    frame = table_reader.read_table("\n".join(["topic,label", *lines]).encode(), "labels.csv")
    dataset_id = datasets.from_frame(store, LOCAL, "labels", frame.frame, ["topic"], "label", frame.source)
    with store.session() as session:
        for row in session.query(Row).filter(Row.dataset_id == dataset_id).order_by(Row.position).limit(held_out):
            row.split = "held_out"
    return dataset_id


def put_job(store: Store, **values: object) -> str:
    """Store a job in the ledger, as the worker would."""
    job_id = new_id()
    events_at = values.pop("events_at", None) or utcnow()
    given: dict[str, object] = {
        "id": job_id, "dataset_id": None, "name": "ultraman", "provider": "engine", "base_model": "writer",
        "suffix": "x", "hyperparameters": {}, "file_format": "completion", "separator": " ->", "stop": ".",
        "remote_id": f"ftjob-{job_id}", "results_csv": _RESULTS, "n_examples": 27, "created_by": "local",
    }  # fmt: skip
    with store.session() as session:
        job = TrainingJob(**{**given, **values})
        if job.status in job_views.FINISHED:
            job.finished_at = utcnow()
        session.add(job)
        session.flush()
        session.add(
            TrainingEvent(
                job_id=job.id, remote_id="e1", created_at=events_at, level="info", type="message",
                message="Training started: 27 examples, 3 epochs, 21 steps.",
            )
        )  # fmt: skip
    return job_id


def put_comparison(store: Store, job_id: str, state: str, *, source: str | None = "held_out", reason: str = "") -> None:
    with store.session() as session:
        session.add(
            BeforeAfter(id="c", job_id=job_id, state=state, source=source, reason=reason or None, created_by="local")
        )


def put_comparison_answer(store: Store, position: int, side: str, state: str, text: str = "", **values: object) -> None:
    story_id = f"s{position}{side}" if text else None
    values = {"prompt": f"text {position}", **values}
    with store.session() as session:
        session.add(
            BeforeAfterAnswer(
                before_after_id="c", position=position, side=side, state=state, story_id=story_id, **values
            )
        )  # fmt: skip
        if text:
            session.add(
                Story(
                    id=story_id, actor="local", provider="engine", model=side, prompt="p", parameters={}, text=text,
                    finish_reason="length" if side == "base" else "stop", completion_tokens=7, step=COMPARISON,
                )
            )  # fmt: skip


TUNED_MODEL = "ft:writer:fabula:x:1"


def put_tuned_model(store: Store) -> None:
    """Store the job that produced the tuned model, from a data set with one column."""
    frame = pd.DataFrame({"hero": ["唐", "宋"], "story": ["一", "二"]})
    dataset_id = datasets.from_frame(store, LOCAL, "x", frame, ["hero"], "story")
    with store.session() as session:
        session.add(
            TrainingJob(
                id="j1", dataset_id=dataset_id, name="x", provider="engine", base_model="writer", hyperparameters={},
                file_format="completion", separator=" ->", stop=".", fine_tuned_model=TUNED_MODEL, status="succeeded",
                created_by="local",
            )
        )  # fmt: skip


def put_archived_tune(store: Store, model: str, dark_on: date | None, **values: object) -> str:
    """Store a tuned model of an account that is moved here; returns the id of the archived account."""
    given: dict[str, object] = {
        "base_model": "gpt-9", "method": "supervised", "status": "succeeded", "result_files": [], "raw": {},
        "remote_id": f"ftjob-{model}", "dark_source": "api",
    }  # fmt: skip
    with store.session() as session:
        archive_id = str(values.get("archive_id") or new_id())
        if session.get(AccountArchive, archive_id) is None:
            account = AccountArchive(id=archive_id, provider="", name="Acme", base_url="https://x", created_by="local")
            account.state = "archived"
            session.add(account)
            session.flush()
        session.add(ArchivedTune(model=model, dark_on=dark_on, **{**given, **values, "archive_id": archive_id}))
    return archive_id


def put_story(store: Store, number: int, **values: object) -> str:
    defaults = {
        "actor": "local",
        "model": "writer",
        "text": f"story {number}",
        "prompt": f"prompt {number}",
        "finish_reason": "stop",
        "parameters": {},
    }
    with store.session() as session:
        session.add(Story(id=f"s{number}", provider="engine", **defaults | values))
    return f"s{number}"


def put_dataset(store: Store, name: str, cells: int, repeats: int, columns: tuple[str, str] = ("x", "y")) -> str:
    rows = [(f"{name}{c}", "1", f"{name} story {c}-{r}", "") for c in range(cells) for r in range(repeats)]
    frame = pd.DataFrame(rows, columns=[*columns, "story", "split"])
    frame.loc[frame.index >= len(frame) - 2, "split"] = "held_out"
    return datasets.from_frame(store, LOCAL, name, frame, columns, "story", split_column="split")
