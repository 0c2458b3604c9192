"""A run's loss and accuracy have one definition in core, pages, charts and exports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from streamlit.dataframe_util import convert_arrow_bytes_to_pandas_df

from core.db.store import Store
from core.evaluation import run_export
from core.finetuning import curve_analysis, job_comparison, job_views
from core.finetuning.results import Figure, Results, figure, headline_accuracy, parse, smoothing_weight
from tests.support.app_pages import FRAME, visit, words
from tests.support.fakes import job_view
from tests.support.fault_server import FaultServer
from tests.support.ledger_rows import hours_ago, put_job

_CURIE = Path(__file__).parents[3] / "shared" / "fixtures" / "curie_results.csv"
_LUCKY = "step,elapsed_tokens,training_loss,training_token_accuracy,validation_loss,validation_token_accuracy\n"


def _lucky(steps: int, *, held_out: float | None = None) -> str:
    """A run whose accuracy is 0.8, with one batch of 0.99 in the middle and 0.7 in the last step."""
    accuracy = {steps // 2: 0.99, steps: 0.7}
    lines = [f"{n},{n * 10},{1 + 1 / n:.4f},{accuracy.get(n, 0.8)}" for n in range(1, steps + 1)]
    ends = ["," if held_out is None or n < steps else f"1.5,{held_out}" for n in range(1, steps + 1)]
    return _LUCKY + "".join(f"{line},{end}\n" for line, end in zip(lines, ends, strict=True))


@pytest.mark.parametrize(
    ("text", "column", "expected"),
    [
        (_lucky(19), "training_token_accuracy", Figure(0.7, "last_step")),
        (_lucky(20), "training_token_accuracy", Figure(0.76, "smoothed")),  # 0.8 - (1 - 0.6) × 0.1
        (_lucky(499), "training_token_accuracy", Figure(0.76, "smoothed")),
        (_lucky(600), "training_token_accuracy", Figure(0.79, "smoothed")),  # 0.8 - (1 - 0.9) × 0.1
        (_lucky(60, held_out=0.66), "validation_token_accuracy", Figure(0.66, "held_out")),
        (_lucky(60, held_out=0.66), "validation_loss", Figure(1.5, "held_out")),
        (_lucky(60), "validation_loss", None),
        ("step,train_loss\n1,\n2,\n", "training_loss", None),
        ("step,train_loss\n1,2.5\n2,\n", "training_loss", Figure(2.5, "last_step")),
        ("", "training_loss", None),
    ],
)
def test_a_figure_has_one_definition(text: str, column: str, expected: Figure | None) -> None:
    found = figure(parse(text), column)
    assert (found and found.definition) == (expected and expected.definition)
    if found is not None and expected is not None:
        assert found.value == pytest.approx(expected.value, abs=0.001)


@pytest.mark.parametrize(("held_out", "definition", "value"), [(0.61, "held_out", 0.61), (None, "smoothed", 0.76)])
def test_a_card_shows_held_out_accuracy_where_there_is_one(held_out: float, definition: str, value: float) -> None:
    found = headline_accuracy(parse(_lucky(60, held_out=held_out)))
    assert found is not None and found.definition == definition and found.value == pytest.approx(value, abs=0.001)


def test_the_figure_of_a_chain_is_that_of_its_last_job() -> None:
    first, last = parse(_lucky(30)), parse(_lucky(30).replace("0.8", "0.9"))
    frame = curve_analysis.curve_frame([(job_view("a"), first), (job_view("b"), last)])
    found = figure(Results(frame, skipped=0), "training_token_accuracy")
    assert found is not None and found == figure(last, "training_token_accuracy")


@pytest.fixture(params=["curie", "lucky", "short"])
def run(request: pytest.FixtureRequest) -> str:
    """The text of a results file."""
    if request.param == "curie":
        if not _CURIE.is_file():
            pytest.skip("the article's results file is not on this machine")
        return _CURIE.read_text(encoding="utf-8")
    return _lucky(120) if request.param == "lucky" else _lucky(12)


def test_every_page_shows_the_same_accuracy(engine_server: FaultServer, store: Store, run: str) -> None:
    read = parse(run)
    found = figure(read, "training_token_accuracy")
    assert found is not None
    name = {"smoothed": "smoothed", "last_step": "last step"}[found.definition]
    title, sign = f"Token accuracy, {name}", f"{100 * found.value:.1f} %"
    ids = [
        put_job(store, status="succeeded", dataset_id="d", name=each, results_csv=run, created_at=hours_ago(n + 1))
        for n, each in enumerate(("one", "two"))
    ]

    home = {metric.label: metric.value for metric in visit("home").metric}
    assert home[title] == sign
    page = visit("training")
    assert {metric.label: metric.value for metric in page.metric}[title] == sign
    table = page.dataframe[0]
    assert list(table.value["accuracy"]) == [pytest.approx(100 * found.value)] * 2
    heading = next(column for column in _config(table).values() if column.get("label") == "Accuracy")
    assert heading["help"].startswith("Token accuracy.") and name in heading["help"]  # too long for a heading
    formats = {name: column.get("type_config", {}).get("format") for name, column in _config(table).items()}
    assert formats["accuracy"] % (100 * found.value) == sign
    charts = [text for chart in page.get("vega_lite_chart") for text in _texts(chart) if text.endswith("%")]
    assert charts == [sign]
    assert not re.search(r"accuracy from .* to (?!" + re.escape(sign) + ")", words(page))

    read_page = visit("training", training_part="read")
    read_page.file_uploader(key="training_results_file").upload("results.csv", run.encode()).run()
    assert {metric.label: metric.value for metric in read_page.metric}[title] == sign

    both = visit("home")
    both.query_params["jobs"] = ",".join(ids)
    both.switch_page(str(FRAME.with_name("training.py"))).run()
    figures = next(one.value for one in both.table if title in one.value.index)
    assert [str(cell) for cell in figures.loc[title]] == [sign] * 2
    assert f"{sign} ({name})" in run_export.model_card(store, ids[0])
    compared = job_comparison.compare([job_views.get(store, ids[0])], [read], job_views.get(store, ids[0]).created_at)
    assert compared.columns[0].accuracy == found
    assert smoothing_weight(read.steps) in (0.0, 0.6, 0.9)


def _texts(chart: Any) -> list[str]:
    """The labels at the ends of a chart's lines."""
    rows = convert_arrow_bytes_to_pandas_df(chart.proto.data.data)
    return [str(text) for text in rows["end"].dropna()] if "end" in rows else []


def _config(table: Any) -> dict[str, Any]:
    """The column configuration of a table."""
    found: dict[str, Any] = json.loads(table.proto.columns)
    return found
