"""Which columns of a table make the prompt, which one is the text to learn, which one says what is held out. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from core.dataset.datasets import join_values, parse_split
from core.dataset.importers import column_roles, conversations
from core.errors import BadFile

COMMA, NEW_LINE = ",", "\n"
_SYSTEM = "system"  # as `table_format` calls what stands in front of the turns
_EXAMPLE = (_SYSTEM, "prompt", "completion")
_SPLITS = frozenset(("split", "set", "subset", "held_out", "held out", "holdout", "划分", "数据划分"))
_LOOKED_AT = 200  # rows


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """What each column is for. Columns that are in none of these stay with their rows, but in no example."""

    prompts: tuple[str, ...]
    completion: str
    split: str | None = None
    separator: str = COMMA  # between the columns of a prompt

    def others(self, columns: Sequence[str]) -> tuple[str, ...]:
        """The columns that are kept beside the examples."""
        return tuple(c for c in columns if c not in (*self.prompts, self.completion, self.split))


@dataclass(frozen=True, slots=True)
class MappingPreview:
    """What a table becomes.

    Attributes:
        examples: rows with a completion.
        empty: rows without one; they are kept, but left out.
        parts: rows by what the split column says; None: undecided.
    """

    examples: int
    empty: int
    parts: dict[str | None, int]


def guess(frame: pd.DataFrame) -> ColumnMapping:
    """The likely mapping, from the columns' names; without a hint the last column is the text to learn, unless its name
    or its cells say that it is a fact about the row (an id, a date, a model).

    A split column is only guessed when every word in it means a part. A system text that is the same in all rows is no
    part of their prompts: it begins every conversation of a chat file (see `shared_system`). Texts such as instruction
    and input are joined by a line end, values such as those of a grid by a comma.
    """
    columns = [str(column) for column in frame.columns]
    if frame.attrs.get("examples"):  # what stands beside the turns of a conversation is no part of it
        columns = [column for column in columns if column in _EXAMPLE or column.strip().lower() in _SPLITS]
    split = next((c for c in columns if c.strip().lower() in _SPLITS and _says_parts(frame[c])), None)
    left = [column for column in columns if column != split] or columns
    named = column_roles.completion_of(left) if len(left) > 1 else None
    texts = [column for column in left if column_roles.may_be_learned(column) and not _only_numbers(frame[column])]
    completion = named or (texts or left)[-1]
    others = [column for column in left if column != completion]
    prompts = [column for column in others if column_roles.part_of(column) == "prompt"]
    prompts = prompts or column_roles.sources_of(completion, others)
    if not prompts and named is not None:  # `text` and `label`: the text is what is asked
        prompts = [column for column in others if column_roles.part_of(column) == "completion"][:1]
    if len(prompts) > 1 and _SYSTEM in prompts and _only_text(frame[_SYSTEM]):
        prompts.remove(_SYSTEM)
    long = bool(prompts)
    likely = [column for column in others if column_roles.part_of(column) != "fact"]
    prompts = prompts or likely or [column for column in others if not column_roles.is_worse_answer(column)]
    return ColumnMapping(tuple(prompts), completion, split, NEW_LINE if long and len(prompts) > 1 else COMMA)


def shared_system(frame: pd.DataFrame, mapping: ColumnMapping) -> str:
    """The system text that all rows have, where its column has no other part; "" when there is none."""
    columns = [str(column) for column in frame.columns]
    return _only_text(frame[_SYSTEM]) if _SYSTEM in mapping.others(columns) else ""


def _only_text(column: pd.Series[str]) -> str:
    found = column.fillna("").unique()
    return str(found[0]).strip() if len(found) == 1 else ""


def mapping_preview(frame: pd.DataFrame, mapping: ColumnMapping) -> MappingPreview:
    """What the table becomes with this mapping.

    Raises:
        BadFile: the split column says something that is no part.
    """
    blank = (frame[mapping.completion].str.strip() == "").to_numpy()
    parts: Counter[str | None] = Counter()
    if mapping.split is not None:
        for word, count in frame.loc[~blank, mapping.split].value_counts().items():
            parts[parse_split(str(word))] += int(count)
    return MappingPreview(int((~blank).sum()), int(blank.sum()), dict(parts))


def example(frame: pd.DataFrame, mapping: ColumnMapping, number: int, longest: int) -> str:
    """One row as a line of JSON, so that line ends and spaces can be seen; texts cut after `longest` characters.

    The system text that all conversations begin with comes first (see `shared_system`).
    """
    row = frame.iloc[number]
    prompt = join_values((str(row[column]) for column in mapping.prompts), mapping.separator)
    system = shared_system(frame, mapping)
    first = {"system": _cut(system, longest)} if system else {}
    shown = {**first, "prompt": _cut(prompt, longest), "completion": _cut(str(row[mapping.completion]), longest)}
    return json.dumps(shown, ensure_ascii=False)


def holds_json(frame: pd.DataFrame, column: str) -> bool:
    """Whether most cells of a column are JSON lists or objects, which a model would learn to write as such."""
    cells = [cell for cell in frame[column].head(_LOOKED_AT) if cell.strip()]
    return sum(conversations.decoded(cell) is not None for cell in cells) * 2 > len(cells)


def _only_numbers(column: pd.Series[str]) -> bool:
    """Whether all cells are numbers; such a column is seldom what should be learned."""
    cells = column.head(_LOOKED_AT)
    return bool((cells.str.fullmatch(r"\s*[+-]?\d*[.,]?\d+\s*") | (cells.str.strip() == "")).all())


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]}…"


def _says_parts(cells: pd.Series) -> bool:
    words = [str(word) for word in cells.unique()]
    if not any(word.strip() for word in words):
        return False
    try:
        for word in words:
            parse_split(word)
    except BadFile:
        return False
    return True
