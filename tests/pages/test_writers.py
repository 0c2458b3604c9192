"""A model's purpose, its sample, and the warning above the button, as a visitor sees them on the pages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from decimal import Decimal

import pandas as pd
import pytest
from sqlalchemy import select
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.datasets import datasets, presets
from core.db.store import Store
from core.db.tables import Spend, Story, TrainingJob
from core.pricing import custom_prices
from core.stories import library
from tests.support import fault_server
from tests.support.app_pages import click, trouble, visit, words
from tests.support.fault_server import FaultServer
from tests.support.waiting import until

_TUNED = "ft:writer:fabula:x:1"
_FAR = "Write a product description for {product} in a {tone} tone."


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    """An engine with both packaged writers, their base, a model from the ledger and an instruction model."""
    with FaultServer(fault_server.text("Once upon", " a time.")) as server:
        base = {"fabula": {"base": "gemma-3-270m", "format": "chat"}}
        both = {"fabula": {"base": "gemma-3-270m", "format": "both"}}
        common = server.models[0]
        server.models[:] = [
            {**common, "id": "storyteller", **base},
            {**common, "id": "storyteller-en", **base},
            {**common, "id": "gemma-3-270m", **both},
            {**common, "id": "qwen2.5-0.5b-instruct"},
            {**common, "id": "writer"},
            {**common, "id": _TUNED, "fabula": {"base": "writer", "format": "completion"}},
        ]
        monkeypatch.setenv("FABULA_ENGINE_URL", server.url.removesuffix("/v1"))
        yield server


@pytest.fixture
def paid(monkeypatch: pytest.MonkeyPatch, store: Store) -> Iterator[FaultServer]:
    """A provider with two models: one with a known price, one with an unknown price."""
    for kind, amount in (("input", "1"), ("output", "10")):
        custom_prices.set_price(store, LOCAL, provider="compatible", model="gpt-4.1-mini", kind=kind, amount=amount)
    with FaultServer(fault_server.text("A keeper", " found a letter.")) as server:
        server.models[:] = [{**server.models[0], "id": name} for name in ("gpt-4.1-mini", "gpt-unpriced")]
        monkeypatch.setenv("OPENAI_API_KEY", fault_server.KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server


def _tuned(store: Store, file_format: str = "completion") -> str:
    """The job that made the tuned model, from the 8 rows of a small grid with the article's columns."""
    cells = list(itertools.product(("唐", "宋"), ("飞行", "隐形"), ("轻松", "努力")))
    frame = pd.DataFrame(cells, columns=["dynasty", "super_power", "story_type"])
    frame["story"] = [f"story {number}" for number in range(len(cells))]
    columns = ["dynasty", "super_power", "story_type"]
    dataset_id = datasets.from_frame(store, LOCAL, "My heroes", frame, columns, "story")
    chat = file_format == "chat"
    with store.session() as session:
        session.add(
            TrainingJob(
                id="j1", dataset_id=dataset_id, name="x", provider="engine", base_model="writer", hyperparameters={},
                file_format=file_format, separator=None if chat else " ->", stop=None if chat else ".", n_examples=8,
                fine_tuned_model=_TUNED, status="succeeded", created_by="local",
            )
        )  # fmt: skip
    return dataset_id


def _warnings(at: AppTest) -> str:
    return "\n".join(str(one.value) for one in at.warning).replace("\\", "")


def _far(at: AppTest) -> bool:
    return "It will probably write nonsense." in _warnings(at)


def _written(at: AppTest, key: str) -> AppTest:
    """The page once the sample has ended."""
    until(lambda: at.run().session_state[f"{key}_sample_shown"].story.done, "the sample has ended")
    at.run()
    assert not at.exception
    return at


def _sent(server: FaultServer) -> list[dict[str, object]]:
    return [seen.body for seen in server.requests if seen.path.endswith("completions")]


