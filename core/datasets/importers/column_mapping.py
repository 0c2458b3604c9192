"""Maps the columns of a table to prompt, completion and split. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from core.datasets.dataset_rows import join_values
from core.datasets.importers import column_roles, conversations
from core.datasets.splitting import parse_split
from core.errors import BadFile

COMMA, NEW_LINE = ",", "\n"
_SYSTEM = "system"  # the column that `table_format` makes for system messages
_EXAMPLE = (_SYSTEM, "prompt", "completion")
_SPLIT_COLUMNS = frozenset(("split", "set", "subset", "held_out", "held out", "holdout", "划分", "数据划分"))
_SAMPLED_ROWS = 200


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """The role of each column. Other columns are kept with their rows, but are not part of the examples."""

    prompts: tuple[str, ...]
    completion: str
    split: str | None = None
    separator: str = COMMA  # joins the columns of a prompt

    def others(self, columns: Sequence[str]) -> tuple[str, ...]:
        """The columns without a role."""
        return tuple(c for c in columns if c not in (*self.prompts, self.completion, self.split))


@dataclass(frozen=True, slots=True)
class MappingPreview:
    """The result of a mapping.

    Attributes:
        examples: number of rows with a completion.
        empty: number of rows without one; they are kept, but left out.
        splits: rows by split; None: undecided.
    """

    examples: int
    empty: int
    splits: dict[str | None, int]


def guess(frame: pd.DataFrame) -> ColumnMapping:
    """Guess the mapping from the column names. Without a hint, the last column is the completion, unless its name or
    its cells indicate metadata (an id, a date, a model).

    A split column is guessed only if all its values name a split. A system message that is the same in all rows is not
    part of the prompts: it begins every conversation of a chat file (see `shared_system`). Long texts such as
    instruction and input are joined by a line break, short values such as those of a grid by a comma.
    """
    columns = [str(column) for column in frame.columns]
    if frame.attrs.get("examples"):  # other columns are not part of a conversation
        columns = [column for column in columns if column in _EXAMPLE or column.strip().lower() in _SPLIT_COLUMNS]
    split = next((c for c in columns if c.strip().lower() in _SPLIT_COLUMNS and _names_splits(frame[c])), None)
    remaining = [column for column in columns if column != split] or columns
    by_name = column_roles.guess_completion(remaining) if len(remaining) > 1 else None
    texts = [
        column for column in remaining if column_roles.may_be_completion(column) and not _is_numeric(frame[column])
    ]
    completion = by_name or (texts or remaining)[-1]
    others = [column for column in remaining if column != completion]
    prompts = [column for column in others if column_roles.guess_role(column) == "prompt"]
    prompts = prompts or column_roles.source_columns(completion, others)
    if not prompts and by_name is not None:  # `text` and `label`: the text is the prompt
        prompts = [column for column in others if column_roles.guess_role(column) == "completion"][:1]
    if len(prompts) > 1 and _SYSTEM in prompts and _constant_text(frame[_SYSTEM]):
        prompts.remove(_SYSTEM)
    has_prompts = bool(prompts)
    candidates = [column for column in others if column_roles.guess_role(column) != "fact"]
    prompts = prompts or candidates or [column for column in others if not column_roles.is_rejected_answer(column)]
    return ColumnMapping(tuple(prompts), completion, split, NEW_LINE if has_prompts and len(prompts) > 1 else COMMA)


def shared_system(frame: pd.DataFrame, mapping: ColumnMapping) -> str:
    """The system message of all rows, if it is the same and its column has no other role; else ""."""
    columns = [str(column) for column in frame.columns]
    return _constant_text(frame[_SYSTEM]) if _SYSTEM in mapping.others(columns) else ""


def _constant_text(column: pd.Series[str]) -> str:
    values = column.fillna("").unique()
    return str(values[0]).strip() if len(values) == 1 else ""


def mapping_preview(frame: pd.DataFrame, mapping: ColumnMapping) -> MappingPreview:
    """The result of this mapping.

    Raises:
        BadFile: the split column contains something else.
    """
    blank = (frame[mapping.completion].str.strip() == "").to_numpy()
    splits: Counter[str | None] = Counter()
    if mapping.split is not None:
        for value, count in frame.loc[~blank, mapping.split].value_counts().items():
            splits[parse_split(str(value))] += int(count)
    return MappingPreview(int((~blank).sum()), int(blank.sum()), dict(splits))


def example(frame: pd.DataFrame, mapping: ColumnMapping, row_index: int, max_characters: int) -> str:
    """One row as a line of JSON, so that line breaks and spaces are visible; texts are cut after `max_characters`
    characters.

    The shared system message comes first (see `shared_system`).
    """
    row = frame.iloc[row_index]
    prompt = join_values((str(row[column]) for column in mapping.prompts), mapping.separator)
    system = shared_system(frame, mapping)
    system_field = {"system": _shorten(system, max_characters)} if system else {}
    shown = {
        **system_field,
        "prompt": _shorten(prompt, max_characters),
        "completion": _shorten(str(row[mapping.completion]), max_characters),
    }
    return json.dumps(shown, ensure_ascii=False)


def holds_json(frame: pd.DataFrame, column: str) -> bool:
    """True if most cells of a column are JSON lists or objects, which a model would learn to write."""
    cells = [cell for cell in frame[column].head(_SAMPLED_ROWS) if cell.strip()]
    return sum(conversations.parse_json(cell) is not None for cell in cells) * 2 > len(cells)


def _is_numeric(column: pd.Series[str]) -> bool:
    """True if all cells are numbers; such a column is rarely the completion."""
    cells = column.head(_SAMPLED_ROWS)
    return bool((cells.str.fullmatch(r"\s*[+-]?\d*[.,]?\d+\s*") | (cells.str.strip() == "")).all())


def _shorten(text: str, max_characters: int) -> str:
    return text if len(text) <= max_characters else f"{text[:max_characters]}…"


def _names_splits(cells: pd.Series) -> bool:
    values = [str(value) for value in cells.unique()]
    if not any(value.strip() for value in values):
        return False
    try:
        for value in values:
            parse_split(value)
    except BadFile:
        return False
    return True
