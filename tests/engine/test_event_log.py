"""How the engine collects what the trainer writes: each line once; and retries after tokenizer errors."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")

from core.engine.api.errors import ApiError, unavailable
from core.engine.api.files import PURPOSE, Files
from core.engine.event_log import EventCollector
from core.engine.formats.gguf_file import ModelCard
from core.engine.formats.tokens import load
from core.engine.serving.llama import BaseModel
from core.engine.store import EngineStore, Event, File, Job
from core.engine.training import file_validation
from core.engine.training.file_validation import Validator
from core.engine.training.job_context import EngineJobContext
from core.engine.training.job_folder import JsonlTail

_LINES = '{"prompt": "ab", "completion": "c"}\n'


def _write(path: Path, *rows: object, end: str = "\n") -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(f"{row if isinstance(row, str) else json.dumps(row)}{end}" for row in rows))


def _job(status: str = "running") -> Job:
    return Job(
        id="ftjob-1",
        created_at=0,
        status=status,  # type: ignore[arg-type]  # one of them
        model="tiny",
        base="tiny",
        format="completion",
        tuned_id="ft:tiny:fabula::abc",
        suffix=None,
        seed=1,
        training_file="file-1",
        validation_file=None,
        examples=1,
        n_epochs=1,
        batch_size=1,
        learning_rate_multiplier=1.0,
        metadata=None,
    )


@pytest.fixture
def store(tmp_path: Path) -> EngineStore:
    (tmp_path / "jobs" / "ftjob-1").mkdir(parents=True)
    store = EngineStore(tmp_path / "engine.db")
    store.add(_job())
    return store


# --- JsonlTail -----------------------------------------------------------------------------------------------


def test_each_line_is_given_until_it_is_kept_and_then_never_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = JsonlTail(path)
    assert tail.read_new() == []
    _write(path, {"step": 1}, "broken", "[1]", {"step": 2})
    _write(path, '{"step": 3', end="")  # it is still being written
    assert tail.read_new() == tail.read_new() == [{"step": 1}, {"step": 2}]
    tail.commit()
    _write(path, ', "a": "宋"}')
    assert tail.read_new() == [{"step": 3, "a": "宋"}]
    tail.commit()
    assert tail.read_new() == []


def test_a_file_that_was_put_in_its_place_is_read_from_its_start(tmp_path: Path) -> None:
    path, replacement = tmp_path / "metrics.jsonl", tmp_path / "part"
    _write(path, {"step": 1}, {"step": 2})
    tail = JsonlTail(path)
    assert len(tail.read_new()) == 2
    tail.commit()
    _write(replacement, {"step": 1}, {"step": 2, "longer": "than before"}, {"step": 3})
    replacement.replace(path)
    assert [row["step"] for row in tail.read_new()] == [1, 2, 3]


# --- EventCollector --------------------------------------------------------------------------------------------------


def _told(store: EngineStore) -> list[tuple[str, str]]:
    return [(event.type, event.message) for event in store.select(Event, "1")]


def test_each_step_is_collected_once_in_the_order_of_events(store: EngineStore, tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "ftjob-1"
    harvest = EventCollector(store, "ftjob-1", tmp_path)
    _write(folder / "state.json", {"total_steps": 4, "tokens_per_s": 9.0})
    _write(folder / "metrics.jsonl", {"step": 1, "at": 10, "training_loss": 2}, {"step": 2, "at": 30})
    _write(folder / "events.jsonl", {"message": "between", "at": 20})
    assert (harvest.collect().step, harvest.collect().total_steps) == (2, 4)
    _write(folder / "part", {"step": 1, "at": 40}, {"step": 2, "at": 50}, {"step": 3, "at": 60})
    (folder / "part").replace(folder / "metrics.jsonl")  # what the trainer does after a kill -9; it repeats steps
    assert harvest.collect().step == 3
    assert EventCollector(store, "ftjob-1", tmp_path).collect().step == 3  # after a restart of the engine
    assert _told(store) == [
        ("metrics", "Step 1/4: training loss=2.00"),
        ("message", "between"),
        ("metrics", "Step 2/4: training loss=unknown"),
        ("metrics", "Step 3/4: training loss=unknown"),
    ]


def test_what_could_not_be_stored_is_taken_by_the_next_harvest(
    store: EngineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "jobs" / "ftjob-1"
    harvest = EventCollector(store, "ftjob-1", tmp_path)
    _write(folder / "metrics.jsonl", {"step": 1})
    _write(folder / "events.jsonl", {"message": "begun", "at": 1})

    def full(*_: object, **__: object) -> bool:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patched, pytest.raises(sqlite3.OperationalError):
        patched.setattr(store, "update", full)
        harvest.collect()
    assert _told(store) == []
    assert harvest.collect().step == 1
    assert len(_told(store)) == 2


def test_events_go_on_after_a_power_cut_that_took_some_of_them(store: EngineStore, tmp_path: Path) -> None:
    path = tmp_path / "jobs" / "ftjob-1" / "events.jsonl"
    harvest = EventCollector(store, "ftjob-1", tmp_path)
    _write(path, {"message": "first", "at": 1}, {"message": "second", "at": 2})
    harvest.collect()
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    harvest.collect()
    _write(path, {"message": "third", "at": 3})
    harvest.collect()
    assert [message for _, message in _told(store)] == ["first", "second", "third"]


# --- tokenizer errors -----------------------------------------------------------------------------------------


class _Pool:
    """A tokenizer that fails `faults` times, then works."""

    def __init__(self, *faults: Exception) -> None:
        self._faults = list(faults)

    @contextmanager
    def tokenizer(self, _base: BaseModel) -> Iterator[Callable[[str], list[int]]]:
        if self._faults and isinstance(self._faults[0], ApiError):
            raise self._faults.pop(0)
        yield self._tokenize

    def _tokenize(self, text: str) -> list[int]:
        if self._faults:
            raise self._faults.pop(0)
        return [ord(letter) for letter in text]


def _hiccup() -> Exception:
    request = httpx2.Request("POST", "http://127.0.0.1/tokenize")
    return httpx2.HTTPStatusError("503", request=request, response=httpx2.Response(503, request=request))


def _validator(tmp_path: Path, store: EngineStore, pool: _Pool) -> Validator:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "file-1").write_text(_LINES)
    store.add(File("file-1", "a.jsonl", len(_LINES), PURPOSE, 0))
    store.update(Job, "ftjob-1", status="validating_files")
    base = BaseModel("tiny", tmp_path / "tiny.gguf", ModelCard("gemma3", 512, 400, 2, 1, ""))
    models: Any = SimpleNamespace(base=lambda _name: base)
    shop = EngineJobContext(tmp_path, store, Files(tmp_path, store), models, pool, 1, print)  # type: ignore[arg-type]  # fakes
    return Validator(shop, threading.Event())


@pytest.mark.parametrize(
    ("faults", "status"),
    [
        ([_hiccup()], "queued"),
        ([unavailable("It could not be loaded."), _hiccup(), httpx2.ReadTimeout("slow")], "queued"),
        ([_hiccup()] * 4, "failed"),
        ([unavailable("It could not be loaded.")] * 4, "failed"),
        ([ApiError(400, "No such model.")], "failed"),
    ],
)
def test_a_stumbling_tokenizer_is_asked_again_and_not_for_ever(
    faults: list[Exception], status: str, store: EngineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_validation, "_PAUSES_S", (0.0, 0.0, 0.0))
    work = _validator(tmp_path, store, _Pool(*faults))
    for _ in range(len(faults) + 1):
        work.step()
    job = store.get(Job, "ftjob-1")
    assert job is not None and job.status == status
    if status == "queued":
        assert next(iter(load(tmp_path / "jobs" / "ftjob-1" / "train.npz"))).tokens == (2, 97, 98, 99, 1)


@pytest.mark.parametrize("check_s", [0, 1000])
def test_a_job_that_is_cancelled_while_it_is_tokenised_leaves_no_tokens(
    check_s: int, store: EngineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_validation, "_CANCEL_CHECK_S", check_s)

    class _Cancelling(_Pool):
        def _tokenize(self, text: str) -> list[int]:
            store.update(Job, "ftjob-1", status="cancelled")
            return super()._tokenize(text)

    validator = _validator(tmp_path, store, _Cancelling())
    (tmp_path / "files" / "file-1").write_text(_LINES * 2)
    assert validator.step()
    assert list((tmp_path / "jobs" / "ftjob-1").iterdir()) == []
