"""Logging to Weights & Biases and Trackio: steps are logged live and once, and a failing tracker does not affect the
job.

The libraries are optional. If they are installed (`pip install wandb trackio`), the last part logs to the real ones,
W&B offline and Trackio on this machine; otherwise it is skipped with a reason.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store
from core.errors import FabulaError
from core.finetuning import job_views, jobs, trackers
from core.finetuning.job_form import TRACKERS, JobForm
from core.providers import Provider
from core.settings import Settings
from tests.support.fakes import FakeClient, FakeRegistry, remote_job
from tests.support.tracking_process import client as grow
from tests.support.tracking_process import curve
from tests.support.waiting import WAIT_LIMIT_S, InstantStopSignal, run_to_end


@pytest.fixture
def form(store: Store) -> JobForm:
    frame = pd.DataFrame({"power": [f"飞行{n}" for n in range(20)], "story": [f"故事{n}" for n in range(20)]})
    dataset_id = datasets.from_frame(store, LOCAL, "twenty", frame, ["power"], "story")
    return JobForm(dataset_id, "First", "engine", "gemma-3-270m", n_epochs=2, project="stories")


def carry(store: Store, job_id: str, client: FakeClient) -> None:
    registry: Any = FakeRegistry({client.provider.id: client})
    try:
        run_to_end(lambda: jobs.carry_out(store, registry, job_id, InstantStopSignal()), lambda _: None)
    except FabulaError as exc:
        jobs.give_up(store, job_id, exc)


# --- what is sent, and when -----------------------------------------------------------------------------------------


@dataclass
class Tracker:
    """A fake tracker server with its steps per run. `broken`: raised by every call."""

    steps: dict[str, list[int]] = field(default_factory=dict)
    summaries: dict[str, Mapping[str, Any] | None] = field(default_factory=dict)
    opened: list[tuple[str, str, Mapping[str, Any]]] = field(default_factory=list)
    broken: Exception | None = None
    values: Mapping[str, float] = field(default_factory=dict)

    def open_run(self, name: str, project: str, job: Any, config: Mapping[str, Any], folder: Path) -> _Run:
        if self.broken is not None:
            raise self.broken
        self.opened.append((name, project, config))
        return _Run(self, job.id)


@dataclass
class _Run:
    there: Tracker
    id: str
    url: str | None = "https://t/run/1"

    @property
    def last_step(self) -> int:
        return max(self.there.steps.get(self.id, [0]))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self.there.broken is not None:
            raise self.there.broken
        self.there.steps.setdefault(self.id, []).append(step)
        self.there.values = values

    def close(self, summary: Mapping[str, Any] | None) -> None:
        self.there.summaries[self.id] = summary


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Tracker:
    tracker = Tracker()
    monkeypatch.setattr(trackers, "open_run", tracker.open_run)
    monkeypatch.setattr(trackers, "unavailable", lambda name, environ=None: None)
    return tracker


def test_steps_are_sent_while_the_job_runs_and_each_once(store: Store, form: JobForm, tracker: Tracker) -> None:
    seen: list[int] = []

    class CountingClient(FakeClient):
        def job(self, job_id: str) -> Any:
            seen.append(len(tracker.steps.get(ours, ())))
            return super().job(job_id)

    client = CountingClient()
    client.enqueue("job", *[remote_job("running")] * 3, remote_job("succeeded"))
    client.enqueue("file_text", curve(2), curve(2), curve(5), curve(6))
    ours = jobs.submit(store, LOCAL, replace(form, trackers=("trackio",)))
    carry(store, ours, client)
    assert seen == [0, 2, 2, 5] and tracker.steps[ours] == [1, 2, 3, 4, 5, 6]
    assert tracker.values["training_loss"] == pytest.approx(1 / 3, abs=1e-3)
    assert len(tracker.opened) == 1 and tracker.opened[0][2]["base_model"] == "gemma-3-270m"
    state = job_views.get(store, ours).trackers["trackio"]
    assert (state["state"], state["step"], state["project"], state["url"]) == (
        "logged",
        6,
        "stories",
        "https://t/run/1",
    )
    summary = tracker.summaries[ours]
    assert summary is not None and summary["status"] == "succeeded" and summary["trained_tokens"] == 1250


def test_the_next_worker_continues_logging(store: Store, form: JobForm, tracker: Tracker) -> None:
    job_id = jobs.submit(store, LOCAL, replace(form, trackers=("wandb",)))
    stopping, client = InstantStopSignal(), FakeClient()
    registry: Any = FakeRegistry({"engine": client})
    client.enqueue("job", remote_job("running"))
    client.enqueue("file_text", curve(3))
    stopping.then = lambda _: stopping.set() if len(tracker.steps.get(job_id, ())) == 3 else None
    jobs.carry_out(store, registry, job_id, stopping)
    assert tracker.summaries[job_id] is None and job_views.get(store, job_id).trackers["wandb"]["state"] == "live"
    tracker.steps[job_id].append(4)  # as if killed after sending and before saving the step
    carry(store, job_id, grow(5, 6))
    assert tracker.steps[job_id] == [1, 2, 3, 4, 5, 6] and len(tracker.opened) == 2


def test_a_long_curve_is_sent_a_few_thousand_steps_at_a_time(
    store: Store, form: JobForm, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "_MAX_STEPS_PER_SEND", 2)
    job_id = jobs.submit(store, LOCAL, replace(form, trackers=("trackio",)))
    live, text = trackers.TrackerLogger(store, job_views.get(store, job_id)), curve(7)
    sent = []
    for _ in range(3):
        live.send(text)
        sent.append(len(tracker.steps[job_id]))
    live.send(text, send_all=True)
    assert sent == [2, 4, 6] and tracker.steps[job_id] == [1, 2, 3, 4, 5, 6, 7]


def test_a_failing_tracker_is_retried_without_affecting_the_job(
    store: Store, form: JobForm, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker.broken = RuntimeError("no network")
    job_id = jobs.submit(store, LOCAL, replace(form, trackers=("trackio",)))
    carry(store, job_id, grow(2, 4))
    job = job_views.get(store, job_id)
    assert job.status == "succeeded" and job.trackers["trackio"]["state"] == "failed"
    assert "no network" in job.trackers["trackio"]["error"]

    monkeypatch.setattr(trackers, "_RETRY_S", 0.0)
    live = trackers.TrackerLogger(store, job_views.get(store, job_id))
    live.send(curve(3))
    tracker.broken = None
    states = live.send(curve(4))
    assert states is not None and states["trackio"]["error"] is None and tracker.steps[job_id] == [1, 2, 3, 4]


def test_openai_logs_to_wandb_itself(store: Store, form: JobForm, tracker: Tracker) -> None:
    paid = replace(form, provider="openai", base_model="gpt-4.1-mini-2025-04-14", trackers=("wandb",))
    job_id = jobs.submit(store, LOCAL, paid)
    client = FakeClient(Provider("openai", "openai", "OpenAI", "http://x/v1", "k"))
    carry(store, job_id, client)
    (request, _intent) = next(what for call, what in client.sent if call == "create_job")
    assert request.integrations == (("wandb", "stories"),)
    assert not tracker.opened and job_views.get(store, job_id).trackers["wandb"]["state"] == "logged"


def test_missing_trackers_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install wandb" in str(trackers.unavailable("wandb", {}))
    assert "pip install trackio" in str(trackers.unavailable("trackio", {}))
    for account in ("openai", "openai-2"):
        assert trackers.unavailable("wandb", {}, provider=account) is None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert "WANDB_API_KEY" in str(trackers.unavailable("wandb", {}))
    assert trackers.unavailable("wandb", {"WANDB_API_KEY": "k"}) is None
    assert trackers.unavailable("wandb", {"WANDB_MODE": "offline"}) is None
    assert trackers.unavailable("trackio", {}) is None


def test_a_missing_tracker_is_shown_in_the_job(store: Store, form: JobForm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    job_id = jobs.submit(store, LOCAL, replace(form, trackers=TRACKERS))
    carry(store, job_id, grow(2))
    state = job_views.get(store, job_id).trackers
    assert {one["state"] for one in state.values()} == {"skipped"} and "pip install" in state["trackio"]["error"]


# --- the real libraries ---------------------------------------------------------------------------------------------


_ROOT = Path(__file__).parents[2]
_READ = {
    "trackio": """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
