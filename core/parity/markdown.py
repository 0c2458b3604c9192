"""The parity card as Markdown, in English: for a ticket, a wiki, or a pull request."""

from __future__ import annotations

from core.evaluation.scoring import Interval
from core.message import sentences
from core.parity.markdown_cells import NONE, share, text
from core.parity.preference import JudgeResult, VoteResult
from core.parity.report import CallUsage, ParityReport, Side
from core.sanitize import markdown_text

_WORST_ROWS = 20  # the JSON file has more


def to_markdown(card: ParityReport) -> str:
    """The whole card: verdict, both models, parts, and the worst rows."""
    lines = [
        f"# {text(card.old.model)} → {text(card.new.model)}",
        "",
        f"**{markdown_text(sentences(card.verdict.sentence))}**",
        "",
        f"Accepted loss: {100 * card.verdict.margin:.0f} points. {_reference(card)}",
        "",
        "| | Old model | New model |",
        "|---|---|---|",
        f"| Model | {text(card.old.model)} | {text(card.new.model)} |",
        *(f"| {name} | {old} | {new} |" for name, old, new in _figures(card)),
    ]
    if card.parts:
        lines += ["", "| Label or field | Rows | Old model correct | New model correct |", "|---|---|---|---|"]
        lines += [f"| {text(part.name)} | {part.n} | {part.old_right} | {part.new_right} |" for part in card.parts]
    lines += _schema_errors(card)
    lines += _judge(card.judge)
    lines += _votes(card.votes)
    if card.worst:
        lines += ["", f"{card.worse_rows} rows are answered worse; the worst ones:", ""]
        lines += ["| Prompt | Expected | Old model | New model |", "|---|---|---|---|"]
        lines += [
            f"| {text(row.prompt)} | {text(row.reference)} | {_answer(row.old)} | {_answer(row.new)} |"
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
    if card.new.schema is not None and card.old.schema is not None:
        found.append(("Follows the JSON Schema", share(card.old.schema.valid), share(card.new.schema.valid)))
    return [
        *found,
        of("Characters per answer (median)", "characters"),
        of("Seconds per answer (median)", "seconds"),
        of("Seconds per answer (95th percentile)", "seconds_p95"),
        ("Tokens per call (prompt + answer)", _tokens(card.old.usage), _tokens(card.new.usage)),
        ("Cost of 1,000 such calls", _cost(card.old.usage), _cost(card.new.usage)),
    ]


def _tokens(usage: CallUsage) -> str:
    counts = (usage.prompt_tokens, usage.completion_tokens)
    return " + ".join("unknown" if count is None else f"{count:,.0f}" for count in counts)


def _cost(usage: CallUsage) -> str:
    if usage.usd_per_1000 is None:
        return "machine time, not priced" if usage.machine_time else "unknown"
    return f"\\${usage.usd_per_1000:,.2f}" + (" (machine time)" if usage.machine_time else "")


def _figure(side: Side, name: str) -> str:
    value = getattr(side, name)
    if value is None:
        return NONE
    if isinstance(value, Interval):
        return share(value)
    return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"


def _schema_errors(card: ParityReport) -> list[str]:
    """The places where the new model's answers break the schema."""
    errors = card.new.schema.errors if card.new.schema is not None else ()
    if not errors:
        return []
    lines = ["", "| The new model breaks the schema at | Rule | Rows |", "|---|---|---|"]
    return lines + [f"| {text(error.path or 'the answer')} | {text(error.rule)} | {error.n} |" for error in errors]


def _judge(found: JudgeResult | None) -> list[str]:
    """What the judge model decided, how reliable it is, and what it was asked."""
    if found is None or found.preference is None:
        return []
    facts = [
        f"{found.disagreeing} rows changed with the order and count as ties",
        f"{found.identical} rows have equal answers and count as ties",
        f"{found.unparsable} unreadable replies and {found.missing} missing ones do not count",
    ]
    if found.first is not None:
        facts.append(f"the answer shown first won {share(found.first)} (50 % without position bias)")
    if found.own_answers:
        facts.append("the judge is one of the two models, and models tend to prefer their own answers")
    return [
        "",
        f"**Judge model {text(found.model)}:** {markdown_text(sentences(found.preference.sentence))}",
        "",
        f"{'; '.join(facts)}.",
        "",
        f"Asked in both orders: {text(found.instructions)}",
    ]


def _votes(found: VoteResult | None) -> list[str]:
    if found is None or found.preference is None:
        return []
    said = markdown_text(sentences(found.preference.sentence))
    return ["", f"**Blind votes ({found.votes} votes, {found.people} people):** {said}"]


def _answer(words: str | None) -> str:
    return "no answer" if words is None else text(words)
