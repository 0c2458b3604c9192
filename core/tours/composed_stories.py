"""Composes stories from interchangeable sentences: training data for tours, and for the last training stage of the
packaged writers.

A model with 270M parameters that was trained on hand-written stories keeps their form, but mixes their details into
sentences that make no sense. In composed stories, any variant of a sentence fits any variant of the others, so mixtures
still make sense. `zh.toml` and `en.toml` in `data/storyteller/parts` hold the sentences.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import cycle, product
from typing import Any

from core.datasets import presets
from core.languages import CHINESE, ENGLISH, base_code, match

PARTS = presets.DATA / "storyteller" / "parts"
ANY = "*"
TELLINGS = 24  # stories per plot
POWER_COLUMN = {CHINESE: "super_power", ENGLISH: "gift"}
# In a tour, the number of variants is limited, so that each sentence occurs in several of its 50 stories. Models mixed
# up details that they had seen only three or four times: "a glass of fresh fish", a noodle soup that is comfortable.
JOBS_OF_ONE_PLOT = {CHINESE: 2, ENGLISH: 4}
VARIANTS_OF_ONE_PLOT = {"habits": 2, "closings": 1, "practice": 2, "struggle": 2}


def stories(language: str, seed: int = 1) -> list[dict[str, str]]:
    """Stories of every plot, for the packaged writers. The same seed gives the same stories.

    Heroes have every job equally often: at a low temperature, a model that saw one job more often than the others
    rarely writes about another. No story uses the values that a preset suggests outside its grid, so those prompts
    remain unseen.

    Args:
        language: `zh_CN` or `en`, or its base code.

    Returns:
        Rows as in a sample file: the values of the prompt's columns, and `story`.
    """
    language, draw = match(language), random.Random(seed)
    parts = _parts(language)
    unseen = {tuple(values) for preset in presets.load() for values in preset.outside}
    jobs = _in_turn(draw, sorted(parts["jobs"]))
    rows = []
    for plot in parts["plots"]:
        powers = parts["other_powers"] if plot["powers"] == [ANY] else plot["powers"]
        for at in range(max(TELLINGS, len(powers))):
            job = next(jobs)
            of_job, power = {**parts, "jobs": {job: parts["jobs"][job]}}, powers[at % len(powers)]
            row = _compose(language, draw, of_job, plot, power)
            while tuple(value for column, value in row.items() if column != "story") in unseen:
                row = _compose(language, draw, of_job, plot, power)
            rows.append(row)
    draw.shuffle(rows)
    return rows


def stories_of_one_plot(
    language: str, values: Mapping[str, Sequence[str]], n_stories: int, *, held_out: int, seed: int
) -> list[dict[str, str]]:
    """Different stories of one plot, for a tour. The same seed gives the same stories.

    Args:
        language: `zh_CN` or `en`, or its base code.
        values: the values of the prompt's columns that stories may have; one power and a few jobs are drawn from them.
        n_stories: number of stories; at most a few hundred, because the variants of a plot are limited.
        held_out: number of combinations of values that no story has.

    Returns:
        Rows as in a sample file: the values of the prompt's columns, and `story`. Every combination that is not held
        out has about the same number of stories.
    """
    language, draw = match(language), random.Random(seed)
    parts = _parts(language)
    jobs = draw.sample(sorted(values.get("hero", parts["jobs"])), JOBS_OF_ONE_PLOT[language])
    if "hero" in values:  # the job is part of the prompt
        values = {**values, "hero": jobs}
    power = draw.choice(values[POWER_COLUMN[language]])
    plot = draw.choice([one for one in parts["plots"] if power in one["powers"]])
    columns = [name for name in values if name != POWER_COLUMN[language]]
    cells = list(product(*(values[name] for name in columns)))
    draw.shuffle(cells)
    parts = {
        **parts,
        "jobs": {name: _fewer(draw, parts["jobs"][name]) for name in jobs},
        "types": {name: _fewer(draw, variants) for name, variants in parts["types"].items()},
    }
    if any("closings" in of_type for of_type in parts["types"].values()):  # the prompt says how the story closes
        for about in parts["jobs"].values():
            del about["closings"]
    rows: dict[str, dict[str, str]] = {}
    for cell in cycle(cells[held_out:]):
        row = _compose(language, draw, _only(parts, dict(zip(columns, cell, strict=True))), plot, power)
        rows.setdefault(row["story"], row)
        if len(rows) == n_stories:
            return list(rows.values())
    raise ValueError("all combinations are held out")


def _in_turn(draw: random.Random, choices: Sequence[str]) -> Iterator[str]:
    """Yield all choices in random order, repeatedly."""
    while True:
        yield from draw.sample(choices, len(choices))


@lru_cache(maxsize=2)
def _parts(language: str) -> Mapping[str, Any]:
    return tomllib.loads((PARTS / f"{base_code(language)}.toml").read_text(encoding="utf-8"))


def _fewer(draw: random.Random, variants: Mapping[str, Any]) -> dict[str, Any]:
    """The variants that a tour uses of a job or a type of story."""
    return {
        key: draw.sample(found, min(len(found), VARIANTS_OF_ONE_PLOT[key])) if key in VARIANTS_OF_ONE_PLOT else found
        for key, found in variants.items()
    }


def _only(parts: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """The parts that tell a story with these values."""
    kind = values.get("story_type") or values["mood"]
    only = {**parts, "types": {kind: parts["types"][kind]}}
    if "dynasty" in values:
        only["dynasties"] = [values["dynasty"]]
    if "hero" in values:
        only["jobs"] = {values["hero"]: parts["jobs"][values["hero"]]}
    return only


def _compose(
    language: str, draw: random.Random, parts: Mapping[str, Any], plot: Mapping[str, Any], power: str
) -> dict[str, str]:
    return (_chinese if language == CHINESE else _english)(draw, parts, plot, power)


def _chinese(draw: random.Random, parts: Mapping[str, Any], plot: Mapping[str, Any], power: str) -> dict[str, str]:
    job, story_type = draw.choice(sorted(parts["jobs"])), draw.choice(sorted(parts["types"]))
    sex = parts["jobs"][job].get("sex") or draw.choice(["male", "female"])
    name = draw.choice(parts["names"]["family"]) + draw.choice(parts["names"][sex])
    values = {"dynasty": draw.choice(parts["dynasties"]), "super_power": power, "story_type": story_type}
    words = {
        "name": name,
        "job": job,
        "he": "他" if sex == "male" else "她",
        "power": power,
        "era": _era(values["dynasty"]),
    }
    opening = draw.choice(parts["openings"]) + draw.choice(parts["jobs"][job]["habits"])
    ending = draw.choice(plot["ending"][0]) + draw.choice(parts["jobs"][job]["closings"])
    story = _paragraphs(draw, parts, plot, power, story_type, opening, ending, "")
    return {**values, "story": story.format(**words)}


def _era(dynasty: str) -> str:
    """`唐` → `唐朝`; `南北朝` and `五代` stay as they are."""
    return dynasty if dynasty.endswith(("朝", "代")) else f"{dynasty}朝"


def _english(draw: random.Random, parts: Mapping[str, Any], plot: Mapping[str, Any], power: str) -> dict[str, str]:
    job, mood = draw.choice(sorted(parts["jobs"])), draw.choice(sorted(parts["types"]))
    he, his, him = draw.choice([("he", "his", "him"), ("she", "her", "her")])
    name = draw.choice(parts["names"]["male" if he == "he" else "female"])
    values = {"hero": job, "gift": power, "mood": mood}
    words = {"name": name, "job": job, "he": he, "He": he.capitalize(), "his": his, "him": him, "power": power}
    about = parts["jobs"][job]
    opening = draw.choice(parts["openings"]) + " " + draw.choice(about["habits"])
    closings = [one["closings"] for one in (about, parts["types"][mood]) if one.get("closings")]
    ending = draw.choice(plot["ending"][0]) + " " + draw.choice(draw.choice(closings))
    return {**values, "story": _paragraphs(draw, parts, plot, power, mood, opening, ending, " ").format(**words)}


def _paragraphs(
    draw: random.Random,
    parts: Mapping[str, Any],
    plot: Mapping[str, Any],
    power: str,
    story_type: str,
    opening: str,
    ending: str,
    blank: str,
) -> str:
    """The story: who and where; how the power is found; what happens; how it ends. `blank` separates sentences."""
    of_type = parts["types"][story_type]
    discovery = parts["powers"].get(power, {}).get("discoveries", parts["discoveries_any"])
    found = [draw.choice(parts["arrivals"])] if parts["arrivals"] else []
    found += [draw.choice(discovery), *_one_of(draw, of_type.get("practice"))]
    happens = [draw.choice(each) for each in plot["before"]] + _one_of(draw, of_type.get("struggle"))
    happens += [draw.choice(each) for each in plot["act"]]
    return "\n\n".join((opening, blank.join(found), blank.join(happens), ending))


def _one_of(draw: random.Random, variants: Sequence[str] | None) -> list[str]:
    return [draw.choice(variants)] if variants else []
