"""Guesses the role of columns by name: the text to learn, part of the prompt, or metadata of the row. Pure.

A name is split into words (`model_answer`, `Question (EN)`, 标准答案). The last word decides, because it says what a
column contains: `answer_date` is a date. Names of the two sides of a conversation take precedence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

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
# columns of a preference pair or triplet that are never used for training
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
    """The role of a column by its name. None: unknown."""
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
    """True if a column contains the rejected answer of a pair, which is used for nothing."""
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
