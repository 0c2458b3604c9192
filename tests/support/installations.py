"""A small installation with something in every place that a backup must keep."""

from __future__ import annotations

import time
from decimal import Decimal
from pathlib import Path

from sqlalchemy import text

from core.actor import LOCAL
from core.db.store import Store
from core.db.tables import Base, Spend
from core.engine.store import EngineStore, File, Job, TunedModel
from core.providers import saved
from core.secret_key import SecretKey
from core.settings import Settings
from tests.support.ledger_rows import put_dataset, put_job, put_story

KEY = "sk-saved-key-of-a-provider"
BASE = "engine/bases/mine/weights.gguf"


def fill(settings: Settings) -> Store:
    """Data sets, a job, stories, spend, an added provider, and an engine's home with a tuned model and an upload."""
    store = Store.open(settings)
    put_dataset(store, "heroes", 3, 2)
    put_job(store, status="succeeded")
    put_story(store, 1)
    with store.session() as session:
        for cents in (7, 35):
            session.add(
                Spend(
                    actor="local", page="story", provider="p", model="m", reference="s1", cost_usd=Decimal(cents) / 100
                )
            )  # fmt: skip
    form = saved.ProviderForm("compatible", "Ours", "http://localhost:1/v1", KEY)
    saved.add(store, LOCAL, SecretKey(settings), form)
    _fill_engine(settings)
    (settings.home / "prices.csv").write_text("provider,model\n")
    (settings.home / "engine.token").write_text("a token of this installation")
    return store


def _fill_engine(settings: Settings) -> None:
    home = settings.engine_home
    home.mkdir()
    engine = EngineStore(home / "engine.db")
    engine.add(TunedModel("ft:m:x", int(time.time()), "m", "adapters/x.gguf", "chat", None, None))
    engine.add(Job("j", 0, "succeeded", "m", "m", "chat", "ft:m:x", None, 1, "file-1", None, 3, 1, 1, 1.0, None))
    engine.add(File("file-1", "rows.jsonl", 3, "fine-tune", int(time.time())))
    for path in ("adapters/x.gguf", "files/file-1", "jobs/j/metrics.jsonl", "models/rebuilt.gguf", "engine.log"):
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(path)
    weights = settings.home / BASE
    weights.parent.mkdir(parents=True)
    weights.write_text("weights")
    (weights.parent / "record.json").write_text(f'{{"gguf": "{weights}"}}')


def content(store: Store) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, apart from heartbeats."""
    tables = [one for one in Base.metadata.sorted_tables if one.name != "worker_heartbeats"]
    with store.reading() as session:
        return {
            one.name: [tuple(row) for row in session.execute(one.select().order_by(*one.primary_key.columns))]
            for one in tables
        }


def files(home: Path) -> set[str]:
    """The paths of all files in a home folder."""
    return {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}


def set_revision(store: Store, revision: str) -> None:
    """Pretend that another version of Fabula migrated the database."""
    with store.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = :revision"), {"revision": revision})
