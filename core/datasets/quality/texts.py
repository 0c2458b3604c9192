"""Problems of a single text, found by patterns: refusals, template leftovers, echoes, incomplete endings.

The patterns are anchored and narrow: a hero who says that he cannot go on is not a refusal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from core.datasets import analysis
from core.datasets.quality.units import SCRIPTS

_REFUSAL_CHARACTERS = 240  # characters at the beginning, where a refusal is found
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
_PLACEHOLDER = re.compile(r"\{\{[^{}\n]{0,60}\}\}|\{[^\W\d][\w .-]{0,40}\}")  # {name}, {{ name }}
_MARKUP = re.compile(
    r"<\|[\w ]{1,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|<\|?(?:endoftext|eot_id)\|?>|</?think>"
)
# The end of a sentence, including closing brackets and quotes.
_ENDINGS = frozenset(".!?…。!?~)”’」』】》\"')]*—;。！？～）")
_MIN_ECHO = 4  # minimum prompt length in characters if the text begins with the prompt
_MIN_ECHO_INSIDE = 20  # minimum prompt length if the text contains it: a shorter one may occur by chance

_MIN_KANA = 0.1  # minimum share of kana in Japanese text: well above a loan word in Chinese
_MIN_SECOND = 0.3  # minimum share of letters in a second script for a text to be "mixed"


def is_refusal(text: str) -> bool:
    """True if a normalized text begins like a model's refusal, in English or Chinese."""
    return _REFUSALS.match(text[:_REFUSAL_CHARACTERS]) is not None


def template_leftover(text: str, columns: Sequence[str] = ()) -> str | None:
    """The first piece of a template in a text: `{column}`, `{{name}}`, `<|im_end|>`. None: there is none."""
    if "{" in text:
        column_placeholder = next((f"{{{column}}}" for column in columns if f"{{{column}}}" in text), None)
        if column_placeholder is not None:
            return column_placeholder
        if placeholder := _PLACEHOLDER.search(text):
            return placeholder[0]
    if "<" in text or "[" in text:
        markup = _MARKUP.search(text)
        return markup[0] if markup else None
    return None


def echoes_prompt(text: str, prompt: str) -> bool:
    """True if a text repeats its own prompt; both are normalized."""
    stripped = prompt.strip()
    if len(stripped) < _MIN_ECHO:
        return False
    return text.lstrip().startswith(stripped) or (len(stripped) >= _MIN_ECHO_INSIDE and stripped in text)


def ends_complete(text: str) -> bool:
    """True if a text ends like a sentence."""
    end = text.rstrip()
    return bool(end) and end[-1] in _ENDINGS


def stops_inside(text: str) -> list[str]:
    """The usual stop sequences that occur in a text before its end."""
    body = text.rstrip()
    return [stop for stop in analysis.STOPS if stop in body.removesuffix(stop)]


def language(letters: Sequence[int]) -> str | None:
    """The script of a text: one of `SCRIPTS`, or "mixed". None: it has no letters.

    Args:
        letters: the number of letters per script. Chinese characters among kana count as Japanese ("kana").
    """
    total = sum(letters)
    if not total:
        return None
    by_script = dict(zip(SCRIPTS, letters, strict=True))
    if by_script["kana"] >= _MIN_KANA * total:
        by_script["kana"] += by_script.pop("han")
    (most, _), (_, second) = sorted(by_script.items(), key=lambda item: -item[1])[:2]
    return "mixed" if second >= _MIN_SECOND * total else most
