"""Access rules: who may read, edit and share recipes, data sets, jobs and stories.

Recipes, data sets, jobs and stories have an owner and a sharing (`core.db.tables.Owned`). Rows, runs and versions have
the access of their data set; models and checkpoints have the access of the job that made them. A private job also has
a list of people who may read it and use its models. Evaluations, tours and links for guests belong to their creator.
Admins may do everything, and so may the only user of local mode.

Below its role, an action declares which things it reads, edits or owns:

    @requires("editor")
    @edits(dataset="dataset_id")
    @reads(model="recipe.model")
    def grow(store: Store, actor: Actor, dataset_id: str, recipe: Recipe) -> Growth: ...

`tests/core/test_ownership.py` calls every action of core as every role, as the owner and as others, and fails on an
action that declares nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Any, Final, Literal, ParamSpec, Protocol, TypeVar, get_args

from sqlalchemy import ColumnElement, Select, String, cast, func, literal, or_, select, true
from sqlalchemy.orm import Session

from core.actor import Actor, requires
from core.db.store import Store, advisory_lock, in_chunks
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
    Sharing,
    Story,
    Tour,
    TrainingJob,
)
from core.errors import NotAllowed, NotFound
from core.message import Message, msg

Access = Literal["read", "edit", "own"]
"""`own`: decide who else may read and edit, or delete for good."""
OwnedKind = Literal["dataset", "recipe", "job", "story"]
SHARINGS: Final[tuple[Sharing, ...]] = get_args(Sharing)

P = ParamSpec("P")
R = TypeVar("R")
_RULES = "ownership_rules"  # attribute of a declared action
_Owners = Select[str, str, str]  # owner, sharing and readers (JSON)
_NO_READERS = literal("[]")
_REFUSALS: Mapping[Access, Message] = {
    "read": msg("This belongs to someone else, who has not shared it with you. Nothing was changed."),
    "edit": msg("This belongs to someone else, and you can't change it. Nothing was changed."),
    "own": msg("Only its owner or an admin can do this. Nothing was changed."),
}


class HasOwner(Protocol):
    """A row of an `Owned` table, or a view of one."""

    @property
    def owner_id(self) -> str: ...
    @property
    def sharing(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Thing:
    """Something that has an owner of its own. `id` of a recipe is its family."""

    kind: OwnedKind
    id: str


@dataclass(frozen=True, slots=True)
class Rule:
    """The access that an action needs to the things in its arguments.

    Attributes:
        things: for each kind, the path of the ids in the action's arguments: `job.id` (an attribute), `parts[].0` (the
            first value of each).
        store: the path of the ledger.
    """

    access: Access
    things: Mapping[str, str]
    store: str


# --- the rule ---------------------------------------------------------------------------------------------------------


def may(person: Actor, access: Access, thing: HasOwner) -> bool:
    """Whether this person may read, edit or own a thing. Actions also check the person's role."""
    if person.has("admin") or thing.owner_id == person.id:
        return True
    if access == "read":
        return thing.sharing != "private" or person.id in getattr(thing, "readers", ())  # only jobs have readers
    return access == "edit" and thing.sharing == "team_edit"


def readable(reader: Actor | None, table: type[Owned]) -> ColumnElement[bool]:
    """SQL condition for rows that `reader` may read. None: the worker, which may read everything."""
    if reader is None or reader.has("admin"):
        return true()
    mine = or_(table.owner_id == reader.id, table.sharing != "private")
    if table is not TrainingJob:
        return mine
    return or_(mine, cast(TrainingJob.readers, String).contains(json.dumps(reader.id), autoescape=True))


def is_private_model(session: Session, name: str) -> bool:
    """Whether a model (or a checkpoint's model) belongs to a private job. Its texts can repeat the training rows."""
    return any(sharing == "private" for _owner, sharing, _readers in session.execute(_of_models([name])))


def first_sharing(*, private: bool) -> dict[str, Sharing]:
    """The values with which a new thing is made, if it is `private` at first: made from something private."""
    return {"sharing": "private"} if private else {}


