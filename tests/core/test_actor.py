"""Roles: who may do what, and every declared action refuses a lower role before it does anything."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator

import pytest

from core.actor import LOCAL, ROLES, Actor, Role, required_role, requires
from core.errors import NotAllowed, SignedOut
from core.failures import of_error
from tests.support.actions import declared_actions

_ACTIONS = declared_actions()


def _refusals() -> Iterator[tuple[str, Role]]:
    for name, action in _ACTIONS.items():
        needed = required_role(action)
        assert needed is not None
        yield from ((name, role) for role in ROLES[: ROLES.index(needed)])


@pytest.mark.parametrize(("name", "role"), list(_refusals()))
def test_an_action_refuses_a_lower_role_before_it_does_anything(name: str, role: Role) -> None:
    """All other arguments are None: an action that looked at one of them first would fail with another error."""
    action = _ACTIONS[name]
    required = [
        parameter.name
        for parameter in inspect.signature(action).parameters.values()
        if parameter.default is parameter.empty
    ]
    arguments = dict.fromkeys(required) | {"actor": Actor("anna", "Anna", role)}
    with pytest.raises(NotAllowed) as caught:
        action(**arguments)
    assert caught.value.next_step
    assert of_error(caught.value).cause == "not_allowed"


def _signed_out() -> Role:
    raise SignedOut("signed out", "sign in")


@pytest.mark.parametrize(
    ("name", "role_now", "refusal"),
    [
        *((name, _signed_out, SignedOut) for name in _ACTIONS),
        *((name, lambda: "viewer", NotAllowed) for name in _ACTIONS if required_role(_ACTIONS[name]) != "viewer"),
    ],
)
def test_an_action_asks_for_the_role_of_this_moment(
    name: str, role_now: Callable[[], Role], refusal: type[NotAllowed]
) -> None:
    """The tab was opened by an admin."""
    action = _ACTIONS[name]
    parameters = inspect.signature(action).parameters.values()
    arguments = {one.name: None for one in parameters if one.default is one.empty}
    with pytest.raises(refusal):
        action(**arguments | {"actor": Actor("anna", "Anna", "admin", role_now)})


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("core.people.people.set_role", "admin"),
        ("core.people.invitations.invite", "admin"),
        ("core.people.sign_in.sign_out", "viewer"),
        ("core.pricing.budget.set_budget", "admin"),
        ("core.generation.runs.enqueue", "editor"),
        ("core.finetuning.jobs.submit", "editor"),
        ("core.stories.read_aloud.read_aloud", "editor"),  # a generator, refused before it is read
        ("core.stories.arena.cast_vote", "viewer"),
        ("core.stories.stream.StoryStream.__init__", "viewer"),
    ],
)
def test_what_an_action_needs(name: str, needed: Role) -> None:
    assert required_role(_ACTIONS[name]) == needed


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("needed", ROLES)
def test_a_role_may_do_what_the_roles_before_it_may(role: Role, needed: Role) -> None:
    @requires(needed)
    def change(value: int, actor: Actor) -> int:
        return value + 1

    person = Actor("a", "A", role)
    if ROLES.index(role) >= ROLES.index(needed):
        assert change(1, person) == change(1, actor=person) == 2
    else:
        for call in (lambda: change(1, person), lambda: change(1, actor=person)):
            with pytest.raises(NotAllowed):
                call()


def test_the_local_user_may_do_everything() -> None:
    assert all(LOCAL.has(role) for role in ROLES)


def test_an_action_without_an_actor_cannot_be_declared() -> None:
    with pytest.raises(TypeError, match="actor"):
        requires("editor")(lambda store: store)
