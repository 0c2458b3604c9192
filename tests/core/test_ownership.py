"""Ownership: every action of core, as every role, by the owner and by others; what new things are shared as."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import select, update

from core import ownership
from core.actor import LOCAL, ROLES, Actor, on_behalf_of, required_role
from core.datasets import datasets, mixing, recipes
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import (
    Checkpoint,
    Dataset,
    DatasetVersion,
    Evaluation,
    GuestLink,
    Owned,
    Person,
    RecipeVersion,
    Row,
    Run,
    Story,
    Tour,
    TrainingJob,
    utcnow,
)
from core.errors import NotAllowed, NotFound
from core.finetuning import job_views, jobs
from core.finetuning.job_form import JobForm
from core.generation import runs
from core.generation.runs import Change
from core.ownership import SHARINGS, Thing
from core.providers import CompletionRequest
from core.settings import Settings
from core.stories.story_record import StoryFacts, StoryPlacement, StoryRecord
from tests.support import stores
from tests.support.actions import declared_actions

_OLGA = Actor("olga", "Olga", "editor")
_PAUL = Actor("paul", "Paul", "editor")
_ACTIONS = declared_actions()
_FIXED = ("evaluation", "guest_link", "tour")  # their creator's; they cannot be shared
_KINDS = frozenset(ownership._OWNERS) | {"thing"}

# Actions that touch nothing that belongs to someone: they make a new thing, or change what the whole team shares.
_NOBODYS = frozenset(
    {
        "core.datasets.datasets.from_frame",
        "core.datasets.datasets.load_sample",
        "core.datasets.datasets.new_dataset",
        "core.evaluation.preference_data.save",  # a new data set, of answers that the caller shows
        "core.finetuning.examples.newest_job",  # of this person
        "core.generation.speed_measurement.measure",  # of a base model
        "core.migrate.accounts.connect",  # of the whole team, by admins
        "core.migrate.accounts.connect_folder",
        "core.migrate.accounts.connect_upload",
        "core.migrate.accounts.start",
        "core.migrate.accounts.stop",
        "core.migrate.old_prompts.of",
        "core.migrate.shadow.change",  # of the whole team, by admins
        "core.migrate.shadow.delete_pairs",
        "core.migrate.shadow.flip",
        "core.migrate.shadow.newest",
        "core.migrate.shadow.resume",
        "core.migrate.shadow.start",
        "core.migrate.shadow.stop",
        "core.migrate.shadow.worst_pairs",
        "core.migrate.switch.back",  # of the whole team, by admins
        "core.migrate.switch.note_changes",
        "core.migrate.switch.switch",
        "core.migrate.zip_file.write",
        "core.people.audit.actions",
        "core.people.audit.export",
        "core.people.audit.people",
        "core.people.audit.search",
        "core.people.invitations.invite",
        "core.people.invitations.open_invitations",
        "core.people.invitations.withdraw",
        "core.people.people.disable",
        "core.people.people.enable",
        "core.people.people.everyone",
        "core.people.people.set_role",
        "core.people.people.sign_out_everywhere",
        "core.people.sign_in.sign_out",
        "core.pricing.budget.nearly_used_up",
        "core.pricing.budget.of_person",  # of this person
        "core.pricing.budget.remaining",
        "core.pricing.budget.set_budget",
        "core.pricing.budget_requests.ask",
        "core.pricing.budget_requests.decline",
        "core.pricing.budget_requests.grant",
        "core.pricing.budget_requests.open_requests",
        "core.pricing.budget_requests.own",
        "core.pricing.bundled_prices.fetch",
        "core.pricing.bundled_prices.use_packaged",
        "core.pricing.custom_prices.remove",
        "core.pricing.custom_prices.set_machine_hour",
        "core.pricing.custom_prices.set_price",
        "core.pricing.machine_time.save",
        "core.providers.engine_aliases.remove",  # of the whole team, by admins
        "core.providers.engine_aliases.save",
        "core.providers.engine_bases.add",
        "core.providers.engine_bases.remove",
        "core.providers.engine_bases.retry",
        "core.providers.saved.add",
        "core.providers.saved.edit",
        "core.providers.saved.remove",
        "core.providers.saved.save_findings",
        "core.stories.arena.get_vote",  # this person's
        "core.stories.guest_links.find_link",  # of this person
        "core.stories.guest_links.valid_links",  # of this person; admins: all
        "core.stories.prompt_suggestions.save_presenter_prompts",
        "core.tours.tour.start",
        "core.tours.tour.stop",  # stops its job through `jobs.request`, which is checked
        "core.tours.tour_runner.save_dataset",
    }
)


@pytest.fixture
def store(home: object) -> Iterator[Store]:
    """An empty ledger."""
    ledger = stores.fresh(Settings.from_env())
    yield ledger
    ledger.close()


def _put_one_of_each(store: Store) -> dict[str, str | int | Thing]:
    """One thing of every kind, all of them Olga's. Returns their ids by kind."""
    by = {"created_by": _OLGA.id}
    with store.session() as session:
        session.add(Dataset(id="d", name="d", source="upload", columns=["x"], **by))
        session.flush()
        row = Row(dataset_id="d", key="k", position=0, column_values={"x": "1"}, prompt="1", state="done", text="one")
        session.add_all(
            [
                row,
                DatasetVersion(
                    id="v", dataset_id="d", number=1, sha256="", settings={}, n_train=1, n_validation=0, **by
                ),
                Run(id="r", dataset_id="d", provider="engine", model="writer", **by),
                RecipeVersion(id="rv", family="f", version=1, name="r", recipe=_recipe().to_dict(), **by),
                _job("j", fine_tuned_model="ft:tuned"),
                Evaluation(
                    id="e", job_id="j", dataset_id="d", provider="engine", model="ft:tuned", kind="text", settings={},
                    **by,
                ),
                Tour(id="t", **by),
                GuestLink(
                    id="g", token_hash="", stage=True, story_ids=[], max_guests=1, expires_at=utcnow(), **by
                ),
                _story("s"),
            ]
        )  # fmt: skip
        session.flush()
        session.add(Checkpoint(job_id="j", remote_id="c", step=1, model="ft:tuned:ckpt-step-1", metrics={}))
        return {
            "dataset": "d", "row": row.id, "version": "v", "run": "r", "recipe": "f", "recipe_version": "rv",
            "job": "j", "model": "ft:tuned", "evaluation": "e", "tour": "t", "story": "s", "guest_link": "g",
            "thing": Thing("dataset", "d"),
        }  # fmt: skip


