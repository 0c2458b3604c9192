"""Measures the server time of page reruns: `python -m bench.pages`. Each part measures one page; the last line printed
is JSON.

The time is that of a rerun of the script in an existing session, from its first to its last line, including everything
that it builds for the browser. This is the server's cost of a click; sending and rendering are not included.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from streamlit.runtime.scriptrunner import script_runner
from streamlit.runtime.scriptrunner.exec_code import exec_func_with_error_handling
from streamlit.testing.v1 import AppTest

from bench import _smoke

_PAGES = Path(__file__).parents[1] / "pages"
_RERUNS = 15
_TIMEOUT_S = 60


def rerun_ms(page: str, state: dict[str, Any], change: Callable[[AppTest, int], object]) -> float:
    """Median duration of a page's rerun, in milliseconds.

    Args:
        page: the script below `pages/`.
        state: initial widget values.
        change: called with the rerun's number before each rerun; it only sets widget values.
    """
    at = AppTest.from_file(str(_PAGES / "frame.py"), default_timeout=_TIMEOUT_S)
    for key, value in state.items():
        at.session_state[key] = value
    at.run()
    at.switch_page(str(_PAGES / f"{page}.py")).run()
    with _timed() as times:
        for number in range(_RERUNS):
            change(at, number)
            at.run()
    if at.exception:
        raise RuntimeError(f"{page} failed: {at.exception[0].value}")
    return statistics.median(times) * 1_000


def cost() -> dict[str, float]:
    """Measure the price comparison with every list; the baseline changes with each rerun."""
    from core.pricing.price_book import PriceBook
    from pages.ui.cost import cached_cost

    lists = ["engine", "openai-2023", *cached_cost.providers()]
    rows = len(PriceBook.load().rows(lists))
    baselines = [("openai-2023", "gpt-3.5-turbo"), ("openai-2023", "text-davinci-003")]
    found = rerun_ms(
        "cost",
        {"cost_lists": lists, "cost_baseline": baselines[0]},
        lambda at, number: at.selectbox(key="cost_baseline").set_value(baselines[(number + 1) % 2]),
    )
    print(f"cost page, {rows} prices of {len(lists)} lists: {found:.0f} ms a rerun")
    return {"cost_rerun_ms": round(found, 1)}


def training() -> dict[str, float]:
    """Measure the training page with many jobs and a long curve, against Streamlit's own chart."""
    from bench import _training

    return _training.measure(rerun_ms)


PARTS: tuple[Callable[[], dict[str, float]], ...] = (cost, training)
"""The parts to measure, one after the other; each prints a line and adds its keys."""


def main() -> None:
    """Measure every part in an empty home directory."""
    logging.disable(logging.WARNING)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as home:
        os.environ["FABULA_HOME"] = home
        _smoke.parse(argparse.ArgumentParser(description=__doc__), modules=("bench._training",), start=_one_page)
        for part in PARTS:
            found |= part()
    print(json.dumps(found))
    sys.stdout.flush()
    os._exit(0)  # AppTest leaves threads running


def _one_page() -> None:
    page = AppTest.from_file(str(_PAGES / "frame.py"), default_timeout=_TIMEOUT_S).run()
    if page.exception:
        raise RuntimeError(f"the first page failed: {page.exception[0].value}")


@contextmanager
def _timed() -> Iterator[list[float]]:
    """Record the duration of every script run in the block, in seconds."""
    times: list[float] = []

    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return exec_func_with_error_handling(*args, **kwargs)
        finally:
            times.append(time.perf_counter() - began)

    with mock.patch.object(script_runner, "exec_func_with_error_handling", timed):
        yield times


if __name__ == "__main__":
    main()
