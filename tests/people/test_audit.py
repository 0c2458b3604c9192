"""The audit log: written with the action or not at all, chained, unchangeable, and readable by admins only."""

from __future__ import annotations

import csv
import io
import json
import threading
from datetime import timedelta
from decimal import Decimal
from typing import Any, ClassVar

import pandas as pd
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from core import ownership
from core.actor import LOCAL, Actor
from core.admin.__main__ import main
from core.datasets import dataset_rows, datasets, mixing, recipes, versions
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import AuditEntry, Dataset, RecipeVersion, Row, utcnow
from core.errors import FabulaError, NotAllowed
from core.finetuning import jobs
from core.finetuning.job_form import JobForm
from core.ownership import Thing
from core.people import audit, people
from core.people.audit import AuditFilter, AuditLine
from core.pricing import budget
from core.providers import engine_aliases, engine_bases, saved
from core.sanitize import storable
from core.secret_key import SecretKey
from core.settings import Settings
from core.stories import exports
from tests.support import team
from tests.support.alias_api import AliasApi
from tests.support.waiting import WAIT_LIMIT_S

_FRAME = pd.DataFrame({"x": ["1"], "y": ["one"]})


def _recipe(name: str = "r") -> Recipe:
    return Recipe(name, (Column("n", ("a",)),), "{n}", provider="engine", model="writer")


def _lines(store: Store, admin: Actor, **where: str) -> list[AuditLine]:
    return audit.search(store, admin, AuditFilter(**where))[::-1]  # type: ignore[arg-type]  # filters by name


def test_an_entry_says_who_did_what_when_and_from_where(store: Store, settings: Settings, admin: Actor) -> None:
    bob = team.member(store, settings, admin, "bob@example.org", "editor")
    people.set_role(store, admin, bob.person_id, "viewer")
    line = _lines(store, admin, action="people.people.set_role")[0]
    assert (line.person, line.email, line.origin) == ("Ann", team.ADMIN_EMAIL, "192.0.2.1 · Firefox")
    assert json.loads(line.arguments) == {"person_id": bob.person_id, "role": "viewer"}
    assert json.loads(line.changes) == {f"people {bob.person_id} role": ["editor", "viewer"]}


def _environ(settings: Settings) -> dict[str, str]:
    return {"FABULA_HOME": str(settings.home), "DATABASE_URL": settings.database_url}


def test_what_an_operator_changes_on_the_command_line_is_in_it(
    store: Store, settings: Settings, admin: Actor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["people", "invite", "bob@example.org"], _environ(settings)) == 0
    (line,) = _lines(store, admin, action="people.invitations.invite")
    assert (line.person, line.origin) == ("operator", "command line")
    assert json.loads(line.arguments)["email"] == "bob@example.org"
    assert main(["verify-audit"], _environ(settings)) == 0
    assert f"unchanged. Its last entry: {line.number} " in capsys.readouterr().out


def test_signing_in_is_an_entry_once(store: Store, settings: Settings, admin: Actor) -> None:
    bob = team.member(store, settings, admin, "bob@example.org", "editor")
    (line,) = _lines(store, admin, action="people.sign_in.sign_in", person_id=bob.person_id)
    assert json.loads(line.arguments) == {"provider": "default", "email": "bob@example.org"}


def test_an_action_is_one_entry_whatever_it_calls(store: Store, admin: Actor) -> None:
    """`create` writes in several transactions, and calls `new_dataset`, which is an action too."""
    before = len(_lines(store, admin))
    datasets.create(store, admin, _recipe())
    assert [line.action for line in _lines(store, admin)[before:]] == ["datasets.datasets.create"]


def test_what_an_action_changes_in_two_transactions_is_in_two_entries(store: Store, admin: Actor) -> None:
    """`submit` first freezes a version of the data set."""
    frame = pd.DataFrame({"x": ["1", "2"], "y": ["one", "two"]})
    dataset_id = datasets.from_frame(store, admin, "d", frame, ["x"], "y")
    job_id = jobs.submit(store, admin, JobForm(dataset_id, "j", "engine", "writer", validation_share=0.5))
    version, job = _lines(store, admin, action="finetuning.jobs.submit")
    assert "dataset_versions" in version.changes and job_id not in version.changes
    assert json.loads(job.changes)[f"training_jobs {job_id} name"] == [None, "j"]


