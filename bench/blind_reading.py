"""Prepares a blind reading of the packaged writers: can a reader who does not know this project follow their stories?

    python -m bench.blind_reading draw --stories stories.jsonl --folder FOLDER
    python -m bench.blind_reading tell --folder FOLDER --verdicts verdicts.jsonl [--doc docs/storyteller.md]

`draw` takes stories from `bench.storyteller --out` (15 from the grid, 15 from prompts outside it and 15 English ones)
and 30 of the article's 464, and writes them to `reading.md`, shuffled and numbered. The reader gets only that file, and
writes one line of JSON per story, as described there. A story passes if it can be retold and every sentence makes
sense. `tell` prints the pass rates, the last line as JSON, and adds every story with its verdict to `--doc`. For the
article's stories, which are not part of this project, it adds only the row number.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import _json_lines, _smoke
from bench.samples import ARTICLE

SEED = 12
DRAWN = {"grid": 15, "outside": 15, "english": 15, "article": 30}
TITLES = {
    "grid": "Chinese, prompts of the grid",
    "outside": "Chinese, prompts outside the grid",
    "english": "English, prompts of the grid",
    "article": "The article's stories",
}
AIMS = {"grid": 0.9, "outside": 0.8}
QUESTION = (
    "For each story: can you retell it (who, what happens, how it ends)? Is there a sentence that makes no sense where "
    "it stands? Answer with one JSON object a line, in the order of the numbers:\n\n"
    '`{"n": 1, "retell": "who, what, how it ends; or empty", "nonsense": "the first such sentence, or empty"}`'
)


@dataclass(frozen=True)
class DrawnStory:
    """One numbered story: its part of the reading, the prompt's values or the row, and its text."""

    n: int
    part: str
    source: str
    text: str


def draw(written: Sequence[dict[str, Any]], article: Sequence[str]) -> list[DrawnStory]:
    """Draw and shuffle the stories for a reading; deterministic for the same stories."""
    generator = random.Random(SEED)
    found: list[tuple[str, str, str]] = []
    for part in ("grid", "outside", "english"):
        of_part = [one for one in written if one["part"] == part]
        for one in generator.sample(of_part, min(DRAWN[part], len(of_part))):
            values = [value for name, value in one.items() if name not in ("part", "finish", "story")]
            found.append((part, ", ".join(values), one["story"]))
    rows = generator.sample(range(len(article)), min(DRAWN["article"], len(article)))
    found += (("article", f"row {row + 1}", article[row]) for row in rows)
    generator.shuffle(found)
    return [DrawnStory(n, *one) for n, one in enumerate(found, start=1)]


def reading(drawn: Sequence[DrawnStory]) -> str:
    """Create the reader's file: the question and the numbered texts."""
    stories = [f"## {one.n}\n\n{one.text.strip()}\n" for one in drawn]
    return "\n".join(["# Stories\n", QUESTION, "", *stories])


def passes(verdict: dict[str, Any]) -> bool:
    """Whether the story can be retold and every sentence makes sense."""
    return bool(str(verdict["retell"]).strip()) and not str(verdict["nonsense"]).strip()


def shares(drawn: Sequence[DrawnStory], verdicts: dict[int, dict[str, Any]]) -> dict[str, float]:
    """The fraction of stories that pass, by part.

    Raises:
        KeyError: a verdict is missing.
    """
    found: dict[str, float] = {}
    for part in TITLES:
        passed = [passes(verdicts[one.n]) for one in drawn if one.part == part]
        if passed:
            found[part] = round(sum(passed) / len(passed), 3)
    return found


def to_markdown(drawn: Sequence[DrawnStory], verdicts: dict[int, dict[str, Any]]) -> str:
    """All stories with their verdicts, as Markdown."""
    parts: list[str] = []
    for part, title in TITLES.items():
        parts.append(f"## {title}\n")
        for one in (one for one in drawn if one.part == part):
            verdict = verdicts[one.n]
            word = "passes" if passes(verdict) else "does not pass"
            reason = str(verdict["nonsense"]).strip() or str(verdict["retell"]).strip() or "cannot be retold"
            if part == "article":
                parts.append(f"- {one.source}: {word}")
                continue
            text = "\n".join(f"> {line}" if line else ">" for line in one.text.strip().splitlines())
            said = f"Retold: {reason}" if passes(verdict) else f"The reader stopped at: {reason}"
            parts.append(f"**{one.source}** — {word}\n\n{text}\n\n{said}\n")
    return "\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("draw", "tell"), nargs="?", default="draw")
    parser.add_argument("--stories", type=Path, help="what bench.storyteller --out wrote")
    parser.add_argument("--folder", type=Path, help="where reading.md and its key are")
    parser.add_argument("--verdicts", type=Path, help="the reader's lines")
    parser.add_argument("--doc", type=Path, help="append stories and verdicts to this document")
    options = _smoke.parse(parser)
    key = options.folder / "key.json"
    if options.step == "draw":
        with ARTICLE.open(encoding="utf-8", newline="") as file:
            article = [row["story"] for row in csv.DictReader(file)]
        drawn = draw(_json_lines.read(options.stories), article)
        options.folder.mkdir(parents=True, exist_ok=True)
        key.write_text(json.dumps([asdict(one) for one in drawn], ensure_ascii=False), "utf-8")
        (options.folder / "reading.md").write_text(reading(drawn), "utf-8")
        print(json.dumps({"stories": len(drawn)}))
        return
    drawn = [DrawnStory(**one) for one in json.loads(key.read_text("utf-8"))]
    verdicts = {int(one["n"]): one for one in _json_lines.read(options.verdicts)}
    if options.doc is not None:
        with options.doc.open("a", encoding="utf-8") as file:
            file.write(to_markdown(drawn, verdicts))
    found = shares(drawn, verdicts)
    for part, share in found.items():
        print(f"{TITLES[part]:36} {share:6.1%}" + (f"   wanted ≥ {AIMS[part]:.0%}" if part in AIMS else ""))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
