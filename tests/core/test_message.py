"""A message equals its English text, and keeps its template and parameters when stored or sent."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, insert, select, text

from core import i18n, message
from core.db.rescue_files import Entry, RescueFile, consume
from core.db.tables.base import MessageText
from core.errors import BadFile, NotFound
from core.message import Message, cause_of, msg, percent, sentences, with_cause
from core.providers import engine_endpoint
from core.settings import Settings
from pages.ui import i18n as pages_i18n
from pages.ui.components import failure_labels

_ROOT = Path(__file__).parents[2]
_TEMPLATE = "There is no provider {provider_id} on this machine."
_CHINESE = i18n.translator("zh_CN")
_VALUES = st.one_of(
    st.text(),
    st.integers(),
    st.floats(allow_nan=False),
    st.sampled_from(i18n.messages("zh_CN")),
    st.sampled_from(["{provider_id}", "{0}", "{", "}}", r"\\frac{a}{b}", "奥特曼", "running", "%s", "\x1e{}", "", " "]),
)


def _same(one: str, other: object) -> bool:
    return isinstance(one, Message) and isinstance(other, Message) and _parts(one) == _parts(other) and one == other


def _parts(one: Message) -> tuple[object, ...]:
    params = {k: _parts(v) if isinstance(v, Message) else (type(v), v) for k, v in one.params.items()}
    return one.template, params, one.cause


def _nested() -> Message:
    inner = with_cause(msg("There is no column {column}.", column="{title}"), "bad_file")
    return msg("{reason} {n}: {share}", reason=inner, n=3, share=0.25)


@pytest.mark.parametrize(
    ("parts", "english", "chinese"),
    [
        (("Invalid key", "Try again."), "Invalid key. Try again.", "Invalid key。Try again."),
        (("Is it running?", "Try again."), "Is it running? Try again.", "Is it running?Try again."),
        (('It says "no."', "Try again."), 'It says "no." Try again.', 'It says "no."Try again.'),
        (("Set it to:", "https://a.example"), "Set it to: https://a.example", "Set it to:https://a.example"),
        (("模型不存在。", "请重试"), "模型不存在。 请重试", "模型不存在。请重试"),
        (("a (b)", "", "c", "d"), "a (b). c. d", "a (b)。c。d"),
    ],
)
def test_sentences_do_not_run_together(parts: tuple[str, ...], english: str, chinese: str) -> None:
    assert sentences(*parts) == english and not isinstance(sentences(*parts), Message)
    joined = sentences(msg("{message}", message=parts[0]), *parts[1:])
    assert joined == english and isinstance(joined, Message)
    assert _CHINESE.translated(joined) == chinese


def test_a_message_is_its_english_text() -> None:
    found = msg(_TEMPLATE, provider_id="x")
    assert (
        found == "There is no provider x on this machine." and f"{found}" == found and hash(found) == hash(str(found))
    )
    assert (found.template, dict(found.params)) == (_TEMPLATE, {"provider_id": "x"})
    assert json.dumps([found]) == '["There is no provider x on this machine."]'


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (0.0, 1, "0 %"),
        (0.61, 1, "61.0 %"),
        (0.9434, 1, "94.3 %"),
        (0.9434, 0, "94 %"),
        (0.99996, 1, "100 %"),
        (1.0, 0, "100 %"),
        (1.0, 1, "100 %"),
        (-0.0004, 1, "0 %"),
        (12.5, 0, "1250 %"),
    ],
)
def test_a_share_is_written_in_one_way(share: float, digits: int, text: str) -> None:
    assert percent(share, digits) == pages_i18n.percent(share, digits) == text


def test_a_message_cannot_be_changed() -> None:
    found = msg(_TEMPLATE, provider_id="x")
    with pytest.raises(AttributeError):
        found.template = "Other"
    with pytest.raises(TypeError):
        found.params["provider_id"] = "y"  # type: ignore[index]


def test_a_field_without_a_parameter_is_an_error_at_once() -> None:
    with pytest.raises(KeyError):
        msg(_TEMPLATE)


@pytest.mark.parametrize(
    ("value", "expected"), [(True, "True"), (None, "None"), (Path("/a"), "/a"), (3, 3), (0.5, 0.5)]
)
def test_a_parameter_is_a_text_a_number_or_a_message(value: object, expected: object) -> None:
    assert msg("{value}", value=value).params["value"] == expected


def test_an_error_and_its_text_keep_the_message() -> None:
    error = NotFound(msg(_TEMPLATE, provider_id="x"), msg("Choose another one."))
    again = pickle.loads(pickle.dumps(error))
    assert _same(again.what, error.what) and _same(again.next_step, error.next_step)
    assert _same(str(error), error.what)
    assert _same(error.what, msg("{exc}", exc=error).params["exc"])


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("It broke.", None),
        (msg("It broke."), None),
        (with_cause("It broke.", "setup"), "setup"),
        (with_cause(with_cause(msg("It broke."), "setup"), "storage"), "storage"),
        (sentences(with_cause(msg("It broke."), "setup"), msg("Repair it.")), "setup"),
        (with_cause(msg("{what}", what=with_cause(msg("It broke."), "setup")), "storage"), "storage"),
        (NotFound("It is gone.").what, None),
        (BadFile("It broke.").what, "bad_file"),
        (BadFile(with_cause(msg("It broke."), "setup")).what, "setup"),
        (BadFile(msg("{what}", what=with_cause(msg("It broke."), "setup"))).what, "bad_file"),
        (msg("{error}", error=BadFile("It broke.")), "bad_file"),
    ],
)
def test_the_cause_is_that_of_the_message_or_of_the_first_one_in_it(text: str, cause: str | None) -> None:
    assert cause_of(text) == cause
    assert cause_of(message.loads(message.dumps(text))) == cause


def test_a_message_survives_pickle_copies_and_json() -> None:
    one = _nested()
    for again in (pickle.loads(pickle.dumps(one)), copy.copy(one), copy.deepcopy(one)):
        assert _same(one, again)
    assert _same(one, message.from_json(json.loads(json.dumps(message.to_json(one)))))


def test_a_message_survives_the_way_from_another_process() -> None:
    code = (
        "import sys, pickle; from core.message import msg; "
        "sys.stdout.buffer.write(pickle.dumps(msg('{a} is no {b}', a=msg('It {c}', c='{d}'), b=2)))"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, check=True).stdout
    assert _same(msg("{a} is no {b}", a=msg("It {c}", c="{d}"), b=2), pickle.loads(out))


@pytest.mark.parametrize(
    "written",
    [
        None,
        "",
        "A provider's own words, with {braces}.",
        '{"template": "a", "params": {}}',
        "\x1e",
        '\x1e{"template": "a", "params": {}}',  # a provider's message that looks like a stored message
        "\x1eno JSON",
    ],
)
def test_text_that_is_no_message_is_stored_as_text(written: str | None) -> None:
    read = _stored(written)
    assert read == written and not isinstance(read, Message)


def test_a_message_survives_the_database() -> None:
    assert _same(_nested(), _stored(_nested()))


def test_a_message_survives_a_rescue_file(tmp_path: Path) -> None:
    file, taken = RescueFile(tmp_path), list[Entry]()
    values = {"reason": _nested(), "notes": [_nested()], "text": "\x1e{}"}  # as of an evaluation's answer
    assert file.add([{"reason": _nested(), "text": "\x1e{}", "error": None, "values": values}])
    assert file.path is not None and consume(file.path, lambda entry: not taken.append(entry)) == 0
    assert _same(taken[0]["reason"], _nested())
    assert (taken[0]["text"], taken[0]["error"]) == ("\x1e{}", None)
    inner = taken[0]["values"]
    assert _same(inner["reason"], _nested()) and _same(inner["notes"][0], _nested()) and inner["text"] == "\x1e{}"


def test_a_message_survives_the_engines_note(settings: Settings) -> None:
    settings.home.mkdir(parents=True, exist_ok=True)
    engine_endpoint.write(settings, engine_endpoint.EngineNote("down", message=_nested(), next_step="its own words"))
    note = engine_endpoint.read(settings)
    assert _same(note.message, _nested()) and note.next_step == "its own words" and note.state == "down"


def test_a_stored_reason_is_shown_in_the_visitors_language(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (pages_i18n, failure_labels):
        monkeypatch.setattr(module, "language", lambda: "zh_CN")
    reason = msg("The text was cut off at {max_tokens} tokens.", max_tokens="99")
    shown = failure_labels.sentence(str(_stored(reason)), "token_limit")
    assert shown == _CHINESE("The text was cut off at {max_tokens} tokens.").format(max_tokens="99")
    earlier = failure_labels.sentence(str.__str__(reason), "token_limit")  # as stored by earlier versions
    assert earlier.startswith(_CHINESE(failure_labels.WORDS["token_limit"])) and str.__str__(reason) in earlier


@pytest.mark.parametrize("old", ["No row has failed.", "\x1e{}", "\x1e[1]", '\x1e{"template": "{a}", "params": {}}'])
def test_text_of_earlier_versions_is_read_as_it_is(old: str) -> None:
    assert _stored(old, raw=True) == old


def _stored(value: str | None, *, raw: bool = False) -> str | None:
    """`value` written to a real column and read again; `raw`: written past the type."""
    table = Table("t", MetaData(), Column("id", Integer, primary_key=True), Column("reason", MessageText))
    engine = create_engine("sqlite://")
    with engine.connect() as connection:
        table.create(connection)
        if raw:
            connection.execute(text("insert into t (reason) values (:v)"), {"v": value})
        else:
            connection.execute(insert(table).values(reason=value))
        return connection.execute(select(table.c.reason)).scalar_one()


def test_sentences_are_joined_and_translated_each_for_itself() -> None:
    what = msg(_TEMPLATE, provider_id="x")
    both = sentences(what, "", msg("Choose another one."))
    assert both == f"{what} Choose another one."
    assert _CHINESE.translated(both) == _CHINESE.translated(what) + _CHINESE("Choose another one.")
    assert sentences("a.", "", "b") == "a. b" and sentences() == "" and sentences("", what) is what


@given(_VALUES)
@settings(max_examples=300)
def test_a_value_comes_out_unchanged_in_both_languages(value: str | int | float) -> None:
    message_ = msg(_TEMPLATE, provider_id=value)
    before, after = _TEMPLATE.split("{provider_id}")
    assert message_ == f"{before}{value}{after}" == i18n.translator("en").translated(message_)
    before, after = _CHINESE(_TEMPLATE).split("{provider_id}")
    translated = _CHINESE.translated(message_)  # a Chinese value has no space around it
    assert (
        before + after != ""
        and str(value) in translated
        and translated
        in {f"{start}{value}{end}" for start in (before, before.rstrip(" ")) for end in (after, after.lstrip(" "))}
    )
    assert _same(message_, message.loads(message.dumps(message_)))


def test_a_sentence_as_a_value_is_translated_only_where_it_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_i18n, "language", lambda: "zh_CN")
    inner = "No row has failed."
    as_text = pages_i18n.localized(msg("Failed: {reason}", reason=inner))
    as_message = pages_i18n.localized(msg("Failed: {reason}", reason=msg("No row has failed.")))
    assert as_text.endswith(inner) and as_message.endswith(_CHINESE(inner)) and _CHINESE(inner) != inner


@pytest.mark.parametrize(
    "hostile",
    [
        {"template": "{a.__class__}", "params": {"a": "x"}},
        {"template": "{a!r}", "params": {"a": "x"}},
        {"template": "{a:>999999999}", "params": {"a": "x"}},
        {"template": "{0}", "params": {"0": "x"}},
        {"template": "{", "params": {}},
        {"template": "{b}", "params": {"a": "x"}},
        {"template": "{a}", "params": {"a": None}},
        {"template": "{a}" * 1000, "params": {"a": "x" * 2000}},
        {"template": 1, "params": {}},
        {"template": "a"},
        [],
        None,
    ],
)
def test_what_a_server_sends_as_a_message_cannot_do_more_than_fill_fields(hostile: object) -> None:
    assert message.from_json(hostile) is None
    assert message.restored("words", {"fabula": hostile}) == "words"


def test_a_message_from_a_server_is_taken_only_where_it_says_what_the_text_says() -> None:
    message_ = msg("The model '{model}' was deleted.", model="a")
    body = {"message": str.__str__(message_), **message.extra_fields(message_)}
    assert _same(message.restored(body["message"], body), message_)
    assert not isinstance(message.restored("Other words.", body), Message)
    assert message.extra_fields("words") == {}


def test_messages_that_are_too_deep_are_no_messages() -> None:
    deep: object = "x"
    for _ in range(10_000):
        deep = {"template": "{a}", "params": {"a": deep}}
    assert message.from_json(deep) is None


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
def test_a_list_has_the_commas_of_the_language(count: int) -> None:
    items = [f"n{number}" for number in range(count)]
    there = msg("Choose one of: {columns}.", columns=message.listed(items))
    assert there == f"Choose one of: {', '.join(items)}."
    assert _CHINESE.translated(there).count("、") == max(0, count - 1) and ", " not in _CHINESE.translated(there)
    assert _same(there, _stored(there))
