"""Which columns of a table make the prompt, which one is the text to learn, which one says what is held out. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from core.dataset.datasets import split_of
from core.errors import BadFile

# What people call these columns, in English and Chinese; of several completions the first of this order is taken.
_COMPLETIONS = (
    *("completion", "response", "answer", "output", "story", "label", "intent", "target", "reply", "text"),
    *("补全", "回答", "答案", "输出", "故事", "标签", "意图", "回复"),
)
_PROMPTS = frozenset(
    (
        *("system", "prompt", "instruction", "input", "question", "query", "message", "text"),
        *("提示", "提示词", "指令", "输入", "问题", "消息"),
    )
)
_SYSTEM = "system"  # as `jsonlines` calls what stands in front of the turns
_SPLITS = frozenset(("split", "set", "subset", "held_out", "held out", "holdout", "划分", "数据划分"))


@dataclass(frozen=True, slots=True)
class Mapping:
    """What each column is for. Columns that are in none of these stay with their rows, but in no example."""

    prompts: tuple[str, ...]
    completion: str
    split: str | None = None

    def others(self, columns: Sequence[str]) -> tuple[str, ...]:
        """The columns that are kept beside the examples."""
        return tuple(c for c in columns if c not in (*self.prompts, self.completion, self.split))


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a table becomes.

    Attributes:
        examples: rows with a completion.
        empty: rows without one; they are kept, but left out.
        parts: rows by what the split column says; None: undecided.
    """

    examples: int
    empty: int
    parts: dict[str | None, int]


def guess(frame: pd.DataFrame) -> Mapping:
    """The likely mapping, from the columns' names; without a hint the last column is the text to learn.

    A split column is only guessed when every word in it means a part. A system text that is the same in all rows is no
    part of their prompts: it begins every conversation of a chat file (see `shared_system`).
    """
    columns = [str(column) for column in frame.columns]
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    split = next((c for c in columns if c.strip().lower() in _SPLITS and _says_parts(frame[c])), None)
    left = [column for column in columns if column != split]
    named = next((by_name[word] for word in _COMPLETIONS if word in by_name and by_name[word] in left), None)
    completion = named if named is not None and len(left) > 1 else left[-1] if left else columns[-1]
    others = [column for column in left if column != completion]
    prompts = [column for column in others if column.strip().lower() in _PROMPTS] if named is not None else []
    if len(prompts) > 1 and _SYSTEM in prompts and _only_text(frame[_SYSTEM]):
        prompts.remove(_SYSTEM)
    return Mapping(tuple(prompts or others), completion, split)


def shared_system(frame: pd.DataFrame, mapping: Mapping) -> str:
    """The system text that all rows have, where its column has no other part; "" when there is none."""
    columns = [str(column) for column in frame.columns]
    return _only_text(frame[_SYSTEM]) if _SYSTEM in mapping.others(columns) else ""


def _only_text(column: pd.Series[str]) -> str:
    found = column.fillna("").unique()
    return str(found[0]).strip() if len(found) == 1 else ""


def outlook(frame: pd.DataFrame, mapping: Mapping) -> Outlook:
    """What the table becomes with this mapping.

    Raises:
        BadFile: the split column says something that is no part.
    """
    blank = (frame[mapping.completion].str.strip() == "").to_numpy()
    parts: Counter[str | None] = Counter()
    if mapping.split is not None:
        for word, count in frame.loc[~blank, mapping.split].value_counts().items():
            parts[split_of(str(word))] += int(count)
    return Outlook(int((~blank).sum()), int(blank.sum()), dict(parts))


def example(frame: pd.DataFrame, mapping: Mapping, number: int, longest: int) -> str:
    """One row as a line of JSON, so that line ends and spaces can be seen; texts cut after `longest` characters."""
    row = frame.iloc[number]
    prompt = ",".join(str(row[column]) for column in mapping.prompts)
    shown = {"prompt": _cut(prompt, longest), "completion": _cut(str(row[mapping.completion]), longest)}
    return json.dumps(shown, ensure_ascii=False)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


def _says_parts(cells: pd.Series) -> bool:
    words = [str(word) for word in cells.unique()]
    if not any(word.strip() for word in words):
        return False
    try:
        for word in words:
            split_of(word)
    except BadFile:
        return False
    return True
