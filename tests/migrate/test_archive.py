"""Archiving an account: every byte once, what the ledger makes of it, what is lost, and interruptions at any point."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import func, select

from core.actor import LOCAL
from core.datasets import datasets, versions
from core.db.store import Store
from core.db.tables import ArchivedFile, Dataset, TrainingEvent, TrainingJob
from core.errors import BadFile, Refused
from core.finetuning import job_views, results
from core.migrate import account_views, accounts, mover, tunes, workspace, zip_file
from core.migrate.account_views import AccountView
from core.migrate.workspace import Workspace
from core.providers import Registry
from core.settings import Settings
from tests.support.openai_account import Content, Fault, OpenAIAccount, training_lines

Move = Callable[..., AccountView]


def _bytes_of(account_id: str, file_id: str) -> bytes:
    return Workspace(Settings.from_env(), account_id).file(file_id).read_bytes()


def test_everything_arrives_byte_for_byte_and_once(store: Store, account: OpenAIAccount, move: Move) -> None:
    for number in range(3):
        account.add_tune(number)
    shown = move("archive")
    assert (shown.state, shown.stored, shown.files, shown.share) == ("archived", 6, 6, 1.0)
    for file_id, content in account.contents.items():
        assert _bytes_of(shown.id, file_id) == content.data
    assert set(account.sent.values()) == {1}

    account.requests.clear()
    assert move("archive").state == "archived"
    assert account.count("/content") == account.count("/events") == 0
    with store.reading() as session:
        assert session.scalar(select(func.count()).select_from(Dataset)) == 3
        assert session.scalar(select(func.count()).select_from(TrainingJob)) == 3


def test_a_tune_becomes_a_data_set_and_a_job_with_its_curve(store: Store, account: OpenAIAccount, move: Move) -> None:
    account.add_file("file-val", training_lines(9, 2), name="valid.jsonl")
    account.add_tune(1, rows=6, validation_file="file-val")
    account.add_tune(2, training_file="file-train1", validation_file="file-val")  # the same files
    listed = tunes.list_tunes(store, move("archive").id)
    assert [one.state for one in listed] == ["data", "data"]
    assert len({one.dataset_id for one in listed}) == 1
    first = next(one for one in listed if one.id == "ftjob-1")
    assert first.trained_rows == 6
    assert first.job_id is not None
    job = job_views.get(store, first.job_id)
    assert (job.status, job.fine_tuned_model, job.trained_tokens) == ("succeeded", first.model, 1_001)
    assert job.hyperparameters == {"n_epochs": 3}
    assert results.parse(job.results_csv or "").steps == 2
    assert job.sharing == "private"
    dataset = datasets.summary(store, first.dataset_id or "")
    assert (dataset.name, dataset.done, dataset.sharing) == ("file-train1", 8, "private")
    assert datasets.system_message(store, dataset.id) == "Name the intent."
    (version,) = versions.list_versions(store, dataset.id)
    assert (version.n_train, version.n_validation) == (6, 2)
    assert "file-train1" in version.note
    with store.reading() as session:
        words = session.scalars(select(TrainingEvent.message).where(TrainingEvent.job_id == job.id)).all()
    assert {"Step 1", "Step 2", "Step 3"} <= set(words)
    assert any("ftjob-1" in one for one in words)


def test_results_in_base64_and_plain_give_the_same_curve(store: Store, account: OpenAIAccount, move: Move) -> None:
    account.add_tune(1)
    account.add_tune(2)
    for one in tunes.list_tunes(store, move("archive").id):
        curve = results.parse(job_views.get(store, one.job_id or "").results_csv or "")
        assert curve.first("training_loss") == 2.5


def test_lost_files_are_named_with_what_can_still_be_done(store: Store, account: OpenAIAccount, move: Move) -> None:
    for number in range(1, 5):
        account.add_tune(number)
    account.delete_file("file-train1")
    account.delete_file("file-train2", listed=True)  # deleted after it was listed
    account.delete_file("file-results3")
    account.when("file-train4/content", Fault(403))
    shown = move("archive")
    assert (shown.state, shown.gone, shown.refused) == ("archived", 3, 1)
    assert {one.id for one in tunes.lost_files(store, shown.id)} == {
        *("file-train1", "file-train2", "file-results3", "file-train4"),
    }
    listed = {one.id: one for one in tunes.list_tunes(store, shown.id)}
    assert [listed[f"ftjob-{number}"].state for number in range(1, 5)] == ["archived", "archived", "data", "archived"]
    assert "2027-01-14" in (listed["ftjob-1"].reason or "")
    assert "no curve" in (listed["ftjob-3"].reason or "")
    assert all(one.job_id for one in listed.values())


def test_other_methods_and_statuses_are_archived_and_said(store: Store, account: OpenAIAccount, move: Move) -> None:
    account.add_tune(1, method="dpo", training_file="file-pairs")
    pair = {
        "input": {"messages": [{"role": "user", "content": "Hi"}]},
        "preferred_output": [{"role": "assistant", "content": "Good day."}],
        "non_preferred_output": [{"role": "assistant", "content": "What?"}],
    }
    account.add_file("file-pairs", f"{json.dumps(pair)}\n".encode() * 3)
    account.add_tune(2, method="reinforcement")
    account.add_tune(3, status="pondering", fine_tuned_model=None)
    account.add_tune(4, training_file="file-broken")
    account.add_file("file-broken", b"\x00\x01 not a training file")
    listed = {one.id: one for one in tunes.list_tunes(store, move("archive").id)}
    assert [listed[f"ftjob-{number}"].state for number in range(1, 5)] == ["data", "archived", "data", "archived"]
    assert "reinforcement" in (listed["ftjob-2"].reason or "")
    assert "pondering" in (listed["ftjob-3"].reason or "")
    assert listed["ftjob-3"].job_id is None
    assert "file-broken" in (listed["ftjob-4"].reason or "")


@pytest.mark.parametrize("ranges", [True, False])
def test_rate_limits_cut_files_and_server_errors_are_survived(
    store: Store, account: OpenAIAccount, move: Move, ranges: bool
) -> None:
    account.ranges = ranges
    account.add_tune(1, rows=3_000)
    account.when("file-train1/content", Fault(429, {"retry-after": "0"}), Fault(cut=300_000), Fault(502))
    shown = move("archive")
    assert (shown.state, shown.stored) == ("archived", 2)
    whole = account.contents["file-train1"].data
    assert _bytes_of(shown.id, "file-train1") == whole
    with store.reading() as session:
        recorded = session.scalar(select(ArchivedFile.sha256).where(ArchivedFile.remote_id == "file-train1"))
    assert recorded == hashlib.sha256(whole).hexdigest()
    assert (account.bytes_sent < 2 * len(whole)) == ranges  # the rest only, or everything again


def test_an_account_closed_half_way_keeps_what_is_stored(store: Store, account: OpenAIAccount, move: Move) -> None:
    for number in range(8):
        account.add_tune(number)
    account.close_after = 10
    with pytest.raises(Refused):
        move("archive")
    kept = account_views.list_accounts(store)[0]
    assert 0 < kept.stored < kept.files
    account.close_after = None
    assert move("archive").state == "archived"
    assert set(account.sent.values()) == {1}


def test_a_large_file_is_never_whole_in_memory_and_continues_at_the_byte_where_it_was_cut(
    account: OpenAIAccount, move: Move, store: Store
) -> None:
    size, cut = 20_000_000, 11_234_567
    account.add_tune(1, method="reinforcement", training_file="file-large")
    account.add_file("file-large", Content(size=size))
    account.when("file-large/content", Fault(cut=cut))
    largest = 0
    original = workspace.Workspace.store

    def watched(self: Workspace, file_id: str, download: Callable[[Callable[[bytes], object], int], None]) -> object:
        def measure(write: Callable[[bytes], object], start: int) -> None:
            def take(block: bytes) -> None:
                nonlocal largest
                largest = max(largest, len(block))
                write(block)

            download(take, start)

        return original(self, file_id, measure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace.Workspace, "store", watched)
        shown = move("archive")
    assert shown.stored_bytes > size
    assert largest <= 1 << 20
    (_, first), (_, second) = (one for one in account.starts if one[0] == "file-large")
    assert first == 0 and 0 <= cut - second < 1 << 17  # a piece that was cut off is asked for again
    whole = hashlib.sha256(b"".join(account.contents["file-large"].blocks())).digest()
    assert hashlib.sha256(_bytes_of(shown.id, "file-large")).digest() == whole


def test_a_stop_keeps_what_is_stored_and_the_next_start_continues(
    store: Store, account: OpenAIAccount, move: Move
) -> None:
    for number in range(6):
        account.add_tune(number)
    archive_id = move().id
    accounts.start(store, LOCAL, archive_id, "archive")
    accounts.stop(store, LOCAL, archive_id)
    mover.carry_out(store, Registry([]), archive_id, threading.Event())
    assert account_views.view(store, archive_id).state == "stopped"
    assert move("archive").stored == 12
    assert set(account.sent.values()) == {1}


def test_a_file_stored_but_not_recorded_is_not_fetched_again(store: Store, account: OpenAIAccount, move: Move) -> None:
    account.add_tune(1)
    archive_id = move("archive").id
    with store.session() as session:  # as if the process had been killed between the disk and the ledger
        for file in session.scalars(select(ArchivedFile)):
            file.state, file.sha256, file.stored_bytes = "listed", None, None
    assert move("archive").id == archive_id
    assert set(account.sent.values()) == {1}


def test_the_zip_has_every_file_and_its_checksum(
    store: Store, account: OpenAIAccount, move: Move, tmp_path: Path
) -> None:
    account.add_tune(1)
    account.add_tune(2)
    account.delete_file("file-train2")
    shown = move("archive")
    path = tmp_path / "account.zip"
    zip_file.write(store, LOCAL, Settings.from_env(), shown.id, path)
    with zipfile.ZipFile(path) as found:
        manifest = json.loads(found.read(zip_file.MANIFEST))
        entries = {one["id"]: one for one in manifest["files"]}
        assert found.read(entries["file-train1"]["path"]) == account.contents["file-train1"].data
        plain = found.read(f"{entries['file-results1']['path']}.plain.csv")
        assert plain == base64.b64decode(account.contents["file-results1"].data)
        assert entries["file-train2"]["state"] == "gone"
        assert "jobs/ftjob-1/events.jsonl" in found.namelist()
    with pytest.raises(BadFile):
        zip_file.write(store, LOCAL, Settings.from_env(), shown.id, path)

    Workspace(Settings.from_env(), shown.id).file("file-train1").write_bytes(b"changed")
    with pytest.raises(BadFile, match="file-train1"):
        zip_file.write(store, LOCAL, Settings.from_env(), shown.id, tmp_path / "other.zip")
    assert not list(tmp_path.glob("other*"))
