"""Maps the columns of a table to prompt, completion and split, by their names and cells. Pure.

A name is split into words (`model_answer`, `Question (EN)`, 标准答案). The last word decides the role, because it
describes what the column contains: `answer_date` is a date. Names of the two sides of a conversation take precedence.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from core.datasets.dataset_rows import join_values
from core.datasets.importers import conversations
from core.datasets.splitting import parse_split
from core.errors import BadFile

COMMA, NEW_LINE = ",", "\n"
_SYSTEM = "system"  # the column that `table_format` makes for system messages
_EXAMPLE = (_SYSTEM, "prompt", "completion")
_SPLIT_COLUMNS = frozenset(("split", "set", "subset", "held_out", "held out", "holdout", "划分", "数据划分"))
_SAMPLED_ROWS = 200
Role = Literal["completion", "prompt", "fact"]
# Most likely first: of several completion columns, the first in this order is used.
_COMPLETION_WORDS = (
    *(
        "completion",
        "chosen",
        "positive",
        "assistant",
        "gpt",
        "bot",
        "chatbot",
        "response",
        "answer",
        "output",
        "story",
        "label",
    ),
    *(
        "labels",
        "intent",
        "target",
        "reply",
        "responses",
        "answers",
        "text",
        "补全",
        "回答",
        "答案",
        "答复",
        "回复",
        "输出",
    ),
    *("故事", "标签", "意图", "助手", "答", "正文"),
)
_PROMPT_WORDS = frozenset(
    (
        *("system", "history", "prompt", "instruction", "input", "context", "question", "query", "message", "user"),
        *("human", "prompts", "questions", "instructions"),
        *("系统", "提示", "提示词", "指令", "输入", "问题", "提问", "消息", "用户", "上下文", "问"),
    )
)
_SPEAKERS: tuple[tuple[frozenset[str], Role], ...] = (
    (frozenset(("assistant", "gpt", "chatbot", "助手")), "completion"),
    (frozenset(("user", "human", "用户")), "prompt"),
)
# Never guessed as prompt or completion.
_METADATA_WORDS = frozenset(
    (
        *("id", "ids", "uuid", "guid", "index", "idx", "hash", "model", "date", "time", "datetime", "timestamp", "at"),
        *("created", "updated", "url", "link", "uri", "path", "file", "filename", "score", "rating", "rank", "likes"),
        *("votes", "count", "tokens", "length", "len", "cost", "usd", "seed", "version", "license", "licence"),
        *("email", "metadata", "meta", "config", "split"),
        *("编号", "序号", "日期", "时间", "模型", "链接", "分数", "评分", "版本", "标识"),
    )
)
# the rejected answer of a preference, in TRL's and OpenAI's files
REJECTED_COLUMNS = ("rejected", "non_preferred_output")
# columns of a preference pair or triplet that are neither prompt nor completion
_REJECTED_WORDS = frozenset(("rejected", "negative"))
# May be part of a prompt, but are never guessed as the completion.
_ATTRIBUTE_WORDS = frozenset(
    (
        *("type", "category", "topic", "tag", "tags", "lang", "language", "locale", "year", "month", "day", "name"),
        *(
            "author",
            "source",
            "status",
            "key",
            "no",
            "nr",
            "number",
            "row",
            "price",
            "temperature",
            "context",
            "notes",
            "note",
        ),
        *("语言", "类别", "来源", "作者", "姓名", "类型", "备注"),
    )
)
_CHINESE = re.compile(r"[\u3400-\u9fff]")


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """The role of each column. Other columns are kept with their rows, but are not part of the examples."""

    prompts: tuple[str, ...]
    completion: str
    split: str | None = None
    separator: str = COMMA  # joins the columns of a prompt
    rejected: str | None = None  # the answer that was not preferred, for preference training

    def others(self, columns: Sequence[str]) -> tuple[str, ...]:
        """The columns without a role."""
        return tuple(c for c in columns if c not in (*self.prompts, self.completion, self.split, self.rejected))


@dataclass(frozen=True, slots=True)
class MappingPreview:
    """The result of a mapping.

    Attributes:
        examples: number of rows with a completion.
        empty: number of rows without one; they are kept, but left out.
        splits: rows by split; None means undecided.
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
    rejected = next((column for column in columns if column.strip().lower() in REJECTED_COLUMNS), None)
    if frame.attrs.get("examples"):  # other columns are not part of a conversation
        columns = [column for column in columns if column in _EXAMPLE or column.strip().lower() in _SPLIT_COLUMNS]
    split = next((c for c in columns if c.strip().lower() in _SPLIT_COLUMNS and _names_splits(frame[c])), None)
    remaining = [column for column in columns if column != split] or columns
    by_name = guess_completion(remaining) if len(remaining) > 1 else None
    texts = [column for column in remaining if may_be_completion(column) and not _is_numeric(frame[column])]
    completion = by_name or (texts or remaining)[-1]
    others = [column for column in remaining if column != completion]
    prompts = [column for column in others if guess_role(column) == "prompt"]
    prompts = prompts or source_columns(completion, others)
    if not prompts and by_name is not None:  # `text` and `label`: the text is the prompt
        prompts = [column for column in others if guess_role(column) == "completion"][:1]
    if len(prompts) > 1 and _SYSTEM in prompts and _constant_text(frame[_SYSTEM]):
        prompts.remove(_SYSTEM)
    has_prompts = bool(prompts)
    candidates = [column for column in others if guess_role(column) != "fact"]
    prompts = prompts or candidates or [column for column in others if not is_rejected_answer(column)]
    separator = NEW_LINE if has_prompts and len(prompts) > 1 else COMMA
    rejected = None if rejected in (*prompts, completion) else rejected
    return ColumnMapping(tuple(prompts), completion, split, separator, rejected)