def _recipe(name: str = "r", model: str = "writer") -> Recipe:
    return Recipe(name, (Column("n", ("a",)),), "{n}", provider="engine", model=model)


def _job(id_: str, created_by: str = _OLGA.id, **values: Any) -> TrainingJob:
    return TrainingJob(
        id=id_, dataset_id="d", name="j", provider="engine", base_model="writer", hyperparameters={},
        file_format="completion", created_by=created_by, **values,
    )  # fmt: skip


def _story(id_: str, actor: str = _OLGA.id) -> Story:
    return Story(id=id_, actor=actor, provider="engine", model="writer", prompt="p", parameters={}, text="t")


def _share_all(store: Store, sharing: str) -> None:
    with store.session() as session:
        tables: tuple[type[Owned], ...] = (Dataset, RecipeVersion, TrainingJob, Story)
        for table in tables:
            for thing in session.query(table):
                thing.sharing = sharing


def _arguments(action: Callable[..., Any], ids: dict[str, Any], store: Store) -> dict[str, Any]:
    """Arguments that lead to these things as the action's rules say; everything else is None."""
    parameters = inspect.signature(action).parameters.values()
    arguments: dict[str, Any] = {one.name: None for one in parameters if one.default is one.empty}
    for rule in ownership.rules_of(action):
        for path, value in [(rule.store, store), *((path, ids[kind]) for kind, path in rule.things.items())]:
            name, *steps = path.replace("[]", ".[]").split(".")
            for step in reversed(steps):
                if step == "[]":
                    value = [value]
                else:
                    value = (None,) * int(step) + (value,) if step.isdigit() else SimpleNamespace(**{step: value})
            known = arguments.get(name)
            if isinstance(known, SimpleNamespace):
                vars(known).update(vars(value))
            else:
                arguments[name] = value
    return arguments


