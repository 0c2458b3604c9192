"""Recorded tours, shown where the engine is not installed. `python -m bench.tour --record` writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from core.datasets import presets

PATH = presets.DATA / "tour_recordings.json"


@dataclass(frozen=True, slots=True)
class TourRecording:
    """One real tour.

    Attributes:
        language: language of the page that started it (`en`, `zh_CN`).
        recorded_on: the day, UTC (ISO 8601).
        minutes: from the start to the end of both texts.
        stories, trained_tokens: what the model was trained on.
        base_model, tuned_model: the model that was trained, and the resulting one.
        results_csv: the job's results file.
        prompt: a prompt that neither model had seen.
        before, after: the answers of the base model and the tuned model.
        before_finish, after_finish: `stop`: complete; `length`: stopped at the token limit.
    """

    language: str
    recorded_on: str
    minutes: float
    stories: int
    trained_tokens: int
    base_model: str
    tuned_model: str
    results_csv: str
    prompt: str
    before: str
    before_finish: str | None
    after: str
    after_finish: str | None


def load(language: str, path: Path | None = None) -> TourRecording | None:
    """The recording in a page's language; None: there is none. `path`: a file other than the one that ships."""
    return _all(path or PATH).get(language)


def save(recordings: Sequence[TourRecording], path: Path | None = None) -> None:
    """Save the recordings. They replace those in the same languages; the others are kept."""
    found = {**_all(path or PATH), **{one.language: one for one in recordings}}
    text = json.dumps([asdict(found[name]) for name in sorted(found)], ensure_ascii=False, indent=1)
    (path or PATH).write_text(text + "\n", encoding="utf-8")


def _all(path: Path) -> Mapping[str, TourRecording]:
    """All recordings by language. The file is small, and is only read where the engine is missing."""
    if not path.is_file():
        return {}
    return {one["language"]: TourRecording(**one) for one in json.loads(path.read_text(encoding="utf-8"))}