# --- what a model is for ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("locale", "model", "sentence"),
    [
        (
            "en-US",
            "storyteller",
            "Writes stories of the kind it was trained on (Chinese: dynasty, super power, story type).",
        ),
        ("en-US", "storyteller-en", "Writes stories of the kind it was trained on (English: hero, gift, mood)."),
        ("zh-CN", "storyteller", "只擅长写训练过的那类故事（中文：朝代，超能力，类型）。"),
        ("en-US", "gemma-3-270m", "Base model: continues text, does not follow instructions."),
        ("zh-CN", "gemma-3-270m", "基础模型：只会续写，不会按指令作答。"),
        ("en-US", "qwen2.5-0.5b-instruct", "Follows instructions."),
        ("zh-CN", "qwen2.5-0.5b-instruct", "能按指令作答。"),
        ("en-US", "writer", "This model's purpose is unknown."),
        ("en-US", _TUNED, "Trained on My heroes, 8 rows."),
        ("zh-CN", _TUNED, "训练自数据集“My heroes”，8 行。"),
    ],
)
def test_the_picker_of_the_story_page_says_what_the_model_is_for(
    server: FaultServer, store: Store, locale: str, model: str, sentence: str
) -> None:
    _tuned(store)
    assert sentence in words(visit("story", locale, story_model=f"engine/{model}"))


def test_a_tuned_model_that_the_ledger_does_not_know_claims_nothing(server: FaultServer, store: Store) -> None:
    at = visit("story", story_model=f"engine/{_TUNED}")
    assert "Tuned from `writer`. Its training data is unknown." in words(at)


def test_the_data_set_page_says_it_too(server: FaultServer, store: Store) -> None:
    at = visit("dataset", dataset_model="engine/gemma-3-270m")
    assert "Base model: continues text, does not follow instructions." in words(at)


def test_a_new_training_job_says_it_of_the_model_it_starts_from(server: FaultServer, store: Store) -> None:
    datasets.load_sample(store, LOCAL, "ultraman_stories_more", 9)
    at = visit("training", training_dialog=1, training_base="engine/gemma-3-270m")
    assert "Base model: continues text, does not follow instructions." in words(at)


# --- a sample ---------------------------------------------------------------------------------------------------------


def test_a_sample_is_written_is_no_story_of_the_shelf_and_can_be_closed(server: FaultServer, store: Store) -> None:
    at = visit("story", story_model="engine/storyteller-en")
    assert "costs" not in words(at)
    at = _written(click(at, "story_model_sample"), "story_model")
    assert "Once upon a time." in [text.value for text in at.text]
    (sent,) = _sent(server)
    assert sent["model"] == "storyteller-en" and "a gardener" in str(sent["messages"])
    assert library.recent(store) == []
    with store.reading() as session:
        assert session.scalars(select(Story.step)).all() == ["sample"]
    click(at, "story_model_sample_close")
    assert "Once upon a time." not in [text.value for text in at.text]


@pytest.mark.parametrize(
    ("model", "path", "part"),
    [
        ("storyteller", "/chat/completions", "秦朝"),
        ("gemma-3-270m", "/completions", "Once upon a time, a baker named Rosa"),
        ("qwen2.5-0.5b-instruct", "/chat/completions", "lighthouse keeper"),
        ("writer", "/chat/completions", "lighthouse keeper"),
        (_TUNED, "/completions", "唐,飞行,轻松 ->"),
    ],
)
def test_a_sample_has_a_prompt_that_fits_the_model(
    server: FaultServer, store: Store, model: str, path: str, part: str
) -> None:
    _tuned(store)
    at = visit("story", story_model=f"engine/{model}")
    _written(click(at, "story_model_sample"), "story_model")
    seen = [one for one in server.requests if one.path.endswith("completions")]
    assert len(seen) == 1 and seen[0].path.endswith(path) and part in str(seen[0].body)


def test_a_paid_sample_says_its_price_before_the_click_and_is_booked(
    server: FaultServer, paid: FaultServer, store: Store
) -> None:
    at = visit("story", story_model="compatible/gpt-4.1-mini")
    assert "costs at most $0.0012" in words(at) and not _sent(paid)
    at = _written(click(at, "story_model_sample"), "story_model")
    assert "A keeper found a letter." in [text.value for text in at.text]
    with store.reading() as session:
        (booked,) = session.scalars(select(Spend)).all()
    assert (booked.provider, booked.model) == ("compatible", "gpt-4.1-mini")
    assert booked.cost_usd is not None and Decimal(0) < booked.cost_usd < Decimal("0.0012")


def test_an_unknown_price_is_said_before_the_click(server: FaultServer, paid: FaultServer, store: Store) -> None:
    shown = words(visit("story", story_model="compatible/gpt-unpriced"))
    assert shown.count("price unknown") == 1
    assert "Base model" not in shown and "runs at 127.0.0.1" in shown  # what it is, is not known
    facts = words(visit("dataset", dataset_model="compatible/gpt-unpriced"))
    assert "tokens · price unknown ·" in facts and "· unknown" not in facts


