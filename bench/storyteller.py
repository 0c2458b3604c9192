"""Measures how good the packaged writers are, on 162 stories from `storyteller` and `storyteller-en` on a real engine.

    python -m bench.storyteller [--out stories.jsonl] [--temperature 0.5] [--top-p 0.8]

The prompts are 54 from the article's grid, 54 that no sample has, and 54 from the English grid; seeds are fixed.
`fluency` is the ratio of the stories' loss under the untrained base, given their prompts, to the samples' loss (the
worse language counts).
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import openai

from bench import _smoke
from bench._engine import running_engine
from bench.samples import CHINESE, ENGLISH, SAMPLES, SampleStory, Untrained, base_loss, read
from data.storyteller.make import WRITERS, instruction

TEMPERATURE, TOP_P, MAX_TOKENS, SEED = 0.5, 0.8, 600, 7  # the presets' values
LOOP_CHARACTERS, LOOP_WORDS = 20, 12
AIMS = {
    "ends_by_itself": "≥ 0.98",
    "names_power": "≥ 0.95",
    "says_ultraman": "≥ 0.98",
    "keeps_hero": "≥ 0.9",
    "foreign_script": "0",
    "loops": "0",
    "fluency": "≤ 1.3",
}
_DYNASTIES = ("唐", "宋", "元", "明", "清", "汉", "魏", "晋", "南北朝")
_POWERS = ("隐形", "飞行", "读心术", "瞬间移动", "不死之身", "喷火")
_LATER_DYNASTIES, _LATER_POWERS = ("秦", "五代", "隋"), ("龙卷风", "冰冻大海", "流星火雨")
_UNKNOWN_POWERS = ("磁力", "变大", "念力")  # not in the writers' training data
_TYPES = ("轻松", "努力", "艰难")
_HEROES = ("a baker", "a bus driver", "a nurse", "a teacher", "a farmer", "a librarian")
_GIFTS = (
    *("flying", "invisibility", "super speed", "super strength", "healing"),
    *("mind reading", "talking to animals", "stopping time", "shrinking"),
)
_MOODS = ("funny", "warm", "exciting", "mysterious", "hopeful")
_CHINESE_NAME = re.compile("(?:名字叫做|名字叫|叫做|名叫|叫)([\u4e00-\u9fff]{2,3})[，。]")
_ENGLISH_NAME = re.compile(r"(?:named|called|name was|name is) ([A-Z][a-z]+)")


@dataclass(frozen=True)
class StoryPrompt:
    """One prompt: its language, its part of the measurement, and the values it is made from."""

    language: str
    part: str
    values: dict[str, str]

    @property
    def power(self) -> str:
        return self.values["super_power" if self.language == "zh" else "gift"]


@dataclass(frozen=True)
class WrittenStory:
    """A story, and why it ended."""

    asked: StoryPrompt
    text: str
    finish_reason: str


def prompts() -> list[StoryPrompt]:
    """All 162 prompts, in a fixed order."""
    inside = list(product(_DYNASTIES, _POWERS))
    outside = [
        *product(_LATER_DYNASTIES, _POWERS),
        *product(_DYNASTIES, _LATER_POWERS),
        *product(_LATER_DYNASTIES, _UNKNOWN_POWERS),
    ]
    asked = [
        StoryPrompt("zh", part, {"dynasty": dynasty, "super_power": power, "story_type": _TYPES[at % 3]})
        for part, cells in (("grid", inside), ("outside", outside))
        for at, (dynasty, power) in enumerate(cells)
    ]
    english = [
        StoryPrompt("en", "english", {"hero": hero, "gift": gift, "mood": _MOODS[at % 5]})
        for at, (hero, gift) in enumerate(product(_HEROES, _GIFTS))
    ]
    return asked + english


def loops(text: str, language: str) -> bool:
    """Whether a passage of a Chinese text (20 characters) or an English text (12 words) occurs three times.

    20 Chinese characters contain about as much as 12 English words; 20 English letters are just "with the gift of".
    """
    units, length = (text, LOOP_CHARACTERS) if language == "zh" else (tuple(text.split()), LOOP_WORDS)
    pieces = [units[at : at + length] for at in range(len(units) - length + 1)]
    return any(pieces.count(piece) >= 3 for piece in set(pieces))


def keeps_hero(text: str, language: str) -> bool:
    """Whether the name introduced in the first paragraph appears in the last one."""
    paragraphs = [part for part in text.split("\n") if part.strip()]
    found = (_CHINESE_NAME if language == "zh" else _ENGLISH_NAME).search(paragraphs[0]) if paragraphs else None
    return found is not None and len(paragraphs) > 1 and found[1] in paragraphs[-1]


def foreign_script(text: str, language: str) -> bool:
    """Whether the text contains a letter of an unexpected script, that is, other than Han in Chinese or Latin in
    English.
    """
    own = re.compile("[\u3400-\u9fff]" if language == "zh" else "[A-Za-z]")
    return any(letter.isalpha() and not own.match(letter) for letter in text)


def names_power(text: str, power: str) -> bool:
    """Whether the story mentions the prompt's power; letter case is ignored in English."""
    return power.lower() in text.lower()


