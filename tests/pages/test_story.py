"""The story page as a visitor sees it: several models, a vote, earlier stories, a chain, and errors."""

from __future__ import annotations

import threading
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest
from streamlit.testing.v1.element_tree import Button

from core.actor import LOCAL, Actor
from core.datasets import dataset_rows, datasets
from core.db.store import Store
from core.db.tables import TrainingJob
from core.errors import FabulaError, NotAllowed, NotFound
from core.stories import arena, exports, library, stream
from core.stories.billing import Bill, StoryBilling
from core.stories.story_record import StoryFacts
from pages.ui import i18n
from pages.ui.components import story_text
from pages.ui.components.story_session import story_session
from pages.ui.story import speech, story_view
from tests.support import fault_server
from tests.support.app_pages import FRAME, click, field, story_texts, trouble, visit, visit_comparison, words
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import TUNED_MODEL, put_story, put_tuned_model
from tests.support.waiting import WAIT_LIMIT_S, until

# --- the composer
# ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tuned_server: FaultServer) -> FaultServer:
    """The engine of this module has a tuned model."""
    return tuned_server


def test_a_model_says_what_it_is_where_it_runs_and_what_it_costs(server: FaultServer, store: Store) -> None:
    at = visit("story", story_model=f"engine/{TUNED_MODEL}")
    said = words(at)
    assert "Tuned from `writer`" in said and "runs on this machine" in said and "machine time, not priced" in said


def test_a_value_outside_the_grid_is_marked(server: FaultServer, store: Store) -> None:
    at = click(visit("story"), "story_outside_0")
    assert "Outside the grid: `a gardener`" in words(at)


def test_the_stop_of_the_training_data_is_proposed_and_sent(server: FaultServer, store: Store) -> None:
    put_tuned_model(store)
    at = visit("story", story_model=f"engine/{TUNED_MODEL}", story_column_hero="唐", story_more=True)
    assert at.multiselect(key=f"story_stop_engine_{TUNED_MODEL}").value == ["."]
    click(at, "story_button")
    body = server.requests[-1].body
    assert (body["prompt"], body["stop"]) == ("唐 ->", ["."])
    assert library.recent(store)[0].column_values == {"hero": "唐"}


def test_a_model_whose_data_set_was_deleted_can_still_be_asked(server: FaultServer, store: Store) -> None:
    put_tuned_model(store)
    with store.session() as session:
        session.get_one(TrainingJob, "j1").dataset_id = "deleted"
    at = visit("story", story_model=f"engine/{TUNED_MODEL}", story_column_prompt="唐", story_more=True)
    assert "The data set of this model was deleted" in words(at) and "No longer available" not in words(at)
    assert trouble(at) == ""
    click(at, "story_button")
    body = server.requests[-1].body
    assert (body["prompt"], body["stop"]) == ("唐 ->", ["."])
    data = visit("dataset", dataset_part="design", dataset_model=f"engine/{TUNED_MODEL}")
    assert trouble(data) == "" and "No longer available" not in words(data)


def test_nothing_can_be_sent_without_a_prompt(server: FaultServer, store: Store) -> None:
    at = visit("story", story_mode="free", story_prompt=" \n ")
    assert at.button(key="story_button").disabled
    at.text_area(key="story_prompt").set_value("讲").run()
    assert not at.button(key="story_button").disabled and server.prompts() == []


def test_a_stop_that_stands_in_the_prompt_is_warned_of(server: FaultServer, store: Store) -> None:
    put_tuned_model(store)
    at = visit("story", story_model=f"engine/{TUNED_MODEL}", story_column_hero="唐. 宋")
    assert "The prompt contains the stop `.`" in words(at)


