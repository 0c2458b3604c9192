"""Tune or prompt as Markdown, in English: for a ticket, a wiki, or a pull request."""

from __future__ import annotations

from decimal import Decimal

from core.evaluation.scoring import Interval
from core.message import sentences
from core.parity.markdown_cells import NONE, share, text
from core.parity.prompt_variants import Variant
from core.parity.tune_or_prompt import TuneOrPrompt
from core.sanitize import markdown_text

_UNKNOWN = "unknown"
_SCORES = {"label": "Correct", "json": "Correct fields", "text": "Similarity"}


def to_markdown(found: TuneOrPrompt) -> str:
    """The whole result: the verdict, every variant, the training, and the prompt."""
    lines = [
        f"# Tune or prompt: {text(found.base_model)}",
        "",
        f"**{markdown_text(sentences(found.sentence))}**",
        "",
        *(f"- {markdown_text(note)}" for note in found.notes),
        "",
        f"Accepted loss: {100 * found.margin:.0f} points. Differences hold together with 95 % confidence.",
        "",
        f"| | {_SCORES[found.task]} (95 % interval) | Difference to tuned | Answered | Prompt tokens per call | "
        "USD per 1,000 calls | Seconds per call (median) | Tuning costs less after |",
        "|---|---|---|---|---|---|---|---|",
        *(_line(one) for one in found.variants),
        "",
        f"Training: {_usd(found.training.usd)} USD. Hosting per month: {_usd(found.training.hosting_usd_per_month)} "
        f"USD. Calls per month: {found.training.calls_per_month:,}.",
    ]
    if found.instruction:
        lines += ["", "## Instruction", "", text(found.instruction)]
    if found.examples:
        lines += ["", "## Examples", "", "| Prompt | Answer |", "|---|---|"]
        lines += [f"| {text(one.prompt)} | {text(one.answer)} |" for one in found.examples]
    return "\n".join(lines) + "\n"


def _line(one: Variant) -> str:
    name = f"Tuned: {text(one.model)}" if one.shots is None else f"{one.shots} examples"
    cells = (
        name, share(one.score), _difference(one.difference), f"{one.answered:,} of {one.asked:,}",
        _UNKNOWN if one.prompt_tokens is None else f"{one.prompt_tokens:,.0f}", _usd(one.usd_per_thousand),
        _UNKNOWN if one.seconds is None else f"{one.seconds:,.1f}", _crossing(one),
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def _crossing(one: Variant) -> str:
    if one.break_even is None:
        return NONE
    if one.break_even.outcome == "at":
        return f"{one.break_even.requests:,} calls"
    return {"at_once": "the first call", "never": "never"}.get(one.break_even.outcome, _UNKNOWN)


def _difference(found: Interval | None) -> str:
    if found is None:
        return NONE
    return f"{100 * found.value:+.1f} points ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _usd(amount: Decimal | None) -> str:
    return _UNKNOWN if amount is None else f"{amount:,.4f}"
