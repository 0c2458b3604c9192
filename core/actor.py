"""The acting user and what their role allows. Every action of core takes an `Actor` and declares the role it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from typing import Final, Literal, ParamSpec, TypeVar, get_args

from core.errors import NotAllowed
from core.message import Message, msg

Role = Literal["viewer", "editor", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""Each role may do what the ones before it may."""

P = ParamSpec("P")
R = TypeVar("R")
_REQUIRED = "required_role"  # attribute of a declared action
_REFUSALS: Mapping[Role, Message] = {  # every visitor is at least a viewer
    "editor": msg("Viewers can't do this. Nothing was changed."),
    "admin": msg("Only admins can do this. Nothing was changed."),
}


@dataclass(frozen=True, slots=True)
class Actor:
    """A user, or the worker acting on a user's behalf."""

    id: str
    name: str
    role: Role

    def has(self, role: Role) -> bool:
        """Whether this person may do what `role` may."""
        return ROLES.index(self.role) >= ROLES.index(role)


LOCAL = Actor(id="local", name="You", role="admin")
"""The one user of local mode. Pages ask `pages.ui.sign_in.current_actor`."""


def requires(role: Role) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Declare that an action needs `role`: a decorator for functions and methods that take `actor`.

    The action is refused before it begins, with `NotAllowed`; a generator when it is called, not when it is read.
    `tests/house/test_architecture.py` finds actions without this declaration.
    """

    def declare(action: Callable[P, R]) -> Callable[P, R]:
        parameters = signature(action)
        if "actor" not in parameters.parameters:
            raise TypeError(f"{action.__qualname__} has no parameter `actor`")

        @wraps(action)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            actor: Actor = parameters.bind(*args, **kwargs).arguments["actor"]
            if not actor.has(role):
                raise NotAllowed(_REFUSALS[role], msg("Ask an admin to do it, or to change your role."))
            return action(*args, **kwargs)

        setattr(checked, _REQUIRED, role)
        return checked

    return declare


def required_role(action: object) -> Role | None:
    """The role that `requires` has declared for an action; None if it has not declared one."""
    role: Role | None = getattr(action, _REQUIRED, None)
    return role
