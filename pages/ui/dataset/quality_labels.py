"""Labels of the quality report: findings with counts, cards, languages, endings."""

from __future__ import annotations

from collections.abc import Callable

from core.datasets.quality import QualityFinding, QualityReport
from pages.ui.lang import _, column_name, mark, n_, percent, plain

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


def cards(report: QualityReport) -> list[str]:
    """The cards of this report."""
    hidden = {"adherence", "stops"} if report.task == "labels" else {"labels"}
    return [card for card in CARDS if card not in hidden]


def ending(name: str) -> str:
    """A finish reason in words; an unknown one is shown as the provider reports it."""
    return _(ENDINGS[name]) if name in ENDINGS else plain(name)