def test_what_changes_nothing_leaves_no_entry(store: Store, admin: Actor) -> None:
    recipe_id = recipes.save(store, admin, _recipe())
    before = len(_lines(store, admin))
    assert recipes.save(store, admin, _recipe()) == recipe_id
    budget.of_person(store, admin)
    assert len(_lines(store, admin)) == before


def test_what_fails_leaves_no_entry(store: Store, admin: Actor) -> None:
    before = len(_lines(store, admin))
    with pytest.raises(FabulaError):
        recipes.rename(store, admin, "none", "new")
    with pytest.raises(NotAllowed):
        people.disable(store, admin, admin.id)  # the last admin
    assert len(_lines(store, admin)) == before


def test_what_the_local_user_and_the_worker_do_is_not_in_it(store: Store, admin: Actor) -> None:
    before = len(_lines(store, admin))
    datasets.from_frame(store, LOCAL, "d", _FRAME, ["x"], "y")
    with store.session() as session:
        session.add(Dataset(id="d", name="d2", source="upload", columns=["x"], created_by="local"))
    assert len(_lines(store, admin)) == before


def test_sharing_is_in_it_with_the_value_before(store: Store, admin: Actor) -> None:
    dataset_id = datasets.from_frame(store, admin, "d", _FRAME, ["x"], "y")
    ownership.share(store, admin, Thing("dataset", dataset_id), "private")
    (line,) = _lines(store, admin, action="ownership.share")
    assert json.loads(line.arguments) == {"sharing": "private", "thing": dataset_id}
    assert json.loads(line.changes) == {f"datasets {dataset_id} sharing": ["team_read", "private"]}


def test_the_values_before_and_after_are_in_it_however_they_are_written(store: Store, admin: Actor) -> None:
    """As objects, and with statements that update or delete rows directly."""
    budget.set_budget(store, admin, "month", Decimal(50))
    budget.set_budget(store, admin, "month", Decimal(80))
    assert _changed(store, admin, "pricing.budget.set_budget", "amount_usd") == [["50", None], [None, "80"]]
    recipe_id = recipes.save(store, admin, _recipe())
    with store.reading() as session:
        family = session.get_one(RecipeVersion, recipe_id).family
    recipes.rename(store, admin, family, "new")
    assert _changed(store, admin, "datasets.recipes.rename", "name") == [["r", "new"]]
    dataset_id = datasets.from_frame(store, admin, "d", _FRAME, ["x"], "y")
    exports.undo_export(store, admin, dataset_id)
    assert _changed(store, admin, "stories.exports.undo_export", "name") == [["d", None]]
    assert _changed(store, admin, "stories.exports.undo_export", "deleted") == [1]


def test_new_rows_are_counted_however_they_are_written(store: Store, admin: Actor) -> None:
    frame = pd.DataFrame({"x": ["1", "2", "3"], "y": ["one", "two", "three"]})
    first, second = (datasets.from_frame(store, admin, name, frame, ["x"], "y") for name in "ab")
    mixing.mix(store, admin, "m", [(first, 1.0), (second, 1.0)])
    versions.freeze(store, admin, first)
    assert _changed(store, admin, "datasets.datasets.from_frame", "added") == [3]
    assert _changed(store, admin, "datasets.mixing.mix", "added") == [6]
    assert _changed(store, admin, "datasets.versions.freeze", "added") == [3]


def test_a_change_of_the_engines_aliases_is_in_it(store: Store, admin: Actor) -> None:
    engine: Any = AliasApi()
    for model in ("storyteller", "ft:tuned"):
        engine_aliases.save(store, admin, engine, "gpt-4o", model)
    engine_aliases.remove(store, admin, engine, "gpt-4o")
    engine_aliases.save(store, LOCAL, engine, "gpt-4o", "storyteller")  # not someone of a team
    lines = [line for line in _lines(store, admin) if "aliases" in line.action]
    assert [json.loads(line.changes)["aliases gpt-4o model"] for line in lines] == [
        [None, "storyteller"], ["storyteller", "ft:tuned"], ["ft:tuned", None],
    ]  # fmt: skip
    assert json.loads(lines[0].arguments) == {"alias": "gpt-4o", "model": "storyteller"}


