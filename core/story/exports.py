"""Stories leave the library: Markdown, CSV, JSONL, a page to print, and pairs of votes for preference training.
Pure."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from core.sanitize import cell
from core.story.library import KeptStory
from core.story.votes import PreferencePair

PairFormat = Literal["openai", "trl"]
_MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_{}[]<>#|!~$&"})
_COLUMNS = (
    "id", "at", "provider", "model", "asked_model", "prompt", "text", "edited_text", "finish_reason", "prompt_tokens",
    "completion_tokens", "cost_usd", "first_text_s", "duration_s", "stars", "liked", "tags", "parameters",
    "column_values", "round_id", "step", "error",
)  # fmt: skip
# Nothing is loaded and nothing runs, whatever the stories say: all of it is escaped, and the policy forbids the rest.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = (
    "body{font:1.1rem/1.7 Georgia,'Songti SC','Noto Serif CJK SC',SimSun,serif;max-width:40rem;margin:3rem auto;"
    "padding:0 1rem;color:#26241f;background:#fff}article{break-inside:avoid-page;margin-bottom:4rem}"
    "h2{font-size:1.2rem}p{white-space:pre-wrap;overflow-wrap:anywhere}"
    "footer{font:0.8rem/1.5 system-ui,sans-serif;color:#6e6a60;overflow-wrap:anywhere}"
)


def markdown(stories: Iterable[KeptStory]) -> str:
    """One section a story, its text set as it is: nothing in it becomes markup, a link or an image."""
    parts = []
    for story in stories:
        text = "\n".join(_plain(line) for line in story.final.strip().splitlines())
        facts = " · ".join(_plain(fact) for fact in _facts(story))
        parts.append(f"## {_plain(_title(story))}\n\n{text}\n\n*{facts}*\n")
    return "\n---\n\n".join(parts)


def as_csv(stories: Iterable[KeptStory]) -> str:
    """A table with every column of the library; no cell of it is a formula to a spreadsheet. Begins with a BOM."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    for story in stories:
        record = _record(story)
        writer.writerow([_cell(record[name]) for name in _COLUMNS])
    return "\ufeff" + out.getvalue()


def jsonl(stories: Iterable[KeptStory]) -> Iterator[str]:
    """One JSON object a line, with its line end; amounts of money as text, exact."""
    for story in stories:
        yield json.dumps(_record(story), ensure_ascii=False) + "\n"


def page(stories: Sequence[KeptStory], title: str, language: str = "en") -> str:
    """A page of HTML to read or print, complete in one file.

    Every word of the stories is escaped, and a content policy forbids scripts and anything from elsewhere.
    """
    articles = "\n".join(
        f"<article><h2>{_html(_title(story))}</h2><p>{_html(story.final.strip())}</p>"
        f"<footer>{_html(' · '.join(_facts(story)))}</footer></article>"
        for story in stories
    )
    return (
        f'<!doctype html>\n<html lang="{_html(language)}"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="referrer" content="no-referrer"><meta name="viewport" content="width=device-width">'
        f"<title>{_html(title)}</title><style>{_STYLE}</style></head>\n<body><h1>{_html(title)}</h1>\n{articles}\n"
        "</body></html>\n"
    )


def preferences(pairs: Iterable[PreferencePair], form: PairFormat = "openai") -> Iterator[str]:
    """Pairs of votes as lines of JSON for preference training (DPO).

    `openai`: `input`, `preferred_output`, `non_preferred_output` (OpenAI's guide, "Direct preference optimization");
    `trl`: `prompt`, `chosen`, `rejected` (TRL's "preference" type of data set).
    """
    for pair in pairs:
        if form == "trl":
            line: dict[str, Any] = {"prompt": pair.prompt, "chosen": pair.preferred, "rejected": pair.other}
        else:
            line = {
                "input": {"messages": [{"role": "user", "content": pair.prompt}]},
                "preferred_output": [{"role": "assistant", "content": pair.preferred}],
                "non_preferred_output": [{"role": "assistant", "content": pair.other}],
            }
        yield json.dumps(line, ensure_ascii=False) + "\n"


def examples(stories: Iterable[KeptStory]) -> tuple[list[str], list[dict[str, str]]]:
    """Stories as examples to learn from: names of the columns of a prompt, and rows of those columns and `story`.

    The columns are those that every story has been given; where they differ, or a story had a free prompt, it is one
    column, `prompt`. A story counts with its edit, where it has one.
    """
    found = list(stories)
    given = [story.column_values or {} for story in found]
    same = bool(given) and bool(given[0]) and all(list(one) == list(given[0]) for one in given)
    free = same and "story" not in given[0]
    columns = list(given[0]) if free else ["prompt"]
    rows = [
        {**(values if free else {"prompt": story.prompt}), "story": story.final}
        for story, values in zip(found, given, strict=True)
    ]
    return columns, rows


def _record(story: KeptStory) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(story, name, None) for name in _COLUMNS}
    values |= {
        "at": story.at.isoformat(),
        "completion_tokens": story.tokens,
        "cost_usd": None if story.cost_usd is None else str(story.cost_usd),
        "tags": list(story.tags),
    }
    return values


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return cell(json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value))


def _title(story: KeptStory) -> str:
    """The columns that it was written from, or the beginning of its prompt."""
    words = ", ".join(story.column_values.values()) if story.column_values else " ".join(story.prompt.split())
    return words if len(words) <= 80 else words[:79] + "…"


def _facts(story: KeptStory) -> list[str]:
    facts = [story.model, f"{story.at:%Y-%m-%d %H:%M} UTC"]
    return [*facts, "★" * story.stars] if story.stars else facts


def _plain(line: str) -> str:
    text = line.translate(_MARKS)
    return f"\\{text}" if text[:1] in ("-", "+", "=") else text


def _html(text: str) -> str:
    return html.escape(text, quote=True)
