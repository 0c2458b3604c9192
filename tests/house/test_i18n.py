"""Every visible sentence has a Chinese translation with the same fields."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import streamlit as st
from babel.messages.catalog import Message
from babel.messages.pofile import read_po, write_po

from core import errors, i18n
from core.finetuning.job_explanation import minutes_left
from core.languages import ENGLISH, LANGUAGES, match
from core.locale.__main__ import collect, update
from core.message import msg
from pages.ui import i18n as pages_i18n

_ROOT = Path(__file__).parents[2]
_OTHERS = [language for language in LANGUAGES if language != ENGLISH]
_PLACE = re.compile(r"\{\w*\}|\*\*|`")
_FIELD = re.compile(r"\{\w*\}")


@cache
def _collected() -> frozenset[str]:
    """Every message of the code."""
    return frozenset(found.message for found in collect(_ROOT))


def _messages(language: str) -> list[Message]:
    with i18n.catalogue_path(language).open("rb") as file:
        return [message for message in read_po(file, locale=language) if message.id]


@pytest.mark.parametrize("language", _OTHERS)
def test_every_sentence_of_the_code_is_translated(language: str) -> None:
    known = set(i18n.messages(language))
    missing = sorted(_collected() - known)
    assert not missing, f"{len(missing)} without translation (make messages lists them): {missing[:5]} …"


@pytest.mark.parametrize("language", _OTHERS)
def test_no_translation_is_left_over(language: str) -> None:
    assert not sorted(set(i18n.messages(language)) - _collected()), "run make messages to drop unused messages"


@pytest.mark.parametrize("language", _OTHERS)
def test_no_two_messages_differ_only_in_the_names_of_their_fields(language: str) -> None:
    """Two words at least: "{name}: {value}" and "about {cost}" are too short to be the same sentence by mistake."""
    by_shape: dict[tuple[str, str], list[str]] = {}
    for message in _messages(language):
        english, translated = (
            text if isinstance(text, str) else text[0] for text in (message.id, message.string or "")
        )
        if len(re.findall(r"\w+", _FIELD.sub("", english))) > 1:
            by_shape.setdefault((_FIELD.sub("{}", english), _FIELD.sub("{}", translated)), []).append(english)
    assert [alike for alike in by_shape.values() if len(alike) > 1] == []


@pytest.mark.parametrize("language", _OTHERS)
def test_places_and_marks_survive_translation(language: str) -> None:
    for message in _messages(language):
        ids = [message.id] if isinstance(message.id, str) else list(message.id)
        texts = [message.string] if isinstance(message.string, str) else list(message.string or ())
        allowed = [sorted(_PLACE.findall(text)) for text in ids]
        for text in texts:
            assert not text or sorted(_PLACE.findall(text)) in allowed, (ids[0], text)


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh_CN"),
        ("zh-Hans-CN", "zh_CN"),
        ("zh", "zh_CN"),
        ("zh_TW", "zh_CN"),
        ("en-GB,zh;q=0.5", "en"),
        ("de-DE,zh-CN;q=0.5", "zh_CN"),
        ("de-DE", "en"),
        ("", "en"),
        (None, "en"),
    ],
)
def test_the_browsers_language_is_followed(accepted: str | None, language: str) -> None:
    assert match(accepted) == language


def test_english_is_the_message_itself() -> None:
    english = i18n.translator("en")
    assert english("Data set") == "Data set"
    assert english.gettext("") == ""
    assert [english.ngettext("{n} row", "{n} rows", n) for n in (0, 1, 2)] == ["{n} rows", "{n} row", "{n} rows"]


def test_a_language_that_is_not_there_is_english() -> None:
    assert i18n.translator("xx").language == "en"
    assert i18n.messages("xx") == ()


def test_a_message_without_translation_stays_english() -> None:
    assert i18n.translator("zh_CN")("A sentence without a translation.") == "A sentence without a translation."


def test_collecting_finds_the_literal_templates_of_marked_calls(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "pages").mkdir()
    (tmp_path / "core" / "a.py").write_text(
        '"""A docstring is not shown."""\n'
        "import logging\n"
        "def f(row, n):\n"
        '    """Nor is this one."""\n'
        '    logging.getLogger().warning("Logs stay English.")\n'
        '    raise BadFile(msg("Line {n} "\n        "of {name}.", n=f"{n:,}", name=msg("a row")), msg("Correct it."))\n'
        'NOTE = "It has no part."\n',
        encoding="utf-8",
    )
    calls = '_("Home")\nn_("{n} row", "{n} rows", 3)\nmark("Later")\nx = f"{_(\'Inside\')}"\n_(name)\n_("")\n'
    (tmp_path / "pages" / "b.py").write_text(calls, "utf-8")
    found = {(item.message, item.plural) for item in collect(tmp_path)}
    assert found == {
        ("Line {n} of {name}.", None),
        ("a row", None),
        ("Correct it.", None),
        ("Home", None),
        ("{n} row", "{n} rows"),
        ("Later", None),
        ("Inside", None),
    }


@pytest.mark.parametrize("name", ["file-7", "training", "running", "Home", "The training file was deleted."])
def test_a_value_is_kept_even_where_it_is_a_message_of_the_catalogue(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(pages_i18n, "language", lambda: "zh_CN")
    localized = pages_i18n.localized(msg("The model '{model}' was deleted.", model=name))
    assert localized == pages_i18n._("The model '{model}' was deleted.").replace("{model}", name)


def test_messages_inside_messages_are_translated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_i18n, "language", lambda: "zh_CN")
    inner = msg("{name} cannot be reached at {base_url}.", name=msg("The engine"), base_url="http://127.0.0.1:1/v1")
    localized = pages_i18n.localized(msg("Failed: {reason}", reason=inner))
    assert localized == pages_i18n._("Failed: {reason}").replace("{reason}", pages_i18n.localized(inner))
    assert pages_i18n._("The engine") in localized and "The engine" not in localized


def test_text_that_is_no_message_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_i18n, "language", lambda: "zh_CN")
    for text in ("No row has failed.", "The training file x was deleted.", "running", "{name}", ""):
        assert pages_i18n.localized(text) == text


def _calls(name: str) -> list[tuple[str, ast.Call]]:
    """Place and node of each call of this name in core and pages."""
    return _calls_by_name().get(name, [])


@cache
def _calls_by_name() -> dict[str, list[tuple[str, ast.Call]]]:
    found: dict[str, list[tuple[str, ast.Call]]] = {}
    for path in sorted([*_ROOT.glob("core/**/*.py"), *_ROOT.glob("pages/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.setdefault(_called(node.func), []).append((f"{path.relative_to(_ROOT)}:{node.lineno}", node))
    return found


def _called(func: ast.expr) -> str:
    """`name` or `owner.method`; "" for anything longer."""
    if isinstance(func, ast.Attribute) and isinstance(func.value, ast.Name):
        return f"{func.value.id}.{func.attr}"
    return func.id if isinstance(func, ast.Name) else ""


def test_every_template_is_a_literal_and_has_a_parameter_for_each_field() -> None:
    wrong = []
    for where, call in _calls("msg"):
        template = call.args[0] if len(call.args) == 1 else None
        if not isinstance(template, ast.Constant) or not isinstance(template.value, str):
            wrong.append(where)
            continue
        fields = list(string.Formatter().parse(template.value))
        names = {name for _, name, _, _ in fields if name is not None}
        simple = not any(spec or conversion for _, _, spec, conversion in fields)
        if not simple or names != {keyword.arg for keyword in call.keywords}:
            wrong.append(where)
    assert not wrong, f"a literal template, {{name}} for each parameter, and formatted values: {wrong}"


def test_every_error_is_made_of_messages() -> None:
    """Plain text would be shown in English in every language. Providers' messages are not literals."""
    kinds = [name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)]
    wrong = []
    for kind in [*kinds, "BadLine", "Broken", "JobFailed"]:
        for where, call in _calls(kind):
            arguments = [*call.args[:2], *(k.value for k in call.keywords if k.arg in ("what", "next_step"))]
            wrong += [where for part in arguments if any(_is_sentence(node) for node in _outside_calls(part))]
    assert not wrong, f'put the sentence into msg("…", name=value) of core.message: {wrong}'


