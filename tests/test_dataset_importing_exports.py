"""Files as trainers, labelling tools and providers write them: conversations in parts, in templates, beside answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from core.dataset.intake import importing, mapping, rendered
from core.errors import BadFile

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
SYSTEM = {"role": "system", "content": "S"}
Q_AND_A = {"prompt": "q", "completion": "a"}


def read(*rows: Any, name: str = "a.jsonl") -> importing.Imported:
    return importing.read_table("\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode(), name)


def records(found: importing.Imported) -> list[dict[str, str]]:
    return [{str(k): str(v) for k, v in row.items()} for row in found.frame.to_dict("records")]


# --- turns that ask, with the answer in a column of its own; system texts in parts ----------------------------------

PARTED: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"prompt": [SYSTEM, USER], "answer": "a"}, {"system": "S"} | Q_AND_A),  # GRPO
    ({"prompt": [SYSTEM, USER], "completion": "a"}, {"system": "S"} | Q_AND_A),
    ({"input": [SYSTEM, USER], "ideal": "a"}, {"system": "S"} | Q_AND_A),  # OpenAI Evals
    ({"messages": [USER], "response": "a"}, Q_AND_A),
    ({"messages": [USER, ANSWER], "answer": "42"}, Q_AND_A | {"answer": "42"}),  # it ends with its own answer
    ({"prompt": [USER], "chosen": "a", "rejected": "b"}, Q_AND_A | {"rejected": "b"}),
    (
        {
            "systemInstruction": {"role": "system", "parts": [{"text": "S"}]},
            "contents": [{"role": "user", "parts": [{"text": "q"}]}, {"role": "model", "parts": [{"text": "a"}]}],
        },
        {"system": "S"} | Q_AND_A,
    ),  # Gemini
    (
        {
            "schemaVersion": "bedrock-conversation-2024",
            "system": [{"text": "S"}],
            "messages": [
                {"role": "user", "content": [{"text": "q"}]},
                {"role": "assistant", "content": [{"text": "a"}]},
            ],
        },
        {"system": "S"} | Q_AND_A | {"schemaVersion": "bedrock-conversation-2024"},
    ),
    ({"system_prompt": "S", "conversations": [USER, ANSWER]}, {"system": "S"} | Q_AND_A),
]


@pytest.mark.parametrize(("row", "expected"), PARTED)
def test_an_example_in_parts_is_put_together(row: dict[str, Any], expected: dict[str, str]) -> None:
    found = read(row, row)
    assert records(found) == [expected, expected] and found.problems == []
    guessed = mapping.guess(found.frame)
    assert (guessed.prompts, guessed.completion) == (("prompt",), "completion")


def test_an_empty_answer_beside_turns_is_named() -> None:
    assert read({"prompt": [USER], "answer": "a"}, {"prompt": [USER], "answer": ""}).problems == [
        "Line 2: Its completion is empty."
    ]


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [USER, ANSWER], "source": "web", "title": None, "hash": "1"},  # OpenHermes
        {"messages": [USER, ANSWER], "source": "smol"},
        {"instruction": "i", "input": "x", "output": "o", "messages": [USER, ANSWER]},
        {"prompt": "q", "prompt_id": "9", "messages": [USER, ANSWER]},  # UltraChat
    ],
)
def test_what_stands_beside_a_conversation_is_no_part_of_its_prompt(row: dict[str, Any]) -> None:
    found = read(row, row)
    guessed = mapping.guess(found.frame)
    assert (guessed.prompts, guessed.completion) == (("prompt",), "completion")
    assert [records(found)[0][name] for name in ("prompt", "completion")] == ["q", "a"]


def test_turns_under_another_name_leave_a_pair_as_it_is() -> None:
    found = read(*[{"prompt": "p", "completion": "c", "retrieved": [USER, ANSWER]}] * 2)
    assert found.recognised.form == "pairs" and records(found)[0]["completion"] == "c"


def test_an_answer_with_weight_0_at_the_end_is_not_learned() -> None:
    unlearned = {"role": "assistant", "content": "b", "weight": 0}
    found = read(
        {"messages": [USER, ANSWER | {"weight": 1}, USER, unlearned]},
        {"messages": [USER, unlearned, USER, ANSWER]},
        {"messages": [USER, unlearned]},
    )
    assert [row["completion"] for row in records(found)] == ["a", "a"] and records(found)[0]["prompt"] == "q"
    assert found.problems == ["Line 3: All its answers have weight 0: there is nothing to learn."]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
        {"type": "image", "source": {"type": "base64", "data": ""}},
        {"inlineData": {"mimeType": "image/png", "data": "x"}},
        {"image": {"format": "png", "source": {"s3Location": {"uri": "s3://b/a.png"}}}},
    ],
)
def test_an_image_is_named_and_not_left_out_in_silence(part: dict[str, Any]) -> None:
    asked = {"role": "user", "content": [{"type": "text", "text": "What is this?"}, part]}
    found = read({"messages": [asked, ANSWER]}, {"messages": [USER, ANSWER]})
    assert records(found) == [Q_AND_A]
    assert found.problems == ["Line 1: Message 1 has an image or another part that is not text."]


# --- conversations written out with the marks of a chat template ----------------------------------------------------

LLAMA3 = "<|start_header_id|>{}<|end_header_id|>\n\n{}<|eot_id|>"
RENDERED = {
    "chatml": "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n",
    "llama 3": "<|begin_of_text|>" + "".join(map(LLAMA3.format, ("system", "user", "assistant"), "Sqa")),
    "llama 2": "<s>[INST] <<SYS>>\nS\n<</SYS>>\n\nq [/INST] a </s>",
    "gemma": "<bos><start_of_turn>system\nS<end_of_turn>\n<start_of_turn>user\nq<end_of_turn>\n<start_of_turn>model\na",
    "zephyr": "<|system|>\nS</s>\n<|user|>\nq</s>\n<|assistant|>\na</s>",
    "alpaca": "S\n\n### Instruction:\nq\n\n### Response:\na</s>",
    "guanaco": "### System: S### Human: q### Assistant: a",
    "vicuna": "S USER: q ASSISTANT: a</s>",
    "hh-rlhf": "S\n\nHuman: q\n\nAssistant: a",
}


@pytest.mark.parametrize("template", RENDERED)
def test_a_conversation_in_a_chat_template_is_an_example(template: str) -> None:
    found = read(*[{"text": RENDERED[template]}] * 2)
    assert found.recognised.form == "turns" and records(found) == [{"system": "S"} | Q_AND_A] * 2


SECOND = {
    "chatml": "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n",
    "llama 3": LLAMA3.format("user", "r") + LLAMA3.format("assistant", "b"),
    "llama 2": "<s>[INST] r [/INST] b </s>",
    "gemma": "<end_of_turn>\n<start_of_turn>user\nr<end_of_turn>\n<start_of_turn>model\nb<end_of_turn>\n",
    "zephyr": "\n<|user|>\nr</s>\n<|assistant|>\nb</s>\n",
    "alpaca": "\n\n### Instruction:\nr\n\n### Response:\nb</s>",
    "guanaco": "### Human: r### Assistant: b",
    "vicuna": "USER: r ASSISTANT: b</s>",
    "hh-rlhf": "\n\nHuman: r\n\nAssistant: b",
}


@pytest.mark.parametrize("template", RENDERED)
def test_several_turns_in_a_chat_template_keep_their_order(template: str) -> None:
    turns = rendered.turns(RENDERED[template] + SECOND[template])
    assert turns is not None and [turn["text"] for turn in turns] == ["S", "q", "a", "r", "b"]


def test_the_better_dialogue_of_hh_rlhf_is_learned() -> None:
    row = {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}
    found = read(row, row)
    assert found.recognised.form == "preference" and records(found)[0] == Q_AND_A | {"rejected": "b"}


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "q", "input": "", "output": "a", "text": RENDERED["alpaca"]},
        {"text": "The Human: a story of our time."},
        {"text": "### Instruction:\nq\n\n### Response:\n"},  # no answer
        {"prompt": RENDERED["chatml"], "completion": "a"},
    ],
)
def test_other_texts_stay_as_they_are(row: dict[str, Any]) -> None:
    assert records(read(row, row)) == [row, row]


# --- parts of columns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "prompts", "completion"),
    [
        ("INSTRUCTION,RESPONSE,SOURCE", ("INSTRUCTION",), "RESPONSE"),
        ("system_prompt,question,response", ("system_prompt", "question"), "response"),
        ("query,positive,negative", ("query",), "positive"),
        ("anchor,positive,negative", ("anchor",), "positive"),
        ("chosen,rejected", (), "chosen"),
        ("source,target,lang", ("source",), "target"),
    ],
)
def test_columns_of_known_sets_get_their_part(columns: str, prompts: tuple[str, ...], completion: str) -> None:
    names = columns.split(",")
    found = importing.read_table(f"{columns}\n{','.join('some text' for _ in names)}\n".encode(), "a.csv")
    guessed = mapping.guess(found.frame)
    assert (guessed.prompts, guessed.completion) == (prompts, completion)


def test_a_file_without_a_usable_conversation_says_so() -> None:
    with pytest.raises(BadFile, match="All its answers have weight 0"):
        read({"messages": [USER, ANSWER | {"weight": 0}]})
