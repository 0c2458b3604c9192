"""A recipe: columns with their values, the prompt template, and the model that writes the rows.

The prompts can come from a list instead of a grid (see `prompt_datasets`); the recipe then only has their number.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from string import Formatter
from typing import Any, Final, Literal, get_args

from core import packaged_models
from core.errors import BadRecipe
from core.languages import CHINESE
from core.message import listed, msg
from core.sanitize import canonical

EndpointChoice = Literal["auto", "chat", "completion"]
ColumnType = Literal["auto", "word", "style"]
"""What a column's values are to the texts: words that each text must contain, or a style (a mood, an instruction) that
it follows without naming it. `auto`: the texts themselves show which (`core.datasets.quality.grid_fit`).
"""
COLUMN_TYPES: Final[tuple[ColumnType, ...]] = get_args(ColumnType)

MANY_ROWS = 100_000  # above this a run on one machine takes days, not hours
MAX_ROWS = 10_000_000  # a database of about 10 GB
MAX_LISTED_ROWS = 500_000  # of a list, whose rows are created in one transaction: about half a minute
# Left out of a stored recipe while they are empty, so that recipes stored before they existed equal newer ones.
_LATER_FIELDS = ("listed", "listed_tokens", "conversations", "stop", "response_format")
_VALUE_SEPARATORS = re.compile(r"[,，、;；\t]+")
_MAX_TEMPLATE_CHARACTERS = 100_000  # more than any model's context


@dataclass(frozen=True, slots=True)
class Column:
    """One dimension of the grid."""

    name: str
    values: tuple[str, ...]
    type: ColumnType = "auto"


@dataclass(frozen=True, slots=True)
class Recipe:
    """All settings that determine the rows of a data set.

    Attributes:
        name: the name of the data set.
        columns: the dimensions; the grid is their product.
        template: the prompt; `{column}` is replaced by the column's value, `{{` and `}}` are literal braces.
        system: system prompt, or "".
        repeats: number of stories per cell.
        provider, model: the writer.
        temperature, top_p, max_tokens: sampling parameters.
        seed: makes rows reproducible if the provider supports it; None means a different text each time.
        endpoint: API format; `auto` means the one that the model supports, or chat if it supports both.
        listed: number of prompts, if they come from a list; 0 for a grid. A list has no columns, and its `template` is
            only what its prompts were made with.
        listed_tokens: tokens of all prompts of the list, without `system`.
        conversations: whether the prompts of the list are conversations (see `conversation_prompts`).
        stop: stop sequences.
        response_format: the request's `response_format` as JSON, or "".
    """

    name: str
    columns: tuple[Column, ...]
    template: str
    system: str = ""
    repeats: int = 1
    provider: str = "engine"
    model: str = packaged_models.writer(CHINESE)
    temperature: float = 0.5
    top_p: float = 1.0
    max_tokens: int = 2048
    seed: int | None = None
    endpoint: EndpointChoice = "auto"
    listed: int = 0
    listed_tokens: int = 0
    conversations: bool = False
    stop: tuple[str, ...] = ()
    response_format: str = ""

    def check(self) -> None:
        """Raise BadRecipe unless the recipe can be run."""
        if self.listed:
            _check_numbers(self)
            return
        _check_columns(self.columns)
        fields = template_fields(self.template)
        names = [c.name for c in self.columns]
        for field in fields:
            if field not in names:
                raise BadRecipe(
                    msg(
                        "The template names {{{name}}}, but there is no column {column}.",
                        name=field,
                        column=repr(field),
                    ),
                    msg("Add the column, or use one of: {names}.", names=listed([f"{{{n}}}" for n in names])),
                )
        _check_numbers(self)

    def warnings(self) -> list[str]:
        """Warnings to show before a run; the recipe can be run nevertheless."""
        if self.listed:
            return []
        warnings: list[str] = []
        rows = self.rows()
        if rows > MANY_ROWS:
            warnings.append(
                msg(
                    "This grid has {rows} rows. You can stop and resume it at any time; fewer values or "
                    "repeats give a result sooner.",
                    rows=f"{rows:,}",
                )
            )
        used = set(template_fields(self.template))
        for column in self.columns:
            if column.name not in used and len(column.values) > 1:
                warnings.append(
                    msg("The template does not use {name}: all its values get the same prompt.", name=column.name)
                )
        if rows == 1:
            warnings.append(msg("This grid has one row. Give a column more values, or raise the repeats."))
        return warnings

    def rows(self) -> int:
        """Number of rows: the product of the column sizes, or the length of the list, times the repeats."""
        if self.listed:
            return self.listed * self.repeats
        count = self.repeats if self.columns else 0
        for column in self.columns:
            count *= len(column.values)
        return count

    def to_dict(self) -> dict[str, Any]:
        """The recipe as JSON.

        `rows` is included so that a list of data sets can show it without loading every value.
        """
        values: dict[str, Any] = {**asdict(self), "columns": [_column_to_dict(c) for c in self.columns]}
        for name in _LATER_FIELDS:
            if not values[name]:
                del values[name]
        if self.stop:
            values["stop"] = list(self.stop)
        return {**values, "rows": self.rows()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe from `to_dict`.

        Raises:
            BadRecipe: a field is missing or has the wrong type.
        """
        try:
            columns = tuple(
                Column(str(c["name"]), tuple(str(v) for v in c["values"]), c.get("type", "auto"))
                for c in data["columns"]
            )
            known = {name: data[name] for name in cls.__dataclass_fields__ if name in data and name != "columns"}
            known["stop"] = tuple(str(mark) for mark in known.get("stop", ()))
            return cls(columns=columns, **known)
        except (KeyError, TypeError) as exc:
            raise BadRecipe(msg("This recipe is not complete."), msg("Define the grid again.")) from exc


