"""Training files: each broken line is named by number and reason, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from core.engine import validate

PAIR = b'{"prompt": "a", "completion": " b"}'
CHAT = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'


def messages(*rows: tuple[str, object]) -> bytes:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in rows]}).encode()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PAIR + b"\n" + PAIR + b"\n", ("completion", 2)),
        (CHAT, ("chat", 1)),
        (b"\xef\xbb\xbf" + PAIR, ("completion", 1)),
        (PAIR + b"\r\n\r\n  \n" + PAIR, ("completion", 2)),
        (b'{"prompt": "", "completion": "b"}', ("completion", 1)),
        (messages(("system", "s"), ("user", [{"type": "text", "text": "a"}]), ("assistant", "b")), ("chat", 1)),
        (messages(("developer", "s"), ("assistant", "b")), ("chat", 1)),
    ],
)
def test_good_files_are_counted(tmp_path: Path, content: bytes, expected: tuple[str, int]) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    checked = validate.check(path)
    assert (checked.format, checked.examples) == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "a", "completion": " b"', "it is not JSON (Expecting ',' delimiter, column 35)"),
        (b"[1, 2]", "it is not a JSON object"),
        (b'{"text": "a"}', 'it has neither "messages" nor "prompt" and "completion"'),
        (b'{"prompt": "a"}', '"completion" is missing or is not text'),
        (b'{"prompt": 7, "completion": "b"}', '"prompt" is missing or is not text'),
        (b'{"prompt": "a", "completion": "  \\n"}', "its completion is empty"),
        (b'{"prompt": "a", "completion": "b", "id": 1}', 'it has a key that is not supported: "id"'),
        (b'{"prompt": "a", "completion": "\\ud83d"}', "it holds half of a surrogate pair (a broken \\u escape)"),
        (b'{"prompt": "\xd6\xd0", "completion": "b"}', "it is not UTF-8 text (byte 13)"),
        ('{"prompt": "中"}'.encode("utf-16"), "it is not UTF-8 text (byte 1); save the file as UTF-8, not UTF-16"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "it is not JSON (a number is too long)"),
        (b'{"messages": []}', "messages must be a list with at least one message"),
        (b'{"messages": ["a"]}', "message 1 is not an object"),
        (messages(("narrator", "a")), "message 1 has the role 'narrator'; these can be used: system, developer, user"),
        (messages(("user", "a"), ("tool", "b")), "message 2 has the role 'tool'"),
        (messages(("user", 5), ("assistant", "b")), "message 1 has content that is not text"),
        (messages(("user", [{"type": "image_url"}]), ("assistant", "b")), "message 1 has content that is not text"),
        (messages(("user", "a"), ("assistant", " ")), "message 2, the assistant's, is empty"),
        (messages(("assistant", "b"), ("user", "a")), "its last message is not the assistant's"),
        (
            b'{"messages": [{"role": "assistant", "content": "b", "weight": 0}]}',
            "no answer in it has weight 1, so that there is nothing to learn",
        ),
        (b'{"messages": [{"role": "assistant", "content": "b", "weight": 2}]}', "message 1 has the weight 2"),
        (b'{"messages": [{"role": ["user"], "content": "b"}]}', "message 1 has the role ['user']"),
        (CHAT, "it is in chat format, and the lines before it are in completion format"),
        (b"x" * (validate.MAX_LINE_BYTES + 10), "it is longer than 1 MiB"),
    ],
)
def test_a_broken_line_is_named_by_number_and_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(PAIR + b"\n" + PAIR + b"\n" + line)
    with pytest.raises(validate.BadTrainingFile) as caught:
        validate.check(path)
    assert str(caught.value).startswith(f"Line 3: {reason}")


def test_many_broken_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes((PAIR + b"\noops\n") * 30)
    with pytest.raises(validate.BadTrainingFile) as caught:
        validate.check(path)
    assert "Line 2: " in str(caught.value)
    assert "Line 20: " in str(caught.value)
    assert str(caught.value).endswith("20 more lines are broken.")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf\n"])
def test_a_file_without_examples_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(validate.BadTrainingFile, match="no examples"):
        validate.check(path)


def test_memory_is_bounded_whatever_the_length_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(PAIR + b"\n")
        file.seek(200 << 20)  # a hole: one line of 200 MiB
        file.write(b"\n" + PAIR)
    tracemalloc.start()
    with pytest.raises(validate.BadTrainingFile, match=r"^Line 2: it is longer than 1 MiB"):
        validate.check(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
