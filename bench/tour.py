"""Measures how long the guided tour takes, and records what its two models write: `python -m bench.tour`.

    python -m bench.tour [--language en|zh_CN|both] [--tours 10] [--out tours.jsonl] [--record]
    python -m bench.tour --out tours.jsonl --verdicts verdicts.jsonl

The studio is started in the usual way, in its own home directory; the first tour of a run also prepares the weights.
Tours are started by a click in headless Chromium, one after the other, each with different stories. The last line
printed is JSON: `minutes`, the duration of the slowest tour from the click to the end of both texts; `first_change_s`
and `longest_still_s`, the longest time until the text on the page first changes and between two changes; and
`coherent_of_10`.

`--out` saves prompts and texts as JSON Lines and, next to that file, as Markdown for a reader who has seen neither the
prompts nor the training stories. The reader writes one JSON object per line: `{"tour": 1, "coherent": true, "why":
"…"}`. With `--verdicts` no tour is run; the figures come from the file given by `--out`. Without verdicts, or while one
is missing, `coherent_of_10` is null.

`--record` writes the newest tour in each language to `data/tour_recordings.json`, which the home page shows if the
engine is not installed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import _json_lines, _smoke, _tour_card
from bench._page_server import served
from bench._tour_card import TourCard
from core.db.store import Store
from core.db.tables import utcnow
from core.evaluation import before_after
from core.finetuning import job_views
from core.settings import Settings
from core.tours import tour
from core.tours.tour import TourRecording

ROOT = Path(__file__).parents[1]
LANGUAGES = ("zh_CN", "en")
WANTED_MINUTES = 4.0
LOOK_S = 0.25
LONGEST_S = 3600.0


@dataclass(frozen=True)
class MeasuredTour:
    """One tour: its number in this run (from 1), its duration, and what it created."""

    tour: int
    training_s: float | None
    first_change_s: float | None
    longest_still_s: float
    recording: TourRecording


def main() -> None:
    """Run the tours, save them, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", choices=(*LANGUAGES, "both"), default="both", help="with both they take turns")
    parser.add_argument("--tours", type=int, default=2, help="how many")
    parser.add_argument("--out", type=Path, help="keep prompts and texts here (JSON Lines), and as Markdown")
    parser.add_argument("--verdicts", type=Path, help="what a reader says of the texts in --out; takes no tour")
    parser.add_argument("--record", action="store_true", help=f"write {tour.RECORDINGS.relative_to(ROOT)}")
    options = _smoke.parse(parser)
    if options.verdicts is not None:
        kept, verdicts = _json_lines.read(options.out), _json_lines.read(options.verdicts)
        print(json.dumps({**slowest(kept), "coherent_of_10": coherent_of_10(kept, verdicts)}))
        return
    languages = LANGUAGES if options.language == "both" else (options.language,)
    taken = _take(tuple(languages[number % len(languages)] for number in range(options.tours)), options.out)
    if options.record:
        tour.save_recordings([one.recording for one in taken])
    kept = [line(one) for one in taken]
    print(json.dumps({**slowest(kept), "coherent_of_10": None}))


def line(one: MeasuredTour) -> dict[str, Any]:
    """A tour as saved for a reader; the curve is only in the recording."""
    told = asdict(one.recording)
    del told["results_csv"]
    measured = {"training_s": one.training_s, "first_change_s": one.first_change_s}
    return {"tour": one.tour, **measured, "longest_still_s": one.longest_still_s, **told}