def _is_refused(action: Callable[..., Any], arguments: dict[str, Any], actor: Actor) -> bool:
    """Whether an action refuses this person; an allowed one may fail later, as most arguments are None."""
    try:
        action(**arguments | {"actor": actor})
    except NotAllowed:
        return True
    except Exception:
        return False
    return False


def test_every_action_says_whose_things_it_touches() -> None:
    """A new action declares `reads`, `edits` or `owns`, or is named above, where a reader sees it."""
    assert {name for name, action in _ACTIONS.items() if not ownership.rules_of(action)} == _NOBODYS


@pytest.mark.parametrize("name", [name for name in _ACTIONS if name not in _NOBODYS])
def test_an_action_is_open_to_the_owner_and_to_whom_they_let(store: Store, name: str) -> None:
    action, ids = _ACTIONS[name], _put_one_of_each(store)
    arguments, needed = _arguments(action, ids, store), required_role(action)
    assert needed is not None
    wrong = []
    for sharing in SHARINGS:
        _share_all(store, sharing)
        for role in ROLES:
            for person in ("olga", "paul"):
                allowed = ROLES.index(role) >= ROLES.index(needed) and all(
                    role == "admin" or person == "olga" or _is_shared(rule, kind, sharing)
                    for rule in ownership.rules_of(action)
                    for kind in rule.things
                )
                if _is_refused(action, arguments, Actor(person, person, role)) == allowed:
                    wrong.append((sharing, role, person, "refused" if allowed else "allowed"))
    assert wrong == []


def _is_shared(rule: ownership.Rule, kind: str, sharing: str) -> bool:
    assert kind in _KINDS
    if kind in _FIXED:
        return False
    return {"read": sharing != "private", "edit": sharing == "team_edit", "own": False}[rule.access]


@pytest.mark.parametrize(
    ("access", "shared_as"),
    [("read", {"team_read", "team_edit"}), ("edit", {"team_edit"}), ("own", set[str]())],
)
def test_the_rule(access: ownership.Access, shared_as: set[str]) -> None:
    for sharing in SHARINGS:
        thing = SimpleNamespace(owner_id="olga", sharing=sharing)
        assert ownership.may(_OLGA, access, thing)
        assert ownership.may(Actor("ann", "Ann", "admin"), access, thing)
        assert ownership.may(LOCAL, access, thing)
        assert ownership.may(on_behalf_of("paul"), access, thing)
        assert ownership.may(_PAUL, access, thing) == (sharing in shared_as)


@pytest.mark.parametrize("model", ["ft:tuned", "ft:tuned:ckpt-step-1"])
def test_a_model_and_its_checkpoints_have_the_access_of_their_job(store: Store, model: str) -> None:
    _put_one_of_each(store)
    _share_all(store, "private")
    with pytest.raises(NotAllowed):
        datasets.create(store, _PAUL, _recipe(model=model))
    assert datasets.create(store, _OLGA, _recipe(model=model))
    assert datasets.create(store, _PAUL, _recipe(model="writer"))  # a base has no owner
    ownership.share(store, _OLGA, Thing("job", "j"), "team_read")
    assert datasets.create(store, _PAUL, _recipe(model=model))


