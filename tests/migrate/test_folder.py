"""A folder of downloaded files as a source: our own ZIP, downloads of any names, and what can't be read."""

from __future__ import annotations

import base64
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select

from core.actor import LOCAL
from core.datasets import datasets
from core.db.store import Store
from core.db.tables import TrainingEvent, TrainingJob
from core.errors import FabulaError, Misconfigured, Refused
from core.finetuning import job_views, results
from core.migrate import account_views, accounts, folder_entries, folder_reader, mover, tunes, zip_file
from core.migrate.account_views import AccountView
from core.migrate.workspace import Workspace
from core.providers import Registry
from core.settings import Settings
from tests.support.openai_account import OpenAIAccount, training_lines

Move = Callable[..., AccountView]
CURVE = b"step,train_loss,train_accuracy\n1,2.5,0.4\n2,1.5,0.7\n"


def _archive(store: Store, folder: Path) -> AccountView:
    archive_id = accounts.connect_folder(store, LOCAL, folder, folder.name)
    accounts.start(store, LOCAL, archive_id, "archive")
    mover.move(store, Registry([]), Settings.from_env(), archive_id, threading.Event())
    return account_views.view(store, archive_id)


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("unpacked", [False, True])
def test_our_own_zip_is_read_again_without_loss(
    store: Store, account: OpenAIAccount, move: Move, tmp_path: Path, unpacked: bool
) -> None:
    account.add_file("file-val", training_lines(9, 2), name="valid.jsonl")
    account.add_tune(1, rows=6, validation_file="file-val")
    account.add_tune(2)
    account.delete_file("file-train2")
    first = move("archive")
    path = tmp_path / "account.zip"
    zip_file.write(store, LOCAL, Settings.from_env(), first.id, path)
    if unpacked:
        shutil.unpack_archive(path, tmp_path / "inside" / "a")
        path = tmp_path / "inside"
    again = _archive(store, path)
    assert (again.state, again.is_folder, again.provider) == ("archived", True, "")
    assert (again.tunes, again.stored, again.gone) == (2, first.stored, 1)
    settings = Settings.from_env()
    for file_id in account.contents:
        both = [Workspace(settings, one.id).file(file_id).read_bytes() for one in (first, again)]
        assert both[0] == both[1]
    before, after = ({one.id: one for one in tunes.list_tunes(store, one.id)} for one in (first, again))
    assert {name: one.state for name, one in before.items()} == {name: one.state for name, one in after.items()}
    assert {one.job_id for one in before.values()} == {one.job_id for one in after.values()}  # no job twice
    assert after["ftjob-1"].trained_rows == 6


def test_loose_downloads_find_their_job(store: Store, account: OpenAIAccount, tmp_path: Path) -> None:
    named, alone = account.add_tune(1), account.add_tune(2)
    named["result_files"] = ["file-results1"]
    folder = _write(
        tmp_path,
        {
            "jobs.json": json.dumps({"object": "list", "data": [named]}).encode(),
            "ftjob-1-events.json": json.dumps({"object": "list", "data": account.events["ftjob-1"]}).encode(),
            "checkpoints.jsonl": "\n".join(map(json.dumps, account.checkpoints["ftjob-1"])).encode(),
            "file-train1 intents.jsonl": training_lines(1, 5),
            "results_file-results1.csv": base64.b64encode(CURVE),
            "second/job.json": json.dumps(alone).encode(),
            "second/train.jsonl": training_lines(2, 3),
            "second/step_metrics.csv": CURVE,
            "third/data.jsonl": training_lines(3, 4),
            "notes.txt": b"remember the milk",
        },
    )
    shown = _archive(store, folder)
    listed = {one.id: one for one in tunes.list_tunes(store, shown.id)}
    assert {name: one.state for name, one in listed.items()} == {
        "ftjob-1": "data",
        "ftjob-2": "data",
        "data:third/data.jsonl": "data",
    }
    assert (shown.stored, shown.gone) == (5, 0)
    for name in ("ftjob-1", "ftjob-2"):
        job = job_views.get(store, listed[name].job_id or "")
        assert results.parse(job.results_csv or "").steps == 2
        assert job.provider == "openai"
    loose = listed["data:third/data.jsonl"]
    assert (loose.job_id, loose.reason) == (None, None)  # there was no job, and nothing is missing
    assert datasets.summary(store, loose.dataset_id or "").done == 4
    assert "notes.txt" in (shown.usage_note or "")
    with store.reading() as session:
        words = session.scalars(select(TrainingEvent.message).where(TrainingEvent.job_id == listed["ftjob-1"].job_id))
        assert {"Step 1", "Step 2", "Step 3"} <= set(words)


def test_data_with_its_results_becomes_a_job_with_a_curve(store: Store, tmp_path: Path) -> None:
    shown = _archive(store, _write(tmp_path, {"a/train.jsonl": training_lines(1, 4), "a/result.csv": CURVE}))
    (one,) = tunes.list_tunes(store, shown.id)
    assert results.parse(job_views.get(store, one.job_id or "").results_csv or "").first("training_loss") == 2.5


