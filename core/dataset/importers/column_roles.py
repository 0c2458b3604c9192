"""What columns are for, guessed by their names: the text to learn, parts of the prompt, or facts about the row. Pure.

A name is read by its words (`model_answer`, `Question (EN)`, 标准答案). The last word decides, since it says what a
column holds: `answer_date` is a date. Names of the two sides of a conversation decide before that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Part = Literal["completion", "prompt", "fact"]
# The likelier first: of several completions the first of this order is taken.
_COMPLETIONS = (
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
_PROMPTS = frozenset(
    (
        *("system", "history", "prompt", "instruction", "input", "context", "question", "query", "message", "user"),
        *("human", "prompts", "questions", "instructions"),
        *("系统", "提示", "提示词", "指令", "输入", "问题", "提问", "消息", "用户", "上下文", "问"),
    )
)
_TWO_SIDES: tuple[tuple[frozenset[str], Part], ...] = (
    (frozenset(("assistant", "gpt", "chatbot", "助手")), "completion"),
    (frozenset(("user", "human", "用户")), "prompt"),
)
# Never a part of a guess.
_FACTS = frozenset(
    (
        *("id", "ids", "uuid", "guid", "index", "idx", "hash", "model", "date", "time", "datetime", "timestamp", "at"),
        *("created", "updated", "url", "link", "uri", "path", "file", "filename", "score", "rating", "rank", "likes"),
        *("votes", "count", "tokens", "length", "len", "cost", "usd", "seed", "version", "license", "licence"),
        *("email", "metadata", "meta", "config", "split"),
        *("编号", "序号", "日期", "时间", "模型", "链接", "分数", "评分", "版本", "标识"),
    )
)
_WORSE_ANSWERS = frozenset(("rejected", "negative"))  # of a preference pair or a triplet: never shown to a model
# They may make a prompt, but are never guessed as the text to learn.
_ATTRIBUTES = frozenset(
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


def completion_of(columns: Sequence[str]) -> str | None:
    """The column with the text to learn, where a name says so."""
    names = {column: _words(column) for column in columns}
    if {("q",), ("a",)} <= set(names.values()):
        return next(column for column, words in names.items() if words == ("a",))
    if {("source",), ("target",)} <= set(names.values()):
        return next(column for column, words in names.items() if words == ("target",))
    exact = {words[0]: column for column, words in reversed(names.items()) if len(words) == 1}
    for word in _COMPLETIONS:
        if word in exact:
            return exact[word]
    likely = [column for column in columns if part_of(column) == "completion"]
    return min(likely, key=lambda column: _rank(names[column]), default=None)


def part_of(column: str) -> Part | None:
    """What a column is for, by its name alone; None: its name does not say."""
    words = _words(column)
    if not words:
        return None
    if words[-1] in _FACTS | _WORSE_ANSWERS:
        return "fact"
    for side, part in _TWO_SIDES:
        if side & set(words):
            return part
    if words[-1] in _COMPLETIONS or _ends_as(words[-1], _COMPLETIONS):
        return "completion"
    if words[-1] in _PROMPTS or words[-1] == "q" or _ends_as(words[-1], _PROMPTS):
        return "prompt"
    return "fact" if _ends_as(words[-1], _FACTS) else None


def sources_of(completion: str, others: Sequence[str]) -> list[str]:
    """The column `source` beside a completion called `target`; elsewhere a source says where a row comes from."""
    return [column for column in others if _words(column) == ("source",)] if _words(completion) == ("target",) else []


def is_worse_answer(column: str) -> bool:
    """Whether a column holds the worse answer of a pair: neither to learn nor a part of a prompt."""
    words = _words(column)
    return bool(words) and words[-1] in _WORSE_ANSWERS


def may_be_learned(column: str) -> bool:
    """Whether a column can be guessed as the text to learn where no name says which one is."""
    words = _words(column)
    return not words or not (
        words[-1] in _FACTS | _WORSE_ANSWERS | _ATTRIBUTES or _ends_as(words[-1], _FACTS | _WORSE_ANSWERS | _ATTRIBUTES)
    )


def _rank(words: Sequence[str]) -> int:
    """How likely a column holds the text to learn; the smaller, the likelier."""
    known = [place for place, word in enumerate(_COMPLETIONS) if word in words or _ends_as(words[-1], (word,))]
    return min(known, default=len(_COMPLETIONS))


def _words(column: str) -> tuple[str, ...]:
    """The words of a name: `modelAnswer`, `Model-Answer 2` and `model_answer` have the same."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column)
    return tuple(word for word in re.split(r"[\W_]+", parted.lower()) if word and not word.isdigit())


def _ends_as(word: str, known: Sequence[str] | frozenset[str]) -> bool:
    """Whether a Chinese name ends with a known one: 标准答案."""
    return _CHINESE.search(word) is not None and any(_CHINESE.search(one) and word.endswith(one) for one in known)
