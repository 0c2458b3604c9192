"""Few-shot prompting: which training rows become examples in a prompt, and the form of such a prompt. Pure.

The same examples are used for all rows. They are drawn with a seed, by label where the answers are labels, the shortest
first; the first three of eight examples are the same as three examples.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

from core.datasets import splitting
from core.evaluation import scoring
from core.providers.schemas import CompletionRequest, Endpoint

SHOTS = (0, 3, 8)
"""Numbers of examples that are tried."""
STOP = "\nInput:"
"""Ends an answer of a model that continues text: it would go on with the next input."""
_DRAWN = 8  # random rows of each label, of which the shortest are taken first
_DRAWN_TEXTS = 3  # the same for texts, per example
_SHARED_WORDS = 0.5  # of the words of two prompts; with more in common they teach the same
_MESSAGE_TOKENS = 6  # that a chat template adds per message, at most
_CHINESE = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True, slots=True)
class PromptExample:
    """A training row that is shown to the model: its prompt and its answer."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """The examples in the order in which they are shown.

    Attributes:
        tokens: what they add to a prompt.
        too_long: rows that were left out because they do not fit beside the longest prompt.
    """

    examples: tuple[PromptExample, ...]
    tokens: int
    too_long: int


def choose(
    training: Iterable[PromptExample],
    most: int,
    *,
    held_out_prompts: Collection[str],
    is_label: bool,
    room: int | None,
    count: Callable[[str], int],
    seed: int = 0,
) -> Chosen:
    """Choose up to `most` examples.

    Args:
        training: the training rows.
        held_out_prompts: prompts of the rows that are asked; a training row with one of them is not used.
        is_label: the answers are labels: each label in turn, the most frequent first.
        room: tokens for the examples; None if the model's context is unknown.
        count: counts the tokens of a text.
    """
    asked = {_key(prompt) for prompt in held_out_prompts}
    groups: dict[str, dict[str, PromptExample]] = {}
    for row in training:
        if row.answer.strip() and row.prompt.strip() and _key(row.prompt) not in asked:
            label = scoring.normalize_label(row.answer) if is_label else ""
            groups.setdefault(label, {}).setdefault(_key(row.prompt), row)
    by_size = sorted(groups.items(), key=lambda group: (-len(group[1]), splitting.rank(group[0], seed), group[0]))
    drawn = _DRAWN if is_label else _DRAWN_TEXTS * most
    queues = [_varied(_shortest_first(list(rows.values()), drawn, seed, count), most) for _label, rows in by_size]
    in_turn = chain.from_iterable(zip_longest(*queues))
    chosen: list[PromptExample] = []
    used = too_long = 0
    for row in (one for one in in_turn if one is not None):
        if len(chosen) == most:
            break
        tokens = example_tokens(row, count)
        if room is not None and used + tokens > room:
            too_long += 1
            continue
        chosen.append(row)
        used += tokens
    return Chosen(tuple(chosen), used, too_long)


def _shortest_first(
    rows: Sequence[PromptExample], drawn: int, seed: int, count: Callable[[str], int]
) -> list[PromptExample]:
    """The rows in the order in which they are taken: of `drawn` random ones the shortest first, then the others."""
    ranked = sorted(rows, key=lambda row: splitting.rank(f"{row.prompt}\n{row.answer}", seed))
    first = sorted(ranked[:drawn], key=lambda row: count(row.prompt) + count(row.answer))
    return first + ranked[drawn:]


def _varied(rows: list[PromptExample], most: int) -> list[PromptExample]:
    """The rows with those first that differ in most of their words; the others keep their order after them."""
    first: list[PromptExample] = []
    words: list[set[str]] = []
    others: list[PromptExample] = []
    for row in rows:
        own = set(_key(row.prompt).split())
        if len(first) < most and all(len(own & one) <= _SHARED_WORDS * len(own | one) for one in words):
            first.append(row)
            words.append(own)
        else:
            others.append(row)
    return first + others


def _key(prompt: str) -> str:
    return scoring.normalize_text(prompt).casefold()


def label_instruction(labels: Sequence[str]) -> str:
    """The instruction that names the labels, in the language of the labels."""
    if any(_CHINESE.search(label) for label in labels):
        return f"只用下列标签之一回答，不要写别的内容：{'、'.join(labels)}"
    return f"Answer with exactly one of these labels and nothing else: {', '.join(labels)}"


def example_tokens(example: PromptExample, count: Callable[[str], int]) -> int:
    """Tokens that an example adds to a prompt, including what a chat template adds."""
    return count(example.prompt) + count(example.answer) + 2 * _MESSAGE_TOKENS


def prompt_tokens(system: str, prompt: str, count: Callable[[str], int]) -> int:
    """Tokens of a prompt without examples, including what a chat template adds."""
    return count(system) + count(prompt) + 3 * _MESSAGE_TOKENS


def request(
    model: str,
    system: str,
    examples: Sequence[Mapping[str, str]],
    prompt: str,
    endpoint: Endpoint,
    *,
    temperature: float,
    max_tokens: int,
    seed: int | None,
) -> CompletionRequest:
    """The request for one row. Chat models get the examples as earlier turns, other models as text.

    Args:
        examples: `PromptExample`s as stored in an evaluation's settings.
    """
    turns = [(example["prompt"], example["answer"]) for example in examples]
    messages: list[Mapping[str, str]] = []
    if endpoint == "chat":
        for question, answer in turns:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        messages.append({"role": "user", "content": prompt})
        text = "\n".join(message["content"] for message in messages)
    else:
        text = "".join(f"Input: {question}\nOutput: {answer}\n\n" for question, answer in turns)
        text += f"Input: {prompt}\nOutput:"
    return CompletionRequest(
        model=model,
        prompt=text,
        system=system,
        endpoint=endpoint,
        temperature=temperature,
        max_tokens=max_tokens,
        stop=() if endpoint == "chat" else (STOP,),
        seed=seed,
        messages=tuple(messages),
    )