def _column_to_dict(column: Column) -> dict[str, Any]:
    """A column as JSON, without the type `auto`, so that recipes stored before columns had types equal newer ones."""
    own_type = {} if column.type == "auto" else {"type": column.type}
    return {"name": column.name, "values": list(column.values), **own_type}


def parse_values(text: str, known: Collection[str] = ()) -> tuple[str, ...]:
    """Values from a pasted list, without duplicates, in their order.

    Several lines: one value per line (tabs, as pasted from a spreadsheet, separate values too). A single line is split
    at commas, semicolons or tabs, unless it is a `known` value. Values that look the same count as one.
    """
    lines = [line.strip() for line in text.splitlines() if canonical(line)]
    if len(lines) == 1 and canonical(lines[0]) not in {canonical(value) for value in known}:
        parts = _VALUE_SEPARATORS.split(lines[0])
    else:
        parts = [cell for line in lines for cell in line.split("\t")]
    return unique_values(parts, known)


def unique_values(values: Iterable[str], known: Iterable[str] = ()) -> tuple[str, ...]:
    """Values in their order, without duplicates and blanks; values that look the same (`canonical`) count as one.

    A `known` value keeps its known spelling, because rows may have been written with it.
    """
    spelling = {canonical(value): value for value in known}
    cleaned = (canonical(value) for value in values)
    return tuple(dict.fromkeys(spelling.get(value, value) for value in cleaned if value))


def template_fields(template: str) -> list[str]:
    """Names of the columns that a template uses, in order, without duplicates.

    Raises:
        BadRecipe: the template is empty, or its braces do not match.
    """
    return list(dict.fromkeys(name for _, name in template_parts(template) if name is not None))


