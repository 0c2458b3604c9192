"""Training files: each broken line is named by number and reason, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from core.engine import finetune_format

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
    checked = finetune_format.check_file(path)
    assert (checked.format, checked.examples) == expected


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "a", "completion": " b"', "It is not JSON: Expecting ',' delimiter, at column 35."),
        (b"[1, 2]", "It is not a JSON object."),
        (b'{"text": "a"}', 'It has neither "messages" nor "prompt" and "completion"'),
        (b'{"prompt": "a"}', 'There is no text under "completion".'),
        (b'{"prompt": 7, "completion": "b"}', 'There is no text under "prompt".'),
        (b'{"prompt": "a", "completion": "  \\n"}', "Its completion is empty."),
        (b'{"prompt": "a", "completion": "b", "id": 1}', "It has a key that fine-tuning does not accept: 'id'."),
        (b'{"prompt": "a", "completion": "\\ud83d"}', "It contains an invalid character (a lone surrogate)."),
        (b'{"prompt": "\xd6\xd0", "completion": "b"}', "It is not valid UTF-8: byte 13 is invalid."),
        ('{"prompt": "中"}'.encode("utf-16"), "It is not UTF-8 but looks like UTF-16: save the file as UTF-8."),
        (b"[" * 100_000, "It is JSON that can't be parsed."),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "It is JSON that can't be parsed."),
        (b'{"messages": []}', 'Its "messages" is not a non-empty list of messages.'),
        (b'{"messages": ["a"]}', "Message 1 is not a JSON object."),
        (messages(("narrator", "a")), "Message 1 has a role that is not valid: 'narrator'."),
        (messages(("user", "a"), ("function", "b")), "Message 2 has a role that is not valid: 'function'."),
        (messages(("user", 5), ("assistant", "b")), "Message 1 has no text content."),
        (messages(("user", [{"type": "image_url"}]), ("assistant", "b")), "Message 1 has no text content."),
        (messages(("user", "a"), ("assistant", " ")), "Message 2, from the assistant, is empty."),
        (messages(("assistant", "b"), ("user", "a")), "Its last message is from the user, not the assistant."),
        (
            b'{"messages": [{"role": "assistant", "content": "b", "weight": 0}]}',
            "All its answers have weight 0: there is nothing to learn.",
        ),
        (
            b'{"messages": [{"role": "assistant", "content": "b", "weight": 2}]}',
            "Message 1 has a weight; only answers have one, 0 or 1.",
        ),
        (
            b'{"messages": [{"role": ["user"], "content": "b"}]}',
            "Message 1 has a role that is not valid: \"['user']\".",
        ),
        (CHAT, "It is in the chat format; the lines before it are not."),
        (b"x" * (finetune_format.MAX_LINE_BYTES + 10), "It is larger than 1 MiB."),
    ],
)
def test_a_broken_line_is_named_by_number_and_reason(tmp_path: Path, line: bytes, reason: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(PAIR + b"\n" + PAIR + b"\n" + line)
    with pytest.raises(finetune_format.InvalidTrainingFile) as caught:
        finetune_format.check_file(path)
    assert str(caught.value).startswith(f"Line 3: {reason}")


def test_many_broken_lines_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes((PAIR + b"\noops\n") * 30)
    with pytest.raises(finetune_format.InvalidTrainingFile) as caught:
        finetune_format.check_file(path)
    assert "Line 2: " in str(caught.value)
    assert "Line 20: " in str(caught.value)
    assert str(caught.value).endswith("20 more lines are broken.")


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xef\xbb\xbf\n"])
def test_a_file_without_examples_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(finetune_format.InvalidTrainingFile, match="no examples"):
        finetune_format.check_file(path)


def test_memory_is_bounded_whatever_the_length_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.write(PAIR + b"\n")
        file.seek(200 << 20)  # a hole: one line of 200 MiB
        file.write(b"\n" + PAIR)
    tracemalloc.start()
    with pytest.raises(finetune_format.InvalidTrainingFile, match=r"^Line 2: It is larger than 1 MiB"):
        finetune_format.check_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20
