"""What a job needs: a data set, a form, a provider that answers from a queue, and the worker's part."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store
from core.errors import FabulaError, StorageFull
from core.finetuning import jobs, submit
from core.finetuning.job_form import JobForm
from tests.support.fakes import FakeClient, FakeRegistry
from tests.support.waiting import InstantStopSignal, run_to_end


@pytest.fixture
def dataset_id(store: Store) -> str:
    frame = pd.DataFrame({"dynasty": ["唐", "宋"], "power": ["隐形", "飞行"], "story": ["故事一。", "故事二。"]})
    return datasets.from_frame(store, LOCAL, "two", frame, ["dynasty", "power"], "story")


@pytest.fixture
def form(dataset_id: str) -> JobForm:
    return JobForm(dataset_id, "First", "engine", "gemma-3-270m", suffix="tour", n_epochs=2, batch_size=4, seed=7)


@pytest.fixture
def client() -> FakeClient:
    return FakeClient()


@pytest.fixture
def carry(store: Store, client: FakeClient) -> Callable[..., InstantStopSignal]:
    """Run a job like the worker, without waiting; errors are handled like in the worker."""

    def go(
        job_id: str, hurry: InstantStopSignal | None = None, registry: FakeRegistry | None = None
    ) -> InstantStopSignal:
        hurry = hurry or InstantStopSignal()
        try:
            there: Any = registry or FakeRegistry({"engine": client})
            run_to_end(lambda: jobs.carry_out(store, there, job_id, hurry), hurry.wait)
        except StorageFull:
            raise
        except FabulaError as exc:
            jobs.give_up(store, job_id, exc)
        return hurry

    return go


@pytest.fixture(autouse=True)
def settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "_SETTLE_S", 0.0)
