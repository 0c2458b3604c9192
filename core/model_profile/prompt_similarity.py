"""How different a prompt is from a model's training prompts: the share of its words that also occur in those.

A small model that was trained on one kind of prompt writes nonsense for another kind. The rule is deliberately simple:

1. Words common to all writing tasks (write, a short text of 120 words, in plain English) are ignored. Latin words are
   compared by stem. Chinese has no spaces, so a character counts as known if it is part of a pair of characters that
   occurs in the training prompts.
2. A prompt in a different script than the training prompts is "far".
3. Otherwise it is "far" when its share of known words is below `FAR_BELOW` times the share that the training prompts
   have in common among themselves (`PromptVocabulary.typical_overlap`): near 1 for prompts made from a template, lower
   when every prompt is a different text, such as customers' messages.

Measured on the templates of `tests/model_profile/test_similarity.py`; the figures are in `docs/story.md`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from core.datasets.recipe import template_parts
from core.errors import BadRecipe

# fraction of the typical overlap; lies between the measured values of similar and of different templates
FAR_BELOW = 0.6
_SCRIPT_SHARE = 0.2  # a script counts if at least this share of the training prompts use it
_TEMPLATE_SHARE = 0.9  # a word in at least this share of the training prompts belongs to their template

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_RUNS = re.compile(rf"[{_HAN}]+|[^\W\d_{_HAN}]+")
_SCRIPTS = (
    ("japanese", re.compile(r"[\u3040-\u30ff]")),
    ("chinese", re.compile(f"[{_HAN}]")),
    ("korean", re.compile(r"[\uac00-\ud7a3]")),
    ("latin", re.compile(r"[^\W\d_]*[A-Za-z\u00c0-\u024f][^\W\d_]*")),
)
# Words common to all writing tasks.
_GENERIC_ZH = re.compile(
    "请你|请您|请|帮我|用中文|用英文|中文|英文|撰写|创作|生成|编写|写出|讲述|讲一个|描写|写|"
    "大约|左右|以内|不超过|[零一二两三四五六七八九十百千]+字|字|"
    "[一这那每][段篇个位则首条句种些]|关于|内容|文章|要求|"
    "的|了|着|和|与|及|是|在|把|被|让|给|你|我|他|她|它|有|为|以|并|等"
)
_GENERIC_EN = re.compile(
    "a|an|the|and|or|but|of|in|on|at|by|for|from|to|with|without|about|into|as|than|that|this|these|"
    "those|it|its|is|are|be|was|were|has|have|had|do|does|not|no|any|each|every|all|one|two|three|who|"
    "whom|whose|which|what|when|where|how|why|i|me|my|we|our|us|you|your|he|him|his|she|her|they|them|"
    "their|there|here|will|would|can|could|should|must|shall|may|please|write|writes|writing|written|"
    "compose|create|generate|produce|make|tell|give|short|long|brief|around|approximately|plain|simple|"
    "clear|english|chinese|language|text|word|sentence|paragraph|use|using|say|between|least|most|more|"
    "less|also|only|so|then|if"
)


@dataclass(frozen=True, slots=True)
class PromptVocabulary:
    """The words of a model's training prompts.

    Attributes:
        words: stems of Latin words, and pairs of Chinese characters.
        scripts: scripts of at least a fifth of the prompts.
        typical_overlap: median share of a prompt's words that other training prompts also have (0 to 1).
        from_template: whether nearly all prompts share a word, so that they seem to come from a template with fixed
            words.
    """

    words: frozenset[str]
    scripts: frozenset[str]
    typical_overlap: float
    from_template: bool


@dataclass(frozen=True, slots=True)
class PromptSimilarity:
    """How one prompt compares with the training prompts.

    Attributes:
        known_share: share of its words that occur in the training prompts (0 to 1); None if it has no words to compare.
        script: its script; None if it has no letters.
        other_script: whether the training prompts use a different script.
        far: whether the model was trained on a different kind of prompt.
    """

    known_share: float | None
    script: str | None
    other_script: bool
    far: bool


def build_vocabulary(prompts: Iterable[str], context_texts: Iterable[str] = ()) -> PromptVocabulary | None:
    """The vocabulary of training prompts; None if there are none.

    Args:
        prompts: the prompts as the model saw them, without separators.
        context_texts: texts that preceded them, such as system messages.
    """
    distinct = list(dict.fromkeys(prompt.strip() for prompt in prompts if prompt.strip()))
    if not distinct:
        return None
    counts = Counter(word for prompt in distinct for word in _words(prompt))
    shared = frozenset(word for word, count in counts.items() if count > 1)
    scripts = Counter(script for script in map(script_of, distinct) if script is not None)
    return PromptVocabulary(
        words=frozenset(counts) | frozenset(word for text in context_texts for word in _words(text)),
        scripts=frozenset(script for script, count in scripts.items() if count >= _SCRIPT_SHARE * len(distinct)),
        typical_overlap=median(_share(prompt, shared) or 0.0 for prompt in distinct),
        from_template=any(count >= max(2, _TEMPLATE_SHARE * len(distinct)) for count in counts.values()),
    )


def compare(text: str, vocabulary: PromptVocabulary) -> PromptSimilarity:
    """Compare a text (a prompt, or the fixed words of a template) with a model's training prompts."""
    known_share, script = _share(text, vocabulary.words), script_of(text)
    other = script is not None and bool(vocabulary.scripts) and script not in vocabulary.scripts
    if known_share is None:  # only column values: similar unless the training prompts come from a template
        return PromptSimilarity(None, script, other, far=other or vocabulary.from_template)
    return PromptSimilarity(
        known_share, script, other, far=other or known_share < FAR_BELOW * vocabulary.typical_overlap
    )