def test_what_is_new_belongs_to_its_creator_and_the_team_may_read_it(store: Store) -> None:
    """What is made in local mode stays private if the installation becomes a team's."""
    frame = pd.DataFrame({"x": ["1"], "y": ["one"]})
    for actor, sharing in ((_OLGA, "team_read"), (LOCAL, "private")):
        dataset_id = datasets.from_frame(store, actor, "d", frame, ["x"], "y")
        recipe_id = recipes.save(store, actor, _recipe())
        job_id = jobs.submit(store, actor, JobForm(dataset_id, "j", "engine", "writer"))
        with store.session() as session:
            session.add(_story(actor.id, actor.id))
        with store.reading() as session:
            made = (
                session.get_one(Dataset, dataset_id),
                session.get_one(RecipeVersion, recipe_id),
                session.get_one(TrainingJob, job_id),
                session.get_one(Story, actor.id),
            )
            assert {(thing.owner_id, thing.sharing) for thing in made} == {(actor.id, sharing)}


def test_a_new_version_of_a_shared_recipe_stays_its_owners(store: Store) -> None:
    first = recipes.save(store, _OLGA, _recipe())
    with store.reading() as session:
        family = session.get_one(RecipeVersion, first).family
    with pytest.raises(NotAllowed):
        recipes.save(store, _PAUL, _recipe(model="other"), family)
    ownership.share(store, _OLGA, Thing("recipe", family), "team_edit")
    second = recipes.save(store, _PAUL, _recipe(model="other"), family)
    with store.reading() as session:
        version = session.get_one(RecipeVersion, second)
        assert (version.version, version.owner_id, version.sharing) == (2, _OLGA.id, "team_edit")
        assert version.created_by == _PAUL.id


def test_saving_an_equal_recipe_of_someone_else_makes_one_of_ones_own(store: Store) -> None:
    assert recipes.save(store, _OLGA, _recipe()) != recipes.save(store, _PAUL, _recipe())


def test_what_is_made_from_something_private_is_private(store: Store) -> None:
    """A new job or mix can be repeated by its model or read in its rows, a copy and a grid are the recipe again."""
    _put_one_of_each(store)
    frame = pd.DataFrame({"x": ["1", "2"], "y": ["one", "two"]})
    secret, shared = (datasets.from_frame(store, _OLGA, name, frame, ["x"], "y") for name in "ab")
    for thing in (Thing("dataset", secret), Thing("recipe", "f"), Thing("job", "j")):
        ownership.share(store, _OLGA, thing, "private")
    generated = datasets.create(store, _OLGA, _recipe())
    recipes.set_source_recipe(store, _OLGA, generated, "rv")
    made = {
        "job": jobs.submit(store, _OLGA, JobForm(secret, "j", "engine", "writer")),
        "job further": jobs.submit(store, _OLGA, JobForm(shared, "j", "engine", "ft:tuned")),
        "job from a checkpoint": jobs.submit(store, _OLGA, JobForm(shared, "j", "engine", "ft:tuned:ckpt-step-1")),
        "mix": mixing.mix(store, _OLGA, "m", [(secret, 1.0), (shared, 1.0)]),
        "copy": recipes.copy(store, _OLGA, "rv", "copy"),
        "generated": generated,
        "generated by a model": datasets.create(store, _OLGA, _recipe(model="ft:tuned")),
        "generated by a checkpoint": datasets.create(store, _OLGA, _recipe(model="ft:tuned:ckpt-step-1")),
        "stories": datasets.from_frame(store, _OLGA, "d", frame, ["x"], "y", private=True),
        "story": _write_story(store, "ft:tuned"),
    }
    tables: tuple[type[Owned], ...] = (Dataset, RecipeVersion, TrainingJob, Story)
    with store.reading() as session:
        found = {name: next(one for table in tables if (one := session.get(table, id_))) for name, id_ in made.items()}
        assert {name: thing.sharing for name, thing in found.items()} == dict.fromkeys(made, "private")
    open_job, open_story = (
        jobs.submit(store, _OLGA, JobForm(shared, "j", "engine", "writer")),
        _write_story(store, "writer"),
    )
    with store.reading() as session:
        assert (
            session.get_one(TrainingJob, open_job).sharing == session.get_one(Story, open_story).sharing == "team_read"
        )


