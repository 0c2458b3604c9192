"""Guests vote by a link: what they see, whose votes count, and when the link ends. On SQLite and PostgreSQL."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from core.actor import LOCAL, Actor
from core.db.store import Store, new_id
from core.db.tables import AuditEntry, GuestLink, GuestVote, Person, Sharing, Story, utcnow
from core.errors import FabulaError, NotAllowed, NotFound
from core.people import audit
from core.people.audit import AuditFilter
from core.settings import Settings
from core.stories import arena, guest_links, guest_votes
from core.stories.guest_votes import VoteCounts
from tests.support import team
from tests.support.waiting import at_once

_VIEWER = Actor("vic", "Vic", "viewer")
_EDITOR = Actor("eve", "Eve", "editor")
_OTHER = Actor("bob", "Bob", "editor")
_ADMIN = Actor("ann", "Ann", "admin")


@pytest.fixture
def settings(on_each_database: Settings) -> Settings:
    return on_each_database


def _round(store: Store, round_id: str = "round-1", sharing: Sharing = "team_edit") -> list[str]:
    """A finished round of two models; the ids of its stories."""
    with store.session() as session:
        stories = [
            Story(
                id=new_id(), actor="local", provider="engine", model=model, prompt="p", parameters={},
                text=f"Story of {round_id} <{number}>", round_id=round_id, sharing=sharing,
            )
            for number, model in enumerate(("tuned", "base"))
        ]  # fmt: skip
        session.add_all(stories)
        return [story.id for story in stories]


def test_a_guest_sees_the_stories_without_names_until_the_vote_is_closed(store: Store) -> None:
    ids = _round(store)
    link = guest_links.open_link(store, LOCAL, "round-1", ids)
    view = guest_votes.look(store, link.token, "guest")
    assert (view.state, view.choice, view.tally) == ("open", None, None)
    assert [(story.text, story.model) for story in view.stories] == [
        ("Story of round-1 <0>", ""),
        ("Story of round-1 <1>", ""),
    ]
    guest_votes.close_vote(store, LOCAL, link.id)
    view = guest_votes.look(store, link.token, "guest")
    assert (view.state, [story.model for story in view.stories]) == ("closed", ["tuned", "base"])
    assert view.tally == VoteCounts((0, 0), 0)


def test_each_guest_has_one_vote_that_can_be_changed(store: Store) -> None:
    first, second = _round(store)
    link = guest_links.open_link(store, LOCAL, "round-1", [second, first])
    for guest, choice in (("a", first), ("b", first), ("c", None), ("a", second)):
        guest_votes.vote(store, link.token, guest, choice)
    assert guest_votes.tally(store, LOCAL, link.id) == VoteCounts((1, 1), 1)
    assert [guest_votes.look(store, link.token, guest).choice for guest in "abcd"] == [0, 1, -1, None]
    assert guest_votes.look(store, link.token, "a").tally == VoteCounts((1, 1), 1)


def test_guests_votes_are_not_those_of_the_team(store: Store) -> None:
    ids = _round(store)
    link = guest_links.open_link(store, LOCAL, "round-1", ids)
    guest_votes.vote(store, link.token, "a", ids[0])
    assert arena.standings(store) == [] and arena.get_vote(store, LOCAL, "round-1") == (False, None)


def test_two_hundred_guests_at_once_all_count(store: Store) -> None:
    ids = _round(store)
    link = guest_links.open_link(store, LOCAL, "round-1", ids)
    numbers = itertools.count()

    def vote() -> None:
        number = next(numbers)
        guest_votes.vote(store, link.token, f"guest {number}", ids[number % 4 == 0])

    at_once(50, lambda: [vote() for _ in range(4)])
    assert guest_votes.tally(store, LOCAL, link.id) == VoteCounts((150, 50), 0)


def test_a_link_counts_no_more_guests_than_it_is_for(store: Store) -> None:
    ids = _round(store)
    link = guest_links.open_link(store, LOCAL, "round-1", ids, max_guests=5)
    numbers = itertools.count()

    def vote() -> bool:
        try:
            guest_votes.vote(store, link.token, f"guest {next(numbers)}", ids[0])
        except FabulaError:
            return False
        return True

    assert sum(at_once(12, vote)) == 5 == guest_votes.tally(store, LOCAL, link.id).total
    voted = next(n for n in range(12) if guest_votes.look(store, link.token, f"guest {n}").choice == 0)
    guest_votes.vote(store, link.token, f"guest {voted}", ids[1])  # those who have voted may change their vote


@pytest.mark.parametrize("end", ["expired", "ended", "unknown"])
def test_a_link_that_has_ended_shows_nothing_and_counts_nothing(store: Store, end: str) -> None:
    ids = _round(store)
    link = guest_links.open_link(store, LOCAL, "round-1", ids)
    token = link.token
    if end == "expired":
        with store.session() as session:
            session.get_one(GuestLink, link.id).expires_at = utcnow() - timedelta(seconds=1)
    elif end == "ended":
        guest_links.end_link(store, LOCAL, link.id)
    else:
        token = link.id
    for replayed in (
        lambda: guest_votes.look(store, token, "a"),
        lambda: guest_votes.vote(store, token, "a", ids[0]),
    ):
        with pytest.raises(NotFound, match="not valid any more"):
            replayed()
    assert guest_votes.tally(store, LOCAL, link.id).total == 0


def test_no_vote_counts_after_it_was_closed_or_for_another_story(store: Store) -> None:
    ids, others = _round(store), _round(store, "round-2")
    link = guest_links.open_link(store, LOCAL, "round-1", ids)
    with pytest.raises(FabulaError, match="other stories"):
        guest_votes.vote(store, link.token, "a", others[0])
    guest_votes.close_vote(store, LOCAL, link.id)
    with pytest.raises(FabulaError, match="not open"):
        guest_votes.vote(store, link.token, "a", ids[0])
    assert guest_votes.tally(store, LOCAL, link.id).total == 0


def test_a_stage_shows_one_round_after_the_other(store: Store) -> None:
    link = guest_links.open_link(store, LOCAL)
    assert guest_votes.look(store, link.token, "a").state == "waiting"
    ids = _round(store)
    guest_votes.show_round(store, LOCAL, link.id, "round-1", ids)
    guest_votes.vote(store, link.token, "a", ids[0])
    guest_votes.close_vote(store, LOCAL, link.id)
    others = _round(store, "round-2")
    guest_votes.show_round(store, LOCAL, link.id, "round-2", others)
    view = guest_votes.look(store, link.token, "a")
    assert (view.state, view.choice, view.stories[0].text) == ("open", None, "Story of round-2 <0>")
    guest_votes.vote(store, link.token, "a", others[1])
    assert guest_votes.tally(store, LOCAL, link.id) == VoteCounts((0, 1), 0)
    guest_votes.show_round(store, LOCAL, link.id, "round-1", ids, closed=True)  # the presenter has gone back
    view = guest_votes.look(store, link.token, "a")
    assert (view.state, view.choice, view.tally) == ("closed", 0, VoteCounts((1, 0), 0))


@pytest.mark.parametrize("name", ["close_vote", "end_link", "tally"])
def test_a_link_is_its_creators_and_admins_may_end_it(store: Store, name: str) -> None:
    ids = _round(store)
    with pytest.raises(NotAllowed):
        guest_links.open_link(store, _VIEWER, "round-1", ids)
    link = guest_links.open_link(store, _EDITOR, "round-1", ids)
    action = getattr(guest_votes, name, None) or getattr(guest_links, name)
    with pytest.raises(NotAllowed):
        action(store, _OTHER, link.id)
    action(store, _EDITOR, link.id)
    action(store, _ADMIN, link.id)
    with pytest.raises(NotFound):
        action(store, _EDITOR, "none")


@pytest.mark.parametrize("sharing", ["private", "team_read"])
def test_only_who_may_change_a_story_may_show_it_to_guests(store: Store, sharing: Sharing) -> None:
    ids = _round(store, sharing=sharing)
    with pytest.raises(NotAllowed):
        guest_links.open_link(store, _EDITOR, "round-1", ids)
    stage = guest_links.open_link(store, _EDITOR)
    with pytest.raises(NotAllowed):
        guest_votes.show_round(store, _EDITOR, stage.id, "round-1", ids)


def test_a_link_for_one_vote_shows_no_other_round(store: Store) -> None:
    ids, others = _round(store), _round(store, "round-2")
    link = guest_links.open_link(store, _EDITOR, "round-1", ids)
    with pytest.raises(NotFound, match="one vote only"):
        guest_votes.show_round(store, _EDITOR, link.id, "round-2", others)
    assert [story.id for story in guest_votes.look(store, link.token, "a").stories] == ids


def test_valid_links_are_listed_for_their_creator_and_for_admins(store: Store) -> None:
    ids = _round(store)
    guest_links.open_link(store, _OTHER)
    link = guest_links.open_link(store, _EDITOR, "round-1", ids, max_guests=7)
    guest_votes.vote(store, link.token, "a", ids[0])
    (own,) = guest_links.valid_links(store, _EDITOR)
    assert (own.id, own.stage, own.guests, own.max_guests, own.closed) == (link.id, False, 1, 7, False)
    assert [one.id == link.id for one in guest_links.valid_links(store, _ADMIN)] == [True, False]
    guest_links.end_link(store, _ADMIN, link.id)
    assert guest_links.valid_links(store, _EDITOR) == []
    assert guest_votes.tally(store, _EDITOR, link.id) == VoteCounts((1, 0), 0, expired=True)


@pytest.mark.parametrize("change", ["disabled", "viewer"])
def test_a_link_ends_when_its_creator_may_not_open_one_any_more(store: Store, change: str) -> None:
    ids = _round(store)
    with store.session() as session:
        session.add(Person(id=_EDITOR.id, email="eve@example.com", name="Eve", role="editor"))
    link = guest_links.open_link(store, _EDITOR, "round-1", ids)
    assert guest_links.valid_links(store, _EDITOR)[0].creator == "Eve"
    guest_votes.vote(store, link.token, "a", ids[0])
    with store.session() as session:
        person = session.get_one(Person, _EDITOR.id)
        if change == "disabled":
            person.disabled_at = utcnow()
        else:
            person.role = "viewer"
    for replayed in (
        lambda: guest_votes.look(store, link.token, "a"),
        lambda: guest_votes.vote(store, link.token, "b", ids[0]),
    ):
        with pytest.raises(NotFound, match="not valid any more"):
            replayed()
    assert guest_links.valid_links(store, _ADMIN) == []


def test_a_stage_is_found_again_by_its_creator_only(store: Store) -> None:
    ids = _round(store)
    stage = guest_links.open_link(store, _EDITOR)
    assert guest_links.find_link(store, _EDITOR, stage.token) == stage
    guest_votes.show_round(store, _EDITOR, stage.id, "round-1", ids)
    guest_votes.close_vote(store, _EDITOR, stage.id)
    found = guest_links.find_link(store, _EDITOR, stage.token)
    assert found is not None and (found.round_id, found.closed) == ("round-1", True)
    assert guest_links.find_link(store, _ADMIN, stage.token) is None
    one_vote = guest_links.open_link(store, _EDITOR, "round-1", ids)
    assert guest_links.find_link(store, _EDITOR, one_vote.token) is None
    guest_links.end_link(store, _EDITOR, stage.id)
    assert guest_links.find_link(store, _EDITOR, stage.token) is None


def test_the_limit_of_guests_is_for_all_rounds_of_a_stage(store: Store) -> None:
    """Who has voted in one round may vote in the next, too."""
    rounds = {name: _round(store, name) for name in ("round-1", "round-2")}
    link = guest_links.open_link(store, LOCAL, max_guests=1)
    for name, ids in rounds.items():
        guest_votes.show_round(store, LOCAL, link.id, name, ids)
        guest_votes.vote(store, link.token, "a", ids[0])
        with pytest.raises(FabulaError, match="limit of 1 guests"):
            guest_votes.vote(store, link.token, "b", ids[0])
    assert guest_votes.tally(store, LOCAL, link.id) == VoteCounts((1, 0), 0)


@pytest.mark.parametrize(
    ("valid_for", "max_guests"),
    [
        (timedelta(0), 1),
        (timedelta(days=-1), 1),
        (guest_links.LONGEST + timedelta(seconds=1), 1),
        (timedelta(hours=1), 0),
        (timedelta(hours=1), guest_links.MOST_GUESTS + 1),
    ],
)
def test_a_link_without_limits_is_refused(store: Store, valid_for: timedelta, max_guests: int) -> None:
    with pytest.raises(FabulaError, match="at most"):
        guest_links.open_link(store, LOCAL, valid_for=valid_for, max_guests=max_guests)


def test_a_deleted_story_is_not_shown_to_guests(store: Store) -> None:
    ids = _round(store)
    link = guest_links.open_link(store, LOCAL, "round-1", ids)
    with store.session() as session:
        session.get_one(Story, ids[0]).deleted_at = utcnow()
    assert [story.text for story in guest_votes.look(store, link.token, "a").stories] == ["", "Story of round-1 <1>"]


def test_a_browser_is_someone_else_on_another_link(store: Store) -> None:
    """The database does not tell that two votes on two links came from the same phone."""
    ids = _round(store)
    for _ in range(2):
        link = guest_links.open_link(store, LOCAL, "round-1", ids)
        guest_votes.vote(store, link.token, "a", ids[0])
    with store.reading() as session:
        guests = set(session.scalars(select(GuestVote.guest)))
        assert len(guests) == 2 and "a" not in guests


@pytest.mark.parametrize("stories", [[], ["one"], ["one", "gone"]])
def test_a_link_needs_a_saved_round(store: Store, stories: list[str]) -> None:
    ids = dict(zip(("one", "two"), _round(store), strict=True))
    with pytest.raises(NotFound):
        guest_links.open_link(store, LOCAL, "round-1", [ids.get(name, name) for name in stories])


def test_opening_and_revoking_a_link_is_in_the_audit_log_without_its_token(store: Store, settings: Settings) -> None:
    in_team = replace(settings, mode="team", admin_email=team.ADMIN_EMAIL)
    admin = team.arrive(store, in_team).actor(store)
    editor = team.member(store, in_team, admin, "bob@example.com", "editor").actor(store)
    link = guest_links.open_link(store, editor)
    guest_links.find_link(store, editor, link.token)
    guest_links.end_link(store, admin, link.id)
    lines = audit.search(store, admin, AuditFilter())[:2]
    assert [(line.action, line.person) for line in lines] == [
        ("stories.guest_links.end_link", "Ann"),
        ("stories.guest_links.open_link", "Bob"),
    ]
    assert f"guest_links {link.id} expires_at" in lines[0].changes
    with store.reading() as session:
        assert not any(link.token in entry.details for entry in session.scalars(select(AuditEntry)))


def test_the_database_does_not_have_the_token(store: Store) -> None:
    link = guest_links.open_link(store, LOCAL)
    with store.reading() as session:
        row = session.get_one(GuestLink, link.id)
        assert link.token not in (row.id, row.token_hash) and len(link.token) >= 22