def fixed_words(template: str) -> str:
    """A template without its columns; unchanged if its braces do not match."""
    try:
        return "".join(text if column is None else f"{text} " for text, column in template_parts(template))
    except BadRecipe:
        return template


def script_of(text: str) -> str | None:
    """The main script of a text: chinese, japanese, korean, latin or other; None if it has no letters.

    A Latin word counts as two Chinese characters, the length of most Chinese words.
    """
    counts = {name: len(pattern.findall(text)) for name, pattern in _SCRIPTS}
    counts["latin"] *= 2
    if counts["japanese"]:  # Japanese text uses Chinese characters too
        counts["japanese"] += counts.pop("chinese")
    if not any(counts.values()):
        return "other" if any(char.isalpha() for char in text) else None
    return max(counts, key=lambda name: counts[name])


def _words(text: str) -> set[str]:
    """Stems of Latin words and pairs of Chinese characters."""
    found = set[str]()
    for run in _content(text):
        found |= {run[i : i + 2] for i in range(len(run) - 1)} if _is_han(run) else {run}
    return found


def _share(text: str, known: frozenset[str]) -> float | None:
    """The share of a text's content words that are known (characters in known pairs, or stems); None without content
    words.
    """
    total = hits = 0
    for run in _content(text):
        if not _is_han(run):
            total, hits = total + 2, hits + 2 * (run in known)  # counts as two characters
            continue
        total += len(run)
        pairs = [run[i : i + 2] in known for i in range(len(run) - 1)]
        hits += sum(any(pairs[max(0, i - 1) : i + 1]) for i in range(len(run)))
    return hits / total if total else None


def _content(text: str) -> list[str]:
    """Runs of at least two Chinese characters and stems of words, without the generic words."""
    found = []
    for run in _RUNS.findall(text.casefold()):
        if _is_han(run):
            found += [part for part in _GENERIC_ZH.sub(" ", run).split() if len(part) > 1]
        elif len(run) > 1 and not _GENERIC_EN.fullmatch(run) and not _GENERIC_EN.fullmatch(stem := _stem(run)):
            found.append(stem)
    return found


def _stem(word: str) -> str:
    """A word without its plural ending: stories → story, heroes → hero, words → word."""
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("oes", "ches", "shes", "sses", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def _is_han(run: str) -> bool:
    return re.match(f"[{_HAN}]", run) is not None
