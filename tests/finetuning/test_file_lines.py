"""The dashboard's check and the engine agree on every line of a training file."""

from __future__ import annotations

from pathlib import Path

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.engine import finetune_format
from core.engine.chat_messages import BadLine
from tests.support.training_lines import BAD, GOOD_CHATS, GOOD_PAIRS, answer, chat, check_file

MODEL = "gemma-3-270m"


def _verdicts(folder: Path, line: bytes) -> tuple[str | None, str | None]:
    """The first problem found in a file with this line, by the check and by the engine."""
    path = folder / "x.jsonl"
    path.write_bytes(line + b"\n")
    checked = check_file(path, MODEL)
    engine = None
    try:
        finetune_format.check_file(path)
    except finetune_format.InvalidTrainingFile as exc:
        engine = str(exc)
    problem = next((one for one in checked.problems if one.level == "error" and one.line), None)
    return None if problem is None else f"Line {problem.line}: {problem.sentence}", engine


def test_the_table_is_large_enough() -> None:
    assert len(GOOD_PAIRS) + len(GOOD_CHATS) + len(BAD) >= 90
    assert len({line for line in (*GOOD_PAIRS, *GOOD_CHATS, *(line for line, _ in BAD))}) >= 90


@pytest.mark.parametrize("line", [*GOOD_PAIRS, *GOOD_CHATS])
def test_both_take_a_good_line(tmp_path: Path, line: bytes) -> None:
    assert _verdicts(tmp_path, line) == (None, None)


@pytest.mark.parametrize(("line", "kind"), BAD)
def test_both_refuse_a_bad_line_in_the_same_words(tmp_path: Path, line: bytes, kind: str) -> None:
    check, engine = _verdicts(tmp_path, line)
    assert check is not None and check == engine
    with pytest.raises(BadLine) as caught:
        finetune_format.parse_line(line)
    assert caught.value.kind == kind


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 2)
    | st.sampled_from(["", " ", "a", "<eos>", "user", "assistant", "text"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "weight", "type", "text", "tool_calls"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@given(messages=_VALUES, key=st.sampled_from(["tools", "prompt", "id", "parallel_tool_calls"]), value=_VALUES)
def test_both_agree_on_any_conversation(
    tmp_path_factory: pytest.TempPathFactory, messages: object, key: str, value: object
) -> None:
    folder = tmp_path_factory.getbasetemp()
    for line in (chat(messages), answer(content=messages), chat(**{key: value}), answer(**{key: value})):
        check, engine = _verdicts(folder, line)
        assert check == engine


@pytest.mark.parametrize(
    "line",
    [
        chat(tools=[{"type": "function"}], parallel_tool_calls=False),
        answer(content=None, tool_calls=[{"id": "1", "type": "function"}]),
        chat(
            {"role": "user", "content": [{"type": "image_url"}, {"type": "text", "text": "a"}]},
            {"role": "assistant", "content": "b"},
        ),
    ],
)
def test_providers_that_learn_tools_and_images_are_checked_by_their_own_rules(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(line)
    assert check_file(path, "gpt-4o-mini-2024-07-18", text_only=False).ok
    assert not check_file(path, MODEL).ok


def test_the_engine_itself_agrees(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="requirements-engine.txt is not installed")
    from tests.support.engine_process import TINY, running, upload

    with running(tmp_path / "home") as engine:
        client = engine.client(strict=False)
        for good in (GOOD_PAIRS, GOOD_CHATS):
            job = client.fine_tuning.jobs.create(model=TINY, training_file=upload(client, b"\n".join(good)))
            client.fine_tuning.jobs.cancel(job.id)
        for line, _ in BAD:
            file_id = upload(client, line)
            with pytest.raises(openai.BadRequestError) as caught:
                client.fine_tuning.jobs.create(model=TINY, training_file=file_id)
            with pytest.raises(BadLine) as named:
                finetune_format.parse_line(line)
            assert f"{file_id}: Line 1: {named.value.sentence}" in caught.value.message
