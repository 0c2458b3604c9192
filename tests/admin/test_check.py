"""`python -m core.admin check` and `migrate`: each kind of damage is named, and nothing is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from core.admin.__main__ import main
from core.db.rescue_files import RescueFile
from core.db.store import Store
from core.engine.store import EngineStore
from core.settings import Settings
from tests.support.installations import content, fill, set_revision
from tests.support.waiting import WAIT_LIMIT_S

_ROOT = Path(__file__).parents[2]


def run(settings: Settings, command: str) -> int:
    return main([command], {"FABULA_HOME": str(settings.home), "DATABASE_URL": settings.database_url})


def _total(settings: Settings, store: Store) -> None:
    with store.session() as session:
        session.execute(text("UPDATE spend_totals SET max_usd = '99' WHERE subject = 's1'"))


def _key(settings: Settings, store: Store) -> None:
    (settings.home / "secret.key").unlink()


def _missing(settings: Settings, store: Store) -> None:
    (settings.engine_home / "adapters/x.gguf").unlink()


def _orphan(settings: Settings, store: Store) -> None:
    (settings.engine_home / "adapters/left-over.gguf").write_text("x")


def _engine_damaged(settings: Settings, store: Store) -> None:
    (settings.engine_home / "engine.db").write_bytes(b"SQLite format 3\0" + b"x" * 5000)


def _engine_newer(settings: Settings, store: Store) -> None:
    with EngineStore(settings.engine_home / "engine.db").transaction() as transaction:
        transaction.execute("PRAGMA user_version = 999")


def _rescue(settings: Settings, store: Store) -> None:
    RescueFile(settings.home).add([{"id": "1", "kind": "spend"}])


def _audit_log(settings: Settings, store: Store) -> None:
    with store.session() as session:
        session.execute(
            text(
                "INSERT INTO audit_log (number, at, actor, origin, action, details, previous_hash, hash)"
                " VALUES (1, '2026-11-30 12:00:00+00:00', 'eve', '', 'people.people.enable', '{}', '', 'made up')"
            )
        )


def _newer(settings: Settings, store: Store) -> None:
    set_revision(store, "9999_later")


def _older(settings: Settings, store: Store) -> None:
    set_revision(store, "0001_initial")


_DAMAGE: list[tuple[Callable[[Settings, Store], None], str]] = [
    (_total, "1 spend totals differ from the ledger: reference s1 : $99, should be $0.42"),
    (_key, "the key file"),
    (_missing, "1 files of the engine are missing: adapters/x.gguf"),
    (_orphan, "belong to nothing: adapters/left-over.gguf"),
    (_engine_damaged, "The engine's database cannot be read: file is not a database."),
    (_engine_newer, "A newer version of Fabula wrote"),
    (_rescue, "holds paid results that are not in the database"),
    (_audit_log, "Entry 1 of the audit log was changed, inserted or removed."),
    (_newer, "A newer version of Fabula wrote this database (schema 9999_later)"),
    (_older, "python -m core.admin migrate"),
]


@pytest.mark.parametrize(("damage", "says"), _DAMAGE, ids=[damage.__name__[1:] for damage, _ in _DAMAGE])
def test_damage_is_named(
    settings: Settings, damage: Callable[[Settings, Store], None], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fill(settings)
    assert run(settings, "check") == 0, capsys.readouterr()
    damage(settings, store)
    before = content(store) if damage not in (_newer, _older) else None
    capsys.readouterr()
    assert run(settings, "check") == 1
    told = capsys.readouterr().out
    assert says in told and told.count("PROBLEM") == 1
    assert before is None or content(store) == before
    store.close()


def test_a_damaged_database_file_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = Settings.from_env({"FABULA_HOME": str(home)})
    fill(settings).close()
    path = home / "fabula.db"
    data = bytearray(path.read_bytes())
    data[8192:40960] = b"\xff" * (40960 - 8192)
    path.write_bytes(data)
    assert run(settings, "check") == 1
    assert "PROBLEM" in capsys.readouterr().out


def test_a_missing_database_is_named_and_not_created(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Settings.from_env({"FABULA_HOME": str(home)}), "check") == 1
    assert "There is no database" in capsys.readouterr().out
    assert not home.exists()


def test_migrate_creates_the_newest_schema_once(elsewhere: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert [run(elsewhere, "migrate") for _ in range(2)] == [0, 0]
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("Migrated: empty → ") and second.startswith("The schema is up to date")


def test_an_older_program_refuses_to_migrate_a_newer_database(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fill(settings)
    set_revision(store, "9999_later")
    store.close()
    assert run(settings, "migrate") == 1
    assert "newer version of Fabula" in capsys.readouterr().err


def test_an_older_engine_refuses_a_newer_home(tmp_path: Path) -> None:
    settings = Settings.from_env({"FABULA_HOME": str(tmp_path)})
    fill(settings).close()
    _engine_newer(settings, Store(settings.database_url))
    done = subprocess.run(
        [sys.executable, "-m", "core.engine", "--port", "0", "--no-auth", "--home", str(settings.engine_home)],
        cwd=_ROOT,
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=WAIT_LIMIT_S,
        check=False,
    )
    assert done.returncode == 5 and "newer version of Fabula" in done.stderr


@pytest.mark.parametrize("command", ["backup", "restore", "migrate", "check", "verify-audit"])
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"], {})
    assert ended.value.code == 0 and command in capsys.readouterr().out
