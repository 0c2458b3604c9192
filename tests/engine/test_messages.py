"""The engine's errors are messages: English in its API, translated on pages."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from core import i18n, message
from core.engine.api import errors
from core.engine.api.models import Model
from core.engine.api.serializers import model
from core.engine.formats import base_config
from core.engine.training.trainer.failure import describe as _describe
from core.engine.training.trainer.loop import LossDiverged
from core.message import Message, msg
from core.providers import generation

_ENGINE = Path(__file__).parents[2] / "core" / "engine"
_SAID_BY = {"ApiError": 1, "bad_value": 1, "unavailable": 0, "UntrainableModel": 0, "LossDiverged": 0}
_CHINESE = i18n.translator("zh_CN")


@pytest.mark.parametrize("path", sorted(_ENGINE.rglob("*.py")), ids=lambda path: path.name)
def test_no_refusal_of_the_engine_is_a_bare_text(path: Path) -> None:
    bare = [
        f"{path.name}:{node.lineno}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in _SAID_BY
        and isinstance(node.args[_SAID_BY[node.func.id]], ast.JoinedStr | ast.Constant)
    ]
    assert bare == []


@pytest.mark.parametrize(
    "error",
    [errors.unknown_model("x"), errors.unknown_file("file-1"), errors.unknown_job("ftjob-1"), errors.disk_full()],
    ids=lambda error: str(error.code),
)
def test_a_body_of_an_error_has_english_words_and_the_message_that_they_are(error: errors.ApiError) -> None:
    error_body = json.loads(json.dumps(error.body()))["error"]
    assert str(error_body["message"]).isascii()
    read = message.restored(error_body["message"], error_body)
    assert isinstance(read, Message) and not _CHINESE.translated(read).isascii()


def _refusal() -> str:
    with pytest.raises(base_config.UntrainableModel) as refused:
        base_config._Keys("gemma3", {"final_softcap": 3}).reject_remaining()
    return str(refused.value)


def test_the_reason_why_a_base_is_not_trained_reaches_the_page_as_a_message() -> None:
    reason = _refusal()
    assert reason == "gemma3.final_softcap is 3; this key is not supported"
    row = Model("b", "b", None, "both", 0)
    wire = json.loads(json.dumps(model(row, reason, None, 4, None)))["fabula"]
    assert wire["not_trainable"] == reason
    translated = _CHINESE.translated(str(generation._not_trainable(wire)))
    assert translated == "gemma3.final_softcap 为 3，而这里不认识这个键"


@pytest.mark.parametrize("fields", [{}, {"not_trainable": None}, {"not_trainable": 7}, {"not_trainable": "no"}])
def test_an_engine_without_messages_is_read_too(fields: dict[str, object]) -> None:
    assert generation._not_trainable(fields) == (
        fields["not_trainable"] if fields.get("not_trainable") == "no" else None
    )


@pytest.mark.parametrize(
    "error",
    [
        LossDiverged(msg("the loss is {loss} at step {step}", loss=1e9, step=3)),
        base_config.UntrainableModel(_refusal()),
    ],
    ids=["diverged", "untrainable"],
)
def test_why_a_training_has_stopped_is_translated_as_a_whole(error: Exception) -> None:
    what, next_step = (_CHINESE.translated(sentence) for sentence in _describe(error))
    assert not any(english in what + next_step for english in ("Training", "the loss", "not supported", "Use "))