def shared_system(frame: pd.DataFrame, mapping: ColumnMapping) -> str:
    """The system message of all rows, if it is the same and its column has no other role; else ""."""
    columns = [str(column) for column in frame.columns]
    return _constant_text(frame[_SYSTEM]) if _SYSTEM in mapping.others(columns) else ""


def _constant_text(column: pd.Series[str]) -> str:
    values = column.fillna("").unique()
    return str(values[0]).strip() if len(values) == 1 else ""


def mapping_preview(frame: pd.DataFrame, mapping: ColumnMapping) -> MappingPreview:
    """Preview the result of this mapping.

    Raises:
        BadFile: the split column contains a value that names no split.
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


def guess_completion(columns: Sequence[str]) -> str | None:
    """The completion column, if its name indicates it."""
    names = {column: _words(column) for column in columns}
    if {("q",), ("a",)} <= set(names.values()):
        return next(column for column, words in names.items() if words == ("a",))
    if {("source",), ("target",)} <= set(names.values()):
        return next(column for column, words in names.items() if words == ("target",))
    exact = {words[0]: column for column, words in reversed(names.items()) if len(words) == 1}
    for word in _COMPLETION_WORDS:
        if word in exact:
            return exact[word]
    candidates = [column for column in columns if guess_role(column) == "completion"]
    return min(candidates, key=lambda column: _rank(names[column]), default=None)


def guess_role(column: str) -> Role | None:
    """The role of a column by its name; None if unknown."""
    words = _words(column)
    if not words:
        return None
    if words[-1] in _METADATA_WORDS | _REJECTED_WORDS:
        return "fact"
    for names, role in _SPEAKERS:
        if names & set(words):
            return role
    if words[-1] in _COMPLETION_WORDS or _has_chinese_suffix(words[-1], _COMPLETION_WORDS):
        return "completion"
    if words[-1] in _PROMPT_WORDS or words[-1] == "q" or _has_chinese_suffix(words[-1], _PROMPT_WORDS):
        return "prompt"
    return "fact" if _has_chinese_suffix(words[-1], _METADATA_WORDS) else None


def source_columns(completion: str, others: Sequence[str]) -> list[str]:
    """The column `source`, if the completion is called `target`. Otherwise `source` is the origin of a row."""
    return [column for column in others if _words(column) == ("source",)] if _words(completion) == ("target",) else []


def is_rejected_answer(column: str) -> bool:
    """True if a column contains the rejected answer of a pair."""
    words = _words(column)
    return bool(words) and words[-1] in _REJECTED_WORDS


def may_be_completion(column: str) -> bool:
    """True if a column may be the completion when no name indicates it."""
    words = _words(column)
    return not words or not (
        words[-1] in _METADATA_WORDS | _REJECTED_WORDS | _ATTRIBUTE_WORDS
        or _has_chinese_suffix(words[-1], _METADATA_WORDS | _REJECTED_WORDS | _ATTRIBUTE_WORDS)
    )


def _rank(words: Sequence[str]) -> int:
    """How likely a column is the completion; lower is more likely."""
    matches = [
        i for i, word in enumerate(_COMPLETION_WORDS) if word in words or _has_chinese_suffix(words[-1], (word,))
    ]
    return min(matches, default=len(_COMPLETION_WORDS))


def _words(column: str) -> tuple[str, ...]:
    """The words of a name: the same for `modelAnswer`, `Model-Answer 2` and `model_answer`."""
    separated = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column)
    return tuple(word for word in re.split(r"[\W_]+", separated.lower()) if word and not word.isdigit())


def _has_chinese_suffix(word: str, known: Sequence[str] | frozenset[str]) -> bool:
    """True if a Chinese name ends with a known one: 标准答案."""
    return _CHINESE.search(word) is not None and any(_CHINESE.search(name) and word.endswith(name) for name in known)
