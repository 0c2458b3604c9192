"""The quality report in words: verdict, findings with counts, and the figure of each score card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from core.datasets import analysis
from core.datasets.quality import quality_store
from core.datasets.quality.report import QualityFinding, QualityReport
from pages.ui import cache
from pages.ui.background import RefreshedReport
from pages.ui.cache import shared
from pages.ui.i18n import _, column_name, mark, n_, number, percent, plain

LEVELS = {
    "good": (":material/check_circle:", "green", mark("Good")),
    "look": (":material/visibility:", "orange", mark("Worth a look")),
    "poor": (":material/warning:", "red", mark("Needs work")),
    "few": (":material/hourglass_empty:", "gray", mark("Too few rows to judge")),
}
CARDS = {
    "labels": (":material/label:", mark("Labels")),
    "duplicates": (":material/content_copy:", mark("Duplicates")),
    "adherence": (":material/rule:", mark("Values in the text")),
    "coverage": (":material/grid_on:", mark("Coverage")),
    "lengths": (":material/straighten:", mark("Lengths")),
    "diversity": (":material/shuffle:", mark("Diversity")),
    "remains": (":material/cleaning_services:", mark("Unfinished texts")),
    "endings": (":material/flag:", mark("Endings")),
    "languages": (":material/translate:", mark("Languages")),
    "stops": (":material/front_hand:", mark("Stop sequences")),
}
LANGUAGES = {
    "han": mark("Chinese"),
    "latin": mark("Latin script"),
    "kana": mark("Japanese"),
    "hangul": mark("Korean"),
    "cyrillic": mark("Cyrillic script"),
    "arabic": mark("Arabic script"),
    "other": mark("another script"),
    "mixed": mark("two scripts"),
}
ENDINGS = {
    "stop": mark("complete"),
    "length": mark("cut off at the token limit"),
    "refusal": mark("refused"),
    "content_filter": mark("blocked by a filter"),
    "": mark("not reported"),
}

_COUNTED: dict[str, Callable[[int], str]] = {
    "empty": lambda n: n_("{n} empty text", "{n} empty texts", n),
    "conflict": lambda n: n_("{n} prompt with two labels", "{n} prompts with two labels", n),
    "refusal": lambda n: n_("{n} refusal", "{n} refusals", n),
    "leftover": lambda n: n_("{n} text with template leftovers", "{n} texts with template leftovers", n),
    "echo": lambda n: n_("{n} echo of the prompt", "{n} echoes of the prompt", n),
    "exact": lambda n: n_("{n} exact copy", "{n} exact copies", n),
    "near": lambda n: n_("{n} near-duplicate", "{n} near-duplicates", n),
    "looping": lambda n: n_("{n} text that repeats itself", "{n} texts that repeat themselves", n),
    "cut": lambda n: n_("{n} text cut off", "{n} texts cut off", n),
    "unended": lambda n: n_("{n} text without an ending", "{n} texts without an ending", n),
    "language": lambda n: n_("{n} text in another language", "{n} texts in another language", n),
    "short": lambda n: n_("{n} far too short", "{n} far too short", n),
    "long": lambda n: n_("{n} far too long", "{n} far too long", n),
}

CARD_OF = {
    "empty": "remains",
    "refusal": "remains",
    "leftover": "remains",
    "echo": "remains",
    "looping": "remains",
    "cut": "endings",
    "unended": "endings",
    "exact": "duplicates",
    "near": "duplicates",
    "missing": "adherence",
    "language": "languages",
    "short": "lengths",
    "long": "lengths",
    "conflict": "labels",
}
"""On which card a finding is shown."""


def counted(finding: QualityFinding) -> str:
    """A finding in a few words, with its number: "3 near-duplicates"."""
    if finding.kind == "missing":
        rows = n_("{n} row", "{n} rows", len(finding.rows))
        return _("{rows}: {column} missing").format(rows=rows, column=plain(column_name(finding.detail)))
    return _COUNTED[finding.kind](len(finding.rows))


def verdict(report: QualityReport) -> str:
    """The headline of the report: the verdict and the main findings."""
    return f"### {verdict_line(report)}"


def verdict_line(report: QualityReport) -> str:
    """The same verdict as a line of text, for other pages."""
    icon, colour, word = LEVELS[report.verdict.level]
    found = [counted(finding) for finding in report.findings]
    findings = _(", ").join(found) if found else _("no problems found")
    heading = _("{word}:").format(word=_(word))
    return f":{colour}[{icon} {heading}] {findings}"


def basis(report: QualityReport) -> str:
    """The basis of the verdict, in one line."""
    rows = n_("{n} finished row", "{n} finished rows", report.total)
    grave = report.verdict.serious
    if not grave:
        return _("{rows} measured; all are suitable for training.").format(rows=rows)
    findings = n_("{n} of them should not be trained on", "{n} of them should not be trained on", grave)
    return _("{rows} measured; {findings} ({share}).").format(
        rows=rows, findings=findings, share=percent(report.verdict.share)
    )


def shown_cards(report: QualityReport) -> list[str]:
    """The cards of this report."""
    hidden = {"adherence", "stops"} if report.task == "labels" else {"labels"}
    return [card for card in CARDS if card not in hidden]


def ending(name: str) -> str:
    """A finish reason in words; an unknown one is shown as the provider reports it."""
    return _(ENDINGS[name]) if name in ENDINGS else plain(name)


@dataclass(frozen=True)
class ScoreFigure:
    """The number of a card, the line under it, and its explanation."""

    value: str
    about: str
    help: str = ""


def score_figure(card: str, report: QualityReport) -> ScoreFigure:
    """The figure of one card."""
    return _FIGURES[card](report)


def _count(report: QualityReport, card: str) -> int:
    return len({row for f in report.findings if CARD_OF[f.kind] == card for row in f.rows})


def _duplicates(report: QualityReport) -> ScoreFigure:
    groups = n_("in {n} group", "in {n} groups", len(report.clusters))
    return ScoreFigure(
        number(_count(report, "duplicates")),
        groups if report.clusters else _("no duplicates"),
        _("Copies of an earlier text. Near-duplicate: 70 % of the five-character (or three-word) sequences match."),
    )


def _adherence(report: QualityReport) -> ScoreFigure:
    literal = [one for one in report.adherence if one.literal and one.share is not None]
    if not literal:
        return ScoreFigure(
            "–",
            _("no column's values appear in the texts"),
            _("A style, such as a mood, rarely appears as a word in the text."),
        )
    worst = min(literal, key=lambda one: one.share or 0.0)
    return ScoreFigure(
        percent(worst.share, 0),
        _("contain their {column}").format(column=plain(column_name(worst.column))),
        _("The column whose values are most often missing from the texts, among those whose values appear as words."),
    )


def _coverage(report: QualityReport) -> ScoreFigure:
    covered = report.coverage
    if not covered.columns:
        return ScoreFigure("–", _("every row has its own values"))
    share = covered.filled / covered.expected if covered.expected else None
    of_all = _("{filled} of {expected} cells").format(filled=number(covered.filled), expected=number(covered.expected))
    return ScoreFigure(percent(share, 0), of_all, _("Cells with at least one finished row."))


def _lengths(report: QualityReport) -> ScoreFigure:
    outliers = _count(report, "lengths")
    about = (
        n_("{n} unusually short or long", "{n} unusually short or long", outliers)
        if outliers
        else _("none unusually short or long")
    )
    tokens = n_("{n} token", "{n} tokens", report.tokens.median or 0)
    return ScoreFigure(
        number(report.characters.median),
        about,
        _("Median length in characters; {tokens}.").format(tokens=tokens),
    )


def _diversity(report: QualityReport) -> ScoreFigure:
    spread = report.diversity
    highest = spread.highest
    about = _("no cell has two texts to compare") if highest is None else _("at most {share} similar within a cell")
    return ScoreFigure(
        number(spread.distinct[1], 2),
        about.format(share=percent(highest, 0)),
        _("Distinct-2: the share of two-character (or two-word) sequences that are unique. Higher is more varied."),
    )


def _remains(report: QualityReport) -> ScoreFigure:
    kinds = [counted(f) for f in report.findings if CARD_OF[f.kind] == "remains"]
    return ScoreFigure(
        number(_count(report, "remains")),
        _(", ").join(kinds) if kinds else _("no refusals, echoes or template leftovers"),
        _("Refusals, template leftovers, repeated prompts, loops and empty texts."),
    )


def _endings(report: QualityReport) -> ScoreFigure:
    kinds = [counted(f) for f in report.findings if CARD_OF[f.kind] == "endings"]
    has_reasons = any(one.name for one in report.endings)
    about = _(", ").join(kinds) or (_("none were cut off") if has_reasons else _("all end with a complete sentence"))
    return ScoreFigure(
        number(_count(report, "endings")), about, _("Texts that were cut off, or do not end with a complete sentence.")
    )


def _languages(report: QualityReport) -> ScoreFigure:
    if not report.languages:
        return ScoreFigure("–", _("no letters"))
    names = [_(LANGUAGES[one.name]) for one in report.languages[:2]]
    first = len(report.languages[0].rows) / report.total
    return ScoreFigure(
        percent(first, 0), _(", ").join(names), _("Share of the most frequent language, detected from the letters.")
    )


def _stops(report: QualityReport) -> ScoreFigure:
    used = {one.name for one in report.stops}
    free = next((stop for stop in analysis.STOPS if stop not in used), None)
    inside = n_("{n} common stop is in the texts", "{n} common stops are in the texts", len(used))
    about = inside if used else _("no common stop is in the texts")
    return ScoreFigure(
        "–" if free is None else f"`{free!r}`", about, _("The first common stop sequence that no text contains.")
    )


def _labels(report: QualityReport) -> ScoreFigure:
    wrong = _count(report, "labels")
    about = (
        n_("{n} prompt with two labels", "{n} prompts with two labels", wrong)
        if wrong
        else _("no prompt has two labels")
    )
    return ScoreFigure(number(len(report.labels)), about, _("Different completions."))


_FIGURES: dict[str, Callable[[QualityReport], ScoreFigure]] = {
    "labels": _labels,
    "duplicates": _duplicates,
    "adherence": _adherence,
    "coverage": _coverage,
    "lengths": _lengths,
    "diversity": _diversity,
    "remains": _remains,
    "endings": _endings,
    "languages": _languages,
    "stops": _stops,
}


def quality_of(dataset_id: str) -> tuple[RefreshedReport[QualityReport], str]:
    """The quality report on a data set, and the fingerprint of its current rows.

    Raises:
        NotFound: the data set does not exist.
    """
    return _quality(dataset_id), quality_store.fingerprint(cache.store(), dataset_id)


@shared(max_entries=8)
def _quality(dataset_id: str) -> RefreshedReport[QualityReport]:
    ledger = cache.store()
    return RefreshedReport(lambda progress: quality_store.dataset_report(ledger, dataset_id, progress))


def progress_bar(measurement: RefreshedReport[QualityReport]) -> None:
    """Render how many rows have been measured so far."""
    share = min(measurement.read / measurement.total, 1.0) if measurement.total else 0.0
    text = _("Measuring: {read} of {total} rows").format(read=number(measurement.read), total=number(measurement.total))
    st.progress(share, text=text if measurement.total else _("Measuring"))
