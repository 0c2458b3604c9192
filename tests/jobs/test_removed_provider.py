"""A provider that is removed while a real worker uses it: everything stops, keeps what it has, and says so."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd
from sqlalchemy import update

from core.actor import LOCAL
from core.datasets import datasets
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Row
from core.evaluation import evaluations
from core.evaluation.evaluations import EvaluationForm
from core.failures import of_job, of_run
from core.finetuning import job_views, jobs
from core.finetuning.job_form import JobForm
from core.generation import run_progress, runs
from core.providers import saved
from core.providers.saved import ProviderForm
from core.secret_key import SecretKey
from core.settings import Settings
from tests.support import fault_server
from tests.support.fault_server import FaultServer
from tests.support.running_worker import running_worker
from tests.support.waiting import until

_ROWS = 60


def test_a_removed_provider_stops_a_run_an_evaluation_and_a_job(
    store: Store, settings: Settings, server: FaultServer, tmp_path: Path
) -> None:
    removed = False
    taken: Counter[str] = Counter()

    def judge(body: object) -> fault_server.Answer:
        if removed:  # a worker may take half a second to notice
            return fault_server.rate_limit()
        taken["question" if fault_server.prompt_of(body).startswith("question") else "row"] += 1
        return fault_server.held(fault_server.text("once"))

    server.judge = judge
    provider = saved.add(store, LOCAL, SecretKey(settings), ProviderForm("mistral", "Writer", server.url, "sk-1234567"))
    numbers = tuple(f"n{number}" for number in range(_ROWS))
    recipe = Recipe("r", (Column("number", numbers),), "{number}", provider=provider, model="writer", max_tokens=9)
    run_dataset = datasets.create(store, LOCAL, recipe)
    frame = pd.DataFrame({"question": [f"question {n}" for n in range(_ROWS)], "answer": ["yes"] * _ROWS})
    dataset_id = datasets.from_frame(store, LOCAL, "questions", frame, ["question"], "answer")
    with store.session() as session:
        half = (Row.dataset_id == dataset_id, Row.position >= _ROWS // 2)  # the job trains on the others
        session.execute(update(Row).where(*half).values(split="held_out"))
    runs.enqueue(store, LOCAL, run_dataset)
    evaluation_id = evaluations.start(store, LOCAL, EvaluationForm(dataset_id, provider, "writer", max_tokens=9))
    job_id = jobs.submit(store, LOCAL, JobForm(dataset_id, "Tuned", provider, "writer", file_format="chat"))
    with running_worker(settings, server, tmp_path):
        until(lambda: taken["row"] and taken["question"], "requests of both")
        until(lambda: job_views.get(store, job_id).status == "queued", "the job")
        removed = True
        saved.remove(store, LOCAL, provider)
        server.release()
        until(lambda: job_views.get(store, job_id).finished, "the end of the job")
        until(lambda: evaluations.get(store, evaluation_id).state == "failed", "the end of the evaluation")
        until(lambda: _run(store, run_dataset).state == "failed", "the end of the run")
    run, evaluation, job = _run(store, run_dataset), evaluations.get(store, evaluation_id), job_views.get(store, job_id)
    for words in (run.reason, evaluation.reason, job.error):
        assert "Writer was removed" in (words or "")
    assert "another provider" in (run.reason or "") and of_run(run.reason).cause == "provider_removed"
    assert "another provider" in (evaluation.reason or "")
    assert "may still be running there" in (job.next_step or "") and of_job(job.error).cause == "provider_removed"
    assert (run.done, evaluation.answered) == (taken["row"], taken["question"])  # all that was sent
    assert datasets.summary(store, run_dataset).pending == _ROWS - run.done > 0


def _run(store: Store, dataset_id: str) -> run_progress.RunProgress:
    progress = run_progress.latest(store, dataset_id)
    assert progress is not None
    return progress
