"""The story page after the story: rate, copy, keep as a training example, write again, next prompt, the winner."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.db.store import Store
from core.stories import library
from tests.support import fault_server
from tests.support.app_pages import click, labels, story_texts, visit, words
from tests.support.fault_server import FaultServer

_FREE = {"story_mode": "free", "story_prompt": "讲"}
_ACTIONS = {"story_again", "story_next"}


def _keys(at: AppTest) -> set[str]:
    return {str(button.key) for button in at.button}


def _written(server: FaultServer, text: str = "一个故事。", **state: Any) -> AppTest:
    """The page with a story that has just been written."""
    server.default = fault_server.text(text)
    return click(visit("story", **state), "story_button")


def _compared(server: FaultServer, *, blind: bool = True) -> AppTest:
    """The page with two stories side by side."""
    server.models += [{**server.models[0], "id": "ft:writer:fabula:x:1"}]
    return _written(
        server, story_compare=True, story_blind=blind, story_others=["engine/ft:writer:fabula:x:1"], **_FREE
    )


def _bodies(server: FaultServer) -> list[dict[str, object]]:
    return [seen.body for seen in server.requests if seen.method == "POST"]


# --- feedback ---------------------------------------------------------------------------------------------------------


def test_before_the_first_story_there_is_nothing_to_rate_or_repeat(server: FaultServer, store: Store) -> None:
    at = visit("story")
    assert not _keys(at) & _ACTIONS and not at.get("feedback")


def test_thumbs_and_stars_under_a_new_story_are_those_of_the_shelf(server: FaultServer, store: Store) -> None:
    at = _written(server)
    (story,) = library.recent(store)
    at.feedback(key=f"story_thumb_{story.id}").set_value(0).run()
    at.feedback(key=f"story_stars_{story.id}").set_value(3).run()
    (kept,) = library.recent(store)
    assert not at.exception and (kept.liked, kept.stars) == (False, 4)
    earlier = visit("story", story_part="shelf")
    assert earlier.feedback(key=f"story_thumb_{story.id}").value == 0
    assert earlier.feedback(key=f"story_stars_{story.id}").value == 3


def test_a_training_example_is_a_liked_story_and_can_be_trained_on_at_once(server: FaultServer, store: Store) -> None:
    at = _written(server)
    (story,) = library.recent(store)
    assert not any("Train on" in label for label in labels(at))
    click(at, f"story_example_{story.id}")
    assert at.feedback(key=f"story_thumb_{story.id}").value == 1
    assert "Training example" in words(at) and "Train on 1 liked story" in labels(at)
    assert "Keep as training example" not in labels(at)
    at.feedback(key=f"story_thumb_{story.id}").set_value(None).run()
    assert "Keep as training example" in labels(at) and library.recent(store)[0].liked is None
    at.feedback(key=f"story_thumb_{story.id}").set_value(1).run()
    click(at, "story_liked")
    assert at.session_state["training_dataset"] and any(button.key == "training_next" for button in at.button)


def test_a_story_that_is_not_kept_can_be_written_again_and_not_rated(server: FaultServer, store: Store) -> None:
    at = _written(server)
    library.delete(store, LOCAL, library.recent(store)[0].id)
    at.run()
    assert not at.exception and not at.get("feedback") and _keys(at) >= _ACTIONS
    assert not any("example" in key for key in _keys(at))


@pytest.mark.parametrize(
    ("language", "labels_shown"),
    [
        ("en", ["API format", "Temperature", "Top p", "Max tokens per story", "Stop at", "Seed"]),
        ("zh_CN", ["API 格式", "温度", "Top p", "每篇故事的 token 上限", "遇到即停", "随机种子"]),
    ],
)
def test_the_settings_of_a_story_have_their_labels(
    server: FaultServer, store: Store, language: str, labels_shown: list[str]
) -> None:
    _written(server, story_seed=7, story_stop_engine_writer=["完", "。。"])
    (table,) = visit("story", story_part="shelf", lang=language).table
    assert [name for name in table.value.index if name in labels_shown] == labels_shown
    assert not {"endpoint", "system", "temperature", "top_p", "max_tokens", "stop", "seed"} & {*table.value.index}
    assert "`完` `。。`" in table.value.to_string()


# --- write again ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seed", "next_seed"), [(None, None), (3, 4), (2**31 - 1, 0), (-1, 0)])
def test_again_is_the_same_request_with_another_seed(
    server: FaultServer, store: Store, seed: int | None, next_seed: int | None
) -> None:
    at = _written(server, story_seed=seed, story_temperature=0.35)
    server.default = fault_server.text("另一个故事。")
    click(at, "story_again")
    first, second = _bodies(server)
    assert first.get("seed") == seed and second.get("seed") == next_seed
    assert {**first, "seed": 0} == {**second, "seed": 0}
    assert "另一个故事。" in story_texts(at) and "一个故事。" not in story_texts(at)
    assert [story.text for story in library.recent(store)] == ["另一个故事。", "一个故事。"]
    assert [story.column_values for story in library.recent(store)] == [library.recent(store)[0].column_values] * 2


def test_again_takes_the_prompt_of_the_story_not_the_one_typed_since(server: FaultServer, store: Store) -> None:
    at = _written(server, **_FREE)
    at.text_area(key="story_prompt").set_value("别的").run()
    click(at, "story_again")
    assert server.prompts() == ["讲", "讲"]


def test_again_side_by_side_asks_the_same_models_under_hidden_names(server: FaultServer, store: Store) -> None:
    at = click(click(_compared(server), "story_vote_0"), "story_again")
    asked = [body["model"] for body in _bodies(server)]
    assert asked[:2] == asked[2:] or asked[:2] == asked[:1:-1]
    assert "**A**" in words(at) and "You chose" not in words(at) and {"story_vote_0", "story_vote_1"} <= _keys(at)
    assert len({story.round_id for story in library.recent(store)}) == 2


def test_a_chain_is_written_again_from_its_idea(server: FaultServer, store: Store) -> None:
    at = _written(server, story_chain=True, story_seed=7, **_FREE)
    assert any(key.startswith("story_example_") for key in _keys(at))
    click(at, "story_again")
    bodies = _bodies(server)
    assert len(bodies) == 6 and [body["seed"] for body in bodies] == [7] * 3 + [8] * 3
    assert server.prompts()[3] == server.prompts()[0]


# --- next prompt ------------------------------------------------------------------------------------------------------


def test_the_next_prompt_is_filled_in_and_the_old_story_leaves_the_page(server: FaultServer, store: Store) -> None:
    at = _written(server)
    hero = at.selectbox(key="story_column_hero").value
    click(at, "story_next")
    assert at.selectbox(key="story_column_hero").value == "a gardener" != hero
    assert "Outside the grid" in words(at)
    assert "一个故事。" not in story_texts(at) and "The story appears here" in words(at) and not _keys(at) & _ACTIONS
    assert [story.text for story in library.recent(store)] == ["一个故事。"] and len(server.prompts()) == 1
    click(at, "story_button")
    assert "a gardener" in server.prompts()[1]
    click(at, "story_next")
    assert at.selectbox(key="story_column_hero").value not in (hero, "a gardener")  # now a cell of the grid
    assert "Outside the grid" not in words(at)


def test_values_outside_the_grid_that_are_chosen_by_hand_begin_a_new_prompt_too(
    server: FaultServer, store: Store
) -> None:
    at = click(_written(server), "story_outside_1")
    assert "一个故事。" not in story_texts(at) and "The story appears here" in words(at)


def test_the_next_free_prompt_is_a_text(server: FaultServer, store: Store) -> None:
    at = click(_written(server, **_FREE), "story_next")
    prompt = str(at.text_area(key="story_prompt").value)
    assert "a gardener" in prompt and "一个故事。" not in story_texts(at)
    click(at, "story_button")
    assert server.prompts()[-1] == prompt


# --- side by side -----------------------------------------------------------------------------------------------------


def test_each_pane_has_its_vote_and_its_rating(server: FaultServer, store: Store) -> None:
    at = _compared(server)
    votes = [button.label for button in at.button if str(button.key).startswith("story_vote_")]
    assert sorted(votes) == ["A is best", "B is best", "None of them"]
    assert len(at.get("feedback")) == 4  # thumbs and stars of each


def test_where_names_are_shown_a_vote_names_the_model_without_escapes(server: FaultServer, store: Store) -> None:
    at = _compared(server, blind=False)
    votes = [button.label for button in at.button if str(button.key).startswith("story_vote_")]
    assert "writer is best" in votes and not any("\\" in label or ":" in label for label in votes)


@pytest.mark.parametrize("blind", [True, False])
def test_the_winner_is_marked_and_nothing_is_left_to_vote_on(server: FaultServer, store: Store, blind: bool) -> None:
    at = click(_compared(server, blind=blind), "story_vote_1")
    (marked,) = [line.value for line in at.markdown if "Your choice" in line.value]
    assert ("**B**" in marked) is blind
    assert not any("vote" in key for key in _keys(at))
    (said,) = at.success
    assert "You chose" in said.value and ("**A**" in said.value) is blind


def test_after_a_vote_for_none_no_pane_is_marked(server: FaultServer, store: Store) -> None:
    at = click(_compared(server), "story_vote_none")
    assert "Your choice" not in words(at) and "You chose none of them." in words(at)


# --- in Chinese -------------------------------------------------------------------------------------------------------


def test_what_stands_under_a_story_is_chinese_on_a_chinese_page(server: FaultServer, store: Store) -> None:
    server.default = fault_server.text("一个故事。")
    at = click(visit("story", "zh-CN"), "story_button")
    assert {"重新写", "下一个提示词", "留作训练示例"} <= set(labels(at))
