"""Which methods of which outside client work: reading lines, counting, the table as text and as Markdown. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

BEGIN, END = "<!-- conformance: begin -->", "<!-- conformance: end -->"


@dataclass(frozen=True)
class MethodResult:
    """One method of a client.

    Attributes:
        error: why it failed; None if it worked.
        own: whether the reason is the client's, so that no server could help.
    """

    method: str
    error: str | None = None
    own: bool = False


@dataclass(frozen=True)
class ClientResult:
    """What was tried with a client.

    Attributes:
        error: why the client could not be tried to its end, such as a failed installation.
        date: when, such as 2026-11-30.
    """

    client: str
    version: str
    methods: tuple[MethodResult, ...]
    error: str | None = None
    date: str = ""

    @property
    def worked(self) -> list[str]:
        """The methods that worked."""
        return [result.method for result in self.methods if result.error is None]

    @property
    def failed(self) -> list[MethodResult]:
        """The methods that did not, for any reason."""
        return [result for result in self.methods if result.error is not None]

    @property
    def passed(self) -> bool:
        """Whether everything worked, except for reasons of the client's own."""
        return bool(self.worked) and self.error is None and all(result.own for result in self.failed)

    def updated(self, newer: ClientResult) -> ClientResult:
        """This result with the methods that were tried again; all of them count only for the same version."""
        if newer.version != self.version:
            return newer
        again = {result.method: result for result in newer.methods}
        merged = {**{result.method: result for result in self.methods}, **again}
        return replace(newer, methods=tuple(merged.values()))


def own_line(line: str) -> dict[str, Any] | None:
    """A line of `bench.conformance_clients._methods`; None for what a client itself printed."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and ("version" in row or "method" in row) else None


def figures(results: Sequence[ClientResult]) -> dict[str, float]:
    """The bench's last line. Methods that the client itself rules out count as failed."""
    tried = sum(len(result.methods) for result in results)
    worked = sum(len(result.worked) for result in results)
    return {
        "clients_passed": sum(result.passed for result in results),
        "clients_tried": len(results),
        "methods_passed": worked,
        "methods_tried": tried,
        "methods_passed_share": round(worked / tried, 4) if tried else 0.0,
    }


def as_text(results: Sequence[ClientResult]) -> str:
    """A table for the terminal, with the failures below each client."""
    lines = [f"{'client':<24}{'version':<22}{'tried':>6}{'passed':>8}"]
    for result in results:
        lines.append(
            f"{result.client:<24}{result.version:<22}{len(result.methods):>6}{len(result.worked):>8}"
            + ("" if result.passed else "  not passed")
        )
        lines += [f"    {one.method}: {one.error}" for one in result.failed]
        lines += [f"    {result.error}"] if result.error else []
    return "\n".join(lines)


def stored(results: Sequence[ClientResult]) -> str:
    """The results as JSON, for `restored`."""
    return json.dumps([asdict(result) for result in results], ensure_ascii=False)


def restored(text: str) -> list[ClientResult]:
    """The results in a text of `stored`."""
    return [
        ClientResult(**{**row, "methods": tuple(MethodResult(**method) for method in row["methods"])})
        for row in json.loads(text)
    ]


def as_markdown(results: Sequence[ClientResult]) -> str:
    """The table for docs/engine.md."""
    counts = figures(results)
    lines = [
        f"{counts['clients_passed']:g} of {counts['clients_tried']:g} clients passed, "
        f"{counts['methods_passed']:g} of {counts['methods_tried']:g} methods.",
        "",
        "| client | tried on | passed | what was called |",
        "|---|---|---|---|",
    ]
    for result in results:
        passed = f"{len(result.worked)} of {len(result.methods)}"
        failures = [f"**not: {one.method}** ({_cell(one.error)})" for one in result.failed]
        failures += [f"**{_cell(result.error)}**"] if result.error else []
        lines.append(
            f"| {result.client} {result.version} | {result.date} | {passed} | {', '.join(result.worked + failures)} |"
        )
    return "\n".join(lines)


def in_document(document: str, table: str) -> str:
    """The document with `table` between its two markers.

    Raises:
        ValueError: it has no markers.
    """
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no {BEGIN} and {END} in the document")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("<", "&lt;")
