"""A reloaded page is a new session: it shows the stories in its URL."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.runtime.scriptrunner import StopException
from streamlit.testing.v1 import AppTest

from core.db.store import Store
from pages.ui.components import story_session
from tests.support import fault_server
from tests.support.app_pages import FRAME, chosen_prompt, click, story_texts, visit, visit_presenter, words
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import put_story
from tests.support.waiting import WAIT_LIMIT_S, until


@pytest.fixture
def server(tuned_server: FaultServer) -> FaultServer:
    """The engine of this module has a tuned model."""
    return tuned_server


def _loaded_again(at: AppTest) -> AppTest:
    """The same URL in a new session."""
    fresh = AppTest.from_file(str(FRAME), default_timeout=WAIT_LIMIT_S)
    fresh.context = {"locale": "en-US", "timezone": "Asia/Shanghai"}
    fresh.switch_page(str(FRAME.with_name("story.py")))
    fresh.query_params.update(at.query_params)
    fresh.run()
    assert not fresh.exception
    return fresh


@pytest.mark.parametrize("restarted", [False, True], ids=["", "after a restart of the studio"])
@pytest.mark.parametrize(
    ("form", "texts"),
    [({}, 1), ({"story_compare": True, "story_others": ["engine/third"]}, 2), ({"story_chain": True}, 3)],
    ids=["one", "side by side", "chain"],
)
def test_stories_are_there_again(
    server: FaultServer, store: Store, form: dict[str, Any], texts: int, restarted: bool
) -> None:
    at = click(visit("story", story_model="engine/writer", **form), "story_button")
    if restarted:
        story_session.RECENT._by_id.clear()
    sent = len(server.prompts())
    at = _loaded_again(at)
    assert sum(text.startswith("从前，") for text in story_texts(at)) >= texts
    assert "The story appears here" not in words(at) and len(server.prompts()) == sent


def test_the_form_is_as_it_was_too(server: FaultServer, store: Store) -> None:
    at = click(visit("story", story_model="engine/third", story_mode="free", story_prompt="一个想法"), "story_button")
    at = _loaded_again(at)
    assert at.selectbox(key="story_model").value == "engine/third"
    assert at.text_area(key="story_prompt").value == "一个想法"
    at = click(at, "story_button")
    assert server.prompts() == ["一个想法"] * 2


def test_votes_of_a_blind_round_are_not_lost_and_names_stay_hidden(server: FaultServer, store: Store) -> None:
    form: dict[str, Any] = {"story_compare": True, "story_others": ["engine/third"], "story_blind": True}
    at = _loaded_again(click(visit("story", story_model="engine/writer", **form), "story_button"))
    assert "first words after" not in words(at)
    at = _loaded_again(click(at, "story_vote_1"))
    assert "You chose" in words(at) and "first words after" in words(at)


def test_the_next_prompt_clears_the_address(server: FaultServer, store: Store) -> None:
    at = click(visit("story"), "story_button")
    assert "story" in at.query_params
    at = click(at, "story_next")
    assert "story" not in at.query_params
    assert "The story appears here" in words(_loaded_again(at))


@pytest.mark.parametrize("named", ["gone", "", "s1"])
def test_an_address_of_stories_that_are_not_there_opens_an_empty_page(
    server: FaultServer, store: Store, named: str
) -> None:
    put_story(store, 2)
    at = visit("home")
    at.query_params["story"] = named
    at = _loaded_again(at)
    assert "The story appears here" in words(at) and "story" not in at.query_params


def test_a_story_that_is_still_written_is_read_on(server: FaultServer, store: Store) -> None:
    """The first session loses its connection during the story; the second one reads to the end."""
    server.when("一个想法", fault_server.held())
    at = visit("story", story_mode="free", story_prompt="一个想法")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pages.ui.components.story_text.read_along", _lose_connection)
        patch.setattr(story_session, "RELOAD_S", 240.0)
        at.button(key="story_button").click().run()
    held = at.session_state["studio"].story
    assert held.writing
    server.release()
    again = _loaded_again(at)
    assert again.session_state["studio"].story.round is held.round
    until(lambda: not held.writing, "the end")
    assert not held.round.stories[0].facts.stopped and len(server.prompts()) == 1


def _lose_connection(*_given: object) -> None:
    """The exception that Streamlit raises in a script whose browser has disconnected."""
    raise StopException


# --- presenter mode ---------------------------------------------------------------------------------------------------


def test_presenter_mode_keeps_its_place(server: FaultServer, store: Store, prepared: list[str]) -> None:
    at = click(visit_presenter(models="engine/writer,engine/third"), "presenter_next")
    at = _loaded_again(click(at, "presenter_write"))
    assert sum(text.startswith("从前，") for text in story_texts(at)) == 2 and "2 / 3" in words(at)
    assert f"## {prepared[1]}" in words(at)
    assert at.segmented_control(key="presenter_panes").value == 2
    at = _loaded_again(click(at, "presenter_next"))
    assert chosen_prompt(at) == prepared[2] and not any(text.startswith("从前，") for text in story_texts(at))
    at = click(at, "presenter_leave")
    assert not {"stage", "prompt", "models"} & set(at.query_params)


def test_going_back_to_a_prompt_and_loading_again_shows_its_story(
    server: FaultServer, store: Store, prepared: list[str]
) -> None:
    at = click(visit_presenter(models="engine/writer"), "presenter_write")
    at = click(click(at, "presenter_next"), "presenter_write")
    at = _loaded_again(click(at, "presenter_previous"))
    assert "1 / 3" in words(at) and any(text == f"从前，{len(prepared[0])}。" for text in story_texts(at))


@pytest.mark.parametrize("number", ["0", "99", "two", "²"])
def test_an_address_with_an_impossible_prompt_opens_one_that_there_is(
    server: FaultServer, store: Store, prepared: list[str], number: str
) -> None:
    at = visit_presenter(prompt=number)
    assert chosen_prompt(at).replace("\\", "") in prepared
