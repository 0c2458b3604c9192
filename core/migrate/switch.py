"""Switching programs over: an alias of the engine has the old model's id and leads to its replacement.

A program then needs only another `base_url` and key. The ledger has every change (`core.db.tables.AliasChange`), so
that going back restores what was there before: another model, or no alias at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from core.actor import Actor, requires
from core.db.store import Store
from core.errors import NotFound
from core.message import msg
from core.providers import engine_aliases
from core.providers.client import Client
from core.providers.engine_aliases import AliasStatus, EngineAlias, Expected


@dataclass(frozen=True, slots=True)
class SwitchView:
    """What programs get that ask the engine for an old model's id.

    Attributes:
        alias: the old model's id.
        model: the model that answers; None if the alias does not exist.
        status: `missing_model` if that model was deleted, `hidden` while a model has the alias's name.
        since, by: when and by whom it was last changed; `by` is "" if it was changed through the engine's API, None if
            it was never changed.
        previous: what it led to before; None if it did not exist.
    """

    alias: str
    model: str | None
    status: AliasStatus
    since: datetime | None
    by: str | None
    previous: str | None

    @property
    def expected(self) -> Expected:
        """The condition that it still leads to what was read here."""
        return Expected(self.model)


def view(store: Store, found: Sequence[EngineAlias], alias: str) -> SwitchView:
    """What an alias leads to now, and its newest change. `found`: the engine's aliases."""
    change = engine_aliases.changes(store).get(alias)
    row = next((one for one in found if one.id == alias), None)
    return SwitchView(
        alias=alias,
        model=None if row is None else row.model,
        status="active" if row is None else row.status,
        since=None if change is None else change.changed_at,
        by=None if change is None else change.changed_by,
        previous=None if change is None else change.previous,
    )


@requires("admin")
def note_changes(store: Store, actor: Actor, found: Sequence[EngineAlias]) -> None:
    """Record what was changed through the engine's API, without this studio. `found`: the aliases as they are now."""
    engine_aliases.note_changes(store, found)


@requires("admin")
def switch(store: Store, actor: Actor, client: Client, old: str, new: str, expected: Expected | None = None) -> None:
    """Let programs that ask the engine for `old` get its model `new`.

    Raises:
        ModelNotFound: `new` is not a model of the engine.
        ChangedMeanwhile: the alias is not as `expected`.
    """
    engine_aliases.save(store, actor, client, old, new, expected=expected)


@requires("admin")
def back(store: Store, actor: Actor, client: Client, old: str, expected: Expected | None = None) -> str | None:
    """Undo the newest change of an alias, and return what it leads to now: the model before, or None (no alias).

    Raises:
        NotFound: there is nothing to undo.
        ModelNotFound: the model before was deleted.
        ChangedMeanwhile: the alias is not as `expected`.
    """
    now = view(store, engine_aliases.listed(client), old)
    if now.model is None:
        raise NotFound(
            msg("{model} is not switched: the engine has no alias of this name.", model=old),
            msg("Nothing was changed."),
        )
    expected = expected or now.expected
    if now.previous is None:
        engine_aliases.remove(store, actor, client, old, expected=expected)
    else:
        engine_aliases.save(store, actor, client, old, now.previous, expected=expected)
    return now.previous