def require_private(session: Session, model: str, dataset: HasOwner) -> None:
    """Check that the texts of a private model stay private when it is going to write a data set.

    A new data set of such a model is private at first, and its owner may then share it knowingly. A shared one must be
    made private before it gets such a model.

    Raises:
        NotAllowed: the model is private and the data set is not.
    """
    if dataset.sharing != "private" and is_private_model(session, model):
        raise NotAllowed(
            msg("This model belongs to a private job, but the data set is shared. Nothing was changed."),
            msg("Make the data set private first. You can share it again afterwards."),
        )


def check(store: Store, person: Actor, access: Access, kind: str, ids: Iterable[str | int]) -> None:
    """Check access to each of these things. Things that do not exist are skipped.

    Raises:
        NotAllowed: this person may not access one of them in this way.
    """
    if not person.has("admin"):
        with store.reading() as session:
            check_within(session, person, access, kind, ids)


def check_within(session: Session, person: Actor, access: Access, kind: str, ids: Iterable[str | int]) -> None:
    """`check` for an action that only knows what it uses within its transaction."""
    if person.has("admin"):
        return
    for chunk in in_chunks(list(ids)):  # type: ignore[type-var]  # rows have numbers, everything else has texts
        for owner_id, sharing, readers in session.execute(_OWNERS[kind](chunk).distinct()):
            if not may(person, access, _Owner(owner_id, sharing, json.loads(readers))):
                raise NotAllowed(_REFUSALS[access], msg("Ask its owner or an admin."))


@dataclass(frozen=True, slots=True)
class _Owner:
    owner_id: str
    sharing: str
    readers: list[str]


def _owner_of(table: type[Owned]) -> _Owners:
    readers = cast(TrainingJob.readers, String) if table is TrainingJob else _NO_READERS
    return select(table.owner_id, table.sharing, readers)


def _by_creator(table: type[Evaluation] | type[GuestLink] | type[Tour]) -> _Owners:
    return select(table.created_by, literal("private"), _NO_READERS)


def _of_models(names: Iterable[str]) -> _Owners:
    """The jobs that made these models or checkpoints. Base models have none."""
    checkpoints = select(Checkpoint.job_id).where(Checkpoint.model.in_(names))
    return _owner_of(TrainingJob).where(or_(TrainingJob.fine_tuned_model.in_(names), TrainingJob.id.in_(checkpoints)))


_OWNERS: Mapping[str, Callable[[Any], _Owners]] = {
    "dataset": lambda ids: _owner_of(Dataset).where(Dataset.id.in_(ids)),
    "row": lambda ids: _owner_of(Dataset).join(Row, Row.dataset_id == Dataset.id).where(Row.id.in_(ids)),
    "run": lambda ids: _owner_of(Dataset).join(Run, Run.dataset_id == Dataset.id).where(Run.id.in_(ids)),
    "version": lambda ids: (
        _owner_of(Dataset)
        .join(DatasetVersion, DatasetVersion.dataset_id == Dataset.id)
        .where(DatasetVersion.id.in_(ids))
    ),
    "recipe": lambda ids: _owner_of(RecipeVersion).where(RecipeVersion.family.in_(ids)),
    "recipe_version": lambda ids: _owner_of(RecipeVersion).where(RecipeVersion.id.in_(ids)),
    "job": lambda ids: _owner_of(TrainingJob).where(TrainingJob.id.in_(ids)),
    "model": _of_models,
    "story": lambda ids: _owner_of(Story).where(Story.id.in_(ids)),
    "evaluation": lambda ids: _by_creator(Evaluation).where(Evaluation.id.in_(ids)),
    "guest_link": lambda ids: _by_creator(GuestLink).where(GuestLink.id.in_(ids)),
    "tour": lambda ids: _by_creator(Tour).where(Tour.id.in_(ids)),
}


# --- declarations -----------------------------------------------------------------------------------------------------


