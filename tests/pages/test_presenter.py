"""Presenter mode as a visitor sees it: prompts in the page's language, one or two models, cost, and leaving it."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.db.store import Store
from core.settings import Settings
from core.shared_files import storage
from core.stories import library, prompt_suggestions
from tests.support import fault_server
from tests.support.app_pages import (
    chosen_prompt,
    click,
    labels,
    story_texts,
    trouble,
    visit,
    visit_comparison,
    visit_presenter,
    words,
)
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import TUNED_MODEL, put_tuned_model


@pytest.fixture
def server(tuned_server: FaultServer) -> FaultServer:
    """The engine of this module has a tuned model."""
    return tuned_server


def _keys(at: AppTest) -> set[str]:
    return {str(button.key) for button in at.button}


def test_a_button_opens_it_and_a_button_leads_back(server: FaultServer, store: Store) -> None:
    at = click(visit("story"), "story_present")
    assert at.query_params["stage"] == "1" and "story_button" not in _keys(at)
    at = click(at, "presenter_leave")
    assert "stage" not in at.query_params and "story_button" in _keys(at)


def test_the_models_of_a_comparison_come_along(server: FaultServer, store: Store) -> None:
    at = visit("story", story_compare=True, story_model="engine/writer", story_others=["engine/third"])
    click(click(at, "story_present"), "presenter_write")
    assert sorted(seen.body["model"] for seen in server.requests if seen.method == "POST") == ["third", "writer"]


def test_prepared_prompts_are_sent_as_they_stand(server: FaultServer, store: Store, prepared: list[str]) -> None:
    at = visit_presenter(models=f"engine/writer,engine/{TUNED_MODEL},engine/nobody")
    assert "1 / 3" in words(at)
    at = click(at, "presenter_write")
    assert sorted(seen.body["model"] for seen in server.requests if seen.method == "POST") == [TUNED_MODEL, "writer"]
    assert set(server.prompts()) == {prepared[0]} and sum(text.startswith("从前，") for text in story_texts(at)) == 2


def test_a_tuned_model_is_asked_in_the_form_it_was_trained_on(server: FaultServer, store: Store) -> None:
    put_tuned_model(store)
    click(visit_presenter(models=f"engine/{TUNED_MODEL}"), "presenter_write")
    assert server.prompts() == ["唐 ->"]
    (kept,) = library.recent(store)
    assert kept.column_values == {"hero": "唐"}


@pytest.mark.parametrize(
    ("locale", "inside", "outside"), [("en-US", "flying", "a gardener"), ("zh-CN", "唐", "发射激光")]
)
def test_the_prompts_are_of_the_pages_language(
    server: FaultServer, store: Store, locale: str, inside: str, outside: str
) -> None:
    at = visit_presenter(locale)
    offered = [label for label in labels(at) if " · " in label]
    assert len(offered) >= 5
    assert any(inside in label for label in offered) and any(outside in label for label in offered)


def test_keys_that_come_faster_than_the_page_count(server: FaultServer, store: Store, prepared: list[str]) -> None:
    at = visit_presenter()
    at.segmented_control(key="presenter_panes").set_value(2)
    at.button(key="presenter_write").click().run()
    assert server.prompts() == [prepared[0]] * 2


def test_next_and_previous_go_round(server: FaultServer, store: Store, prepared: list[str]) -> None:
    at = visit_presenter()
    seen = [chosen_prompt(at)]
    for key in ("presenter_next", "presenter_next", "presenter_next", "presenter_previous"):
        at = click(at, key)
        seen.append(chosen_prompt(at))
    assert [one.replace("\\", "") for one in seen] == [*prepared, prepared[0], prepared[2]]


def test_a_prompts_story_is_there_again_when_one_comes_back_to_it(
    server: FaultServer, store: Store, prepared: list[str]
) -> None:
    at = click(visit_presenter(), "presenter_write")
    assert any("从前，" in text for text in story_texts(at))
    at = click(at, "presenter_next")
    assert not any("从前，" in text for text in story_texts(at))
    at = click(at, "presenter_previous")
    assert any("从前，" in text for text in story_texts(at)) and len(library.recent(store)) == 1


def test_the_cost_stands_next_to_that_of_a_paid_model_with_its_date(server: FaultServer, store: Store) -> None:
    at = click(visit_presenter(), "presenter_write")
    said = words(at)
    assert "machine time, not priced" in said
    assert "`gpt-6.1-terra` would cost **" in said and "for the same tokens (list price of 20" in said
    at.selectbox(key="presenter_paid").set_value("anthropic/claude-sonnet-5-5").run()
    assert "`claude-sonnet-5-5` would cost **" in words(at)


def test_prompts_can_be_edited_here(server: FaultServer, store: Store) -> None:
    at = visit_presenter()
    at.text_area(key="presenter_prompts").set_value("mine\nmine too").run()
    at = click(at, "presenter_keep")
    assert prompt_suggestions.load_presenter_prompts(storage(Settings.from_env())) == ["mine", "mine too"]
    assert chosen_prompt(at) == "mine" and "1 / 2" in words(at)


def test_fewer_prompts_than_before_leave_one_chosen(server: FaultServer, store: Store, prepared: list[str]) -> None:
    at = click(visit_presenter(), "presenter_previous")
    assert chosen_prompt(at) == prepared[2]
    prompt_suggestions.save_presenter_prompts(storage(Settings.from_env()), LOCAL, ["only"])
    assert chosen_prompt(at.run()) == "only"


def test_a_story_and_a_prompt_are_shown_as_text_not_as_markup(server: FaultServer, store: Store) -> None:
    nasty = "![x](http://example.com/x.png) # a\n- b <b>"
    server.default = fault_server.text(nasty)
    prompt_suggestions.save_presenter_prompts(storage(Settings.from_env()), LOCAL, [nasty.replace("\n", " ")])
    at = visit_presenter()
    assert "\\!\\[x" in chosen_prompt(at) or "!\\[x\\]" in chosen_prompt(at)
    assert nasty in story_texts(click(at, "presenter_write"))


def test_one_model_alone_offers_no_second_pane(server: FaultServer, store: Store) -> None:
    server.models[:] = server.models[:1]
    at = visit_presenter(models="engine/writer,engine/third")
    assert at.segmented_control(key="presenter_panes").disabled
    at = click(at, "presenter_write")
    assert len(library.recent(store)) == 1


def test_an_error_stands_where_the_story_would(server: FaultServer, store: Store) -> None:
    server.default = fault_server.error(400, "No.")
    at = click(visit_presenter(), "presenter_write")
    assert trouble(at) and "presenter_write" in _keys(at)


def test_without_a_model_it_says_so_and_can_be_left(server: FaultServer, store: Store) -> None:
    server.models.clear()
    at = visit_presenter()
    assert "presenter_leave" in _keys(at) and "presenter_write" not in _keys(at)


def test_leaving_keeps_the_story_on_the_story_page(server: FaultServer, store: Store) -> None:
    at = click(click(visit_presenter(), "presenter_write"), "presenter_leave")
    assert any("从前，" in text for text in story_texts(at))


def test_a_blind_round_of_the_story_page_hides_its_names_until_the_vote(server: FaultServer, store: Store) -> None:
    prompt_suggestions.save_presenter_prompts(storage(Settings.from_env()), LOCAL, ["讲"])
    at = click(visit_comparison(store, blind=True), "story_button")
    at.query_params["stage"], at.query_params["prompt"] = "1", "1"
    at.run()
    assert not at.exception
    assert sum(text.startswith("从前，") for text in story_texts(at)) == 2
    assert _models_of_stories(at) == set()
    at = click(click(at, "presenter_leave"), "story_vote_0")
    at.query_params["stage"] = "1"
    at.run()
    assert not at.exception
    assert _models_of_stories(at) == {"writer", TUNED_MODEL}


def _models_of_stories(at: AppTest) -> set[str]:
    """The models named in the facts below the stories."""
    facts = "\n".join(markdown.value for markdown in at.markdown)
    return {model for model in ("writer", TUNED_MODEL) if f"**`{model}`**" in facts}
