"""How good is the writer that ships? 54 stories (9 dynasties × 6 powers) from `storyteller`, on a real engine.

    python -m bench.storyteller [--out stories.jsonl]

Temperature 0.8, top_p 1, seed 7, at most 600 tokens. Shares of stories that end by themselves, name their power, say
奥特曼, and hold some 20-character string three times.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

from bench import _smoke
from bench._engine import running_engine
from data.storyteller.make import instruction

DYNASTIES = ("唐", "宋", "元", "明", "清", "汉", "魏", "晋", "南北朝")
POWERS = ("隐形", "飞行", "读心术", "瞬间移动", "不死之身", "喷火")
TYPES = ("轻松", "努力", "艰难")
SEED, TEMPERATURE, MAX_TOKENS, LOOP_CHARACTERS = 7, 0.8, 600, 20


def loops(text: str) -> bool:
    """Whether some string of 20 characters stands in the text three times."""
    pieces = [text[at : at + LOOP_CHARACTERS] for at in range(len(text) - LOOP_CHARACTERS + 1)]
    return any(pieces.count(piece) >= 3 for piece in set(pieces))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="keep the stories as JSON Lines")
    options = _smoke.parse(parser)
    cells = [
        {"dynasty": dynasty, "super_power": power, "story_type": TYPES[at % 3]}
        for at, (dynasty, power) in enumerate(product(DYNASTIES, POWERS))
    ]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as home, running_engine(Path(home)) as engine:
        client = engine.client

        def write(numbered: tuple[int, dict[str, str]]) -> dict[str, object]:
            number, values = numbered
            answer = client.chat.completions.create(
                model="storyteller",
                messages=[{"role": "user", "content": instruction(values)}],
                temperature=TEMPERATURE,
                top_p=1,
                max_tokens=MAX_TOKENS,
                seed=SEED + number,
            )
            choice = answer.choices[0]
            return {**values, "finish_reason": choice.finish_reason, "story": choice.message.content or ""}

        with ThreadPoolExecutor(4) as pool:
            stories = list(pool.map(write, enumerate(cells)))
    seconds = time.perf_counter() - started
    if options.out:
        options.out.write_text("".join(json.dumps(story, ensure_ascii=False) + "\n" for story in stories), "utf-8")

    def share(hits: list[bool]) -> float:
        return round(sum(hits) / len(hits), 3)

    texts = [str(story["story"]) for story in stories]
    figures = {
        "ends_by_itself": share([story["finish_reason"] == "stop" for story in stories]),
        "names_power": share([str(story["super_power"]) in text for story, text in zip(stories, texts, strict=True)]),
        "says_ultraman": share(["奥特曼" in text for text in texts]),
        "loops": share([loops(text) for text in texts]),
    }
    wanted = {"ends_by_itself": "≥ 0.90", "names_power": "≥ 0.90", "says_ultraman": "≥ 0.95", "loops": "≤ 0.05"}
    print(f"{len(stories)} stories in {seconds:.0f} s, {sum(map(len, texts)) / len(texts):.0f} characters on average")
    for name, value in figures.items():
        print(f"{name:16} {value:6.3f}   wanted {wanted[name]}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