def slowest(kept: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Duration of the slowest tour in minutes, and the longest times without a change on the page."""
    names = ("minutes", "first_change_s", "longest_still_s")
    return {name: round(max(float(one[name]) for one in kept), 2) for name in names}


def coherent_of_10(kept: Sequence[dict[str, Any]], verdicts: Sequence[dict[str, Any]]) -> float | None:
    """How many of ten new models wrote a coherent story, according to a reader; None while a verdict is missing."""
    said = {int(one["tour"]): bool(one["coherent"]) for one in verdicts}
    if not kept or any(one["tour"] not in said for one in kept):
        return None
    return round(10 * sum(said[one["tour"]] for one in kept) / len(kept), 1)


def for_a_reader(kept: Sequence[dict[str, Any]]) -> str:
    """Format the prompts and both texts of all tours as Markdown."""
    parts = ["# Before and after, as tours ended\n"]
    for one in kept:
        parts.append(f"## Tour {one['tour']} · {one['language']} · {one['minutes']:.1f} minutes\n")
        parts.append(f"Prompt: `{one['prompt']}`\n")
        for title in ("before", "after"):
            text = "\n".join(f"> {each}" if each else ">" for each in str(one[title]).strip().splitlines())
            parts.append(f"**{title.capitalize()}** ({one[f'{title}_finish']})\n\n{text}\n")
    return "\n".join(parts)


def _take(languages: Sequence[str], out: Path | None) -> list[MeasuredTour]:
    """Run one tour in each of these languages, in this order; save each as soon as it is complete."""
    taken: list[MeasuredTour] = []
    with tempfile.TemporaryDirectory() as home, served(ROOT / "app.py", FABULA_HOME=home) as (url, _pid):
        store = Store.open(Settings.from_env({"FABULA_HOME": home}))
        try:
            for number, language in enumerate(languages, start=1):
                with _tour_card.opened(url, language) as card:
                    taken.append(one := _one(store, card, number, language))
                kept = [line(each) for each in taken]
                if out is not None:
                    out.write_text("".join(json.dumps(each, ensure_ascii=False) + "\n" for each in kept), "utf-8")
                    out.with_suffix(".md").write_text(for_a_reader(kept), "utf-8")
                print(
                    f"tour {number} ({language}): {one.recording.minutes:.2f} min, wanted ≤ {WANTED_MINUTES:.0f}; "
                    f"{one.recording.stories} stories, {one.recording.trained_tokens:,} tokens in {one.training_s} s; "
                    f"longest without a change {one.longest_still_s} s",
                    flush=True,
                )
        finally:
            store.close()
    return taken


def _one(store: Store, card: TourCard, number: int, language: str) -> MeasuredTour:
    """Run a tour to its end.

    Raises:
        RuntimeError: it failed, or took more than an hour.
    """
    before = tour.progress(store)
    card.start()
    started = time.monotonic()
    while (progress := tour.progress(store)) == before or progress is None or progress.state in tour.UNFINISHED:
        card.look()
        if time.monotonic() - started > LONGEST_S:
            raise RuntimeError(f"the tour is at {progress and progress.key} after an hour")
        time.sleep(LOOK_S)
    minutes = (time.monotonic() - started) / 60
    if progress.state != "done" or progress.job_id is None:
        raise RuntimeError(f"the tour failed: {progress.reason}")
    job = job_views.get(store, progress.job_id)
    view = before_after.get(store, job.id)
    assert view is not None
    pair = view.pairs[0]
    # wait for the comparison to finish its other prompts, so that the next tour starts on idle cores
    while before_after.any_active(store):
        time.sleep(LOOK_S)
    recording = TourRecording(
        language=language,
        recorded_on=utcnow().date().isoformat(),
        minutes=round(minutes, 2),
        stories=job.n_examples or 0,
        trained_tokens=job.trained_tokens or 0,
        base_model=job.base_model,
        tuned_model=job.fine_tuned_model or "",
        results_csv=job.results_csv or "",
        prompt=pair.prompt,
        before=pair.base.text,
        before_finish=pair.base.finish_reason,
        after=pair.tuned.text,
        after_finish=pair.tuned.finish_reason,
    )
    still = round(card.longest_still_s, 2)
    return MeasuredTour(number, job.training_s(utcnow()), card.first_change_s, still, recording)


if __name__ == "__main__":
    main()
