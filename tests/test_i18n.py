"""Every sentence that a person may see has its Chinese, with the same places in it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import streamlit as st
from babel.messages.catalog import Message
from babel.messages.pofile import read_po

from core import i18n
from core.locale.collect import collect
from pages.ui import lang

_ROOT = Path(__file__).parents[1]
_OTHERS = [language for language in i18n.LANGUAGES if language != i18n.DEFAULT]
_PLACE = re.compile(r"\{\w*\}|\*\*|`")


def _messages(language: str) -> list[Message]:
    with i18n.catalogue_path(language).open("rb") as file:
        return [message for message in read_po(file, locale=language) if message.id]


@pytest.mark.parametrize("language", _OTHERS)
def test_every_sentence_of_the_code_is_translated(language: str) -> None:
    known = set(i18n.messages(language))
    missing = sorted({found.message for found in collect(_ROOT)} - known)
    assert not missing, f"{len(missing)} without translation (make messages lists them): {missing[:5]} …"


@pytest.mark.parametrize("language", _OTHERS)
def test_no_translation_is_left_over(language: str) -> None:
    said = {found.message for found in collect(_ROOT)}
    assert not sorted(set(i18n.messages(language)) - said), "run make messages: it drops what is no longer said"


@pytest.mark.parametrize("language", _OTHERS)
def test_places_and_marks_survive_translation(language: str) -> None:
    for message in _messages(language):
        ids = [message.id] if isinstance(message.id, str) else list(message.id)
        texts = [message.string] if isinstance(message.string, str) else list(message.string)
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
    assert i18n.match(accepted) == language


def test_english_is_the_message_itself() -> None:
    english = i18n.translator("en")
    assert english("Data set") == "Data set"
    assert english.gettext("") == ""
    assert [english.ngettext("{n} row", "{n} rows", n) for n in (0, 1, 2)] == ["{n} rows", "{n} row", "{n} rows"]


def test_a_language_that_is_not_there_is_english() -> None:
    assert i18n.translator("xx").language == "en"
    assert i18n.messages("xx") == ()


def test_a_message_without_translation_stays_english() -> None:
    assert i18n.translator("zh_CN")("A sentence nobody has translated.") == "A sentence nobody has translated."


def test_collecting_finds_marked_words_errors_and_plain_sentences(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "pages").mkdir()
    (tmp_path / "core" / "errors.py").write_text("class BadFile(Exception): ...\n", encoding="utf-8")
    (tmp_path / "core" / "a.py").write_text(
        '"""A docstring is not shown."""\n'
        "import logging\n"
        "def f(row, n):\n"
        '    """Nor is this one."""\n'
        '    logging.getLogger().warning("Logs stay English.")\n'
        '    raise BadFile(f"line {n} of {row.name}: {row.why()}", next_step="Mend it")\n'
        'NOTE = f"It has {1} part."\n'
        'KEY = "not_a_sentence"\n',
        encoding="utf-8",
    )
    (tmp_path / "pages" / "b.py").write_text('_("Home")\nn_("{n} row", "{n} rows", 3)\nmark("Later")\n', "utf-8")
    found = {(item.message, item.plural) for item in collect(tmp_path)}
    assert found == {
        ("line {n} of {name}: {why}", None),
        ("Mend it", None),
        ("It has {value} part.", None),
        ("Home", None),
        ("{n} row", "{n} rows"),
        ("Later", None),
    }


@pytest.mark.parametrize(
    ("sentence", "kept"),
    [
        ("There is no file file-7. It may have been deleted; upload it again.", ["file-7"]),
        ("There is no file training. It may have been deleted; upload it again.", ["training"]),
        ("The model 'running' was deleted.", ["running"]),
        ("Home cannot be opened.", ["Home"]),
        ("Language is empty.", ["Language"]),
    ],
)
def test_names_in_a_sentence_are_kept_even_where_they_are_words_of_the_catalogue(
    monkeypatch: pytest.MonkeyPatch, sentence: str, kept: list[str]
) -> None:
    monkeypatch.setattr(lang, "language", lambda: "zh_CN")
    said = lang.told(sentence)
    assert said != sentence and all(name in said for name in kept) and "训练中" not in said


def test_places_in_a_sentence_of_core_are_kept_apart_by_words() -> None:
    """Two places with only a space between them cannot be told apart when the filled sentence is recognised."""
    together = re.compile(r"\}[\s'“”]+\{")
    said = {f.message for f in collect(_ROOT) if f.where.startswith("core/")} - {
        "{first} {then}"
    }  # holds messages only
    assert not [message for message in said if together.search(message)]


def test_a_sentence_that_holds_others_is_told_from_the_outside_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lang, "language", lambda: "zh_CN")
    inner = "The engine cannot be reached at http://127.0.0.1:1/v1."
    middle = "The provider did not confirm the job, and does not list it: "
    said = lang.told(f"It failed: {middle}{inner}")
    assert said.startswith(lang.told("It failed: x").removesuffix("x")) and said.endswith(lang.told(inner))


@pytest.mark.parametrize(
    "sentence",
    [
        "{name} has a server error ({status}): {words}",
        "{name} does not have it: {words}",
        "{filename} has no line that can be used. {first}",
        "{filename} has no row that can be used. {first}",
        "It is not JSON: {msg}, at column {colno}.",
        "Message {number} has no role.",
        "Some bytes fit no character.",
    ],
)
def test_a_providers_trouble_and_a_files_faults_are_collected(sentence: str) -> None:
    assert sentence in {found.message for found in collect(_ROOT)}


@pytest.mark.parametrize(
    "sentence",
    [
        "The job was paused.",
        "The disk is full. Free some space, then resume the job: it continues from its last checkpoint.",
        "The trainer ended {deaths} times: {trainer}.",
        "The engine failed unexpectedly: {exc}. Its log has the details.",
    ],
)
def test_events_and_failures_of_the_engines_jobs_are_collected(sentence: str) -> None:
    assert sentence in {found.message for found in collect(_ROOT)}


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
    assert lang.plain(text) == shown
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
    assert lang.label(text) == shown


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("Start Fabula with `make run`.", "Start Fabula with `make run`."),
        ("Set `FABULA_HOME` or `DATABASE_URL`.", "Set `FABULA_HOME` or `DATABASE_URL`."),
        ("m* does not take `top_p`; skipped.", r"m\* does not take `top_p`; skipped."),
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
    assert lang.as_markdown(sentence) == shown


def test_commands_of_a_translated_sentence_are_code_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lang, "language", lambda: "zh_CN")
    sentence = "Start Fabula with `make run`, or a worker with `python -m core.worker`."
    assert lang.as_markdown(sentence) == "请用 `make run` 启动 Fabula，或用 `python -m core.worker` 启动后台进程。"


@pytest.mark.parametrize(
    ("timezone", "shown"),
    [
        ("Asia/Shanghai", "2026-11-30 02:05:09"),
        ("America/New_York", "2026-11-29 13:05:09"),
        ("UTC", "2026-11-29 18:05:09"),
        (None, "2026-11-29 18:05:09 UTC"),  # a browser that does not say where it is
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
    assert lang.clock(moment) == shown
    assert lang.clock(moment, moment + timedelta(seconds=1)) == shown.split(" ", 1)[1]  # today
    assert lang.clock(moment, moment + timedelta(days=1)) == shown


def test_today_is_the_visitors_today(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(st, "context", SimpleNamespace(timezone="Asia/Shanghai"))
    midnight = datetime(2026, 11, 29, 16, tzinfo=UTC)  # there
    assert lang.clock(midnight - timedelta(minutes=1), midnight) == "2026-11-29 23:59:00"
    assert lang.clock(midnight, midnight + timedelta(hours=9)) == "00:00:00"