class _BaseEngine:
    """An engine with one base model, which fails first and exists until it is deleted."""

    row: ClassVar = {"id": "qwen", "source": "huggingface", "repo": "Qwen/Qwen3", "state": "failed"}

    def engine_call(self, method: str, path: str, _body: dict[str, str] | None = None) -> dict[str, Any]:
        return {"data": [self.row]} if method == "GET" else self.row


def test_a_change_of_the_engines_base_models_is_in_it(store: Store, admin: Actor) -> None:
    engine: Any = _BaseEngine()
    engine_bases.add(store, admin, engine, "huggingface", "Qwen/Qwen3")
    engine_bases.retry(store, admin, engine, "qwen")
    engine_bases.remove(store, admin, engine, "qwen")
    lines = [line for line in _lines(store, admin) if "engine_bases" in line.action]
    assert [line.action.rpartition(".")[2] for line in lines] == ["add", "retry", "remove"]
    assert [json.loads(line.changes)["base_models qwen origin"] for line in lines] == [
        [None, "Qwen/Qwen3"], ["Qwen/Qwen3", "Qwen/Qwen3"], ["Qwen/Qwen3", None],
    ]  # fmt: skip


def _changed(store: Store, admin: Actor, action: str, column: str) -> list[Any]:
    """What the newest entry of this action says about a column."""
    changes = json.loads(_lines(store, admin, action=action)[-1].changes)
    return [value for name, value in changes.items() if name.endswith(f" {column}")]


def test_many_changes_are_cut_short_and_it_says_so(store: Store, admin: Actor) -> None:
    frame = pd.DataFrame({"x": [str(number) for number in range(300)], "y": ["a"] * 300})
    dataset_id = datasets.from_frame(store, admin, "d", frame, ["x"], "y")
    with store.reading() as session:
        ids = list(session.scalars(select(Row.id).where(Row.dataset_id == dataset_id)))
    dataset_rows.exclude(store, admin, ids, "too short")
    (line,) = _lines(store, admin, action="datasets.dataset_rows.exclude")
    assert json.loads(line.arguments)["row_ids"] == [*ids[:20], "…"]
    assert 10 <= len(json.loads(line.changes)) <= 110 and "…" in line.changes


@pytest.mark.parametrize("name", ["a\x00b", "a\ud800b", "宋\u2028体"])
def test_every_text_can_be_in_it(store: Store, admin: Actor, name: str) -> None:
    recipe_id = recipes.save(store, admin, _recipe())
    recipes.copy(store, admin, recipe_id, name)
    assert audit.check(store).first_broken is None
    assert json.loads(_lines(store, admin, action="datasets.recipes.copy")[0].arguments)["name"] == storable(name)


def test_the_database_lets_entries_only_be_added(store: Store, admin: Actor) -> None:
    changes = ["UPDATE audit_log SET actor = 'eve'", "DELETE FROM audit_log"]
    if not store.url.startswith("sqlite"):
        changes.append("TRUNCATE audit_log")
    for change in changes:
        with pytest.raises(DBAPIError, match="cannot be changed"), store.engine.begin() as connection:
            connection.execute(text(change))
    assert (audit.check(store).entries, audit.check(store).first_broken) == (len(_lines(store, admin)), None)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE audit_log SET actor = 'eve' WHERE number = 2",
        "UPDATE audit_log SET details = '{}' WHERE number = 2",
        "DELETE FROM audit_log WHERE number = 2",
        "UPDATE audit_log SET number = number + 100 WHERE number >= 2",
    ],
)
def test_an_entry_that_is_changed_or_removed_breaks_the_chain(
    store: Store, settings: Settings, admin: Actor, change: str
) -> None:
    """Whoever has the database's own password can remove the triggers."""
    for name in ("bob", "eve"):
        team.member(store, settings, admin, f"{name}@example.org", "editor")
    whole = audit.check(store)
    assert (whole.entries, whole.first_broken) == (len(_lines(store, admin)), None)
    _force(store, change)
    assert audit.check(store).first_broken == 2
    assert main(["verify-audit"], _environ(settings)) == 1