rows = [log for run in SQLiteStorage.get_runs("stories") for log in SQLiteStorage.get_logs("stories", run)]
print(json.dumps([[row["step"], row["training_loss"]] for row in rows if "training_loss" in row]))
""",
    "wandb": """
import json, struct, sys
from pathlib import Path
from wandb.proto import wandb_internal_pb2
(path,) = Path(sys.argv[1]).rglob("*.wandb")  # one folder: that of a killed worker is gone
data, place, found = path.read_bytes(), 7, []
while place + 7 <= len(data):  # LevelDB's log: checksum, length, type, then the record; short ones lie in one piece
    length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
    if kind == 1:
        record = wandb_internal_pb2.Record.FromString(data[place + 7 : place + 7 + length])
        item = {one.key or one.nested_key[0]: json.loads(one.value_json) for one in record.history.item}
        if "training_loss" in item:
            found.append([record.history.step.num, item["training_loss"]])
    place += 7 + length
print(json.dumps(found))
""",
}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_real_tracker_has_each_step_once_though_the_worker_was_killed(
    store: Store, settings: Settings, form: JobForm, tmp_path: Path, name: str
) -> None:
    """Runs in separate processes, because both libraries read their folders on import."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed: pip install {name}")
    env = os.environ | {
        "FABULA_HOME": str(settings.home), "HOME": str(tmp_path), "TRACKIO_DIR": str(tmp_path / "trackio"),
        "WANDB_MODE": "offline",
    }  # fmt: skip
    job_id = jobs.submit(store, LOCAL, replace(form, trackers=(name,)))

    def life(lengths: str, behaviour: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-m", "tests.support.tracking_process", job_id, lengths, behaviour]
        return subprocess.Popen(argv, cwd=_ROOT, env=env, stdout=subprocess.PIPE, text=True)

    first = life("3,5", "hang")
    assert first.stdout is not None
    assert any(line.strip() == "there" for line in first.stdout)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert job_views.get(store, job_id).trackers[name]["state"] == "live"
    assert life("6,8", "end").wait(WAIT_LIMIT_S) == 0

    state = job_views.get(store, job_id).trackers[name]
    assert (state["state"], state["step"], state["error"]) == ("logged", 8, None)
    argv = [sys.executable, "-c", _READ[name], str(settings.home)]
    read = subprocess.run(argv, env=env, capture_output=True, text=True, check=True)
    logged = json.loads(read.stdout.splitlines()[-1])
    assert [step for step, _ in logged] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert logged[-1][1] == pytest.approx(0.25)
