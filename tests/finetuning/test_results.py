"""The results CSV of every provider, growing or complete; unreadable lines are counted."""

from __future__ import annotations

import base64
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.finetuning import results as results_module
from core.finetuning.results import COLUMNS, parse
from core.providers.metric_parser import metric, metrics

_ROOT = Path(__file__).parents[2]
_EXCERPT = _ROOT / "data" / "samples" / "curie_2023_excerpt.csv"
_FIXTURE = _ROOT.parent / "shared" / "fixtures" / "curie_results.csv"
_HEADER = "step,elapsed_tokens,elapsed_examples,training_loss,training_sequence_accuracy,training_token_accuracy"
_ENGINE = f"{_HEADER},validation_loss,validation_token_accuracy"


def test_the_articles_excerpt_reads_as_printed() -> None:
    results = parse(_EXCERPT.read_text(encoding="utf-8"))
    assert (results.steps, results.skipped, results.trained_tokens) == (27, 0, 1_229_945)
    assert results.first("training_loss") == 0.8805545861742778
    assert (results.first("training_token_accuracy"), results.last("training_token_accuracy")) == (
        0.75,
        0.9556650246305419,
    )
    assert results.last("validation_loss") is None
    assert list(results.frame["step"][:24]) == list(range(1, 25))
    assert list(results.frame["step"][24:]) == [1855, 1856, 1857]


@pytest.mark.skipif(not _FIXTURE.exists(), reason="the whole results file of 2023 is not on this machine")
def test_the_results_file_of_2023_is_read_completely() -> None:
    text = _FIXTURE.read_text(encoding="utf-8")
    results = parse(text)
    assert (results.steps, results.skipped, results.trained_tokens) == (1857, 0, 1_229_945)
    assert list(results.frame["step"]) == list(range(1, 1858))
    assert parse(base64.b64encode(text.encode()).decode()).frame.equals(results.frame)
    printed = parse(_EXCERPT.read_text(encoding="utf-8")).frame
    pd.testing.assert_frame_equal(
        results.frame[results.frame["step"].isin(printed["step"])].reset_index(drop=True), printed
    )


@pytest.mark.parametrize(
    ("text", "steps", "skipped"),
    [
        ("", 0, 0),
        ("\n\n", 0, 0),
        (_HEADER, 0, 0),
        (f"{_HEADER}\n1,625,1,0.88,0.0,0.75\n", 1, 0),
        (f"{_HEADER}\r\n1,625,1,0.88,0.0,0.75\r\n", 1, 0),
        (f"\ufeff{_HEADER}\n1,625,1,0.88,0.0,0.75", 1, 0),
        (f"{_HEADER}\n1,625,1,0.88,0.0,0.75\n2,1258,2,0.8", 1, 1),  # a line that is still being written
        (f"{_HEADER}\n1,625,1,0.88,0.0,0.75,9\n", 0, 1),
        (f"{_HEADER}\n1,625,1,lots,0.0,0.75\n2,700,2,1,0,1\n", 1, 1),
        (f"{_HEADER}\n1.5,625,1,0.88,0.0,0.75\n", 0, 1),
        (f"{_HEADER}\n-1,625,1,0.88,0.0,0.75\n", 0, 1),
        (f"{_HEADER}\n1,6.5,1,0.88,0.0,0.75\n", 0, 1),
        (f"{_HEADER}\n1,1e300,1,0.88,0.0,0.75\n", 0, 1),
        (f"{_HEADER}\n,625,1,0.88,0.0,0.75\n", 0, 1),
        (f'{_HEADER}\n1,625,1,"0.88",0.0,0.75\n2,"700,2,1,0,1\n3,800,3,1,0,1\n', 3, 0),  # a stray quote
        ("hello", 0, 1),
        ("<html>\n<body>not found</body>", 0, 2),
        ("aGVsbG8=", 0, 1),  # base64 of other text
        ("step\n1\n2\nx\n3", 3, 1),
        ("\x00,\x00", 0, 1),
    ],
)
def test_unreadable_lines_are_skipped_and_counted(text: str, steps: int, skipped: int) -> None:
    results = parse(text)
    assert (results.steps, results.skipped) == (steps, skipped)
    assert tuple(results.frame.columns) == COLUMNS


