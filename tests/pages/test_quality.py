"""The Quality tab as a visitor sees it: verdict, cards that open, and rows that are left out with one click."""

from __future__ import annotations

import threading

import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from core.actor import LOCAL
from core.datasets import dataset_rows, datasets
from core.datasets.dataset_rows import RowFilter
from core.datasets.quality import quality_store
from core.datasets.quality.measure import report
from core.datasets.quality.report import REASONS, QualityReport
from core.datasets.recipe import Column, Recipe
from core.db.store import Store
from core.db.tables import Row
from core.errors import StorageFull
from core.generation import runs
from pages.ui import background
from pages.ui.background import RefreshedReport, RowProgress
from pages.ui.dataset import quality_report
from tests.support.app_pages import again, click, labels, trouble, visit, words
from tests.support.waiting import WAIT_LIMIT_S, until

_HERO = "一位唐朝的英雄穿越到现代，拥有了{power}的超能力，帮助奥特曼打败了怪兽，从此城市恢复了和平与安宁。"


def _load(store: Store, texts: list[tuple[str, str]], columns: tuple[str, ...] = ("power",)) -> str:
    frame = pd.DataFrame([{"power": power, "story": text} for power, text in texts])
    return datasets.from_frame(store, LOCAL, "heroes", frame, columns, "story")


def _open(card: str = "") -> AppTest:
    state = {"dataset_part": "quality", **({"dataset_quality_card": card} if card else {})}
    at = visit("dataset", **state)
    until(lambda: not again(at).progress, "the report")
    return at


def _figures(at: AppTest) -> dict[str, str]:
    return {metric.label.split(": ", 1)[-1]: metric.value for metric in at.metric}


def test_without_a_data_set_it_says_what_to_do() -> None:
    assert "No data set yet" in words(visit("dataset", dataset_part="quality"))


def test_the_samples_verdict_stands_first_in_both_languages(store: Store) -> None:
    datasets.load_sample(store, LOCAL, "ultraman_stories")
    at = _open()
    assert at.markdown[0].value.startswith("### :green[") and "Good" in at.markdown[0].value
    assert "486 finished rows measured" in words(at)
    at = visit("dataset", "zh-CN", dataset_part="quality")  # the report is complete
    assert at.markdown[0].value.startswith("### :green[") and not at.error


def test_every_card_opens(store: Store) -> None:
    datasets.load_sample(store, LOCAL, "ultraman_stories")
    at = _open()
    for card in quality_report.CARDS:
        if card != "labels":
            name = quality_report.CARDS[card][1]
            if not at.button(key=f"dataset_quality_open_{card}").disabled:
                click(at, f"dataset_quality_open_{card}")
            assert any(block.value.endswith(name) and block.value.startswith("####") for block in at.markdown), card
    assert _figures(at)["Coverage"] == "100 %"


def test_texts_that_all_ended_are_not_counted_as_none_that_ended(store: Store) -> None:
    dataset_id = _load(store, [(power, _HERO.format(power=power)) for power in "飞隐火"])
    with store.session() as session:
        session.query(Row).filter_by(dataset_id=dataset_id).update({"finish_reason": "stop"})
    said = words(_open())
    assert "none were cut off" in said and "complete" not in said


def test_copies_are_left_out_with_one_click_and_come_back_with_another(store: Store) -> None:
    texts = [(power, _HERO.format(power=power) + chr(0x4E00 + 40 * i) * 30) for i, power in enumerate("飞隐火水雷")]
    dataset_id = _load(store, [*texts, texts[0], texts[1]])
    at = _open()
    assert "2 exact copies" in at.markdown[0].value
    assert at.button(key="dataset_quality_duplicates_all").label == "Leave out these 2 rows"
    click(at, "dataset_quality_duplicates_all")
    until(lambda: "exact" not in again(at).markdown[0].value, "a report without the copies")
    assert datasets.summary(store, dataset_id).excluded == 2
    assert "2 rows are left out." in words(at)
    excluded = dataset_rows.page(store, dataset_id, RowFilter(states=("excluded",)))
    assert {row.reason for row in excluded} == {REASONS["exact"]}
    assert [row.position for row in excluded] == [5, 6]  # the first of each is kept
    click(at, "dataset_undo")
    assert datasets.summary(store, dataset_id).excluded == 0
    until(lambda: "2 exact copies" in again(at).markdown[0].value, "the copies again")


