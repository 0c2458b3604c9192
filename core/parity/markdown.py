"""The parity card as Markdown, in English: for a ticket, a wiki, or a pull request."""

from __future__ import annotations

from core.evaluation.scoring import Interval
from core.message import percent, sentences
from core.parity.report import ParityReport, Side
from core.sanitize import markdown_text

_WORST_ROWS = 20  # the JSON file has more
_TEXT_CHARS = 300
_NONE = "–"


def to_markdown(card: ParityReport) -> str:
    """The whole card: verdict, both models, parts, and the worst rows."""
    lines = [
        f"# {_cell(card.old.model)} → {_cell(card.new.model)}",
        "",
        f"**{markdown_text(sentences(card.verdict.sentence))}**",
        "",
        f"Accepted loss: {100 * card.verdict.margin:.0f} points. {_reference(card)}",
        "",
        "| | Old model | New model |",
        "|---|---|---|",
        f"| Model | {_cell(card.old.model)} | {_cell(card.new.model)} |",
        *(f"| {name} | {old} | {new} |" for name, old, new in _figures(card)),
    ]
    if card.parts:
        lines += ["", "| Label or field | Rows | Old model correct | New model correct |", "|---|---|---|---|"]
        lines += [f"| {_cell(part.name)} | {part.n} | {part.old_right} | {part.new_right} |" for part in card.parts]
    if card.worst:
        lines += ["", f"{card.worse_rows} rows are answered worse; the worst ones:", ""]
        lines += ["| Prompt | Expected | Old model | New model |", "|---|---|---|---|"]
        lines += [
            f"| {_cell(row.prompt)} | {_cell(row.reference)} | {_cell(row.old)} | {_cell(row.new)} |"
            for row in card.worst[:_WORST_ROWS]
        ]
    return "\n".join(lines) + "\n"


def _reference(card: ParityReport) -> str:
    return "The old model's answers count as correct." if card.against_old else "Compared with the expected answers."


def _figures(card: ParityReport) -> list[tuple[str, str, str]]:
    def of(name: str, figure: str) -> tuple[str, str, str]:
        return name, _figure(card.old, figure), _figure(card.new, figure)

    found = [of("Score (95 % interval)", "score"), of("Rows answered", "answered")]
    if card.task == "json":
        found.append(of("Valid JSON", "valid"))
    return [*found, of("Characters per answer (median)", "characters"), of("Seconds per answer (median)", "seconds")]


def _figure(side: Side, name: str) -> str:
    value = getattr(side, name)
    if value is None:
        return _NONE
    if isinstance(value, Interval):
        return f"{percent(value.value)} ({percent(value.low)} to {percent(value.high)})"
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def _cell(text: str | None) -> str:
    """A table cell: shortened, in one line, escaped."""
    if text is None:
        return "no answer"
    words = " ".join(text.split())
    return markdown_text(words if len(words) <= _TEXT_CHARS else words[:_TEXT_CHARS] + " …")
