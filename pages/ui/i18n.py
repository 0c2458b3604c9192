"""The visitor's language: every visible string of a page goes through `_` or `n_`.

The choice is stored in the URL (`?lang=zh_CN`), so that links keep it; without one, the browser's language decides.
`core` returns messages (`core.message`); `localized` translates one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import streamlit as st

from core import i18n, message
from core.datasets import presets
from core.languages import CHINESE, ENGLISH, LANGUAGES, match

KEY = "lang"


def browser_language() -> str:
    """The language to start with: Chinese for a Chinese browser, English for every other."""
    return match(st.context.locale)


def language() -> str:
    """The language of this run: `en` or `zh_CN`."""
    chosen = st.session_state.get(KEY) or st.query_params.get(KEY)
    return chosen if chosen in LANGUAGES else browser_language()


def picker() -> None:
    """Render two segments that switch the language of the whole studio and store it in the URL.

    Not `bind="query-params"`: that would write the label (`?lang=简体中文`) instead of the code.
    """
    st.session_state.setdefault(KEY, language())
    chosen = st.segmented_control(
        _("Language"),
        list(LANGUAGES),
        required=True,
        format_func=LANGUAGES.__getitem__,
        label_visibility="collapsed",
        key=KEY,
        persist_state="session",
    )
    if chosen != browser_language():
        st.query_params[KEY] = str(chosen)
    elif KEY in st.query_params:
        del st.query_params[KEY]


def in_language(names: Mapping[str, str]) -> str:
    """The name in the visitor's language, for data with translated names."""
    return names.get(language()) or names[ENGLISH]


def column_name(name: str) -> str:
    """A column's name in the visitor's language; the presets' columns are translated."""
    return presets.column_name(name, language())


def column_title(name: str) -> str:
    """A column's name as a label or heading: "Super power" for `super_power`; a name with capitals stays as it is."""
    shown = column_name(name)
    return shown[:1].upper() + shown[1:].replace("_", " ") if shown.islower() else shown


def mark(message: str) -> str:
    """Mark `message` as visible text that is translated later, where it is shown."""
    return message


def _(message: str) -> str:
    """`message` in the visitor's language."""
    return i18n.translator(language()).gettext(message)


def n_(singular: str, plural: str, n: int) -> str:
    """The singular or plural phrase for `n`, with `{n}` filled in (with thousands separators)."""
    return i18n.translator(language()).ngettext(singular, plural, n).format(n=f"{n:,}")


def localized(sentence: str) -> str:
    """A message from core in the visitor's language; other text (such as a provider's message) unchanged."""
    return i18n.translator(language()).translated(sentence)


# --- numbers, money and time for people -------------------------------------------------------------------


_LEAST_USD = Decimal("0.0001")  # less is not shown as a figure


def usd(amount: Decimal | float | None) -> str:
    """Money for Markdown, with as many digits as it needs; None becomes "unknown", never 0.

    Where no label shows that it is money, the caller writes "price unknown" (estimates) or "cost unknown".
    """
    if amount is None:
        return _("unknown")
    value = Decimal(str(amount))
    if value == 0:
        return "\\$0"
    digits = 2 if abs(value) >= 1 else 4
    return f"\\${value:,.{digits}f}" if abs(value) >= _LEAST_USD else _("under \\$0.0001")


def usd_at_most(most: Decimal | float) -> str:
    """A limit in dollars: "at most $0.02", or "under $0.0001"."""
    return usd(most) if 0 < most < _LEAST_USD else _("at most {most}").format(most=usd(most))


def usd_estimate(expected: Decimal | float, most: Decimal | float) -> str:
    """An estimate and its limit in dollars; only the limit if the estimate is too small to be shown."""
    if 0 <= expected < _LEAST_USD:
        return usd_at_most(most)
    return _("about {usd}, at most {most}").format(usd=usd(expected), most=usd(most))


def pair(name: str, value: str) -> str:
    """A name and its value, with the language's colon."""
    return _("{name}: {value}").format(name=name, value=value)


def listed(items: Iterable[str], *, semicolons: bool = False) -> str:
    """Items in one line with the language's commas; with semicolons if the items contain commas or colons."""
    comma, semicolon = ("、", "；") if language() == CHINESE else (", ", "; ")
    return (semicolon if semicolons else comma).join(items)


def sentences(*parts: str) -> str:
    """Sentences in one line, separated by a space if the language uses one; a missing full stop is added."""
    stop, space = ("。", "") if language() == CHINESE else (".", " ")
    shown = [part for part in parts if part]
    ended = [part if message.is_complete(part) else part + stop for part in shown[:-1]]
    return space.join([*ended, *shown[-1:]])


_DAY_MIN = 24 * 60
_SHOWN_AS_DAYS_MIN = 2 * _DAY_MIN  # below, the hours matter