@pytest.mark.parametrize("method", ["add", "note", "end_early"])
def test_every_problem_of_a_file_is_a_message(method: str) -> None:
    calls = _calls(f"problems.{method}")
    assert calls
    wrong = [where for where, call in calls if any(_is_sentence(node) for node in _outside_calls(call.args[0]))]
    assert not wrong, f'put the sentence into msg("…", name=value) of core.message: {wrong}'


def _is_sentence(node: ast.AST) -> bool:
    text = isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value
    return text or isinstance(node, ast.JoinedStr)


def _outside_calls(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of an expression, without the arguments of calls."""
    yield node
    for child in [node.func] if isinstance(node, ast.Call) else ast.iter_child_nodes(node):
        yield from _outside_calls(child)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "No answer from http://localhost:8000/v1. Try again.",
            "No answer from `http://localhost:8000/v1`. Try again.",
        ),
        ("无法连接http://localhost:8000/v1。", "无法连接`http://localhost:8000/v1`。"),
        ("HTTPS://A.EXAMPLE?x=1#y", "`HTTPS://A.EXAMPLE?x=1#y`"),
        ("(www.example.com)", "(`www.example.com`)"),
        ("postgresql://me@db:5/x is gone", "`postgresql://me@db:5/x` is gone"),
        ("ask me@example.com", "ask `me@example.com`"),
        ("tea @ five", "tea @ five"),
        ("birth_year: 3 & up", "birth_year: 3 & up"),
        ("ft:gemma::a1", "ft\\:gemma\\:\\:a1"),
        ("_low_ *fat* ~~out~~ $x$ [a](b) <i>", "\\_low\\_ \\*fat\\* \\~\\~out\\~\\~ \\$x\\$ \\[a\\](b) \\<i\\>"),
        ("12. a\n3) b\n- c\n1.5 d\n-3", "12\\. a\n3\\) b\n\\- c\n1.5 d\n-3"),
        ("# a\nc# ", "\\# a\nc\\# "),
        ("&amp; &#65;", "\\&amp; \\&#65;"),
    ],
)
def test_plain_text_is_no_markup_and_an_address_stays_as_it_can_be_copied(text: str, shown: str) -> None:
    assert pages_i18n.plain(text) == shown
    assert not re.search("[\u200b-\u200d\u2060\ufeff]", shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("birth_year", "birth_year"),
        ("price: $", "price: ＄"),
        ("*fat* [a](b)", "＊fat＊ ［a］(b)"),
        ("me@example.com www.example.com http://x", "me＠example.com www．example.com http：//x"),
        ("1. power", "1． power"),
        (r"C:\x", "C：＼x"),
    ],
)
def test_a_label_of_untrusted_text_is_no_markup_and_is_read_aloud_without_escapes(text: str, shown: str) -> None:
    assert pages_i18n.label(text) == shown


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("Start Fabula with `make run`.", "Start Fabula with `make run`."),
        ("Set `FABULA_HOME` or `DATABASE_URL`.", "Set `FABULA_HOME` or `DATABASE_URL`."),
        ("m* does not accept `top_p`; skipped.", r"m\* does not accept `top_p`; skipped."),
        ("`http://x.example` is no address.", "`http://x.example` is no address."),
        ("It says http://x.example now.", "It says `http://x.example` now."),
        ("An odd ` alone [a](b)", r"An odd \` alone \[a\](b)"),
        ("`] [a](http://x.example) `", r"\`\] \[a\](`http://x.example`) \`"),  # would end a `:gray[…]` around it
        ("``", r"\`\`"),
        ("`a\nb`", "\\`a\nb\\`"),
        ("<b>`<i>`</b>", r"\<b\>`<i>`\</b\>"),
    ],
)
def test_commands_in_a_sentence_are_code_and_all_else_is_text(sentence: str, shown: str) -> None:
    assert pages_i18n.as_markdown(sentence) == shown


def test_commands_of_a_translated_sentence_are_code_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_i18n, "language", lambda: "zh_CN")
    sentence = msg("Start Fabula with `make run`, or a worker with `python -m core.jobs.worker`.")
    assert (
        pages_i18n.as_markdown(sentence)
        == "请用 `make run` 启动 Fabula，或用 `python -m core.jobs.worker` 启动后台进程。"
    )


@pytest.mark.parametrize(
    ("timezone", "shown"),
    [
        ("Asia/Shanghai", "2026-11-30 02:05:09"),
        ("America/New_York", "2026-11-29 13:05:09"),
        ("UTC", "2026-11-29 18:05:09"),
        (None, "2026-11-29 18:05:09 UTC"),  # a browser without a time zone
        ("", "2026-11-29 18:05:09 UTC"),
        ("Nowhere/At_all", "2026-11-29 18:05:09 UTC"),
        ("Asia", "2026-11-29 18:05:09 UTC"),  # a folder of names
        ("../../etc/passwd", "2026-11-29 18:05:09 UTC"),
    ],
)
def test_a_moment_is_told_in_the_visitors_time_zone(
    monkeypatch: pytest.MonkeyPatch, timezone: str | None, shown: str
) -> None:
    monkeypatch.setattr(st, "context", SimpleNamespace(timezone=timezone))
    moment = datetime(2026, 11, 29, 18, 5, 9, tzinfo=UTC)
    assert pages_i18n.clock(moment) == shown
    assert pages_i18n.clock(moment, moment + timedelta(seconds=1)) == shown.split(" ", 1)[1]  # today
    assert pages_i18n.clock(moment, moment + timedelta(days=1)) == shown


def test_today_is_the_visitors_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(st, "context", SimpleNamespace(timezone="Asia/Shanghai"))
    midnight = datetime(2026, 11, 29, 16, tzinfo=UTC)  # there
    assert pages_i18n.clock(midnight - timedelta(minutes=1), midnight) == "2026-11-29 23:59:00"
    assert pages_i18n.clock(midnight, midnight + timedelta(hours=9)) == "00:00:00"


@pytest.mark.parametrize(("minutes", "expected"), [(366, "6 小时 6"), (12, "12")])
def test_a_time_in_a_sentence_is_in_the_language_of_the_sentence(
    monkeypatch: pytest.MonkeyPatch, minutes: int, expected: str
) -> None:
    monkeypatch.setattr(pages_i18n, "language", lambda: "zh_CN")
    assert pages_i18n.localized(minutes_left(60 * minutes)) == expected
    sentence = msg("Queued for {age} min. This is normal.", age=minutes_left(60 * minutes))
    assert f"{expected} 分钟" in pages_i18n.localized(sentence)


@pytest.mark.parametrize(
    ("seconds", "english", "chinese"),
    [
        (40, "40 s", "40 秒"),
        (180, "3 min", "3 分钟"),
        (7_200, "2 h", "2 小时"),
        (5_700, "1 h 35 min", "1 小时 35 分"),
        (47 * 3_600, "47 h", "47 小时"),
        (10_024 * 3_600, "418 days", "418 天"),
        (None, "unknown", "未知"),
    ],
)
def test_a_duration_is_said_in_words(
    monkeypatch: pytest.MonkeyPatch, seconds: float | None, english: str, chinese: str
) -> None:
    for language, words in (("en", english), ("zh_CN", chinese)):
        monkeypatch.setattr(pages_i18n, "language", lambda chosen=language: chosen)
        assert pages_i18n.duration(seconds) == words


@pytest.mark.parametrize(
    ("language", "parts", "line", "pair"),
    [
        ("en", ("Kept.", "", "Press Resume."), "Kept. Press Resume.", "hero: Rosa"),
        ("en", ("No such key", "Press `x`", "Why?"), "No such key. Press `x`. Why?", "hero: Rosa"),
        ("zh_CN", ("没有这个密钥", "Invalid key", "请重试。"), "没有这个密钥。Invalid key。请重试。", "hero：Rosa"),
        ("zh_CN", ("已保留。", "", "请点“继续”。"), "已保留。请点“继续”。", "hero：Rosa"),
    ],
)
def test_signs_between_words_are_those_of_the_language(
    monkeypatch: pytest.MonkeyPatch, language: str, parts: tuple[str, ...], line: str, pair: str
) -> None:
    monkeypatch.setattr(pages_i18n, "language", lambda: language)
    assert (pages_i18n.sentences(*parts), pages_i18n.pair("hero", "Rosa")) == (line, pair)


def test_a_language_without_a_catalogue_gets_one_and_keeps_its_translations(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(i18n, "LOCALE", tmp_path)
    monkeypatch.setitem(LANGUAGES, "fr", "Français")
    ids = _collected()
    assert set(update(_ROOT, "fr")) == ids
    path = i18n.catalogue_path("fr")
    with path.open("rb") as file:
        catalogue = read_po(file, locale="fr")
    catalogue.get("Export").string = "Exporter"  # type: ignore[union-attr]  # it is in the catalogue
    with path.open("wb") as file:
        write_po(file, catalogue)
    assert set(update(_ROOT, "fr")) == ids - {"Export"}


@pytest.mark.parametrize(
    ("expected", "most", "said"),
    [
        (0.02, 0.05, "about \\$0.0200, at most \\$0.0500"),
        (0.00002, 0.05, "at most \\$0.0500"),
        (0.00002, 0.00005, "under \\$0.0001"),
        (0, 0, "at most \\$0"),
    ],
)
def test_an_estimate_names_no_limit_below_what_is_shown(expected: float, most: float, said: str) -> None:
    assert pages_i18n.usd_estimate(expected, most) == said
