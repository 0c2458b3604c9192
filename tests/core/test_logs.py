"""Logs have one line per message, even for hostile text, and contain no keys."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from datetime import datetime

import pytest

from core import logs

_SECRET = "sk-canary-0123456789"


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    stream, logger = io.StringIO(), logging.getLogger("fabula.test-logs")
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.LineFormatter())
    logger.addHandler(handler)
    logger.propagate = False
    yield logger, stream
    logger.removeHandler(handler)


@pytest.mark.parametrize(
    "text",
    [
        "a\n2026-01-01 00:00:00 INFO fabula: a forged line",
        "a\r\nforged",
        "a\x1b[31mred\x1b[0m",
        "a\x00\x07\x08\x7f",
        "a\u2028forged\u2029forged",
        "a\x85forged",
        "a\x9b31m",
        "a\x0b\x0cforged",
    ],
)
def test_text_from_outside_stays_in_its_line(log: tuple[logging.Logger, io.StringIO], text: str) -> None:
    logger, stream = log
    logger.warning("The model %s was refused.", text)
    written = stream.getvalue()
    assert written.endswith(" was refused.\n") and len(written.splitlines()) == 1
    assert not [sign for sign in written[:-1] if ord(sign) < 32 or 0x7F <= ord(sign) < 0xA0]


def test_a_traceback_can_forge_no_line(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = log
    try:
        raise ValueError("bad\n2026-01-01 00:00:00 INFO fabula: a forged line")
    except ValueError:
        logger.exception("It failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("ERROR fabula.test-logs: It failed") and rest
    assert all(line.startswith("  | ") for line in rest)


@pytest.mark.parametrize("form", ["{0}", "Bearer {0}", '{{"key": "{0}"}}', "?api_key={0}&x=1", "{0}{0}"])
def test_a_key_is_in_no_line_and_in_no_traceback(log: tuple[logging.Logger, io.StringIO], form: str) -> None:
    logger, stream = log
    logs.register_secret(_SECRET)
    text = form.format(_SECRET)
    logger.warning("Sent %s", text)
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logger.exception("It failed: %s", text)
    assert "Sent" in stream.getvalue() and _SECRET not in stream.getvalue() and "[key]" in stream.getvalue()


def test_a_key_that_begins_with_another_key_is_hidden_whole(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    for number in range(20):  # the order of a set changes from process to process
        logs.register_secret(f"sk-short-{number:02}")
        logs.register_secret(f"sk-short-{number:02}-and-its-longer-tail")
        logger.warning("refused sk-short-%02d-and-its-longer-tail", number)
    assert "tail" not in written.getvalue()


@pytest.mark.parametrize("short", ["", "a", "key"])
def test_a_word_too_short_to_be_a_key_changes_no_line(log: tuple[logging.Logger, io.StringIO], short: str) -> None:
    logger, stream = log
    logs.register_secret(short)
    logger.warning("a key of a model")
    assert stream.getvalue().endswith("a key of a model\n")


@pytest.fixture
def json_log(log: tuple[logging.Logger, io.StringIO]) -> tuple[logging.Logger, io.StringIO]:
    logger, stream = log
    for handler in logger.handlers:  # pytest adds others
        handler.setFormatter(logs.JsonFormatter())
    return logger, stream


def test_a_json_line_has_the_ids_of_what_it_belongs_to(json_log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = json_log
    with logs.bound(run="r1"), logs.bound(person="ann"):
        logger.warning("Inside\n%s", "a second line")
    logger.warning("Outside")
    inside, outside = map(json.loads, stream.getvalue().splitlines())
    assert (inside["run"], inside["person"], inside["level"]) == ("r1", "ann", "WARNING")
    assert inside["message"] == "Inside\na second line" and inside["logger"] == "fabula.test-logs"
    assert datetime.fromisoformat(inside["time"]).tzinfo is not None
    assert outside.keys() == {"time", "level", "logger", "message"}


def test_plain_lines_end_with_the_ids(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = log
    with logs.bound(run="r1", person="ann\nforged"):
        logger.warning("Inside")
    assert stream.getvalue().endswith("Inside [run=r1 person=ann\\nforged]\n")


def test_tasks_inherit_the_ids_and_other_threads_do_not(json_log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, stream = json_log

    async def work() -> None:
        await asyncio.gather(asyncio.to_thread(logger.warning, "in a task"))

    with logs.bound(job="j1"):
        asyncio.run(work())
        thread = threading.Thread(target=logger.warning, args=("elsewhere",))
        thread.start()
        thread.join()
    found = {line["message"]: line.get("job") for line in map(json.loads, stream.getvalue().splitlines())}
    assert found == {"in a task": "j1", "elsewhere": None}


@pytest.mark.parametrize("secret", [_SECRET, 'pass"word\\with-signs', "пароль-из-букв"])
def test_a_secret_is_in_no_json_line(json_log: tuple[logging.Logger, io.StringIO], secret: str) -> None:
    logger, stream = json_log
    logs.register_secret(secret)
    try:
        raise RuntimeError(secret)
    except RuntimeError:
        with logs.bound(person=secret):
            logger.exception("Sent %s", secret)
    (line,) = stream.getvalue().splitlines()
    assert secret not in "".join(json.loads(line).values()) and line.count("[key]") >= 3


def test_with_json_libraries_log_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    library, root = logging.getLogger("test-library"), logging.getLogger()
    handler, before = logging.StreamHandler(io.StringIO()), {one: one.formatter for one in root.handlers}
    library.addHandler(handler)
    level = logging.getLogger("fabula").level
    try:
        logs.configure()
        logs.set_format("json")
        library.warning("hello")
    finally:
        library.removeHandler(handler)
        logging.getLogger("fabula").setLevel(level)
        for one, formatter in before.items():
            one.setFormatter(formatter)
    assert json.loads(handler.stream.getvalue())["message"] == "hello"