def test_a_sample_can_be_stopped_and_another_model_hides_it(server: FaultServer, store: Store) -> None:
    server.when("lighthouse", fault_server.stalled("Once"))
    at = click(visit("story", story_model="engine/writer"), "story_model_sample")
    assert "story_model_sample" not in [button.key for button in at.button]
    until(lambda: at.run().session_state["story_model_sample_shown"].story.text == "Once", "the first word has come")
    story = at.session_state["story_model_sample_shown"].story
    click(at, "story_model_sample_stop")
    until(lambda: story.done, "the sample has ended")
    assert story.facts.stopped
    server.release()
    at.selectbox(key="story_model").set_value("engine/storyteller").run()
    assert "Once" not in [text.value for text in at.text]


def test_a_sample_that_fails_says_why(server: FaultServer, store: Store) -> None:
    server.when("lighthouse", fault_server.error(400, "This prompt is too long."))
    at = _written(click(visit("story", story_model="engine/writer"), "story_model_sample"), "story_model")
    assert "This prompt is too long." in trouble(at)


# --- the warning above the button ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "template", "far"),
    [
        ("storyteller-en", presets.get("english_stories").recipe.template, False),
        ("storyteller", presets.get("english_stories").recipe.template, True),
        ("storyteller-en", _FAR, True),
        ("storyteller", _FAR, True),
        (_TUNED, _FAR, True),
        (_TUNED, "{hero},{gift},{mood}", False),
        ("qwen2.5-0.5b-instruct", _FAR, False),
        ("gemma-3-270m", _FAR, False),
        ("writer", _FAR, False),
    ],
)
def test_a_far_template_is_told_before_generating(
    server: FaultServer, store: Store, model: str, template: str, far: bool
) -> None:
    _tuned(store)
    at = visit("dataset", dataset_model=f"engine/{model}")
    at.text_area(key="dataset_template").set_value(template.replace("{product}", "{hero}").replace("{tone}", "{mood}"))
    at.run()
    assert _far(at) is far
    assert not at.button(key="dataset_generate").disabled  # it is a warning, not a ban


def test_the_other_packaged_writer_is_one_click_away(server: FaultServer, store: Store) -> None:
    at = visit("dataset", dataset_model="engine/storyteller")
    assert "trained on prompts in another language; this one is in Latin letters" in _warnings(at)
    click(at, "dataset_model_use_storyteller-en")
    assert at.selectbox(key="dataset_model").value == "engine/storyteller-en" and not _far(at)


def test_its_own_grid_is_one_click_away_and_the_form_before_can_be_restored(server: FaultServer, store: Store) -> None:
    at = visit("dataset", dataset_model="engine/storyteller")
    click(at, "dataset_use_preset")
    assert at.text_area(key="dataset_template").value == presets.get("ultraman").recipe.template
    assert at.selectbox(key="dataset_model").value == "engine/storyteller" and not _far(at)


def test_a_model_that_answers_instructions_is_one_click_away(server: FaultServer, store: Store) -> None:
    at = visit("dataset", dataset_model="engine/storyteller")
    at.text_area(key="dataset_template").set_value("Explain {hero} to a child in three sentences.").run()
    assert "dataset_model_use_storyteller-en" not in [button.key for button in at.button]
    click(at, "dataset_model_use_general")
    assert at.selectbox(key="dataset_model").value == "engine/qwen2.5-0.5b-instruct" and not _far(at)


def test_without_such_a_model_the_warning_says_where_one_comes_from(server: FaultServer, store: Store) -> None:
    server.models[:] = [model for model in server.models if model["id"] in ("storyteller", "gemma-3-270m")]
    at = visit("dataset", dataset_model="engine/storyteller")
    assert "add a provider with a key or a local server under Settings" in words(at)
    assert not any("use_general" in str(button.key) for button in at.button)