@pytest.mark.parametrize(
    ("header", "row", "expected"),
    [
        (_ENGINE, "3,90,3,1.5,0.0,0.6,1.7,0.55", {"validation_loss": 1.7, "validation_token_accuracy": 0.55}),
        (_ENGINE, "3,90,3,1.5,0.0,0.6,,", {"training_loss": 1.5, "validation_loss": None}),
        (
            "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy",
            "3,1.5,0.6,1.7,0.55",
            {
                "training_loss": 1.5,
                "training_token_accuracy": 0.6,
                "validation_loss": 1.7,
                "validation_token_accuracy": 0.55,
                "elapsed_tokens": None,
            },
        ),
        (
            "step,train_loss,train_mean_token_accuracy,full_valid_loss,valid_loss,train_mean_reward",
            "3,1.5,0.6,,1.7,0.1",
            {"training_token_accuracy": 0.6, "validation_loss": 1.7},
        ),
        (" Step ,Training_Loss", "3, 1.5", {"training_loss": 1.5}),
        ("training_loss,step", "1.5,3", {"training_loss": 1.5}),
        ("step,training_loss", "3,nan", {"training_loss": None}),
        ("step,training_loss", "3,inf", {"training_loss": None}),
    ],
)
def test_headers_of_other_days_are_understood(header: str, row: str, expected: dict[str, float | None]) -> None:
    results = parse(f"{header}\n{row}\n")
    assert list(results.frame["step"]) == [3]
    assert {column: results.last(column) for column in expected} == expected


def test_steps_come_out_sorted_and_once_each_the_later_line_counting() -> None:
    results = parse("step,training_loss\n2,9\n1,8\n2,7\n")
    assert list(results.frame["step"]) == [1, 2]
    assert (results.last("training_loss"), results.skipped) == (7, 1)


def test_negative_losses_are_shown_unchanged() -> None:
    """A negative loss is a bug of the program that wrote the file, and must not be hidden."""
    for lines in (1, 5_000):
        text = _HEADER + "\n" + "".join(f"{n},{n},{n},-0.125,1.0,1.0\n" for n in range(1, lines + 1))
        assert parse(text).last("training_loss") == -0.125


_PLACEHOLDERS = [
    "", "N/A", "n/a", "NA", "n.a.", "#N/A", "<NA>", "None", "none", "NONE", "null", "NULL", "nil", "nan", "NaN", "-nan",
    "inf", "-", "--", "–", "—", "?", "-1", "-1.0", "-1.000", "-1e0", "undefined", "unknown", "not measured", "1.#QNAN",
    '"N/A"', " None ", "'null'", "\\N", "NOT_MEASURED", "not-measured", "off", "Skipped", "not computed",
]  # fmt: skip


@pytest.mark.parametrize("cell", _PLACEHOLDERS)
@pytest.mark.parametrize("column", COLUMNS[1:10])  # -1 is a valid margin
def test_a_placeholder_is_an_empty_cell_and_no_more(cell: str, column: str) -> None:
    values = dict(zip(COLUMNS, ("3", "90", "7", "1.5", "0", "0.6", "1.7", "0.5", "0.55", *"0123"), strict=True))
    text = ",".join(COLUMNS) + "\n" + ",".join((values | {column: cell}).values()) + "\n"
    results = parse(text)
    assert (results.steps, results.skipped) == (1, 0)
    assert {name: results.last(name) for name in COLUMNS} == {
        name: None if name == column else float(value) for name, value in values.items()
    }


@pytest.mark.parametrize("cell", _PLACEHOLDERS)
def test_a_line_without_a_step_is_no_step(cell: str) -> None:
    results = parse(f"step,training_loss\n{cell},1.5\n2,1.25\n")
    assert (list(results.frame["step"]), results.skipped) == ([2], 1)