def write(client: openai.OpenAI, asked: Sequence[StoryPrompt], temperature: float, top_p: float) -> list[WrittenStory]:
    """Generate one story per prompt, four at a time."""

    def one(numbered: tuple[int, StoryPrompt]) -> WrittenStory:
        number, prompt = numbered
        answer = client.chat.completions.create(
            model=WRITERS[prompt.language].model,
            messages=[{"role": "user", "content": instruction(prompt.values, prompt.language)}],
            temperature=temperature,
            top_p=top_p,
            max_tokens=MAX_TOKENS,
            seed=SEED + number,
        )
        choice = answer.choices[0]
        return WrittenStory(prompt, choice.message.content or "", choice.finish_reason)

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(one, enumerate(asked)))


def shares(stories: Sequence[WrittenStory]) -> dict[str, float]:
    """Fraction of stories with each property; for `says_ultraman`, of the Chinese stories."""

    def share(hits: list[bool]) -> float:
        return round(sum(hits) / len(hits), 3) if hits else 0.0

    figures = {
        "ends_by_itself": share([story.finish_reason == "stop" for story in stories]),
        "names_power": share([names_power(story.text, story.asked.power) for story in stories]),
        "keeps_hero": share([keeps_hero(story.text, story.asked.language) for story in stories]),
        "foreign_script": share([foreign_script(story.text, story.asked.language) for story in stories]),
        "loops": share([loops(story.text, story.asked.language) for story in stories]),
    }
    chinese = ["奥特曼" in story.text for story in stories if story.asked.language == "zh"]
    return figures | ({"says_ultraman": share(chinese)} if chinese else {})


def fluency(untrained: Untrained, stories: Sequence[WrittenStory]) -> float:
    """Ratio of the stories' loss to the samples' loss under the base, for the worse language."""
    samples = {"zh": [story for name in CHINESE for story in read(SAMPLES / name)], "en": read(SAMPLES / ENGLISH)}
    ratios = []
    for language, written in samples.items():
        made = [
            SampleStory(instruction(story.asked.values, language), story.text, language == "en")
            for story in stories
            if story.asked.language == language
        ]
        ratios.append(base_loss(untrained, made) / base_loss(untrained, written))
    return round(max(ratios), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="keep the stories as JSON Lines")
    parser.add_argument("--temperature", type=float, default=TEMPERATURE)
    parser.add_argument("--top-p", type=float, default=TOP_P)
    options = _smoke.parse(parser, modules=("torch", "transformers", "core.engine.training.trainer.model"))
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as home:
        with running_engine(Path(home)) as engine:
            stories = write(engine.client, prompts(), options.temperature, options.top_p)
        seconds = time.perf_counter() - started
        if options.out:
            lines = [
                {"part": story.asked.part, **story.asked.values, "finish": story.finish_reason, "story": story.text}
                for story in stories
            ]
            text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            options.out.write_text(text, encoding="utf-8")
        figures = shares(stories)
        figures["fluency"] = fluency(Untrained(Path(home), 2), stories)
    print(f"{len(stories)} stories in {seconds:.0f} s, temperature {options.temperature}, top p {options.top_p}")
    for part in ("grid", "outside", "english"):
        print(f"{part:8}", shares([story for story in stories if story.asked.part == part]))
    for name, aim in AIMS.items():
        print(f"{name:16} {figures[name]:6.3f}   wanted {aim}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
