"""Measures the speed and safety of runs: `python -m bench.generate`. It uses a loopback server with 50 ms latency and
64 requests in flight.

Raw aiohttp (the upper limit), the official SDK, bespokelabs-curator (in its own virtual environment), and our run with
full durability are measured in turns, each in its own process; then the behaviour of a run with rate limits, a crash,
an account without credit, and an exhausted budget. The last line printed is JSON; null means not measured.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx2

from bench import _curator, _loopback, _smoke
from bench._runs import IN_FLIGHT, ledger_of, new_run

ROOT = Path(__file__).resolve().parents[1]
KILL_AFTER = 1_000  # answers before the kill
MOST_S = 600  # a longer measurement counts as failed
QUOTA_AFTER = 500  # answers before the credit is used up
BUDGET_USD = Decimal("0.05")  # a third of the rows' cost


def main() -> None:
    """Measure, then print a table and one line of JSON."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder, _loopback.running() as url:
        home = Path(folder)
        told = {
            **_speed(url, home, options),
            **_memory(url, home, options),
            **_refusals(url, home, options),
            **_kill(url, home, options),
            **_quota(url, home, options),
            **_budget(url, home, options),
        }
    print(json.dumps(told))


# --- measurements ------------------------------------------------------------------------------------------------


def _speed(url: str, home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure requests per second and CPU time per request, in turns; ratios are medians of the ratios per round."""
    curator = None if options.without_curator else _curator.python(options.curator_venv)
    ways = ["aiohttp", "sdk", *(["curator"] if curator else []), "ours"]
    seen: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for turn in range(options.rounds):
        for way in ways[turn % len(ways) :] + ways[: turn % len(ways)]:
            if way == "curator" and turn:
                continue  # measuring it takes a minute, and its result is far from any threshold
            _reset(url)
            seen[way].append(_way(way, url, home / f"{way}-{turn}", options.requests, curator or sys.executable))
    print(f"{platform.processor() or platform.machine()}, {options.requests:,} requests, {IN_FLIGHT} in flight")
    print(f"{'':>10} {'requests/s':>12} {'CPU/request':>14}")
    for way in ways:
        rps, cpu = (statistics.median(one[what] for one in seen[way]) for what in ("rps", "cpu_us"))
        print(f"{way:>10} {rps:>12.0f} {cpu:>11.0f} µs")

    def ratio(what: str, other: str) -> float | None:
        pairs = list(zip(seen["ours"], seen.get(other, []), strict=False))
        return round(statistics.median(o[what] / t[what] for o, t in pairs), 3) if pairs else None

    return {
        "rps_vs_aiohttp": ratio("rps", "aiohttp"),
        "rps_vs_curator": ratio("rps", "curator"),
        "cpu_vs_aiohttp": ratio("cpu_us", "aiohttp"),
    }


def _memory(url: str, home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure the peak memory of a run of 50,000 rows divided by that of a run of 2,000 rows."""
    peaks = []
    for rows in (options.requests, options.many):
        _reset(url)
        peaks.append(_way("ours", url, home / f"memory-{rows}", rows)["rss_mb"])
        print(f"peak memory of {rows:,} rows: {peaks[-1]:.0f} MB")
    return {"rss_50k_vs_2k": round(peaks[1] / peaks[0], 3)}


def _refusals(url: str, home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a run in which 10 % of all answers are 429 with `Retry-After: 1`."""
    _reset(url, refuse=0.1)
    run_id = new_run(home / "refusals", options.requests)
    ours = _finish("execute", url, home / "refusals", options.requests, run_id)
    counts = _counts(url)
    _reset(url, refuse=0.1)
    holding = _way("holding", url, home / "holding", options.requests)
    print(f"a tenth refused: {ours['wall_s']:.1f} s, holding the slot {holding['wall_s']:.1f} s; {counts}")
    return {
        "requests_per_row_429": round(counts["requests"] / options.requests, 3),
        "early_retries_429": counts["early"],
        "wall_429_vs_slot_holding": round(ours["wall_s"] / holding["wall_s"], 3),
    }


def _kill(url: str, home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Kill the run with kill -9 after 1,000 answers, then start it again."""
    _reset(url)
    run_id = new_run(home / "kill", options.requests)
    child = _start("execute", url, home / "kill", options.requests, run_id)
    try:
        httpx2.get(f"{url}/after", params={"answers": min(KILL_AFTER, options.requests // 2)}, timeout=MOST_S)
    finally:
        child.kill()
        child.wait()
    before = ledger_of(home / "kill", run_id)
    done = {prompt: text for prompt, state, text in before if state == "done"}
    _finish("execute", url, home / "kill", options.requests, run_id)
    after = ledger_of(home / "kill", run_id)
    kept = {prompt: text for prompt, state, text in after if state == "done"}
    counts = _counts(url)
    lost = sum(kept.get(prompt) != text for prompt, text in done.items()) + options.requests - len(kept)
    print(f"killed with {len(done):,} rows in the ledger; {counts['twice']} answers bought twice")
    return {
        "lost_after_kill": lost,
        "duplicates_after_kill": len(after) - len({prompt for prompt, _, _ in after}),
        "rebought_after_kill_vs_in_flight": round(counts["twice"] / IN_FLIGHT, 3),
    }


def _quota(url: str, home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a run during which the account runs out of credit."""
    _reset(url, credit=min(QUOTA_AFTER, options.requests // 2))
    _finish("execute", url, home / "quota", options.requests, new_run(home / "quota", options.requests))
    counts = _counts(url)
    print(f"requests that came after the first word of no credit: {counts['after_quota']}")
    return {"requests_after_quota_vs_in_flight": round(counts["after_quota"] / IN_FLIGHT, 3)}


def _budget(url: str, home: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure a run with a budget that is too small, at known prices."""
    _reset(url)
    run_id = new_run(home / "budget", options.requests, BUDGET_USD)
    spent = Decimal(str(_finish("execute", url, home / "budget", options.requests, run_id)["cost_usd"]))
    print(f"budget ${BUDGET_USD}, spent ${spent}")
    return {"budget_overshoot_usd": float(max(Decimal(0), spent - BUDGET_USD))}


# --- processes -------------------------------------------------------------------------------------------------------


def _way(way: str, url: str, home: Path, requests: int, python: str = sys.executable) -> dict[str, float]:
    """Run one measurement in its own process."""
    if way == "curator":
        return _curator.measure(python, url, home, requests)
    run_id = new_run(home, requests) if way == "ours" else "-"
    return _finish(way, url, home, requests, run_id)


def _start(way: str, url: str, home: Path, requests: int, run_id: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bench._runs", way, url, str(home), str(requests), run_id]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def _finish(way: str, url: str, home: Path, requests: int, run_id: str) -> dict[str, float]:
    process = _start(way, url, home, requests, run_id)
    try:
        out, _ = process.communicate(timeout=MOST_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    if process.returncode:
        raise RuntimeError(f"{way} ended with code {process.returncode}")
    told: dict[str, float] = json.loads(out.splitlines()[-1])
    return told


def _reset(url: str, **faults: float) -> None:
    httpx2.post(f"{url}/reset", json=faults).raise_for_status()


def _counts(url: str) -> dict[str, Any]:
    counts: dict[str, Any] = httpx2.get(f"{url}/counts").json()
    return counts


def _one_answer() -> None:
    with _loopback.running() as url:
        _reset(url)
        _counts(url)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=2_000)
    parser.add_argument("--many", type=int, default=50_000, help="rows of the measurement of memory")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each speed, in turns")
    parser.add_argument("--without-curator", action="store_true")
    parser.add_argument("--curator-venv", type=Path, default=ROOT / ".venv-curator", help="made where it is missing")
    return _smoke.parse(parser, modules=("bench._runs",), start=_one_answer)


if __name__ == "__main__":
    main()
