"""Examples in a prompt: from the training part only, drawn with a seed, by label, and within the model's context."""

from __future__ import annotations

import pytest

from core.evaluation import few_shot
from core.evaluation.few_shot import Chosen, PromptExample
from core.providers.schemas import Endpoint

ROWS = [PromptExample(f"question {n} {'word ' * (n % 7)}", ("a", "b", "c")[n % 3]) for n in range(60)]


def choose(
    rows: list[PromptExample], most: int = 8, *, is_label: bool = True, room: int | None = None, seed: int = 0,
    held_out: tuple[str, ...] = (),
) -> Chosen:  # fmt: skip
    return few_shot.choose(rows, most, held_out_prompts=held_out, is_label=is_label, room=room, count=len, seed=seed)


def test_every_label_gets_examples_in_turn_the_shortest_of_some_drawn_rows_first() -> None:
    found = choose(ROWS).examples
    assert sorted(one.answer for one in found[:3]) == ["a", "b", "c"]
    assert {found[n].answer for n in (3, 4, 5)} == {"a", "b", "c"} and len(found) == 8
    mean_length = sum(len(one.prompt) for one in ROWS) / len(ROWS)
    assert sum(len(one.prompt) for one in found) / len(found) < mean_length


def test_the_same_seed_gives_the_same_examples_in_any_order_of_the_rows() -> None:
    assert choose(ROWS).examples == choose(ROWS[::-1]).examples
    assert choose(ROWS).examples != choose(ROWS, seed=1).examples
    assert choose(ROWS, 3).examples == choose(ROWS).examples[:3]


def test_a_training_row_whose_prompt_is_also_held_out_is_no_example() -> None:
    held_out = tuple(f"  {row.prompt.upper()} " for row in ROWS[:50])
    assert {one.prompt for one in choose(ROWS, held_out=held_out).examples} <= {row.prompt for row in ROWS[50:]}


def test_rows_that_say_nearly_the_same_are_not_both_shown() -> None:
    rows = [PromptExample(f"my invoice for the {thing} is wrong", "billing") for thing in ("phone", "watch", "camera")]
    found = choose([*rows, PromptExample("why was I charged twice last month, please explain it", "billing")], 2)
    assert "charged twice" in found.examples[1].prompt


@pytest.mark.parametrize(
    ("rows", "room", "expected", "too_long"),
    [
        (ROWS[:5], None, 5, 0),
        ([], None, 0, 0),
        ([PromptExample("p", "  "), PromptExample(" ", "a")], None, 0, 0),
        ([PromptExample("same", "a")] * 9, None, 1, 0),
        ([PromptExample("x" * 500, "a"), PromptExample("short", "b")], 100, 1, 1),
        (ROWS, 0, 0, 60),
    ],
)
def test_only_rows_that_are_different_and_fit_become_examples(
    rows: list[PromptExample], room: int | None, expected: int, too_long: int
) -> None:
    found = choose(rows, room=room)
    assert (len(found.examples), found.too_long) == (expected, too_long)
    assert room is None or found.tokens <= room


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["refund", "balance"], "Answer with exactly one of these labels and nothing else: refund, balance"),
        (["退款", "余额"], "只用下列标签之一回答，不要写别的内容：退款、余额"),
    ],
)
def test_the_instruction_names_the_labels_in_their_language(labels: list[str], sentence: str) -> None:
    assert few_shot.label_instruction(labels) == sentence


@pytest.mark.parametrize("endpoint", ["chat", "completion"])
def test_chat_models_get_examples_as_turns_and_other_models_as_text(endpoint: Endpoint) -> None:
    request = few_shot.request(
        "m", "Name it.", [{"prompt": "p1", "answer": "a1"}], "p2", endpoint, temperature=0, max_tokens=9, seed=None
    )
    roles = [message["role"] for message in request.messages]
    if endpoint == "chat":
        assert roles == ["user", "assistant", "user"] and request.stop == () and request.prompt == "p1\na1\np2"
    else:
        assert request.prompt == "Input: p1\nOutput: a1\n\nInput: p2\nOutput:" and request.stop == ("\nInput:",)
        assert not roles
