"""Prompt similarity, on similar and different templates in both languages.

The figures are in `docs/story.md`. A row is a template or a prompt as it would be typed; `FAR_BELOW` is in the gap
between both kinds of rows.
"""

from __future__ import annotations

import csv

import pytest

from core.datasets import presets
from core.model_profile import model_purpose, prompt_similarity
from core.model_profile.prompt_similarity import (
    FAR_BELOW,
    PromptVocabulary,
    build_vocabulary,
    compare,
    fixed_words,
    script_of,
)

_ARTICLE = presets.get("ultraman").recipe.template
_ENGLISH = presets.get("english_stories").recipe.template
_MESSAGES_COLUMN = "message"


def _values_alone() -> PromptVocabulary | None:
    """A model that was trained on comma-separated values, as in the article."""
    columns = presets.get("ultraman").recipe.columns
    first, second, third = (column.values for column in columns)
    return build_vocabulary(f"{a},{b},{c}" for a in first for b in second for c in third)


def _messages() -> PromptVocabulary | None:
    """A model that was trained on customers' messages, each a different text."""
    with (presets.DATA / "samples" / "support_intents.csv").open(encoding="utf-8", newline="") as file:
        return build_vocabulary(row[_MESSAGES_COLUMN] for row in csv.DictReader(file))


_LEARNED = {
    "storyteller": lambda: model_purpose.writer_vocabulary("zh_CN"),
    "storyteller-en": lambda: model_purpose.writer_vocabulary("en"),
    "values": _values_alone,
    "messages": _messages,
}
_NEAR = {
    "storyteller": (
        _ARTICLE,
        "写一个故事：{dynasty}朝的英雄穿越到现代，用{super_power}帮助奥特曼打败怪兽。",
        "讲一个{dynasty}朝英雄人物的故事，他有{super_power}的超能力，和奥特曼一起打败了怪兽。",
        "请写一段200字左右的故事，情节轻松，一位{dynasty}朝的英雄帮助奥特曼打败怪兽。",
        "用中文写一篇故事，主角是{dynasty}朝时期的英雄，超能力是{super_power}。",
        "写一个{story_type}的故事",
        "宋朝的一位英雄遇见奥特曼",
        "秦朝的英雄穿越到现代，拥有龙卷风的超能力，打败了怪兽",
        "唐朝英雄会飞行，帮助奥特曼打败怪兽，写成故事",
        "请你写一段故事，讲述一位会{super_power}的英雄人物和奥特曼一起战斗。",
    ),
    "storyteller-en": (
        _ENGLISH,
        "Write a short story about {hero} with the gift of {gift}.",
        "Tell a {mood} story of a hero. The hero is {hero}, whose gift is {gift}.",
        "Write a story in plain English. The hero is {hero}. The mood is {mood}.",
        "A story about {hero} who has the gift of {gift}, in a {mood} mood.",
        "Please write a short story. Give the hero a name; the gift is {gift}.",
        "Write a {mood} story of 100 words.",
        "Write a story about a baker with the gift of flying",
        "Tell a funny story about a nurse who can fly",
        "a hero with the gift of super speed, warm story",
    ),
    "values": ("{dynasty},{super_power},{story_type}", "宋,飞行,艰难", "唐,读心术,努力"),
    "messages": (
        "{message}",
        "Can I pick it up at the depot tonight instead?",
        "Where is my parcel? It should have arrived on Monday.",
        "发票抬头写错了怎么办",
    ),
}
_FAR = {
    "storyteller": (
        "写一首关于{season}的五言绝句。",
        "请为{product}写一段80字的商品介绍，语气{tone}。",
        "给客户写一封道歉信，原因是{reason}。",
        "讲一个关于{animal}的睡前故事，结尾要温暖。",
        "用三句话解释{concept}，让小学生听得懂。",
        "把下面的句子翻译成英文：{sentence}",
        "写一篇关于{city}的旅游攻略，包括交通、美食和住宿。",
        "请写一段{job}的自我介绍，用于面试。",
        "写一个程序员和产品经理吵架的笑话，主题是{topic}。",
        "判断这条评论是正面还是负面：{review}",
        "写一篇侦探小说的开头，地点是{place}，死者是{victim}。",
        "写一段{dynasty}朝的历史介绍，包括经济、文化与战争。",
        "{dynasty},{super_power},{story_type} ->",
        _ENGLISH,
        "{hero}が{gift}を使って怪獣を倒す物語を書いてください。",
    ),
    "storyteller-en": (
        "Write a product description for {product} in a {tone} tone. About 80 words.",
        "Write a short poem about {topic} in plain English.",
        "Explain {concept} to a ten-year-old in three sentences.",
        "Write a polite reply to a customer whose order is {problem}.",
        "Translate the following sentence into French: {sentence}",
        "Write a bedtime tale for a child about {animal}. End it happily.",
        "Is this review positive or negative? {review}",
        "Write a news report about {event} in {city}.",
        "Summarise the meeting notes below in five bullet points: {notes}",
        "Write a detective novel's opening set in {place}; the victim is {victim}.",
        "List ten names for a {kind} start-up.",
        "Write a job advertisement for {job}. The mood is {mood}.",
        "Écris une courte histoire sur {hero}, avec le don de {gift}.",
        "{hero}, {gift}, {mood}",
        _ARTICLE,
    ),
    "values": (_ARTICLE, "写一首关于春天的诗", "Write a short story about a baker."),
    "messages": (
        "Write a detective novel's opening set in Paris; the victim is a banker.",
        "请你用中文写一段300字的故事，情节跌宕起伏，讲述一位宋朝时期的英雄人物，穿越到现代",
    ),
}


