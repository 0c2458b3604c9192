"""The acting user and what their role allows. Every action in core takes an `Actor` and declares the role it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import wraps
from inspect import signature
from typing import Final, Literal, ParamSpec, TypeVar, get_args

from core.errors import NotAllowed
from core.message import Message, msg

Role = Literal["viewer", "editor", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""Each role may do what the ones before it may."""


def role_of(text: str) -> Role:
    """The role with this name, as stored in the database.

    Raises:
        ValueError: no role has this name.
    """
    return ROLES[ROLES.index(text)]


P = ParamSpec("P")
R = TypeVar("R")
_REQUIRED = "required_role"  # attribute that `requires` sets on an action
_REFUSALS: Mapping[Role, Message] = {  # every visitor is at least a viewer
    "editor": msg("Viewers can't do this. Nothing was changed."),
    "admin": msg("Only admins can do this. Nothing was changed."),
}


@dataclass(frozen=True, slots=True)
class Actor:
    """A user, or the worker acting on a user's behalf.

    Attributes:
        role: the role when the actor was created.
        ask_role: reads their current role, or raises `NotAllowed`; None if the role does not change (the local user,
            the worker).
        sign_in_id: the sign-in that they act with; "": there is none.
    """

    id: str
    name: str
    role: Role
    ask_role: Callable[[], Role] | None = field(default=None, compare=False, repr=False)
    sign_in_id: str = field(default="", compare=False, repr=False)

    def current(self) -> Actor:
        """The same person with their current role.

        Raises:
            NotAllowed: they have been signed out or disabled.
        """
        return self if self.ask_role is None else replace(self, role=self.ask_role())

    def has(self, role: Role) -> bool:
        """Whether this person may do what `role` may."""
        return ROLES.index(self.role) >= ROLES.index(role)


LOCAL = Actor(id="local", name="You", role="admin")
"""The one user of local mode. Pages ask `pages.ui.sign_in.current_actor`."""


def on_behalf_of(person_id: str) -> Actor:
    """The worker, continuing what a person has started. It was checked then, and is not checked again."""
    return Actor(person_id, person_id, "admin")


@dataclass(frozen=True, slots=True)
class Acting:
    """An action that a person is carrying out, for the audit log (`core.db.audit_log`).

    Attributes:
        name: of the function, without `core.`.
    """

    actor: Actor
    name: str
    arguments: Mapping[str, object]


_ACTING: ContextVar[Acting | None] = ContextVar("fabula_acting", default=None)


def acting() -> Acting | None:
    """The action that is being carried out here; None: none, or not by someone who has signed in."""
    return _ACTING.get()


@contextmanager
def _carrying_out(actor: Actor, name: str, arguments: Mapping[str, object]) -> Iterator[None]:
    """An action that another one calls is part of that."""
    if actor.ask_role is None or _ACTING.get() is not None:
        yield
        return
    token = _ACTING.set(Acting(actor, name, arguments))
    try:
        yield
    finally:
        _ACTING.reset(token)


def requires(role: Role) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare that an action needs `role`: a decorator for functions and methods that take `actor`.

    The action is refused with `NotAllowed` before it begins; a generator is refused when it is called, not when it is
    iterated. The role is read at that moment, so a tab opened before the person was signed out or lost the role can do
    nothing. `tests/house/test_architecture.py` finds actions without this declaration.
    """

    def declare(action: Callable[P, R]) -> Callable[P, R]:
        parameters = signature(action)
        if "actor" not in parameters.parameters:
            raise TypeError(f"{action.__qualname__} has no parameter `actor`")
        name = f"{action.__module__.removeprefix('core.')}.{action.__qualname__}".removesuffix(".__init__")

        @wraps(action)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            call = parameters.bind(*args, **kwargs)
            actor: Actor = call.arguments["actor"].current()
            if not actor.has(role):
                raise NotAllowed(_REFUSALS[role], msg("Ask an admin to do it, or to change your role."))
            call.arguments["actor"] = actor
            with _carrying_out(actor, name, call.arguments):
                return action(*call.args, **call.kwargs)

        setattr(checked, _REQUIRED, role)
        return checked

    return declare


def required_role(action: object) -> Role | None:
    """The role declared for an action with `requires`; None if none is declared."""
    role: Role | None = getattr(action, _REQUIRED, None)
    return role
