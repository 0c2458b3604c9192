"""Migrations on SQLite and PostgreSQL: the schema is the code's, and older databases are upgraded or refused."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from core.db import migrate, repair_spend_totals, spend_totals
from core.db.migrate import OLD_REVISIONS
from core.db.store import Store
from core.db.tables import (
    Base,
    BeforeAfter,
    BeforeAfterAnswer,
    Dataset,
    EvaluationAnswer,
    Spend,
    Story,
    TrainingJob,
    Vote,
)
from core.errors import FabulaError
from core.settings import Settings
from tests.support import postgres_server

_SCHEMA_0020 = Path(__file__).parent / "schema_0020"  # dumps of the last schema before the first release
_AT = datetime(2026, 11, 3, 12, tzinfo=UTC)


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings with a missing or empty database."""
    if request.param == "postgresql":
        url = postgres_server.new_database(request.getfixturevalue("postgres_url"))
        return Settings.from_env({"DATABASE_URL": url, "FABULA_HOME": str(tmp_path)})
    return Settings.from_env({"FABULA_HOME": str(tmp_path)})


def _write_0020(settings: Settings) -> None:
    """Create a database with the schema of revision 0020 and a line in every table whose names have changed."""
    at = "2026-11-03 12:00:00.000000"
    by = f"'{at}', 'ann'"
    rows = (
        "INSERT INTO datasets (id, name, source, columns, created_at, created_by, filled, chat_system)"
        f" VALUES ('d', 'd', 'recipe', '[]', {by}, 7, 'Be brief.'),"
        f" ('l', 'l', 'recipe', '[]', '{at}', 'local', 0, NULL)",
        "INSERT INTO training_jobs (id, name, provider, base_model, hyperparameters, file_format, status, created_at,"
        f" updated_at, created_by) VALUES ('j', 'j', 'p', 'm', '{{}}', 'chat', 'succeeded', '{at}', {by})",
        f"INSERT INTO comparisons (id, job_id, state, created_at, created_by) VALUES ('c', 'j', 'done', {by})",
        "INSERT INTO comparison_answers (comparison_id, position, side, prompt, state)"
        " VALUES ('c', 0, 'base', 'x', 'done')",
        "INSERT INTO evaluations (id, dataset_id, provider, model, kind, settings, state, total, created_at,"
        f" created_by) VALUES ('e', 'd', 'p', 'm', 'label', '{{}}', 'done', 1, {by})",
        "INSERT INTO answers (evaluation_id, row_key, prompt, expected, \"right\") VALUES ('e', 'k', 'x', 'y', true)",
        "INSERT INTO stories (id, at, actor, provider, model, prompt, parameters, text, asked_model)"
        f" VALUES ('s', {by}, 'p', 'm', 'x', '{{}}', 't', 'asked')",
        'INSERT INTO votes (id, at, actor, round_id, blind, "order", winner)'
        f" VALUES ('v', {by}, 'r', true, '[\"s\"]', 's')",
        f"INSERT INTO spend (at, actor, page, provider, model, reference, cost_usd)"
        f" VALUES ({by}, 'story', 'p', 'm', 's', '0.5')",
        "INSERT INTO spend_totals VALUES ('person', 'ann', '2026-11', '0.5'), ('reference', 's', '', '0.5')",
    )
    if settings.database_url.startswith("sqlite"):
        with sqlite3.connect(settings.home / "fabula.db") as connection:
            connection.executescript((_SCHEMA_0020 / "sqlite.sql").read_text())
            connection.executescript(";".join(rows))
    else:
        engine = create_engine(settings.database_url)
        with engine.begin() as connection:
            connection.exec_driver_sql((_SCHEMA_0020 / "postgresql.sql").read_text())
            connection.exec_driver_sql(";".join(rows))
        engine.dispose()


def _differences(store: Store) -> list[object]:
    with store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Base.metadata))


def test_a_new_database_has_exactly_the_tables_of_the_code(settings: Settings) -> None:
    store = Store.open(settings)
    assert _differences(store) == []
    store.close()


def test_no_revision_has_the_id_of_a_replaced_one() -> None:
    scripts = ScriptDirectory(str(Path(migrate.__file__).parent / "migrations"))
    revisions = {script.revision for script in scripts.walk_revisions()}
    assert "0001_initial" in revisions and not revisions & OLD_REVISIONS  # else a new database counts as too old


def test_a_database_of_revision_0020_is_renamed_and_keeps_its_content(settings: Settings) -> None:
    _write_0020(settings)
    for _start in range(2):
        store = Store.open(settings)
        assert _differences(store) == []
        with store.session() as session:
            dataset, story, vote = (
                session.get_one(Dataset, "d"),
                session.get_one(Story, "s"),
                session.get_one(Vote, "v"),
            )
            assert (dataset.fill_cursor, dataset.system_message) == (7, "Be brief.")
            assert (story.created_at, story.requested_model) == (_AT, "asked")
            assert (vote.story_ids, vote.winner_id) == (["s"], "s")
            assert session.query(EvaluationAnswer).one().correct is True
            assert session.query(BeforeAfterAnswer).one().before_after_id == session.query(BeforeAfter).one().id
            assert session.query(Spend).one().created_at == _AT
            assert spend_totals.of_reference(session, "s") == Decimal("0.5")
            assert repair_spend_totals.repair(session) == {}
            assert {(one.owner_id, one.sharing) for one in (dataset, story, session.get_one(TrainingJob, "j"))} == {
                ("ann", "team_edit")
            }
            local = session.get_one(Dataset, "l")
            assert (local.owner_id, local.sharing) == ("local", "private")
        store.close()


def test_a_renamed_table_still_numbers_its_new_rows(settings: Settings) -> None:
    _write_0020(settings)
    store = Store.open(settings)
    with store.session() as session:
        session.add(BeforeAfterAnswer(before_after_id="c", position=1, side="base", prompt="x"))
    with store.reading() as session:
        assert len({row.id for row in session.query(BeforeAfterAnswer)}) == 2
    store.close()


@pytest.mark.parametrize(
    ("revision", "says"), [("0001", "too old (schema 0001)"), ("0019", "too old"), ("9999", "newer version of Fabula")]
)
def test_a_schema_that_cannot_be_upgraded_is_refused_and_unchanged(
    settings: Settings, revision: str, says: str
) -> None:
    _write_0020(settings)
    engine = create_engine(settings.database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
    with pytest.raises(FabulaError) as caught:
        Store.open(settings)
    assert says in caught.value.what and "FABULA_HOME" in caught.value.next_step
    assert "own_prices" in inspect(engine).get_table_names()
    engine.dispose()
