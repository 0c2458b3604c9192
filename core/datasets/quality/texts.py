"""Single texts: refusals, template leftovers, echoes and incomplete endings, found by patterns; lengths and outliers.

The patterns are anchored and narrow: a hero who says that he cannot go on is not a refusal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from core.datasets import analysis
from core.datasets.quality.units import SCRIPTS, Ints

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

_OUTLIER = 3.5  # modified z-score (B. Iglewicz and D. Hoaglin, "How to Detect and Handle Outliers", 1993)
_TO_SIGMA = 0.6745  # converts the median absolute deviation of a normal distribution to its standard deviation (ibid.)
_MIN_DEVIATION = 0.1  # minimum standard deviation of the logarithm, so that small differences are never outliers
_MIN_TEXTS = 10  # minimum number of texts to detect outliers
_MAX_BINS = 30  # maximum number of bars


def is_refusal(text: str) -> bool:
    """True if a normalized text begins like a model's refusal, in English or Chinese."""
    return _REFUSALS.match(text[:_REFUSAL_CHARACTERS]) is not None


def template_leftover(text: str, columns: Sequence[str] = ()) -> str | None:
    """The first piece of a template in a text: `{column}`, `{{name}}`, `<|im_end|>`; None if there is none."""
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
    """The script of a text: one of `SCRIPTS`, or "mixed"; None if it has no letters.

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


@dataclass(frozen=True, slots=True)
class Bin:
    """A bar of a histogram: `count` texts with lengths from `low` up to, but not including, `high`."""

    low: int
    high: int
    count: int


@dataclass(frozen=True, eq=False, slots=True)
class Lengths:
    """The lengths of all texts, in characters or tokens.

    Attributes:
        ids, values: row ids and their lengths, in the same order.
        shortest, lower, median, upper, longest: minimum, 5th percentile, median, 95th percentile, maximum; None if
            there is no text.
        short, long: ids of outliers, on a logarithmic scale.
    """

    ids: Ints
    values: Ints
    shortest: int | None
    lower: int | None
    median: int | None
    upper: int | None
    longest: int | None
    short: tuple[int, ...]
    long: tuple[int, ...]

    @property
    def total(self) -> int:
        """The sum of all lengths."""
        return int(self.values.sum())

    def between(self, low: int, high: int) -> tuple[int, ...]:
        """Ids of the rows with lengths from `low` up to, but not including, `high`."""
        return tuple(self.ids[(self.values >= low) & (self.values < high)].tolist())

    def bins(self, max_bins: int = _MAX_BINS) -> tuple[Bin, ...]:
        """A histogram with integer bounds and bars of equal width."""
        if not len(self.values):
            return ()
        low, high = int(self.values.min()), int(self.values.max()) + 1
        width = _round_width(-(-(high - low) // max_bins))
        low -= low % width
        counts = np.bincount((self.values - low) // width)
        return tuple(Bin(low + i * width, low + (i + 1) * width, count) for i, count in enumerate(counts.tolist()))


def measure_lengths(ids: Sequence[int], values: Sequence[int]) -> Lengths:
    """The lengths `values` of the rows `ids`."""
    rows, numbers = np.asarray(ids, dtype=np.int64), np.asarray(values, dtype=np.int64)
    if not len(numbers):
        return Lengths(rows, numbers, None, None, None, None, None, (), ())
    shortest, lower, median, upper, longest = (
        int(value) for value in np.percentile(numbers, [0, 5, 50, 95, 100], method="nearest")
    )
    short, long = _outliers(rows, numbers)
    return Lengths(rows, numbers, shortest, lower, median, upper, longest, short, long)


def _outliers(rows: Ints, numbers: Ints) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Outliers by the modified z-score of the logarithm: half the length is as unusual as twice the length."""
    if len(numbers) < _MIN_TEXTS:
        return (), ()
    logs = np.log(np.maximum(numbers, 1))
    deviation = logs - np.median(logs)
    scale = max(float(np.median(np.abs(deviation))), _MIN_DEVIATION * _TO_SIGMA)
    score = _TO_SIGMA * deviation / scale
    return tuple(rows[score < -_OUTLIER].tolist()), tuple(rows[score > _OUTLIER].tolist())


def _round_width(width: int) -> int:
    """The next of 1, 2, 5, 10, 20, 50, …, so that bars begin at round numbers."""
    step = 1
    while True:
        for factor in (1, 2, 5):
            if factor * step >= width:
                return factor * step
        step *= 10