def test_what_is_made_from_something_that_the_team_may_edit_can_only_be_read_by_it(store: Store) -> None:
    _put_one_of_each(store)
    frame = pd.DataFrame({"x": ["1", "2"], "y": ["one", "two"]})
    first, second = (datasets.from_frame(store, _OLGA, name, frame, ["x"], "y") for name in "ab")
    for dataset_id in (first, second):
        ownership.share(store, _OLGA, Thing("dataset", dataset_id), "team_edit")
    job_id = jobs.submit(store, _PAUL, JobForm(first, "j", "engine", "writer"))
    mix_id = mixing.mix(store, _PAUL, "m", [(first, 1.0), (second, 1.0)])
    with store.reading() as session:
        for made in (session.get_one(TrainingJob, job_id), session.get_one(Dataset, mix_id)):
            assert (made.owner_id, made.sharing) == (_PAUL.id, "team_read")


def _write_story(store: Store, model: str) -> str:
    record = StoryRecord(store, _OLGA, "engine", CompletionRequest(model, "p"), StoryPlacement())
    record.save("Once upon a time", StoryFacts(model), None)
    return record.id


def test_sharing_a_data_set_does_not_share_the_private_model_that_writes_it(store: Store) -> None:
    _put_one_of_each(store)
    ownership.share(store, _OLGA, Thing("job", "j"), "private")
    shared = datasets.create(store, _OLGA, _recipe(model="ft:tuned"))
    ownership.share(store, _OLGA, Thing("dataset", shared), "team_edit")
    with pytest.raises(NotAllowed):
        runs.enqueue(store, _PAUL, shared)
    run_id = runs.enqueue(store, _OLGA, shared)
    runs.request_stop(store, _PAUL, run_id)
    with pytest.raises(NotAllowed):
        runs.resume(store, _PAUL, run_id)
    runs.resume(store, _OLGA, run_id)
    assert runs.enqueue(store, _PAUL, shared) == run_id  # Olga's run goes on


def test_a_private_job_has_a_list_of_people_who_may_use_its_models(store: Store) -> None:
    _put_one_of_each(store)
    _share_all(store, "private")
    with store.session() as session:
        session.add(Person(id=_PAUL.id, email="paul@example.com", name="Paul", role="editor"))
    for model in ("ft:tuned", "ft:tuned:ckpt-step-1"):
        with pytest.raises(NotAllowed):
            datasets.create(store, _PAUL, _recipe(model=model))
    with pytest.raises(NotAllowed):
        ownership.set_readers(store, _PAUL, "j", [_PAUL.id])
    ownership.set_readers(store, _OLGA, "j", [_PAUL.id, _PAUL.id])
    for model in ("ft:tuned", "ft:tuned:ckpt-step-1"):
        assert datasets.create(store, _PAUL, _recipe(model=model))
    (job,) = job_views.list_jobs(store)
    assert ownership.may(_PAUL, "read", job) and not ownership.may(_PAUL, "edit", job)
    with store.reading() as session:
        readable = {
            person: session.scalars(
                select(TrainingJob.id).where(ownership.readable(Actor(person, "", "editor"), TrainingJob))
            ).all()
            for person in (_PAUL.id, "aul", "eve", "%")
        }
    assert readable == {_PAUL.id: ["j"], "aul": [], "eve": [], "%": []}
    with pytest.raises(NotAllowed):
        jobs.request(store, _PAUL, "j", "cancel")
    with pytest.raises(NotFound):
        ownership.set_readers(store, _OLGA, "j", ["none"])
    ownership.set_readers(store, _OLGA, "j", [])
    with pytest.raises(NotAllowed):
        datasets.create(store, _PAUL, _recipe(model="ft:tuned"))