def test_a_prompt_that_is_too_long_is_told_once_before_it_is_sent(server: FaultServer, store: Store) -> None:
    server.count_tokens = len
    server.models[:] = [{**server.models[0], "fabula": {"context": 1_000}}]
    at = visit("story", story_mode="free", story_prompt="字" * 2_000)
    assert "it has 2,016 tokens, and the model's limit for prompt and answer together is 1,000" in trouble(at)
    assert "Shorten it to about 700 characters" in trouble(at)
    assert len(at.error) == 1 and not at.warning and at.button(key="story_button").disabled
    at.text_area(key="story_prompt").set_value("字" * 700).run()
    assert not at.error and not at.button(key="story_button").disabled


def test_a_prompt_that_a_provider_finds_too_long_has_one_card(server: FaultServer, store: Store) -> None:
    server.default = fault_server.error(400, "This model's maximum context length is 4096 tokens.")
    at = click(visit("story"), "story_button")
    assert len(at.error) == 1 and "The prompt is too long" in trouble(at)
    assert "No word has come." not in words(at) and "The text so far is kept" not in words(at)


def test_another_model_than_the_one_asked_for_is_told(server: FaultServer, store: Store) -> None:
    server.default = fault_server.Answer(model="impostor")
    at = click(visit("story"), "story_button")
    (warning,) = at.warning
    assert "`impostor`" in warning.value and "`writer`" in warning.value
    assert library.recent(store)[0].model == "impostor"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (fault_server.error(400, "This model's maximum context length is 10 tokens"), "longer than"),
        (fault_server.error(404, "The model does not exist", "model_not_found"), "never been used here"),
        (fault_server.error(400, "filtered due to content management policy", "content_filter"), "content filter"),
        (fault_server.quota(), "no credit"),
        (fault_server.html(), "answered with a web page"),
        (fault_server.error_in_stream("从前"), "ended in the middle"),
    ],
)
def test_what_goes_wrong_is_a_card_with_a_way_on(
    server: FaultServer, store: Store, answer: fault_server.Answer, said: str
) -> None:
    server.default = answer
    at = click(visit("story"), "story_button")
    assert said in trouble(at) and at.button(key="story_button").label == "Write"


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("length", "stopped at the token limit"),
        ("content_filter", "cut by the provider's content filter"),
        ("odd **word**", "`odd_word`"),
    ],
)
def test_why_a_story_ended_is_said_in_words(server: FaultServer, store: Store, reason: str, said: str) -> None:
    server.default = fault_server.text("从前", finish_reason=reason)
    assert said in words(click(visit("story"), "story_button"))


def test_a_cut_story_goes_on_where_it_stopped(server: FaultServer, store: Store) -> None:
    server.default = fault_server.cut("从前，", "有一")
    at = click(visit("story"), "story_button")
    server.default = fault_server.text("位英雄。")
    click(at, "story_go_on_0")
    assert "从前，有一位英雄。" in story_texts(at) and not at.error
    assert "从前，有一" in server.prompts()[-1]
    assert [(s.text, s.finish_reason) for s in library.recent(store)] == [("从前，有一位英雄。", "stop")]


# --- side by side -----------------------------------------------------------------------------------------------------


def test_several_models_write_side_by_side_each_with_its_name(server: FaultServer, store: Store) -> None:
    at = click(visit_comparison(store, others=2), "story_button")
    assert sorted(seen.body["model"] for seen in server.requests if seen.method == "POST") == [
        TUNED_MODEL,
        "third",
        "writer",
    ]
    assert all(f"`{name}`" in words(at) for name in (TUNED_MODEL, "third", "writer"))
    rounds = {story.round_id for story in library.recent(store)}
    assert len(library.recent(store)) == 3 and len(rounds) == 1 and None not in rounds


def test_the_base_is_what_a_tuned_model_is_compared_with_first(server: FaultServer, store: Store) -> None:
    at = visit("story", story_model=f"engine/{TUNED_MODEL}", story_compare=True)
    assert at.multiselect(key="story_others").value == ["engine/writer"]