@pytest.mark.parametrize(
    ("model", "prompt", "far"),
    [
        ("storyteller", "宋朝的一位英雄遇见奥特曼", False),
        ("storyteller", "写一首关于春天的诗", True),
        ("storyteller", "A hero meets a monster", True),
        ("storyteller-en", "Tell a funny story about a nurse who can fly", False),
        ("storyteller-en", "Explain photosynthesis to a child.", True),
        (_TUNED, "宋,隐形,努力 ->", False),
        (_TUNED, "写一首关于春天的诗", True),
        ("qwen2.5-0.5b-instruct", "Explain photosynthesis to a child.", False),
    ],
)
def test_a_far_free_prompt_is_told_before_writing(
    server: FaultServer, store: Store, model: str, prompt: str, far: bool
) -> None:
    _tuned(store)
    at = visit("story", story_model=f"engine/{model}", story_mode="free", story_prompt=prompt)
    assert _far(at) is far
    assert not at.button(key="story_button").disabled


def test_from_a_far_prompt_back_to_the_columns_is_one_click(server: FaultServer, store: Store) -> None:
    _tuned(store)
    at = visit("story", story_model=f"engine/{_TUNED}", story_mode="free", story_prompt="写一首关于春天的诗")
    click(at, "story_use_columns")
    assert at.selectbox(key="story_column_dynasty").options == ["唐", "宋"] and not _far(at)


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
@pytest.mark.parametrize(
    ("model", "column"),
    [("storyteller", "story_column_dynasty"), ("storyteller-en", "story_column_gift")],
)
def test_a_packaged_writer_is_asked_with_the_columns_it_was_trained_on_in_either_language(
    server: FaultServer, store: Store, locale: str, model: str, column: str
) -> None:
    at = visit("story", locale, story_model=f"engine/{model}")
    assert column in [str(box.key) for box in at.selectbox]
    click(at, "story_outside_0")
    assert not _far(at) and not at.button(key="story_button").disabled


def test_a_model_of_conversations_is_asked_as_they_began(server: FaultServer, store: Store) -> None:
    """Values without a separator, at the chat endpoint, with the system text that its conversations began with."""
    dataset_id = _tuned(store, "chat")
    datasets.set_system_message(store, LOCAL, dataset_id, "You tell stories.")
    server.models[-1]["fabula"]["format"] = "chat"
    columns = {"story_column_dynasty": "宋", "story_column_super_power": "飞行", "story_column_story_type": "努力"}
    at = click(visit("story", story_model=f"engine/{_TUNED}", **columns), "story_button")
    (sent,) = _sent(server)
    assert sent["messages"] == [
        {"role": "system", "content": "You tell stories."},
        {"role": "user", "content": "宋,飞行,努力"},
    ]
    assert not _far(at)


@pytest.mark.parametrize(
    ("model", "sampling"),
    [
        ("storyteller", (0.5, 0.8, 2_000)),
        ("storyteller-en", (0.5, 0.8, 600)),
        (_TUNED, (0.5, 0.8, 1_000)),
        ("qwen2.5-0.5b-instruct", (0.7, 1.0, 1_000)),
    ],
)
def test_a_model_is_sampled_as_suits_it(
    server: FaultServer, store: Store, model: str, sampling: tuple[float, float, int]
) -> None:
    _tuned(store)
    click(visit("story", story_model=f"engine/{model}"), "story_button")
    click(_presenting(model), "presenter_write")
    assert [
        (body["temperature"], body.get("top_p", 1.0), body["max_tokens"]) for body in _sent(server)
    ] == [sampling] * 2  # fmt: skip


def test_the_sampling_follows_the_model_but_a_value_that_was_chosen_stays(server: FaultServer, store: Store) -> None:
    at = visit("story", story_model="engine/writer", story_more=True)
    at.slider(key="story_top_p").set_value(0.95).run()
    at.selectbox(key="story_model").set_value("engine/storyteller").run()
    assert (at.slider(key="story_temperature").value, at.slider(key="story_top_p").value) == (0.5, 0.95)


def _presenting(model: str) -> AppTest:
    at = visit("story")
    at.query_params.update({"stage": "1", "models": f"engine/{model}"})
    return at.run()


def test_each_model_of_a_comparison_is_warned_about_by_itself(server: FaultServer, store: Store) -> None:
    at = visit(
        "story", story_model="engine/storyteller-en", story_compare=True, story_others=["engine/storyteller"],
        story_column_hero="a baker", story_column_gift="flying", story_column_mood="warm",
    )  # fmt: skip
    assert _warnings(at).count("It will probably write nonsense.") == 1
    assert _warnings(at).startswith("storyteller was trained on prompts in another language")
    assert "Better choices:" not in words(at) and "story_button" in [button.key for button in at.button]
