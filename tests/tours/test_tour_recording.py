"""Recorded tours: written by the bench, read by the home page where the engine is missing; and the bench's figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import tour as bench
from core.providers import engine_endpoint
from core.settings import Settings
from core.tours import tour
from core.tours.tour import TourRecording
from tests.support.app_pages import labels, visit, words

RECORDING = TourRecording(
    language="en",
    recorded_on="2026-11-29",
    minutes=3.6,
    stories=140,
    trained_tokens=25_900,
    base_model="gemma-3-270m",
    tuned_model="ft:gemma-3-270m:fabula:tour:AbC123",
    results_csv=(
        "step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy\n"
        "1,625,4,2.8,0.0,0.42\n2,1258,8,1.7,0.0,0.6\n"
    ),
    prompt="a nurse,flying,warm",
    before="a nurse,flying,warm a nurse",
    before_finish="length",
    after="A nurse named Ann could fly.",
    after_finish="stop",
)


def test_recordings_are_kept_by_language(tmp_path: Path) -> None:
    path = tmp_path / "recordings.json"
    assert tour.load_recording("en", path) is None
    chinese = replace(RECORDING, language="zh_CN", after="从前有一位护士。")
    tour.save_recordings([RECORDING, chinese], path)
    tour.save_recordings([replace(RECORDING, minutes=3.1)], path)
    assert tour.load_recording("zh_CN", path) == chinese
    assert tour.load_recording("en", path) == replace(RECORDING, minutes=3.1)
    assert tour.load_recording("fr", path) is None


@pytest.mark.parametrize(("locale", "language"), [("en-US", "en"), ("zh-CN", "zh_CN")])
def test_without_an_engine_a_recorded_tour_is_shown_and_called_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, locale: str, language: str
) -> None:
    monkeypatch.setattr(tour, "RECORDINGS", tmp_path / "recordings.json")
    settings = Settings.from_env()
    settings.home.mkdir(parents=True)
    engine_endpoint.write(
        settings, engine_endpoint.EngineNote("missing", message="The engine needs packages.", next_step="Install them.")
    )
    at = visit("home", locale)
    assert not at.text and at.button(key="home_tour").disabled
    tour.save_recordings([replace(RECORDING, language=language)])
    at = visit("home", locale)
    assert [text.value for text in at.text] == [RECORDING.before, RECORDING.after]
    assert {"en": "Recorded on 2026-11-29", "zh_CN": "录制于 2026-11-29"}[language] in words(at)
    assert len(at.get("vega_lite_chart")) == 2
    assert at.button(key="home_tour").disabled and "home_tour_stop" not in labels(at)


def _kept(*minutes: float) -> list[dict[str, Any]]:
    taken = [
        bench.MeasuredTour(n, 190.0, n / 2, 1.25, replace(RECORDING, minutes=each))
        for n, each in enumerate(minutes, start=1)
    ]
    return [bench.line(one) for one in taken]


def test_the_slowest_tour_is_the_figure() -> None:
    assert bench.slowest(_kept(3.1, 3.912, 3.5)) == {"minutes": 3.91, "first_change_s": 1.5, "longest_still_s": 1.25}


@pytest.mark.parametrize(
    ("verdicts", "found"),
    [
        ([], None),
        ([{"tour": 1, "coherent": True}], None),  # one of two is missing
        ([{"tour": 1, "coherent": True}, {"tour": 2, "coherent": True}], 10.0),
        ([{"tour": 2, "coherent": False, "why": "two heroes"}, {"tour": 1, "coherent": True}], 5.0),
        ([{"tour": 1, "coherent": False}, {"tour": 2, "coherent": False}, {"tour": 9, "coherent": True}], 0.0),
    ],
)
def test_coherent_tours_are_counted_by_a_readers_word(verdicts: list[dict[str, Any]], found: float | None) -> None:
    assert bench.coherent_of_10(_kept(3.1, 3.2), verdicts) == found


def test_a_reader_gets_prompts_and_both_texts_without_figures_of_training() -> None:
    text = bench.for_a_reader(_kept(3.1, 3.2))
    assert text.count("Prompt: `a nurse,flying,warm`") == 2
    assert text.count("> A nurse named Ann could fly.") == text.count("> a nurse,flying,warm a nurse") == 2
    assert "training_loss" not in text


def test_the_recordings_that_ship_are_whole() -> None:
    if not tour.RECORDINGS.is_file():
        pytest.skip("no tour is recorded yet: python -m bench.tour --record")
    for language in bench.LANGUAGES:
        recording = tour.load_recording(language)
        assert recording is not None and recording.before.strip() and recording.after.strip()
        assert recording.results_csv.count("\n") >= 20