def test_each_model_is_asked_in_its_own_form(server: FaultServer, store: Store) -> None:
    put_tuned_model(store)
    at = visit("story", story_model=f"engine/{TUNED_MODEL}", story_compare=True, story_column_hero="唐")
    click(at, "story_button")
    asked = {seen.body["model"]: seen.body for seen in server.requests if seen.method == "POST"}
    assert asked[TUNED_MODEL]["prompt"] == "唐 ->" and asked[TUNED_MODEL]["stop"] == ["."]
    assert "唐" in fault_server.prompt_of(asked["writer"])


def test_a_blind_round_hides_the_names_until_the_vote(server: FaultServer, store: Store) -> None:
    at = click(visit_comparison(store, blind=True), "story_button")
    shown = words(at)
    assert "**A**" in shown and "**B**" in shown and "`writer`" not in shown and f"`{TUNED_MODEL}`" not in shown
    click(at, "story_vote_0")
    assert "You chose" in words(at) and "`writer`" in words(at) and f"`{TUNED_MODEL}`" in words(at)
    assert [one.rounds for one in arena.standings(store)] == [1, 1]
    tally = visit("story", story_part="votes")
    assert "No clear winner yet" in words(tally) and "1 blind round" in words(tally)


_BROKE_OFF = "This story was interrupted. You will see the reason after you vote."


def test_what_breaks_off_in_a_blind_round_names_no_model_before_the_vote(server: FaultServer, store: Store) -> None:
    server.default = fault_server.error_in_stream("从前")
    at = click(visit_comparison(store, blind=True), "story_button")
    assert [error.value for error in at.error] == [_BROKE_OFF] * 2
    assert "`writer`" not in words(at)
    click(at, "story_vote_0")
    assert "after you vote" not in trouble(at) and len(at.error) == 2 and "`writer`" in words(at)


def test_where_nothing_can_be_chosen_a_blind_round_tells_why_at_once(server: FaultServer, store: Store) -> None:
    server.default = fault_server.error(404, "The model does not exist", "model_not_found")
    at = click(visit_comparison(store, blind=True), "story_button")
    assert "never been used here" in trouble(at) and not any(button.key == "story_vote_0" for button in at.button)


def test_one_can_like_none_of_them(server: FaultServer, store: Store) -> None:
    at = click(click(visit_comparison(store), "story_button"), "story_vote_none")
    assert "You chose none of them." in words(at)
    assert arena.standings(store) == []  # names were not hidden


def test_without_a_vote_the_tally_says_how_to_begin(server: FaultServer, store: Store) -> None:
    at = click(visit("story", story_part="votes"), "story_first_vote")
    assert at.toggle(key="story_blind").value is True


# --- the chain --------------------------------------------------------------------------------------------------------


def test_a_chain_writes_outline_story_and_title(server: FaultServer, store: Store) -> None:
    server.when("提纲，三到五句话", fault_server.text("先遇见，后分别。"))
    server.when("起一个题目", fault_server.text("光"))
    at = click(visit("story", story_chain=True, story_mode="free", story_prompt="一个想法"), "story_button")
    assert {"先遇见，后分别。", "光"} <= set(story_texts(at)) and at.button(key="story_button").label == "Write"
    assert "先遇见，后分别。" in server.prompts()[1]
    assert sorted(str(story.step) for story in library.recent(store)) == ["outline", "story", "title"]


def test_a_cut_step_of_a_chain_goes_on_and_the_next_ones_follow(server: FaultServer, store: Store) -> None:
    server.when("提纲，三到五句话", fault_server.text("先遇见，后分别。"))
    server.when("写一个完整的故事", fault_server.cut("从前，"), fault_server.text("完。"))
    server.when("起一个题目", fault_server.text("光"))
    at = click(visit("story", story_chain=True, story_mode="free", story_prompt="一个想法"), "story_button")
    assert "从前，" in story_texts(at) and len(library.recent(store)) == 2
    click(at, "story_chain_go_on_story")
    assert {"从前，完。", "光"} <= set(story_texts(at)) and not at.error
    assert not any("go_on" in str(button.key) for button in at.button)


