"""`python -m core.admin people …`: manage a team's people from the command line, even when no admin can sign in.

Every change takes effect immediately, including in open tabs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from core.actor import ROLES, Actor
from core.admin import AdminError, ledger_copy
from core.db import migrate
from core.db.store import Store
from core.email_addresses import lower_email
from core.people import invitations, people
from core.people.people import PersonView
from core.settings import Settings

OPERATOR = Actor(id="operator", name="Operator", role="admin", ask_role=lambda: "admin")
"""Anyone with access to the server's command line. The audit log records what they change."""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `people` and its commands to the command line."""
    parser = commands.add_parser("people", help="list, invite, change or disable the people of a team")
    actions = parser.add_subparsers(required=True, metavar="ACTION")

    one = actions.add_parser("list", help="everyone, and open invitations")
    one.set_defaults(command=_list)

    one = actions.add_parser("invite", help="let an e-mail address sign in; Fabula sends no e-mail")
    one.add_argument("email", metavar="EMAIL")
    one.add_argument("--role", choices=ROLES, default="viewer")
    one.add_argument("--provider", default="", metavar="NAME", help="only for this sign-in provider")
    one.set_defaults(command=_invite)

    one = actions.add_parser("role", help="change someone's role")
    one.add_argument("person", metavar="PERSON", help="e-mail address or id")
    one.add_argument("role", choices=ROLES)
    one.set_defaults(command=_role)

    changes: tuple[tuple[str, str, Callable[[Store, Actor, str], None], str], ...] = (
        ("disable", "sign someone out everywhere and refuse them from now on", people.disable, "is disabled"),
        ("enable", "let a disabled person sign in again", people.enable, "may sign in again"),
        ("sign-out", "sign someone out everywhere", people.sign_out_everywhere, "is signed out everywhere"),
    )
    for name, help_text, change, result in changes:
        one = actions.add_parser(name, help=help_text)
        one.add_argument("person", metavar="PERSON", help="e-mail address or id")
        one.set_defaults(command=_change, change=change, result=result)


def _list(_options: argparse.Namespace, settings: Settings) -> int:
    with open_ledger(settings) as store:
        for one in people.everyone(store, OPERATOR):
            seen = f"{one.last_sign_in:%Y-%m-%d}" if one.last_sign_in else "never"
            state = "disabled" if one.disabled else f"{one.open_sign_ins} open sign-ins"
            print(f"{one.email:40} {one.role:7} {state:16} last sign-in {seen:10} {one.id}")
        for invitation in invitations.open_invitations(store, OPERATOR):
            only = f" with {invitation.provider}" if invitation.provider else ""
            print(f"{invitation.email:40} {invitation.role:7} invited{only} on {invitation.created_at:%Y-%m-%d}")
    return 0


def _invite(options: argparse.Namespace, settings: Settings) -> int:
    with open_ledger(settings) as store:
        invitations.invite(store, OPERATOR, options.email, options.role, options.provider)
    print(f"{options.email} is invited as {options.role}. Tell them to sign in.")
    return 0


def _role(options: argparse.Namespace, settings: Settings) -> int:
    with open_ledger(settings) as store:
        person = _person(store, options.person)
        people.set_role(store, OPERATOR, person.id, options.role)
    print(f"{person.email} is now {options.role}.")
    return 0


def _change(options: argparse.Namespace, settings: Settings) -> int:
    with open_ledger(settings) as store:
        person = _person(store, options.person)
        options.change(store, OPERATOR, person.id)
    print(f"{person.email} {options.result}.")
    return 0


@contextmanager
def open_ledger(settings: Settings) -> Iterator[Store]:
    """Open the ledger without migrating it, because another version of Fabula may be using it."""
    if not migrate.known_state(ledger_copy.revision(settings.database_url)).up_to_date:
        raise AdminError(
            "The database does not have the schema of this version. Nothing was changed.",
            "Run `python -m core.admin migrate`.",
        )
    store = Store(settings.database_url, settings.home)
    try:
        yield store
    finally:
        store.close()


def _person(store: Store, wanted: str) -> PersonView:
    """Find a person by id or e-mail address.

    Raises:
        AdminError: no person matches, or several people have this address.
    """
    email = lower_email(wanted)
    found = [one for one in people.everyone(store, OPERATOR) if wanted == one.id or email == one.email]
    if not found:
        raise AdminError(
            f"There is no person {wanted}. Nothing was changed.", "See `python -m core.admin people list`."
        )
    if len(found) > 1:
        ids = ", ".join(f"{one.id} ({', '.join(one.issuers)})" for one in found)
        raise AdminError(f"{wanted} is more than one person. Nothing was changed.", f"Use one of these ids: {ids}.")
    return found[0]