def test_whoever_takes_over_a_private_job_also_gets_its_list_of_people(store: Store) -> None:
    """Otherwise people could use it whom the new owner neither sees nor can remove."""
    _put_one_of_each(store)
    _share_all(store, "private")
    eve = Actor("eve", "Eve", "editor")
    with store.session() as session:
        session.add_all(Person(id=one.id, email=one.id, name=one.name, role="editor") for one in (_PAUL, eve))
    ownership.set_readers(store, _OLGA, "j", [_PAUL.id, eve.id])
    ownership.hand_over(store, _OLGA, Thing("job", "j"), _PAUL.id)
    (job,) = job_views.list_jobs(store)
    assert (job.owner_id, job.readers) == (_PAUL.id, (eve.id,))  # an owner is no reader
    assert not ownership.may(_OLGA, "read", job) and ownership.may(eve, "read", job)
    with pytest.raises(NotAllowed):
        ownership.set_readers(store, _OLGA, "j", [_OLGA.id])
    ownership.set_readers(store, _PAUL, "j", [])
    (job,) = job_views.list_jobs(store)
    assert not ownership.may(eve, "read", job)


def _model_of(store: Store, dataset_id: str) -> str:
    recipe = datasets.recipe(store, dataset_id)
    assert recipe is not None
    return recipe.model


@pytest.mark.parametrize("model", ["ft:tuned", "ft:tuned:ckpt-step-1"])
@pytest.mark.parametrize("action", [runs.enqueue, runs.retry_failed])
def test_a_shared_data_set_cannot_get_a_private_model(store: Store, action: Callable[..., str], model: str) -> None:
    """Its texts, which can repeat the rows that it learned from, would be everybody's without anybody sharing them."""
    _put_one_of_each(store)
    ownership.share(store, _OLGA, Thing("job", "j"), "private")
    dataset_id = datasets.create(store, _OLGA, _recipe())
    with store.session() as session:
        session.execute(update(Row).where(Row.dataset_id == dataset_id).values(state="failed"))
    change = Change(model=model)
    with pytest.raises(NotAllowed, match="the data set is shared"):
        action(store, _OLGA, dataset_id, change=change)
    assert _model_of(store, dataset_id) == "writer"
    ownership.share(store, _OLGA, Thing("dataset", dataset_id), "private")
    action(store, _OLGA, dataset_id, change=change)
    assert _model_of(store, dataset_id) == model


@pytest.mark.parametrize(("private", "same"), [(True, False), (False, True)])
def test_an_equal_job_of_someone_else_counts_only_if_one_may_read_it(store: Store, private: bool, same: bool) -> None:
    frame = pd.DataFrame({"x": ["1"], "y": ["one"]})
    form = JobForm(datasets.from_frame(store, _OLGA, "d", frame, ["x"], "y"), "j", "engine", "writer")
    job_id = jobs.submit(store, _OLGA, form)
    ownership.share(store, _OLGA, Thing("job", job_id), "private" if private else "team_read")
    assert (jobs.submit(store, _PAUL, form) == job_id) == same


def test_handing_over(store: Store) -> None:
    _put_one_of_each(store)
    with store.session() as session:
        session.add(Person(id=_PAUL.id, email="paul@example.com", name="Paul", role="viewer"))
    admin = Actor("ann", "Ann", "admin")
    for thing in (Thing("dataset", "d"), Thing("recipe", "f"), Thing("job", "j"), Thing("story", "s")):
        with pytest.raises(NotAllowed):
            ownership.hand_over(store, _PAUL, thing, _PAUL.id)
        ownership.hand_over(store, admin, thing, _PAUL.id)
        ownership.share(store, _PAUL, thing, "private")
        with pytest.raises(NotAllowed):
            ownership.share(store, _OLGA, thing, "team_edit")
    with pytest.raises(NotFound):
        ownership.hand_over(store, admin, Thing("story", "s"), "none")
    with pytest.raises(NotFound):
        ownership.share(store, admin, Thing("story", "none"), "private")