def _force(store: Store, change: str) -> None:
    """Change the log as someone who may remove its triggers."""
    with store.engine.begin() as connection:
        if store.url.startswith("sqlite"):
            for trigger in ("UPDATE", "DELETE"):
                connection.execute(text(f"DROP TRIGGER IF EXISTS audit_log_{trigger}"))
        else:
            connection.execute(text("DROP TRIGGER IF EXISTS audit_log_unchanged ON audit_log"))
        connection.execute(text(change))


def test_a_log_that_was_cut_or_written_again_is_found_with_a_known_entry(
    store: Store, settings: Settings, admin: Actor
) -> None:
    for name in ("bob", "eve"):
        team.member(store, settings, admin, f"{name}@example.org", "editor")
    whole = audit.check(store)
    known = ["--known", str(whole.entries), whole.last_hash]
    assert main(["verify-audit", *known], _environ(settings)) == 0
    assert main(["verify-audit", "--known", str(whole.entries), "0" * 64], _environ(settings)) == 1
    assert main(["verify-audit", "--known", "x", whole.last_hash], _environ(settings)) == 1
    _force(store, f"DELETE FROM audit_log WHERE number = {whole.entries}")
    assert main(["verify-audit"], _environ(settings)) == 0
    assert main(["verify-audit", *known], _environ(settings)) == 1


def test_entries_at_the_same_time_form_one_chain(store: Store, admin: Actor) -> None:
    """Each thread acts at once; on PostgreSQL the transactions overlap until they add their entry."""
    before, start = audit.check(store).entries, threading.Barrier(4)

    def act(number: int) -> None:
        start.wait(WAIT_LIMIT_S)
        for repeat in range(5):
            datasets.from_frame(store, admin, f"{number}-{repeat}", _FRAME, ["x"], "y")

    threads = [threading.Thread(target=act, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_LIMIT_S)
    found = audit.check(store)
    assert (found.entries, found.first_broken) == (before + 20, None)


def test_no_key_and_no_long_text_is_in_it(store: Store, settings: Settings, admin: Actor) -> None:
    form = saved.ProviderForm("compatible", "Ours", "http://localhost:1/v1", "sk-a-key-of-a-provider")
    provider_id = saved.add(store, admin, SecretKey(settings), form)
    (line,) = _lines(store, admin, action="providers.saved.add")
    assert json.loads(line.changes)[f"providers {provider_id} encrypted_key"] == [None, "(not recorded)"]
    assert "sk-a-key" not in f"{line.arguments} {line.changes}"
    dataset_id = datasets.from_frame(store, admin, "d", _FRAME, ["x"], "y")
    datasets.set_system_message(store, admin, dataset_id, "long " * 1000)
    with store.reading() as session:
        longest = max(len(one.details) for one in session.query(AuditEntry))
    assert longest < 2000


def test_the_filters(store: Store, settings: Settings, admin: Actor) -> None:
    bob = team.member(store, settings, admin, "bob@example.org", "editor")
    recipes.save(store, bob.actor(store), _recipe("宋朝"))
    recipes.save(store, admin, _recipe("Tang"))
    saved_by = {"宋朝": bob.person_id, "Tang": admin.id}
    for name, person_id in saved_by.items():
        (line,) = _lines(store, admin, words=name)
        assert line.action == "datasets.recipes.save"
        assert line in _lines(store, admin, person_id=person_id)
    assert _lines(store, admin, words="100%") == []
    assert audit.people(store, admin) == {admin.id: f"Ann ({team.ADMIN_EMAIL})", bob.person_id: "Bob (bob@example.org)"}
    assert "datasets.recipes.save" in audit.actions(store, admin)
    now = utcnow()
    assert audit.search(store, admin, AuditFilter(since=now + timedelta(minutes=1))) == []
    assert audit.search(store, admin, AuditFilter(since=now - timedelta(minutes=10)))


def test_the_export_has_every_entry_and_no_formula(store: Store, settings: Settings, admin: Actor) -> None:
    recipes.save(store, admin, _recipe("=1+1"))
    team.arrive(store, settings, name="=cmd()")
    rows = list(csv.DictReader(io.StringIO(audit.export(store, admin, AuditFilter()).decode("utf-8-sig"))))
    assert [int(row["number"]) for row in rows] == list(range(1, audit.check(store).entries + 1))
    assert all(not str(cell).startswith("=") for row in rows for cell in row.values())
    assert "recipes.save" in rows[-2]["action"] and rows[-1]["person"] == "'=cmd()"
