"""Backup and restore, end to end: everything that matters comes back, in another place, on both databases."""

from __future__ import annotations

import json
import signal
import stat
import tarfile
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import select

from core.admin.__main__ import main
from core.db import rescue_files
from core.db.store import Store
from core.db.tables import Spend, WorkerHeartbeat
from core.engine.schema import SCHEMA_VERSION
from core.engine.store import EngineStore, TunedModel
from core.providers import saved_cache
from core.settings import Settings
from tests.support.fault_server import FaultServer
from tests.support.installations import BASE, KEY, content, files, fill, set_revision
from tests.support.running_worker import ROWS, rows_done, running_worker, start_run
from tests.support.waiting import until


def run(settings: Settings, *arguments: str) -> int:
    """One command of `python -m core.admin`, with these settings."""
    return main(arguments, {"FABULA_HOME": str(settings.home), "DATABASE_URL": settings.database_url})


def opened(settings: Settings) -> Store:
    return Store.open(settings, create=False)


def test_everything_comes_back_in_another_place(
    settings: Settings, elsewhere: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fill(settings)
    before = content(store)
    assert run(settings, "backup", str(tmp_path / "b.tar.gz"), "--with-secret-key") == 0
    assert "keys of added providers cannot be decrypted" not in capsys.readouterr().out
    assert run(elsewhere, "restore", str(tmp_path / "b.tar.gz")) == 0, capsys.readouterr()
    assert "No problems found." in capsys.readouterr().out

    restored = opened(elsewhere)
    assert content(restored) == before
    assert {"rows", "training_jobs", "stories", "spend", "spend_totals"} <= {
        name for name, rows in before.items() if rows
    }
    with restored.reading() as session:
        assert sum(session.scalars(select(Spend.cost_usd))) == Decimal("0.42")
    models = EngineStore(elsewhere.engine_home / "engine.db").select(TunedModel, "1")
    assert [(elsewhere.engine_home / model.adapter).read_text() for model in models] == ["adapters/x.gguf"]
    assert (elsewhere.engine_home / "files/file-1").is_file() and (elsewhere.home / "prices.csv").is_file()
    (row,) = before["providers"]
    assert row is not None
    found = saved_cache.SavedProviders(lambda: restored, elsewhere).makers()
    assert [make().api_key for make in found.values()] == [KEY]
    restored.close()
    store.close()


def test_paths_in_the_engines_records_lead_to_the_new_place(
    settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    fill(settings).close()
    assert run(settings, "backup", str(tmp_path / "b.tar.gz")) == 0
    assert run(elsewhere, "restore", str(tmp_path / "b.tar.gz")) == 0
    record = json.loads((elsewhere.engine_home / "bases/mine/record.json").read_text())
    assert Path(record["gguf"]) == elsewhere.home / BASE
    assert Path(record["gguf"]).read_text() == "weights"


def test_secrets_queues_and_what_is_rebuilt_stay_out(
    settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fill(settings)
    (settings.home / "work.db").write_text("queues")
    path = tmp_path / "b.tar.gz"
    assert run(settings, "backup", str(path), "--no-base-models") == 0
    assert "secret.key" in capsys.readouterr().out
    with tarfile.open(path) as tar:
        names = {name.removeprefix("home/") for name in tar.getnames()}
    kept_out = {"secret.key", "engine.token", "work.db", "engine/engine.log", "engine/models/rebuilt.gguf", BASE}
    assert not names & kept_out and "engine/adapters/x.gguf" in names
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store.close()


def test_a_backup_during_a_run_is_whole_and_the_restored_run_ends(
    settings: Settings, elsewhere: Settings, server: FaultServer, tmp_path: Path
) -> None:
    store = Store.open(settings)
    run_id = start_run(store)
    with running_worker(settings, server, tmp_path, settings.database_url) as worker:
        until(lambda: rows_done(store, run_id) > 50, "the run's first rows")
        assert run(settings, "backup", str(tmp_path / "b.tar.gz")) == 0
        worker.process.send_signal(signal.SIGKILL)
        worker.process.wait()
    store.close()
    assert run(elsewhere, "restore", str(tmp_path / "b.tar.gz")) == 0
    restored = opened(elsewhere)
    kept = rows_done(restored, run_id)
    assert 50 < kept <= ROWS
    with restored.reading() as session:
        assert session.scalars(select(WorkerHeartbeat)).all() == []
    with running_worker(elsewhere, server, tmp_path, elsewhere.database_url) as worker:
        until(lambda: rows_done(restored, run_id) == ROWS, "the restored run")
        worker.stop()
    assert run(elsewhere, "check") == 0
    restored.close()


def test_rescue_files_are_restored_into_the_home_folder(
    settings: Settings, elsewhere: Settings, tmp_path: Path
) -> None:
    fill(settings).close()
    rescue = rescue_files.RescueFile(settings.home)
    assert rescue.add([{"id": "1", "kind": "spend"}])
    assert run(settings, "backup", str(tmp_path / "b.tar.gz")) == 0
    rescue.discard()
    run(elsewhere, "restore", str(tmp_path / "b.tar.gz"))
    (found,) = [path for path in rescue_files.files(elsewhere.home) if path.parent == elsewhere.home]
    assert json.loads(found.read_text())["id"] == "1"


@pytest.mark.parametrize("full", ["home", "database"])
def test_only_an_empty_installation_is_restored_into(
    settings: Settings, elsewhere: Settings, tmp_path: Path, full: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(settings).close()
    assert run(settings, "backup", str(tmp_path / "b.tar.gz")) == 0
    if full == "home":
        elsewhere.home.mkdir()
        (elsewhere.home / "notes.txt").write_text("mine")
    else:
        other = (
            f"sqlite:///{tmp_path / 'other' / 'fabula.db'}"
            if "sqlite" in settings.database_url
            else elsewhere.database_url
        )
        elsewhere = replace(elsewhere, database_url=other)
        Store.open(replace(elsewhere, home=tmp_path / "third")).close()
    before = files(elsewhere.home)
    assert run(elsewhere, "restore", str(tmp_path / "b.tar.gz")) == 1
    assert "not empty. Nothing was restored." in capsys.readouterr().err
    assert files(elsewhere.home) == before


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2000])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)


def _other_file(path: Path) -> None:
    path.write_text("not a backup")


def _other_archive(path: Path) -> None:
    with tarfile.open(path, "w:gz") as tar:
        tar.add(__file__, "test.py")


def _rewritten(path: Path, **changes: object) -> None:
    with tarfile.open(path) as tar:
        folder = path.parent / "rewritten"
        tar.extractall(folder, filter="data")
        names = tar.getnames()
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | changes))
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            tar.add(folder / name, name, recursive=False)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_cut, "damaged or incomplete"),
        (_flip, "damaged or incomplete"),
        (_other_file, "not a backup"),
        (_other_archive, "not a backup"),
        (lambda path: path.unlink(), "There is no file"),
        (lambda path: _rewritten(path, format=2), "newer version of Fabula"),
        (lambda path: _rewritten(path, revision="9999_later"), "newer version of Fabula"),
        (lambda path: _rewritten(path, engine_version=SCHEMA_VERSION + 1), "newer version of Fabula"),
        (lambda path: _rewritten(path, database="postgresql"), "only be restored into the same kind"),
        (lambda path: _rewritten(path, format=None), "manifest of this backup is damaged"),
    ],
    ids=["cut", "flipped", "text", "archive", "absent", "format", "revision", "engine", "kind", "manifest"],
)
def test_a_file_that_cannot_be_restored_leaves_nothing_behind(
    home: Path, tmp_path: Path, spoil: object, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, empty = (Settings.from_env({"FABULA_HOME": str(path)}) for path in (home, tmp_path / "elsewhere"))
    fill(settings).close()
    path = tmp_path / "b.tar.gz"
    assert run(settings, "backup", str(path)) == 0
    spoil(path)  # type: ignore[operator]  # a function of the table
    assert run(empty, "restore", str(path)) == 1
    told = capsys.readouterr().err
    assert says in told and "Traceback" not in told
    assert files(empty.home) == set()


def test_an_existing_file_is_kept(settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(settings).close()
    (tmp_path / "b.tar.gz").write_text("older backup")
    assert run(settings, "backup", str(tmp_path / "b.tar.gz")) == 1
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "b.tar.gz").read_text() == "older backup"


def test_without_pg_dump_the_missing_program_is_named(
    on_postgres: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Store.open(on_postgres).close()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(on_postgres, "backup", str(tmp_path / "b.tar.gz")) == 1
    told = capsys.readouterr().err
    assert "pg_dump is not installed" in told and "postgresql-client" in told
    assert not list(tmp_path.glob("*b.tar.gz*"))


def test_a_database_of_a_newer_version_can_be_backed_up_but_not_restored_here(
    settings: Settings, elsewhere: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fill(settings)
    set_revision(store, "9999_later")
    store.close()
    assert run(settings, "backup", str(tmp_path / "b.tar.gz")) == 0
    assert run(elsewhere, "restore", str(tmp_path / "b.tar.gz")) == 1
    assert "newer version of Fabula" in capsys.readouterr().err