def reads(store: str = "store", **things: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare that an action reads things; see `Rule`."""
    return _declare(Rule("read", things, store))


def edits(store: str = "store", **things: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare that an action changes things; see `Rule`."""
    return _declare(Rule("edit", things, store))


def owns(store: str = "store", **things: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare that an action is the owner's; see `Rule`. The kind `thing` stands for that of a `Thing`."""
    return _declare(Rule("own", things, store))


def rules_of(action: object) -> tuple[Rule, ...]:
    """The rules that an action declares."""
    found: tuple[Rule, ...] = getattr(action, _RULES, ())
    return found


def _declare(rule: Rule) -> Callable[[Callable[P, R]], Callable[P, R]]:
    def declare(action: Callable[P, R]) -> Callable[P, R]:
        parameters = signature(action)

        @wraps(action)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            arguments = parameters.bind(*args, **kwargs).arguments
            actor: Actor = arguments["actor"]
            if not actor.has("admin"):
                store: Store = next(_values(arguments, rule.store))
                for kind, path in rule.things.items():
                    ids = list(_values(arguments, path))
                    if kind == "thing":
                        kind, ids = ids[0].kind, [ids[0].id]
                    check(store, actor, rule.access, kind, ids)
            return action(*args, **kwargs)

        setattr(checked, _RULES, (*rules_of(action), rule))
        return checked

    return declare


def _values(arguments: Mapping[str, Any], path: str) -> Iterator[Any]:
    """The values at a path; none for an argument or attribute that is None."""
    name, *steps = path.replace("[]", ".[]").split(".")
    values = [arguments.get(name)]
    for step in steps:
        present = [value for value in values if value is not None]
        if step == "[]":
            values = [one for value in present for one in value]
        else:
            values = [value[int(step)] if step.isdigit() else getattr(value, step) for value in present]
    return (value for value in values if value is not None)


# --- sharing ----------------------------------------------------------------------------------------------------------


_TABLES: Mapping[OwnedKind, tuple[type[Owned], Any]] = {
    "dataset": (Dataset, Dataset.id),
    "recipe": (RecipeVersion, RecipeVersion.family),
    "job": (TrainingJob, TrainingJob.id),
    "story": (Story, Story.id),
}


@requires("viewer")
@owns(thing="thing")
def share(store: Store, actor: Actor, thing: Thing, sharing: Sharing) -> None:
    """Set who may use a thing besides its owner and admins.

    Raises:
        NotFound: the thing no longer exists.
    """
    if sharing not in SHARINGS:
        raise ValueError(sharing)
    _set(store, thing, "sharing", sharing)


@requires("viewer")
@owns(thing="thing")
def hand_over(store: Store, actor: Actor, thing: Thing, person_id: str) -> None:
    """Make another person the owner of a thing. Past costs stay with who paid them.

    Neither its sharing nor a private job's list of readers changes: the new owner sees both, and decides from then on.

    Raises:
        NotFound: the thing no longer exists, or the person is not in the team.
    """
    with store.session() as session:
        _require_members(session, [person_id])
        _set(store, thing, "owner_id", person_id)
        job = session.get(TrainingJob, thing.id) if thing.kind == "job" else None
        if job is not None and person_id in job.readers:
            job.readers = [reader for reader in job.readers if reader != person_id]  # now the owner


@requires("viewer")
@owns(job="job_id")
def set_readers(store: Store, actor: Actor, job_id: str, person_ids: Sequence[str]) -> None:
    """Set who may read a private job and use its models, besides its owner and admins.

    Raises:
        NotFound: the job no longer exists, or one of the people is not in the team.
    """
    with store.session() as session:
        _require_members(session, person_ids)
        _set(store, Thing("job", job_id), "readers", sorted(set(person_ids)))


def _require_members(session: Session, person_ids: Sequence[str]) -> None:
    members = select(func.count()).where(Person.id.in_(person_ids), Person.disabled_at.is_(None))
    if session.scalar(members) != len(set(person_ids)):
        raise NotFound(msg("This person is not in the team, or is disabled."), msg("Choose someone else."))


def _set(store: Store, thing: Thing, column: str, value: object) -> None:
    table, key = _TABLES[thing.kind]
    with store.session() as session:
        if thing.kind == "recipe":  # the lock of `recipes.save`, whose new version takes over owner and sharing
            advisory_lock(session, f"recipes {thing.id}")
        found = session.scalars(select(table).where(key == thing.id)).all()
        if not found:
            raise NotFound(msg("This no longer exists. Nothing was changed."), msg("Reload the page."))
        for row in found:  # a recipe has several
            setattr(row, column, value)