def test_rows_without_their_value_lead_to_themselves(store: Store) -> None:
    made = [("隐形" if i % 2 else "喷火", chr(0x4E00 + 97 * i) * 40) for i in range(20)]
    texts = [(power, f"{power}的英雄。{filling}。") for power, filling in made]
    _load(store, [*texts, ("喷火", "他什么都没有做，只是静静地看着远方的城市。")])
    at = _open("adherence")
    assert "1 row: power missing" in at.markdown[0].value
    assert _figures(at)["Values in the text"] == "95 %"
    assert at.button(key="dataset_quality_adherence_missing_all").label == "Leave out this 1 row"
    assert "静静地看着" in str(at.dataframe[0].value["text"].iloc[0])


def test_a_classification_has_labels_in_place_of_stops(store: Store) -> None:
    frame = pd.DataFrame(
        [{"message": f"message number {i} about {'xyz'[i % 3] * 9}", "label": "abc"[i % 3]} for i in range(30)]
    )
    datasets.from_frame(store, LOCAL, "intents", frame, ["message"], "label")
    at = _open("labels")
    assert _figures(at)["Labels"] == "3"
    assert "dataset_quality_open_stops" not in {button.key for button in at.button}
    at.selectbox(key="dataset_quality_labels_rows_of").select("b").run()
    assert set(at.dataframe[0].value["text"]) == {"b"} and len(at.dataframe[0].value) == 10


def test_many_rows_come_in_pages(store: Store) -> None:
    _load(store, [("飞行", "完全一样的故事，一个字也没有改。")] * 120)
    at = _open("duplicates")
    assert len(at.dataframe[0].value) == 50
    assert at.button(key="dataset_quality_duplicates_all").label == "Leave out these 119 rows"


def test_what_a_model_wrote_is_text_only(store: Store) -> None:
    nasty = "![x](http://example.com/x.png)"
    _load(store, [(f"{nasty}{i}", f"{nasty} :red[hi] {i}.") for i in range(12)])
    for card in quality_report.CARDS:
        at = _open(card)
        shown = [*at.markdown, *at.caption, *at.metric]
        assert not any(nasty in str(element.value) for element in shown), card


def test_before_the_first_row_it_says_where_to_go(store: Store) -> None:
    datasets.create(store, LOCAL, Recipe("r", (Column("a", ("x", "y")),), "{a}"))
    at = _open()
    assert "No finished rows to check yet." in words(at)
    assert "Go to the run" in labels(at)


def test_while_a_run_goes_on_it_says_that_rows_are_judged_as_they_come(store: Store) -> None:
    dataset_id = datasets.create(store, LOCAL, Recipe("r", (Column("a", ("x", "y")),), "{a}"))
    runs.enqueue(store, LOCAL, dataset_id)
    assert "Rows are checked as they arrive." in words(_open())


def test_a_broken_ledger_is_told_and_can_be_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.load_sample(store, LOCAL, "ultraman_stories_more", 27)

    def full(*_: object) -> QualityReport:
        raise StorageFull("The disk is full.", "Make room.")

    with monkeypatch.context() as broken:
        broken.setattr(quality_store, "dataset_report", full)
        at = visit("dataset", dataset_part="quality")
        until(lambda: "The disk is full" in trouble(again(at)), "the error")
    click(at, "dataset_quality_again")
    until(lambda: not again(at).error and "Good" in at.markdown[0].value, "the report")


# --- the background measurement --------------------------------------------------------------------------------


def _empty() -> QualityReport:
    return report([], [])


