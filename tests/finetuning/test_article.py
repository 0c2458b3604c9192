"""The workflow of the 2023 article with the engine and a tiny model: two grids, a job and its curve, a second job on
top of the tuned model, and a story outside both grids."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store
from core.evaluation import comparing, evaluation_run, evaluations, run_export
from core.finetuning import checkpoints, curve_analysis, file_checker, job_comparison, job_views, jobs, lineage, results
from core.finetuning.job_form import JobForm
from core.finetuning.job_views import JobView
from core.providers import CompletionRequest, Provider, Registry
from tests.support import engine_process
from tests.support.engine_process import TINY, TOKEN, EngineUnderTest

pytestmark = pytest.mark.slow

FIRST = (("唐", "宋", "元"), ("隐形", "飞行"), ("轻松", "艰难"))
SECOND = (("秦", "隋"), ("龙卷风", "流星火雨"), ("勇敢",))
COLUMNS = ["dynasty", "super_power", "story_type"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[EngineUnderTest]:
    with engine_process.running(tmp_path / "engine") as running:
        yield running


def grid(store: Store, name: str, columns: tuple[tuple[str, ...], ...], repeats: int) -> str:
    """A data set from a grid, like the article's CSV."""
    cells = [cell for cell in itertools.product(*columns) for _ in range(repeats)]
    rows = [
        {**dict(zip(COLUMNS, cell, strict=True)), "story": f"\n\n一位{cell[0]}朝英雄用{cell[1]}打败怪兽{n}。"}
        for n, cell in enumerate(cells)
    ]
    return datasets.from_frame(store, LOCAL, name, pd.DataFrame(rows), COLUMNS, "story")


def test_the_articles_story_from_two_grids_to_a_story_outside_of_them(store: Store, engine: EngineUnderTest) -> None:
    provider = Provider("engine", "engine", "The engine", engine.url, TOKEN)
    registry = Registry([("engine", lambda: provider)])

    def train(form: JobForm) -> JobView:
        """Like the worker."""
        job_id = jobs.submit(store, LOCAL, form)
        jobs.carry_out(store, registry, job_id, threading.Event())
        return job_views.get(store, job_id)

    # the first grid: checked, then trained on with 10 % for validation
    first_form = JobForm(
        grid(store, "first", FIRST, 2), "Ultraman", "engine", TINY, suffix="ultraman", n_epochs=2, batch_size=4, seed=1,
        validation_share=0.1,
    )  # fmt: skip
    checked = file_checker.check_form(store, first_form)
    assert checked.ok and checked.examples == 24 and checked.preview[0].prompt.endswith(" ->")
    first = train(first_form)
    assert first.status == "succeeded" and first.fine_tuned_model is not None and ":ultraman:" in first.fine_tuned_model
    assert first.n_examples == 22 and first.validation_file is not None and first.upload_share == 1

    # results and checkpoints
    curve = results.parse(first.results_csv or "")
    assert curve.steps == 12 and curve.trained_tokens and curve.last("validation_loss") is not None
    assert curve_analysis.observations(curve, checkpoints.list_checkpoints(store, first.id))
    assert [one.step for one in checkpoints.list_checkpoints(store, first.id)] == [6, 12]

    # the second grid, on top of the tuned model, with the article's learning rate multiplier
    second = train(
        JobForm(
            grid(store, "second", SECOND, 3), "More", "engine", first.fine_tuned_model, suffix="more", n_epochs=1,
            batch_size=4, learning_rate_multiplier=0.2, seed=1,
        )
    )  # fmt: skip
    assert second.status == "succeeded" and second.parent_id == first.id and second.fine_tuned_model is not None
    chain = lineage.chain(store, second.id)
    assert [one.id for one in chain] == [first.id, second.id]
    chain_curve = curve_analysis.curve_frame(
        [(one, results.parse(job_views.get(store, one.id).results_csv or "")) for one in chain]
    )
    assert list(chain_curve["total_step"]) == list(range(1, 16))
    assert lineage.chain_cost(chain, datetime.now(UTC)).known_usd == 0
    both = [results.parse(job_views.get(store, one.id).results_csv or "") for one in chain]
    assert job_comparison.compare(chain, both, datetime.now(UTC)).columns[1].name == "More"

    # a story outside both grids, with the training file's prompt format
    request = CompletionRequest(
        second.fine_tuned_model, f"宋,发射激光,艰难{second.separator}", endpoint="completion", max_tokens=20,
        temperature=0.7, stop=(second.stop or ".",), seed=1,
    )  # fmt: skip
    assert "".join(registry.get("engine").stream(request))

    # tuned and base model on held-out rows
    tuned_id, base_id = evaluations.start_pair(store, LOCAL, first, limit=2)
    for evaluation_id in (tuned_id, base_id):
        evaluation_run.carry_out(store, registry, evaluation_id, threading.Event())
    tuned = evaluations.get(store, tuned_id)
    assert tuned.state == "done" and tuned.metrics is not None and tuned.metrics.n == 2
    assert tuned.metrics.loss == curve.last("validation_loss")
    assert comparing.compare_evaluations(store, tuned_id, base_id).n == 2
    assert run_export.run_zip(store, second.id).startswith(b"PK")