def template_parts(template: str) -> list[tuple[str, str | None]]:
    """The template as pairs of text and the column that follows (or None). Braces contain names only, no format specs.

    Raises:
        BadRecipe: the template is empty, or its braces do not match.
    """
    if not template.strip():
        raise BadRecipe(msg("The template is empty."), msg("Write the prompt, with {{column}} where a value belongs."))
    if len(template) > _MAX_TEMPLATE_CHARACTERS:
        raise BadRecipe(
            msg("The template is longer than {value} characters.", value=f"{_MAX_TEMPLATE_CHARACTERS:,}"),
            msg("This is longer than any model's context; shorten it."),
        )
    parts: list[tuple[str, str | None]] = []
    try:
        for text, name, spec, conversion in Formatter().parse(template):
            if name == "":
                raise BadRecipe(
                    msg("The template has empty braces {{}}."), msg("Put a column name between the braces.")
                )
            if name is not None:  # a format spec is part of the name: {a:b} is the column "a:b"
                name += (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            parts.append((text, name))
    except ValueError as exc:
        if isinstance(exc, BadRecipe):
            raise
        raise BadRecipe(
            msg("The braces of the template do not match."),
            msg("To write literal braces, use {{{{ and }}}}."),
        ) from exc
    return parts


def _check_columns(columns: tuple[Column, ...]) -> None:
    if not columns:
        raise BadRecipe(msg("The grid is empty: it has no column."), msg("Add a column with at least one value."))
    names = [c.name for c in columns]
    for column in columns:
        if not column.name.strip():
            raise BadRecipe(msg("A column has no name."), msg("Enter the name that the template uses."))
        if set(column.name) & set("{}\r\n\0"):
            raise BadRecipe(
                msg("A column cannot be called {name}.", name=repr(column.name)),
                msg("Use a name without braces and line breaks."),
            )
        if names.count(column.name) > 1:
            raise BadRecipe(
                msg("Two columns are called {name}.", name=column.name), msg("Give each column a different name.")
            )
        if column.type not in COLUMN_TYPES:
            raise BadRecipe(
                msg("{name} has the type {type}, which does not exist.", name=column.name, type=repr(column.type)),
                msg("Choose one of: {types}.", types=", ".join(COLUMN_TYPES)),
            )
        if not column.values:
            raise BadRecipe(
                msg("The grid is empty: {name} has no values.", name=column.name), msg("Give it at least one value.")
            )
        value, count = Counter(map(canonical, column.values)).most_common(1)[0]
        if count > 1 and value:
            same = [v for v in column.values if canonical(v) == value]
            raise BadRecipe(
                msg("{name} has the value {value} twice.", name=column.name, value=repr(value))
                if len(set(same)) < len(same)
                else msg(
                    "{name} has {count} values that look like {value}.",
                    name=column.name,
                    count=count,
                    value=repr(value),
                ),
                msg("Remove one; repeats give more stories per cell."),
            )
        if any("\0" in v or not canonical(v) for v in column.values):
            raise BadRecipe(msg("{name} has an empty value.", name=column.name), msg("Remove it, or enter a text."))


def _check_numbers(recipe: Recipe) -> None:
    for name, low, high in (
        ("repeats", 1, 10_000),
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("max_tokens", 1, 1_000_000),
    ):
        value = getattr(recipe, name)
        if not low <= value <= high:  # also False for NaN
            raise BadRecipe(
                msg(
                    "{name} is {value}, but must be between {low} and {high}.",
                    name=name,
                    value=value,
                    low=f"{low:,}",
                    high=f"{high:,}",
                ),
                msg("Choose another number."),
            )
    if recipe.endpoint not in get_args(EndpointChoice):
        raise BadRecipe(
            msg("{endpoint} is not an API format.", endpoint=repr(recipe.endpoint)),
            msg("Choose auto, chat or completion."),
        )
    if not recipe.model.strip() or not recipe.provider.strip():
        raise BadRecipe(msg("No model is chosen."), msg("Choose the model that writes."))
    if recipe.listed and recipe.rows() > MAX_LISTED_ROWS:
        raise BadRecipe(
            msg(
                "This list needs {rows} answers; the limit is {value}.",
                rows=f"{recipe.rows():,}",
                value=f"{MAX_LISTED_ROWS:,}",
            ),
            msg("Ask for fewer answers to each prompt, or split the file."),
        )
    if recipe.rows() > MAX_ROWS:
        raise BadRecipe(
            msg("This grid has {rows} rows; the limit is {value}.", rows=f"{recipe.rows():,}", value=f"{MAX_ROWS:,}"),
            msg("Use fewer values or fewer repeats, or make several data sets."),
        )
