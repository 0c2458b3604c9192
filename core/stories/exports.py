"""Exports stories as Markdown, CSV, JSONL, a printable page, training examples, and preference pairs (DPO).

`undo_export` deletes the data set that an export made; everything else is pure.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from sqlalchemy import delete, select

from core.actor import Actor, requires
from core.db.store import Store
from core.db.tables import Dataset, DatasetVersion, Evaluation, Row, TrainingJob
from core.errors import FabulaError, NotFound
from core.message import msg
from core.ownership import owns
from core.sanitize import safe_cell
from core.stories.library import SavedStory
from core.stories.vote_pairs import PreferencePair

PairFormat = Literal["openai", "trl"]
_MARKS = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_{}[]<>#|!~$&"})
_COLUMNS = (
    "id", "created_at", "provider", "model", "requested_model", "prompt", "text", "edited_text", "finish_reason",
    "prompt_tokens", "completion_tokens", "cost_usd", "first_text_s", "duration_s", "stars", "liked", "tags",
    "parameters", "column_values", "round_id", "step", "error",
)  # fmt: skip
# Stories can't load or run anything: all text is escaped, and the content policy blocks everything else.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE = (
    "body{font:1.1rem/1.7 Georgia,'Songti SC','Noto Serif CJK SC',SimSun,serif;max-width:40rem;margin:3rem auto;"
    "padding:0 1rem;color:#26241f;background:#fff}article{break-inside:avoid-page;margin-bottom:4rem}"
    "h2{font-size:1.2rem}p{white-space:pre-wrap;overflow-wrap:anywhere}"
    "footer{font:0.8rem/1.5 system-ui,sans-serif;color:#6e6a60;overflow-wrap:anywhere}"
)


def markdown(stories: Iterable[SavedStory]) -> str:
    """One section per story. Story text is escaped, so it can't become markup, a link or an image."""
    parts = []
    for story in stories:
        text = "\n".join(_plain(line) for line in story.final.strip().splitlines())
        facts = " · ".join(_plain(fact) for fact in _facts(story))
        parts.append(f"## {_plain(_title(story))}\n\n{text}\n\n*{facts}*\n")
    return "\n---\n\n".join(parts)


def as_csv(stories: Iterable[SavedStory]) -> str:
    """A CSV table with all library columns. Cells can't act as spreadsheet formulas. Starts with a BOM."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    for story in stories:
        record = _record(story)
        writer.writerow([_cell(record[name]) for name in _COLUMNS])
    return "\ufeff" + out.getvalue()


def jsonl(stories: Iterable[SavedStory]) -> Iterator[str]:
    """One JSON object per line, including the newline. Amounts of money are strings, so that they stay exact."""
    for story in stories:
        yield json.dumps(_record(story), ensure_ascii=False) + "\n"


def page(stories: Sequence[SavedStory], title: str, language: str = "en") -> str:
    """A self-contained HTML page to read or print.

    Story text is escaped, and a content policy blocks scripts and external resources.
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
    """Preference pairs from votes as JSON lines for preference training (DPO).

    `openai`: `input`, `preferred_output`, `non_preferred_output` (OpenAI's guide, "Direct preference optimization");
    `trl`: `prompt`, `chosen`, `rejected` (TRL's "preference" data set type).
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


def examples(stories: Iterable[SavedStory]) -> tuple[list[str], list[dict[str, str]]]:
    """Stories as training examples: the prompt's column names, and rows with those columns and `story`.

    If all stories have the same column values, those are the columns. Otherwise, or if a story had a free prompt, the
    only column is `prompt`. The edited text is used where there is one.
    """
    story_list = list(stories)
    values_per_story = [story.column_values or {} for story in story_list]
    same = (
        bool(values_per_story)
        and bool(values_per_story[0])
        and all(list(values) == list(values_per_story[0]) for values in values_per_story)
    )
    by_column = same and "story" not in values_per_story[0]
    columns = list(values_per_story[0]) if by_column else ["prompt"]
    rows = [
        {**(values if by_column else {"prompt": story.prompt}), "story": story.final}
        for story, values in zip(story_list, values_per_story, strict=True)
    ]
    return columns, rows


def _record(story: SavedStory) -> dict[str, Any]:
    values: dict[str, Any] = {name: getattr(story, name, None) for name in _COLUMNS}
    values |= {
        "created_at": story.created_at.isoformat(),
        "completion_tokens": story.tokens,
        "cost_usd": None if story.cost_usd is None else str(story.cost_usd),
        "tags": list(story.tags),
    }
    return values


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return safe_cell(json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value))


def _title(story: SavedStory) -> str:
    """The story's column values, or the beginning of its prompt."""
    title = ", ".join(story.column_values.values()) if story.column_values else " ".join(story.prompt.split())
    return title if len(title) <= 80 else title[:79] + "…"


def _facts(story: SavedStory) -> list[str]:
    facts = [story.model, f"{story.created_at:%Y-%m-%d %H:%M} UTC"]
    return [*facts, "★" * story.stars] if story.stars else facts


def _plain(line: str) -> str:
    text = line.translate(_MARKS)
    return f"\\{text}" if text[:1] in ("-", "+", "=") else text


def _html(text: str) -> str:
    return html.escape(text, quote=True)


@requires("editor")
@owns(dataset="dataset_id")
def undo_export(store: Store, actor: Actor, dataset_id: str) -> None:
    """Delete the data set and its rows. The stories are not changed.

    Raises:
        NotAllowed: the actor is a viewer. FabulaError: it is in use. NotFound: it does not exist.
    """
    with store.session() as session:
        dataset = session.get(Dataset, dataset_id)
        if dataset is None:
            raise NotFound(msg("This data set no longer exists."), msg("There is nothing to undo."))
        for table in (TrainingJob, DatasetVersion, Evaluation):
            if session.scalar(select(table.id).where(table.dataset_id == dataset_id).limit(1)) is not None:
                raise FabulaError(
                    msg("This data set is used by a training job, a version or an evaluation."),
                    msg("It was not deleted."),
                )
        session.execute(delete(Row).where(Row.dataset_id == dataset_id))
        session.delete(dataset)