def _rows(texts: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    return [(writer, text) for writer, some in texts.items() for text in some]


def _known(writer: str) -> PromptVocabulary:
    found = _LEARNED[writer]()
    assert found is not None
    return found


@pytest.mark.parametrize(("writer", "template"), _rows(_NEAR))
def test_a_near_template_gets_no_warning(writer: str, template: str) -> None:
    assert not compare(fixed_words(template), _known(writer)).far


@pytest.mark.parametrize(("writer", "template"), _rows(_FAR))
def test_a_far_template_gets_one(writer: str, template: str) -> None:
    assert compare(fixed_words(template), _known(writer)).far


@pytest.mark.parametrize("writer", ["storyteller", "storyteller-en"])
def test_near_and_far_templates_leave_a_gap_around_the_limit(writer: str) -> None:
    model = _known(writer)

    def shares(texts: dict[str, tuple[str, ...]]) -> list[float]:
        found = [compare(fixed_words(text), model) for text in texts[writer]]
        return [
            one.known_share / model.typical_overlap
            for one in found
            if one.known_share is not None and not one.other_script
        ]

    assert max(shares(_FAR)) <= FAR_BELOW - 0.15 and min(shares(_NEAR)) >= FAR_BELOW + 0.1


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("写一个故事", "chinese"),
        ("Write a story", "latin"),
        ("Écris une histoire", "latin"),
        ("用 Python 写一个排序函数，并解释每一步", "chinese"),
        ("Explain the character 道 in two sentences", "latin"),
        ("物語を書いてください", "japanese"),
        ("이야기를 써 주세요", "korean"),
        ("Напиши рассказ", "other"),
        ("{a},{b} -> 12", "latin"),
        ("12 -> 34", None),
        ("", None),
    ],
)
def test_the_script_of_a_text_is_that_of_most_of_its_words(text: str, script: str | None) -> None:
    assert script_of(text) == script


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("A {mood} story of {hero}.", "A  story of ."),
        ("{{braces}} and {hero}", "{braces} and "),
        ("broken {braces", "broken {braces"),
        ("", ""),
    ],
)
def test_fixed_words_are_a_template_without_its_columns(template: str, words: str) -> None:
    assert fixed_words(template).split() == words.split()


@pytest.mark.parametrize(("first", "second"), [("stories", "story"), ("heroes", "hero"), ("words", "word")])
def test_plurals_are_the_same_word(first: str, second: str) -> None:
    assert prompt_similarity._stem(first) == prompt_similarity._stem(second)


def test_a_handful_of_prompts_that_share_nothing_draws_no_line_but_that_of_the_script() -> None:
    few = build_vocabulary(["Where is my parcel?", "Cancel the order", "My kettle arrived broken"])
    assert few is not None and few.typical_overlap == 0
    assert not compare("Write a poem about spring", few).far
    assert compare("写一首关于春天的诗", few).far


def test_nothing_is_learned_from_nothing() -> None:
    assert build_vocabulary([]) is None and build_vocabulary(["", "  "]) is None


def test_words_of_a_system_text_are_known_but_make_no_template() -> None:
    with_system = build_vocabulary(["a", "b"], ["Classify the message as refund or billing"])
    assert with_system is not None and "refund" in with_system.words and not with_system.from_template
