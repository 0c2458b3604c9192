"""Compose stories from interchangeable sentences: the last lesson of the packaged writers.

A model of 270M parameters that learned hand-written stories keeps their form, but mixes their details into sentences
that make no sense. In these stories any variant of a sentence fits any variant of the others, so what the model mixes
still makes sense. `parts/zh.toml` and `parts/en.toml` hold the sentences.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PARTS = Path(__file__).parent / "parts"
ANY = "*"
TELLINGS = 24  # of each plot


def stories(language: str, seed: int = 1) -> list[dict[str, str]]:
    """Rows as in a sample file: the values of the prompt's columns, and `story`. The same for the same seed."""
    parts = tomllib.loads((PARTS / f"{language}.toml").read_text(encoding="utf-8"))
    draw, compose = random.Random(seed), _chinese if language == "zh" else _english
    rows = []
    for plot in parts["plots"]:
        powers = parts["other_powers"] if plot["powers"] == [ANY] else plot["powers"]
        for at in range(max(TELLINGS, len(powers))):
            rows.append(compose(draw, parts, plot, powers[at % len(powers)]))
    draw.shuffle(rows)
    return rows


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
    """`唐` → `唐朝`; `南北朝` and `五代` stay."""
    return dynasty if dynasty.endswith(("朝", "代")) else f"{dynasty}朝"


def _english(draw: random.Random, parts: Mapping[str, Any], plot: Mapping[str, Any], power: str) -> dict[str, str]:
    job, mood = draw.choice(sorted(parts["jobs"])), draw.choice(sorted(parts["types"]))
    he, his, him = draw.choice([("he", "his", "him"), ("she", "her", "her")])
    name = draw.choice(parts["names"]["male" if he == "he" else "female"])
    values = {"hero": job, "gift": power, "mood": mood}
    words = {"name": name, "job": job, "he": he, "He": he.capitalize(), "his": his, "him": him, "power": power}
    about = parts["jobs"][job]
    opening = draw.choice(parts["openings"]) + " " + draw.choice(about["habits"])
    closings = draw.choice([about["closings"], parts["types"][mood]["closings"]])
    ending = draw.choice(plot["ending"][0]) + " " + draw.choice(closings)
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
    """Who and where; how the power is found; what happens; how it ends. `blank` stands between sentences."""
    of_type = parts["types"][story_type]
    discovery = parts["powers"].get(power, {}).get("discoveries", parts["discoveries_any"])
    found = [draw.choice(parts["arrivals"])] if parts["arrivals"] else []
    found += [draw.choice(discovery), *_one_of(draw, of_type.get("practice"))]
    happens = [draw.choice(each) for each in plot["before"]] + _one_of(draw, of_type.get("struggle"))
    happens += [draw.choice(each) for each in plot["act"]]
    return "\n\n".join((opening, blank.join(found), blank.join(happens), ending))


def _one_of(draw: random.Random, variants: Sequence[str] | None) -> list[str]:
    return [draw.choice(variants)] if variants else []
