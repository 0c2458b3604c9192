"""Guests as the people see them who invite them: presenter mode, the story page, and the list of links."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.db.store import Store
from core.db.tables import GuestLink
from core.errors import NotFound
from core.stories import guest_links, guest_votes
from core.stories.guest_votes import GuestView, VoteCounts
from tests.support.app_pages import click, field, labels, visit, visit_comparison, visit_presenter, words
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import TUNED_MODEL

_MODELS = f"engine/writer,engine/{TUNED_MODEL}"


@pytest.fixture
def server(tuned_server: FaultServer) -> FaultServer:
    return tuned_server


@pytest.fixture(autouse=True)
def _reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phones reach this studio."""
    monkeypatch.setenv("FABULA_GUEST_URL", "https://fabula.example.com")


def _token(at: AppTest) -> str:
    found = re.search(r"https://fabula\.example\.com/guest/([\w-]+)", words(at))
    assert found is not None and at.get("image")
    return found[1]


def _look(store: Store, at: AppTest, guest: str = "phone") -> GuestView:
    return guest_votes.look(store, _token(at), guest)


def _with_audience(**query: str) -> AppTest:
    at = visit_presenter(models=_MODELS, **query)
    field(at, "presenter_audience").set_value(True).run()
    assert not at.exception
    return at


def test_the_audience_votes_on_what_the_presenter_shows(store: Store, server: FaultServer) -> None:
    at = _with_audience()
    assert _look(store, at).state == "waiting"
    at = click(at, "presenter_write")
    first, second = _look(store, at).stories
    assert (first.model, second.model) == ("", "") and first.text.startswith("从前，")
    guest_votes.vote(store, _token(at), "phone", first.id)
    at.run()
    assert "**A** · 100 %" in words(at) and "**1** vote" in words(at)
    click(at, "presenter_reveal")
    view = _look(store, at)
    assert view.state == "closed" and {story.model for story in view.stories} == {"writer", TUNED_MODEL}
    assert TUNED_MODEL in words(at) and "End the vote and show the names" not in labels(at)


def test_the_next_story_opens_the_next_vote_and_going_back_shows_the_result(store: Store, server: FaultServer) -> None:
    at = click(_with_audience(), "presenter_write")
    guest_votes.vote(store, _token(at), "phone", None)
    at = click(click(at, "presenter_reveal"), "presenter_next")
    at = click(at, "presenter_write")
    assert (_look(store, at).state, _look(store, at).choice) == ("open", None)
    at = click(at, "presenter_previous")
    view = _look(store, at)
    assert (view.state, view.choice, view.tally) == ("closed", -1, VoteCounts((0, 0), 1))


def test_a_reload_keeps_the_link_and_an_ended_one_is_not_taken_up(store: Store, server: FaultServer) -> None:
    token = _token(_with_audience())
    at = visit_presenter(models=_MODELS, audience=token)
    assert _token(at) == token and field(at, "presenter_audience").value is True
    field(at, "presenter_audience").set_value(False).run()
    with pytest.raises(NotFound):
        guest_votes.look(store, token, "phone")
    assert "audience" not in at.query_params and not at.get("image")
    assert field(visit_presenter(models=_MODELS, audience=token), "presenter_audience").value is False


def test_a_link_has_the_limits_that_were_chosen(store: Store, server: FaultServer) -> None:
    at = visit_presenter(models=_MODELS)
    at.selectbox(key="presenter_link_hours").set_value(1)
    at.number_input(key="presenter_link_guests").set_value(40)
    field(at, "presenter_audience").set_value(True).run()
    with store.reading() as session:
        link = session.scalars(select(GuestLink)).one()
    assert link.max_guests == 40 and (link.expires_at - link.created_at).total_seconds() == pytest.approx(3600, abs=60)


def test_a_revoked_link_says_so_on_the_presenters_page(store: Store, server: FaultServer) -> None:
    at = click(_with_audience(), "presenter_write")
    (link,) = guest_links.valid_links(store, LOCAL)
    guest_links.end_link(store, LOCAL, link.id)
    assert "expired or was revoked" in words(at.run())


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [({}, "FABULA_GUEST_PORT=8600"), ({"FABULA_GUEST_PORT": "8600"}, "no address in a network")],
)
def test_where_phones_cannot_reach_the_studio_there_is_a_next_step_and_no_code(
    store: Store, server: FaultServer, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], sentence: str
) -> None:
    monkeypatch.delenv("FABULA_GUEST_URL")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    at = visit_presenter(models=_MODELS)
    assert field(at, "presenter_audience").disabled and not at.get("image")
    assert any(sentence in note.value.replace("\\", "") for note in at.info)


def test_one_model_alone_is_nothing_to_vote_on(store: Store, server: FaultServer) -> None:
    server.models[:] = server.models[:1]
    at = visit_presenter()
    assert field(at, "presenter_audience").disabled and "needs a second model" in words(at)


def test_guests_vote_on_one_round_of_the_story_page(store: Store, server: FaultServer) -> None:
    at = click(visit_comparison(store, blind=True), "story_button")
    at = click(at, "story_guests_open")
    first, _second = _look(store, at).stories
    guest_votes.vote(store, _token(at), "phone", first.id)
    at.run()
    assert "**A** · 100 %" in words(at)
    at = click(at, "story_guests_close")
    assert _look(store, at).state == "closed" and "story_guests_close" not in {button.key for button in at.button}
    token = _token(at)
    at = click(at, "story_guests_revoke")
    with pytest.raises(NotFound):
        guest_votes.look(store, token, "phone")
    assert not at.get("image") and "story_guests_open" in {button.key for button in at.button}


def test_a_round_with_names_is_not_offered_to_guests(store: Store, server: FaultServer) -> None:
    at = click(visit_comparison(store), "story_button")
    assert not any(str(button.key).startswith("story_guests") for button in at.button)


def test_links_are_listed_and_revoked_on_the_settings_page(store: Store, server: FaultServer) -> None:
    assert "Guest links" not in words(visit("settings"))
    link = guest_links.open_link(store, LOCAL, max_guests=7)
    at = visit("settings")
    assert "**Presentation**" in words(at) and "0 of at most 7 guests have voted" in words(at)
    at = click(at, f"settings_guest_revoke_{link.id}")
    assert "Guest links" not in words(at)
    with pytest.raises(NotFound):
        guest_votes.look(store, link.token, "phone")