# --- reading aloud ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (StoryFacts("m", first_text_s=0.4, stopped=True), "stopped; the text so far is kept"),
        (StoryFacts("m", stopped=True), "stopped before the first word"),
        (StoryFacts("m", stopped=True, abandoned=True), "stopped because you left the page"),
    ],
)
def test_only_a_story_with_text_says_that_it_is_kept(
    monkeypatch: pytest.MonkeyPatch, facts: StoryFacts, sentence: str
) -> None:
    monkeypatch.setattr(i18n, "language", lambda: "en")
    assert story_text.ending_of(facts) == sentence


def test_reading_aloud_is_a_switch_and_a_file_needs_an_endpoint(server: FaultServer, store: Store) -> None:
    at = click(visit("story", story_aloud=True), "story_button")
    assert not at.exception and at.toggle(key="story_aloud").value is True
    assert "add one under Settings → Providers" in words(at)


@pytest.mark.parametrize(
    ("chain", "module", "name"),
    [(False, story_view, "button"), (False, speech, "follow"), (True, story_view, "button")],
)
def test_a_story_that_ends_while_the_page_is_drawn_leaves_no_button_to_stop_it(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch, chain: bool, module: ModuleType, name: str
) -> None:
    draw = getattr(module, name)

    def draw_and_end(*args: object, **more: object) -> None:
        draw(*args, **more)
        server.release()
        until(lambda: all(story.done for story in story_session().stories), "the story ends")

    server.when("一个想法", fault_server.held())
    at = visit("story", story_chain=chain, story_mode="free", story_prompt="一个想法")
    monkeypatch.setattr(module, name, draw_and_end)
    click(at, "story_button")
    assert not at.exception and at.button(key="story_button").label == "Write"
    assert "add one under Settings → Providers" in words(at)


def _labelled(at: AppTest, label: str) -> Button:
    (found,) = [button for button in at.button if button.label == label]
    return found


