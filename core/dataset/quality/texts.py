"""What a single text can have wrong with it, told by patterns: refusals, leftovers of a template, echoes, cut ends.

Patterns are anchored and narrow: a hero who says that he cannot go on is no refusal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from core.dataset import jsonl
from core.dataset.quality.units import SCRIPTS

_LOOKED_AT = 240  # characters at the beginning, where a refusal stands
_OPENING = r"^[\s\"'“”「『（(*#]*"
# How OpenAI's, Anthropic's, Google's, Qwen's and DeepSeek's models begin a refusal.
_REFUSALS = re.compile(
    _OPENING
    + r"(?:"
    + r"(?:i['’]?m|i am|we are|we['’]re)?\s*(?:really |very |so |truly )?(?:sorry|afraid)\b[^.!?\n]{0,60}?"
    + r"\b(?:can(?:no|['’])t|can not|(?:un|not )able to|won['’]t|will not|must decline)"
    + r"|(?:unfortunately,? )?i (?:can(?:no|['’])t|can not|am unable to|am not able to|won['’]t|must decline to)"
    + r" (?:\w+ )?(?:assist|help|fulfil+|comply|provide|write|create|generate|continue|answer|do that|engage|discuss)"
    + r"|i['’]m (?:unable|not able) to (?:assist|help|fulfil+|comply|provide|write|create|generate|answer)"
    + r"|as an? (?:ai|artificial intelligence|(?:large )?language model)\b"
    + r"|(?:非常|很|实在|十分)?(?:抱歉|对不起|不好意思)[,,。!!:\s]*(?:但|但是)?(?:我|作为|本人|根据|由于)[^。\n]{0,40}?"
    + r"(?:无法|不能|没办法|不可以|不便)(?:够)?(?:为您|为你|给您|给你|向您|继续)?"
    + r"(?:提供|协助|满足|完成|回答|创作|生成|撰写|编写|写|帮助|讨论|处理|参与|继续)"
    + r"|(?:我|本人)(?:无法|不能)(?:够)?(?:为您|为你|给您|给你|向您)?(?:提供|协助|满足|回答|创作|生成|撰写)"
    + r"|作为(?:一个|一名|一款)?(?:ai|人工智能|大?语言模型)"
    + r")"
)
_PLACE = re.compile(r"\{\{[^{}\n]{0,60}\}\}|\{[^\W\d][\w .-]{0,40}\}")  # {name}, {{ name }}
_MARKUP = re.compile(
    r"<\|[\w ]{1,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|<\|?(?:endoftext|eot_id)\|?>|</?think>"
)
_ENDINGS = frozenset(".!?…。!?~)”’」』】》\"')]*—;。！？～）")  # a sentence that is over, brackets and quotes closed
_SHORTEST_ECHO = 4  # characters that a prompt must have before a text that begins with it echoes it
_SHORTEST_INSIDE = 20  # and before a text that has it anywhere does: a shorter one may well belong there

_KANA_FROM = 0.1  # share of Japanese text's letters that are kana: well above a loan word in Chinese
_SECOND_FROM = 0.3  # share of letters from which on a text is of two scripts


def is_refusal(text: str) -> bool:
    """Whether a `normal` text begins like a model's refusal, English or Chinese."""
    return _REFUSALS.match(text[:_LOOKED_AT]) is not None


def template_leftover(text: str, columns: Sequence[str] = ()) -> str | None:
    """The first thing in a text that belongs to a template: `{column}`, `{{name}}`, `<|im_end|>`; None: nothing."""
    if "{" in text:
        named = next((f"{{{column}}}" for column in columns if f"{{{column}}}" in text), None)
        if named is not None:
            return named
        if place := _PLACE.search(text):
            return place[0]
    if "<" in text or "[" in text:
        mark = _MARKUP.search(text)
        return mark[0] if mark else None
    return None


def echoes_prompt(text: str, prompt: str) -> bool:
    """Whether a text says its own prompt again; both are `normal`."""
    said = prompt.strip()
    if len(said) < _SHORTEST_ECHO:
        return False
    return text.lstrip().startswith(said) or (len(said) >= _SHORTEST_INSIDE and said in text)


def ends_complete(text: str) -> bool:
    """Whether a text ends like a sentence."""
    end = text.rstrip()
    return bool(end) and end[-1] in _ENDINGS


def stops_inside(text: str) -> list[str]:
    """Which of the usual stop endings occur in a text before its end."""
    body = text.rstrip()
    return [stop for stop in jsonl.STOPS if stop in body.removesuffix(stop)]


def language(letters: Sequence[int]) -> str | None:
    """What a text is written in, told by its letters: a script of `SCRIPTS`, or "mixed"; None: it has no letters.

    Args:
        letters: how many of each script. Chinese characters among kana are Japanese ("kana").
    """
    total = sum(letters)
    if not total:
        return None
    by_script = dict(zip(SCRIPTS, letters, strict=True))
    if by_script["kana"] >= _KANA_FROM * total:
        by_script["kana"] += by_script.pop("han")
    (most, _), (_, second) = sorted(by_script.items(), key=lambda item: -item[1])[:2]
    return "mixed" if second >= _SECOND_FROM * total else most