def test_a_line_of_placeholders_keeps_its_step() -> None:
    results = parse(f"{_ENGINE}\n1,10,1,0.5,0,0.7,-1.0,-1.0\n2,N/A,None,-,nan,n/a,null,-1\n3,30,3,0.4,1,0.8,1.1,0.6\n")
    assert (results.steps, results.skipped) == (3, 0)
    assert list(results.frame["validation_loss"].dropna()) == [1.1]
    assert list(results.frame["training_loss"].dropna()) == [0.5, 0.4]
    assert max(results.frame["training_token_accuracy"].dropna()) == 0.8


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("valid_loss", -1, None),
        ("valid_loss", "-1.0", None),
        ("valid_loss", -0.01, -0.01),
        ("valid_loss", 0, 0.0),
        ("full_valid_mean_token_accuracy", -1.0, None),
        ("train_accuracy", "N/A", None),
        ("train_accuracy", "0.75", 0.75),
        ("train_accuracy", "93.5%", 0.935),
        ("train_accuracy", "94 %", 0.94),
        ("train_mean_reward", -1.0, -1.0),
        ("train_loss", None, None),
        ("train_loss", True, None),
        ("train_loss", float("nan"), None),
        ("train_loss", float("-inf"), None),
        ("train_loss", [1.0], None),
        ("elapsed_tokens", -1, None),
        ("step", 10, 10.0),
    ],
)
def test_a_metric_is_a_number_or_not_measured(name: str, value: object, expected: float | None) -> None:
    assert metric(name, value) == expected
    assert metrics({name: value, "train_loss_2": "lots"}) == ({} if expected is None else {name: expected})


def test_a_text_that_is_no_number_is_an_error_of_its_line() -> None:
    with pytest.raises(ValueError, match="lots"):
        metric("train_loss", "lots")


def test_base64_with_line_breaks_is_unpacked() -> None:
    packed = base64.encodebytes(f"{_HEADER}\n1,625,1,0.88,0.0,0.75\n".encode()).decode()
    assert parse(packed).steps == 1


@given(st.text())
def test_no_text_is_an_error(text: str) -> None:
    assert parse(text).steps >= 0
    assert parse(f"{_HEADER}\n{text}").steps >= 0


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("", "The results file is empty."),
        ("<html>", "not a results file"),
        (_HEADER, "no steps yet"),
        (f"{_HEADER}\n1,625,1,0.88,0.0,0.75\n2,12", "could not be read: 1"),
        (f"{_HEADER}\n1,625,1,0.88,0.0,0.75\n", None),
    ],
)
def test_reasons_for_a_missing_curve(text: str, note: str | None) -> None:
    found = parse(text).note
    assert (found is None) if note is None else (found is not None and note in found)


_LINES = [f"{n},{n * 625},{n},{1 / n},0.0,{1 - 1 / n},," for n in range(1, 5_000)]


@pytest.mark.parametrize(
    "lines",
    [
        _LINES,
        [*_LINES[:2_000], "", *_LINES[2_000:]],
        [*_LINES, "5000,12"],
        [*_LINES, "5000,1,1,lots,0,0,,"],
        [*_LINES, _LINES[0]],
        [*_LINES, "5000.5,1,1,1,0,0,,"],
        [*_LINES, "5000,1,1,inf,0,0,1.5,nan"],
        [*_LINES, "5000,N/A,-1,-1.0,None,-,null,-1"],
        [*_LINES, "5000,1,1,-0.5,0,-0.5,n/a,NULL"],
        [f"{line[:-1]}-1.0,-1.0" for line in _LINES],
        [f"{line}N/A" for line in _LINES],
        [*_LINES, '5000,1,1,"N/A",n/A,0,,'],
        [*_LINES, '5000,1,1,"1.5",0,0,,'],
        [line.replace(",", ", ") for line in _LINES],
        list(reversed(_LINES)),
    ],
)
def test_a_long_file_reads_as_a_short_one_does(monkeypatch: pytest.MonkeyPatch, lines: list[str]) -> None:
    text = "\n".join([_ENGINE, *lines]) + "\n"
    quick = parse(text)
    monkeypatch.setattr(results_module, "_FAST_PATH_CHARS", len(text))
    patient = parse(text)
    pd.testing.assert_frame_equal(quick.frame, patient.frame)
    assert quick.skipped == patient.skipped