def test_what_cannot_be_read_is_named_and_the_rest_goes_on(store: Store, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("inside/good.jsonl", training_lines(1, 4))
        target.writestr("inside/bad.jsonl", training_lines(2, 400))
    damaged = bytearray(packed.getvalue())
    damaged[packed.getvalue().index(b"bad.jsonl") + 40] ^= 0xFF
    job = {"id": "ftjob-9", "object": "fine_tuning.job", "status": 7, "method": {"type": "telepathy"}, "model": None}
    files = {
        "a.zip": bytes(damaged),
        "deep.json": b"[" * 100_000,
        "empty.jsonl": b"",
        "odd.json": json.dumps(job).encode(),
    }
    shown = _archive(store, _write(tmp_path, files))
    listed = {one.id: one for one in tunes.list_tunes(store, shown.id)}
    assert listed["data:a.zip/inside/good.jsonl"].state == "data"
    assert (listed["ftjob-9"].method, listed["ftjob-9"].status, listed["ftjob-9"].job_id) == (
        "telepathy",
        "unknown",
        None,
    )
    assert "a.zip/inside/bad.jsonl" in (shown.usage_note or "")


@pytest.mark.parametrize(
    "at", ["2026-11-30T12:00:00Z", "2026-11-30 12:00", "1796040000", None, [], {}, True, 1e999, "?"]
)
def test_fields_of_other_types_hide_no_job(store: Store, account: OpenAIAccount, tmp_path: Path, at: object) -> None:
    job = account.add_tune(1) | {"created_at": at, "finished_at": at, "trained_tokens": "9", "error": [], "seed": "1"}
    job |= {"result_files": at, "hyperparameters": at, "validation_file": {}}
    events = [one | {"created_at": at, "data": at} for one in account.events["ftjob-1"]]
    checkpoints = [one | {"created_at": at, "metrics": at} for one in account.checkpoints["ftjob-1"]]
    objects = {"job.json": job, "events.json": events, "checkpoints.json": checkpoints}
    files = {name: json.dumps(content).encode() for name, content in objects.items()}
    shown = _archive(store, _write(tmp_path, files | {"file-train1.jsonl": training_lines(1, 4)}))
    (one,) = tunes.list_tunes(store, shown.id)
    assert (shown.state, one.state) == ("archived", "data")
    created = job_views.get(store, one.job_id or "").created_at
    assert (created.year, created.month) == (2026, 11) if isinstance(at, str) and at != "?" else created is not None


def test_a_training_file_that_is_empty_is_not_called_missing(
    store: Store, account: OpenAIAccount, tmp_path: Path
) -> None:
    files = {"job.json": json.dumps(account.add_tune(1)).encode(), "file-train1.jsonl": b"", "notes.jsonl": b""}
    shown = _archive(store, _write(tmp_path, files))
    (one,) = tunes.list_tunes(store, shown.id)
    assert one.state == "archived" and "file-train1.jsonl is empty" in (one.reason or "")
    assert "missing" not in (one.reason or "").split("file-results1")[0]
    assert "notes.jsonl" in (shown.usage_note or "")


def test_a_zip_file_that_unpacks_to_too_much_is_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_entries, "_ALWAYS_BYTES", 100_000)
    for name in ("a.zip", "b.zip"):
        with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as target:
            target.writestr("train.jsonl", training_lines(1, 4) * 100)
    assert len(folder_entries.list_entries(tmp_path / "a.zip")) == 1  # 70 kB
    monkeypatch.setattr(folder_entries, "_MOST_RATIO", 10)
    with pytest.raises(Misconfigured, match="unpack to"):
        folder_entries.list_entries(tmp_path)


def test_a_folder_that_disappears_keeps_what_is_stored(store: Store, tmp_path: Path) -> None:
    folder = _write(tmp_path / "downloads", {"train.jsonl": training_lines(1, 4)})
    assert _archive(store, folder).stored == 1
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="downloads"):
        mover.move(
            store, Registry([]), Settings.from_env(), account_views.list_accounts(store)[0].id, threading.Event()
        )
    assert account_views.list_accounts(store)[0].stored == 1
    for missing in (tmp_path / "none", tmp_path / "downloads"):
        with pytest.raises(FabulaError):
            accounts.connect_folder(store, LOCAL, missing, "none")


def test_the_same_upload_is_the_same_account(store: Store) -> None:
    settings = Settings.from_env()
    files = [("train.jsonl", io.BytesIO(training_lines(1, 4))), ("../../result.csv", io.BytesIO(CURVE))]
    first = accounts.connect_upload(store, LOCAL, settings, files)
    assert accounts.connect_upload(store, LOCAL, settings, list(reversed(files))) == first
    accounts.start(store, LOCAL, first, "archive")
    mover.carry_out(store, Registry([]), first, threading.Event())
    shown = account_views.view(store, first)
    assert (shown.state, shown.name, shown.datasets) == ("archived", "result.csv + 1", 1)
    assert not (settings.home / "result.csv").exists()
    with store.reading() as session:
        assert session.scalar(select(func.count()).select_from(TrainingJob)) == 1


def test_uploaded_files_of_one_name_are_all_kept(store: Store) -> None:
    files = [("train.jsonl", training_lines(1, 4)), ("a/Train.jsonl", training_lines(2, 5)), ("train.jsonl", b"{}")]
    upload = [(name, io.BytesIO(content)) for name, content in [*files, files[0]]]
    folder = folder_reader.save_upload(Settings.from_env(), upload)
    assert sorted(path.read_bytes() for path in folder.iterdir()) == sorted(content for _name, content in files)
    assert all(path.name.endswith("rain.jsonl") for path in folder.iterdir())
    assert folder_reader.save_upload(Settings.from_env(), upload[::-1]) == folder
    assert len(list(folder.iterdir())) == 3