def _writing(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> tuple[AppTest, Button, Button]:
    """A page that does not wait for its running story; the buttons that start and stop it."""
    server.when("a baker", fault_server.held())
    at = visit("story", story_model="engine/writer")
    monkeypatch.setattr(story_view, "page", lambda _shape: None)
    monkeypatch.setattr(story_view, "LEAVE_S", None)  # no page is open between two runs of a test
    begin = at.button(key="story_button")
    at = begin.click().run()
    return at, begin, _labelled(at, "Stop")


def _tell(server: FaultServer, at: AppTest) -> None:
    """Let the story finish."""
    held = at.session_state["studio"].story
    server.release()
    until(lambda: not held.writing, "the story is told")


def test_a_stop_that_comes_after_the_end_begins_no_story(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, _begin, stop = _writing(server, monkeypatch)
    _tell(server, at)
    assert _labelled(at.run(), "Write")
    at = stop.click().run()
    assert not at.exception and len(server.prompts()) == 1


def test_a_pressed_stop_is_shown_at_once_and_ends_by_itself(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, _begin, stop = _writing(server, monkeypatch)
    free = threading.Event()
    compute = StoryBilling.compute_bill

    def slow(self: StoryBilling, *seen: Any, **what: Any) -> Bill:
        assert free.wait(WAIT_LIMIT_S)
        return compute(self, *seen, **what)

    monkeypatch.setattr(StoryBilling, "compute_bill", slow)  # the first step of saving
    monkeypatch.setattr(stream, "STOP_S", 60)
    at = stop.click().run()
    assert _labelled(at, "Stopping…").disabled and not [one for one in at.button if one.label in ("Stop", "Write")]
    monkeypatch.setattr(stream, "STOP_S", 0)
    assert not _labelled(at.run(), "Write").disabled
    free.set()


def test_write_pressed_twice_is_one_story_that_is_not_stopped(
    server: FaultServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, begin, _stop = _writing(server, monkeypatch)
    at = begin.click().run()
    assert not at.exception and _labelled(at, "Stop")
    _tell(server, at)
    assert len(server.prompts()) == 1


@pytest.fixture
def speaking(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> FaultServer:
    """A provider with text to speech, at the same address."""
    monkeypatch.setenv("OPENAI_API_KEY", fault_server.KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.url)
    return server


def _read_to_its_end(at: AppTest) -> AppTest:
    until(lambda: (sound := at.session_state["studio"].story.sound) is not None and sound.reading.done, "the reading")
    return at.run()


def test_an_endpoint_makes_a_sound_file(speaking: FaultServer, store: Store) -> None:
    at = click(visit("story", story_model="engine/writer"), "story_button")
    field(at, "story_sound_model").set_value("gpt-4o-mini-tts").run()
    assert "The price of this model is unknown." in words(at)
    field(at, "story_sound_model").set_value("tts-1").run()
    speaking.when("从前", fault_server.raw(b"sound", "audio/mpeg"))
    _read_to_its_end(click(at, "story_sound_make"))
    spoken = [seen.body["input"] for seen in speaking.requests if seen.path.endswith("/speech")]
    assert spoken == [library.recent(store)[0].text] and not at.error
    assert at.get("download_button") and not any(button.key == "story_sound_make" for button in at.button)


def test_a_reading_that_breaks_off_keeps_its_parts_and_goes_on(speaking: FaultServer, store: Store) -> None:
    speaking.default = fault_server.text("第一句。" * 600 + "第二句。" * 600)
    at = click(visit("story", story_model="engine/writer"), "story_button")
    sound = [fault_server.raw(part, "audio/mpeg") for part in (b"one", b"two")]
    speaking.when("第二句", sound[0], fault_server.error(400, "Too long"), sound[1])
    at = _read_to_its_end(click(at, "story_sound_make"))
    assert "Too long" in at.error[0].value and "1 of 2 parts" in words(at) and at.get("download_button")
    at = _read_to_its_end(click(at, "story_sound_make"))
    assert not at.error and at.session_state["studio"].story.sound.parts == [b"one", b"two"]


def test_a_reading_can_be_stopped(speaking: FaultServer, store: Store) -> None:
    at = click(visit("story", story_model="engine/writer"), "story_button")
    speaking.when("从前", fault_server.held(fault_server.raw(b"sound", "audio/mpeg")))
    at = click(at, "story_sound_make")
    speaking.wait_for(lambda s: s.flying == 1)
    at = _read_to_its_end(click(at, "story_sound_stop"))
    assert not at.error and not at.get("download_button") and field(at, "story_sound_make").label == "Create audio"


# --- earlier stories
# --------------------------------------------------------------------------------------------------------


def test_the_shelf_finds_rates_and_deletes(server: FaultServer, store: Store) -> None:
    put_story(store, 1, text="一位英雄")
    put_story(store, 2, text="别的")
    at = visit("story", story_part="shelf", story_search="英雄")
    assert "一位英雄" in story_texts(at) and "别的" not in story_texts(at)
    click(at, "story_delete_s1")
    assert "一位英雄" not in story_texts(at)
    click(at, "story_undo")
    assert "一位英雄" in story_texts(at)


def test_thumbs_stars_and_tags_are_kept(server: FaultServer, store: Store) -> None:
    put_story(store, 1)
    at = visit("story", story_part="shelf")
    at.feedback(key="story_thumb_s1").set_value(1).run()
    at.feedback(key="story_stars_s1").set_value(3).run()
    kept = library.get(store, "s1")
    assert not at.exception and kept is not None and (kept.liked, kept.stars) == (True, 4)


def test_an_edit_is_kept_beside_the_words(server: FaultServer, store: Store) -> None:
    put_story(store, 1)
    at = click(visit("story", story_part="shelf"), "story_edit_s1")
    at.text_area(key="story_text_s1").set_value("mine").run()
    click(at, "story_keep_s1")
    kept = library.get(store, "s1")
    assert kept is not None and (kept.edited_text, kept.text) == ("mine", "story 1")


def test_a_shelf_of_many_stories_has_pages_and_one_that_nothing_fits_says_so(server: FaultServer, store: Store) -> None:
    for number in range(23):
        put_story(store, number)
    at = visit("story", story_part="shelf")
    assert "23 stories" in words(at) and len([text for text in story_texts(at) if text.startswith("story ")]) == 10
    at = visit("story", story_part="shelf", story_search="nothing like it")
    assert at.info and "No stories match" in at.info[0].value


def test_a_cut_story_of_the_shelf_goes_on_at_the_desk(server: FaultServer, store: Store) -> None:
    put_story(store, 1, text="从前，", finish_reason=None, requested_model="writer")
    at = click(visit("story", story_part="shelf"), "story_resume_s1")
    assert any(text.startswith("从前，从前，") for text in story_texts(at))
    assert len(library.recent(store)) == 1 and library.recent(store)[0].finish_reason == "stop"


def test_one_click_makes_a_data_set_of_the_liked_stories_and_opens_training_with_it(
    server: FaultServer, store: Store
) -> None:
    put_story(store, 1, liked=True, column_values={"hero": "唐"}, edited_text="mine")
    put_story(store, 2, liked=True, column_values={"hero": "宋"})
    put_story(store, 3, liked=False, column_values={"hero": "元"})
    at = click(visit("story", story_part="shelf"), "story_liked")
    (made,) = datasets.list_datasets(store)
    rows = dataset_rows.page(store, made.id)
    assert list(made.columns) == ["hero"]
    assert [(row.values, row.text) for row in rows] == [({"hero": "唐"}, "mine"), ({"hero": "宋"}, "story 2")]
    assert at.session_state["training_dataset"] == made.id
    assert any(button.key == "training_next" for button in at.button)  # the dialog of a new job
    at.switch_page(str(FRAME.with_name("story.py"))).run()
    click(at, "story_liked")
    assert len(datasets.list_datasets(store)) == 1  # the same stories are the same data set
    at.switch_page(str(FRAME.with_name("story.py"))).run()
    click(at, "story_liked_undo")
    assert datasets.list_datasets(store) == [] and not at.error


def test_the_data_set_of_liked_stories_can_be_taken_back_until_something_is_made_from_it(
    server: FaultServer, store: Store
) -> None:
    put_story(store, 1, liked=True)
    frame = pd.DataFrame({"prompt": ["a"], "story": ["b"]})
    made = datasets.from_frame(store, LOCAL, "liked", frame, ["prompt"], "story")
    with pytest.raises(NotAllowed):
        exports.undo_export(store, Actor("v", "V", "viewer"), made)
    exports.undo_export(store, LOCAL, made)
    assert datasets.list_datasets(store) == [] and len(library.recent(store)) == 1
    with pytest.raises(NotFound):
        exports.undo_export(store, LOCAL, made)
    put_tuned_model(store)
    (used,) = datasets.list_datasets(store)
    with pytest.raises(FabulaError, match="is used by"):
        exports.undo_export(store, LOCAL, used.id)
    assert len(datasets.list_datasets(store)) == 1


def test_nothing_on_the_shelf_is_markup(server: FaultServer, store: Store) -> None:
    nasty = "![x](http://example.com/x.png) <script>alert(1)</script> **bold**"
    put_story(
        store, 1, text=nasty, prompt=nasty, model="ft:" + nasty, tags=[nasty], error=nasty, finish_reason=nasty[:30]
    )
    at = visit("story", story_part="shelf")
    assert nasty in story_texts(at)
    shown = [*(m.value for m in at.markdown), *(c.value for c in at.caption)]
    assert not any("](http" in line.replace("`", "") and "\\]" not in line and "`" not in line for line in shown)


def test_a_story_says_which_parameters_its_model_does_not_take(server: FaultServer, store: Store) -> None:
    refused = fault_server.error(400, "`temperature` is deprecated for this model.")
    server.judge = lambda body: refused if "temperature" in body else fault_server.text("A story.")
    at = click(visit("story"), "story_button")
    assert "A story." in story_texts(at)
    assert any("writer does not accept" in one.value and "temperature" in one.value for one in at.caption)