def duration(seconds: float | None) -> str:
    """A duration in words: "40 s", "3 min", "2 h", "1 h 35 min", "417 days"; None becomes "unknown"."""
    if seconds is None:
        return _("unknown")
    rounded = max(0, round(seconds))
    if rounded < 90:
        return _("{n} s").format(n=rounded)
    minutes = round(rounded / 60)
    if minutes < 90:
        return _("{n} min").format(n=minutes)
    if minutes >= _SHOWN_AS_DAYS_MIN:
        return n_("{n} day", "{n} days", round(minutes / _DAY_MIN))
    if minutes % 60 == 0:
        return _("{n} h").format(n=minutes // 60)
    return _("{hours} h {minutes} min").format(hours=minutes // 60, minutes=minutes % 60)


def token_speed(tokens_per_s: float) -> str:
    """A speed: "41 tokens/s"."""
    return _("{rate} tokens/s").format(rate=number(tokens_per_s, 0))


def row_speed(rows_per_s: float | None) -> str:
    """A speed with significant digits: 120 or 3.1 rows/s, 12 rows/min, 5 rows/h; "" if there is none."""
    if not rows_per_s:
        return ""
    for each, template in ((1, _("{rate} rows/s")), (60, _("{rate} rows/min"))):
        if rows_per_s * each >= 1:
            return template.format(rate=number(rows_per_s * each, 0 if rows_per_s * each >= 10 else 1))
    return _("{rate} rows/h").format(rate=number(rows_per_s * 3_600, 0))


def ago(moment: datetime, now: datetime) -> str:
    """How long ago `moment` was, for example "3 min ago"."""
    elapsed: timedelta = now - moment
    if elapsed < timedelta(seconds=45):
        return _("just now")
    return _("{time} ago").format(time=duration(elapsed.total_seconds()))


def clock(moment: datetime, now: datetime | None = None) -> str:
    """Date and time in the visitor's time zone, to the second: "2026-11-29 14:05:09"; without the date if it is today.

    UTC, marked as such, if the browser's time zone is unknown.

    Args:
        moment: UTC.
        now: defines today; None means that the date is always shown.
    """
    zone = _zone()
    local = moment.astimezone(zone or UTC)
    today = now is not None and local.date() == now.astimezone(zone or UTC).date()
    words = f"{local:%H:%M:%S}" if today else f"{local:%Y-%m-%d %H:%M:%S}"
    return words if zone is not None else f"{words} UTC"


def _zone() -> tzinfo | None:
    """The visitor's time zone; None if unknown."""
    try:
        return ZoneInfo(st.context.timezone) if st.context.timezone else None
    except (KeyError, ValueError, OSError):  # an unknown name, or a folder of time zones
        return None


def number(value: float | Decimal | None, digits: int = 0) -> str:
    """A number with thousands separators; None becomes "unknown"."""
    return _("unknown") if value is None else f"{value:,.{digits}f}"


def about(value: int | None) -> str:
    """An estimate with two significant digits."""
    return number(None if value is None else float(f"{value:.2g}"))


def percent(share: float | None, digits: int = 1) -> str:
    """A share (0 to 1) as percent; None becomes "unknown"."""
    return _("unknown") if share is None else message.percent(share, digits)


PERCENT_FORMAT = "%.1f %%"
"""Format of a table's column of `table_percent`; Streamlit's own "percent" shows two digits and no space."""


def table_percent(share: float | None) -> float | None:
    """A share (0 to 1) as a number for a column with `PERCENT_FORMAT`, which stays sortable; None stays unknown."""
    return None if share is None else 100 * share


def code(text: Any) -> str:
    """Untrusted text as inline code, on one line: ids, prompts and other text that must be exact."""
    return f"`{' '.join(str(text).replace('`', 'ˋ').split())}`"


# GitHub's Markdown turns bare URLs into links after removing escapes, but never inside code.
_IN_ADDRESS = r"[A-Za-z0-9._~:/?#@!$&*+,;=%-]"
_BARE_ADDRESS = re.compile(
    rf"(?<!{_IN_ADDRESS}){_IN_ADDRESS}*(?:https?://|www\.|(?<=[\w.+-])@(?=[\w-]))(?:{_IN_ADDRESS}*[\w/#=&~%+-])?",
    re.IGNORECASE | re.ASCII,
)
# Characters that Markdown treats as markup, except where they have no effect (an underscore in a word, a colon before a
# space).
_MARKUP = re.compile(r"[\\`*\[\]<>~$|]|(?<![^\W_])_|_(?![^\W_])|:(?=\S)|#(?=[#\s]|$)|&(?=[#\w])", re.MULTILINE)
_AT_LINE_START = re.compile(r"^(\s*\d*)((?<!\d)[-+](?=[-+\s]|$)|(?<!\d)=|(?<=\d)[.)](?=\s|$))", re.MULTILINE)


def plain(text: Any) -> str:
    """Untrusted text for a Markdown context: nothing in it becomes markup, a link or an image.

    A web or mail address is shown as inline code, so that it is not a link and is copied exactly.
    """
    words, end, parts = str(text), 0, []
    for found in _BARE_ADDRESS.finditer(words):
        parts += [_escaped(words[end : found.start()]), code(found[0])]
        end = found.end()
    return _AT_LINE_START.sub(r"\1\\\2", "".join([*parts, _escaped(words[end:])]))


def as_markdown(sentence: str) -> str:
    """A message from core in the visitor's language, for a Markdown context: its `commands` are code.

    A message may contain untrusted values: everything becomes text or code, never markup.
    """
    return "".join(
        code(part[1:-1]) if _CODE.fullmatch(part) else plain(part) for part in _CODE.split(localized(sentence))
    )


_CODE = re.compile(r"(`[^`\n\[\]]+`)")  # no brackets: they would end a surrounding `:gray[…]`


def _escaped(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", text)


def label(text: Any) -> str:
    """Untrusted text for the label of an input, which is parsed as Markdown but read unparsed by screen readers.

    Escapes or backticks would be read aloud, so each markup character becomes its full-width form.
    """
    shown = _LINKS.sub(_full_width, _MARKUP.sub(_full_width, str(text)))
    return _AT_LINE_START.sub(lambda start: start[1] + _full_width_sign(start[2]), shown)


_LINKS = re.compile(r"(?<=www)\.|@", re.IGNORECASE)


def _full_width(sign: re.Match[str]) -> str:
    return _full_width_sign(sign[0])


def _full_width_sign(sign: str) -> str:
    return chr(ord(sign) + 0xFEE0)  # the full-width forms follow ASCII's order