def test_one_measurement_at_a_time_and_one_for_each_state_of_the_rows() -> None:
    gate, begun = threading.Event(), []

    def measure(progress: RowProgress) -> QualityReport:
        begun.append(1)
        progress(3, 9)
        gate.wait(2 * WAIT_LIMIT_S)
        return _empty()

    measurement = RefreshedReport(measure)
    measurement.ask("a")
    measurement.ask("b")  # while the first one is running
    assert measurement.running and not measurement.fresh("a") and len(begun) <= 1
    until(lambda: (measurement.read, measurement.total) == (3, 9), "its progress")
    gate.set()
    measurement.wait(WAIT_LIMIT_S)
    assert measurement.fresh("a") and not measurement.fresh("b") and measurement.report is not None
    measurement.ask("a")
    assert len(begun) == 1
    measurement.ask("b")
    measurement.wait(WAIT_LIMIT_S)
    assert len(begun) == 2 and measurement.fresh("b")


def test_a_bug_is_told_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    def measure(progress: RowProgress) -> QualityReport:
        raise ZeroDivisionError

    measurement = RefreshedReport(measure)
    measurement.ask("a")
    measurement.wait(WAIT_LIMIT_S)
    assert measurement.error is not None and "went wrong" in measurement.error.what and measurement.error.next_step
    assert "ZeroDivisionError" in caplog.text


def test_a_failed_measurement_is_made_again_a_few_seconds_later(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter((StorageFull("The disk is full.", "Make room."), _empty()))

    def measure(progress: RowProgress) -> QualityReport:
        answer = next(answers)
        if isinstance(answer, StorageFull):
            raise answer
        return answer

    measurement = RefreshedReport(measure)
    measurement.ask("a")
    measurement.wait(WAIT_LIMIT_S)
    measurement.ask("a")  # immediately after: it is shown, not repeated
    assert isinstance(measurement.error, StorageFull) and not measurement.running
    monkeypatch.setattr(background, "FAILURE_KEPT_S", 0.0)
    measurement.ask("a")
    measurement.wait(WAIT_LIMIT_S)
    assert measurement.error is None and measurement.fresh("a") and measurement.report is not None


def test_a_quick_measurement_is_repeated_while_rows_arrive() -> None:
    measurement = RefreshedReport(lambda progress: _empty(), quick_s=float("inf"))
    for rows in ("a", "b"):
        measurement.ask(rows, calm=True)
        measurement.wait(WAIT_LIMIT_S)
    assert measurement.fresh("b")


def test_a_long_measurement_waits_until_rows_stop_coming() -> None:
    measurement = RefreshedReport(lambda progress: _empty(), quick_s=0.0)
    measurement.ask("a", calm=True)
    measurement.wait(WAIT_LIMIT_S)
    measurement.ask("b", calm=True)
    assert not measurement.running and measurement.fresh("a")
    measurement.ask("b", calm=True, again=True)
    measurement.wait(WAIT_LIMIT_S)
    assert measurement.fresh("b")


def test_a_column_called_text_stands_beside_the_text(store: Store) -> None:
    frame = pd.DataFrame([{"text": "起因", "story": "完全一样的故事，一个字也没有改。"}] * 12)
    datasets.from_frame(store, LOCAL, "texts", frame, ["text"], "story")
    table = _open("duplicates").dataframe[0].value
    assert table["text "].iloc[0] == "起因" and "完全一样" in table["text"].iloc[0]


def test_an_error_is_kept_with_the_last_good_report() -> None:
    answers = iter((_empty(), StorageFull("The disk is full.", "Make room.")))

    def measure(progress: RowProgress) -> QualityReport:
        answer = next(answers)
        if isinstance(answer, StorageFull):
            raise answer
        return answer

    measurement = RefreshedReport(measure)
    measurement.ask("a")
    measurement.wait(WAIT_LIMIT_S)
    measurement.ask("b")
    measurement.wait(WAIT_LIMIT_S)
    assert measurement.report is not None and isinstance(measurement.error, StorageFull) and not measurement.running
