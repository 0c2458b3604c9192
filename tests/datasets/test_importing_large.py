"""Very large files: read in blocks, with bounded memory, and nothing is left out silently."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from core.datasets.importers import csv_rows, decoding, table, table_reader
from core.datasets.importers.table import MAX_LINE_CHARACTERS
from core.errors import BadFile

_GB = 1_000_000_000
_MOST_MEMORY = 60_000_000  # bytes: a few copies of the longest line


class Long(io.RawIOBase):
    """A file generated while it is read: a head, then `n` times the same byte, then a tail."""

    def __init__(self, head: bytes, n: int, fill: bytes, tail: bytes) -> None:
        self._parts, self._n, self._fill, self._at = (head, tail), n, fill * (1 << 20), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = sum(map(len, self._parts)) + self._n
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        head, tail = self._parts
        in_fill = self._at - len(head)
        if in_fill < 0:
            part = head[self._at :]
        elif in_fill < self._n:
            part = self._fill[: self._n - in_fill]
        else:
            part = tail[in_fill - self._n :]
        part = part[: len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


@pytest.mark.parametrize(
    ("size", "head", "fill", "tail", "name"),
    [
        (_GB, b"a,b\n1,2\n3,", b"x", b"\n5,6\n", "a.csv"),
        (_GB // 5, b"a,b\n1,2\n3,", b"\0", b"\n5,6\n", "a.csv"),
        (_GB // 5, b'a,b\n1,2\n3,"', b"x", b'"\n5,6\n', "a.csv"),
        (_GB // 5, b'{"a": 1, "b": 2}\n', b"[", b'\n{"a": 5, "b": 6}', "a.jsonl"),
    ],
)
def test_a_line_of_a_gigabyte_takes_no_gigabyte(size: int, head: bytes, fill: bytes, tail: bytes, name: str) -> None:
    tracemalloc.start()
    try:
        found = table_reader.read_table(io.BufferedReader(Long(head, size, fill, tail)), name)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.frame.to_numpy().tolist() == [["1", "2"], ["5", "6"]]
    assert found.left_out == 1 and f"{MAX_LINE_CHARACTERS:,}" in found.problems[0]
    assert peak < _MOST_MEMORY


def test_a_quote_that_is_opened_early_in_a_long_file_costs_one_line() -> None:
    lines = "".join(f"{n},some words for row {n}\n" for n in range(50_000))
    found = table_reader.read_table(f'a,b\n0,"open\n{lines}'.encode(), "a.csv")
    assert (len(found.frame), found.left_out) == (50_000, 1)
    assert found.problems == ["Line 2: a quote is opened but not closed correctly; the line is left out."]


def test_a_quote_that_meets_the_next_one_swallows_nothing() -> None:
    found = table_reader.read_table(b'a,b\n1,"open\n2,3\n4,"x"\n5,6\n', "a.csv")
    assert found.frame["a"].tolist() == ["2", "4", "5"] and found.left_out == 1


def test_a_file_of_nothing_but_quotes_ends_and_says_what_it_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_LINE_CHARACTERS", 10_000)
    text, problems = io.StringIO("a,b\n1,2\n" + 'x","y\n' * 50_000 + '"\n4,5\n'), table.ImportProblems()
    lines = decoding.LineReader(text, max_reread=200_000)  # without a limit each line is read a thousand times
    assert csv_rows.read(lines, "a.csv", problems).frame["a"].tolist()[0] == "1"
    assert any("are between quotes that do not match; they are left out" in told for told in problems.problems())


def test_more_rows_than_one_data_set_takes_are_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MAX_ROWS", 3)
    found = table_reader.read_table(b"a,b\n1,2\nragged\n3,4\n5,6\n7,8\n", "a.csv")
    assert len(found.frame) == 3
    assert found.problems[0] == found.cut_short and found.left_out == 1
    assert found.cut_short.startswith("Only the first 3 rows were read; the rest is more")


def test_rows_are_packed_on_the_way_and_come_whole() -> None:
    builder = table.TableBuilder(["a", "b"], pack_rows=7)
    for n in range(100):
        builder.add([str(n), str(n)], line=n + 2)
    frame = builder.rows("Line").frame
    assert frame["a"].tolist() == [str(n) for n in range(100)] and list(frame.index) == list(range(100))


def test_a_path_a_stream_and_bytes_are_read_alike(tmp_path: Path) -> None:
    data = "a,b\n唐,x\n".encode("gbk")
    (tmp_path / "a.csv").write_bytes(data)

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: Any) -> int:
            raise OSError("a pipe has no places")

    stream = io.BytesIO(data)
    sources: list[table_reader.Source] = [data, tmp_path / "a.csv", stream, Pipe(data)]
    for source in sources:
        assert table_reader.read_table(source, "a.csv").frame.to_numpy().tolist() == [["唐", "x"]]
    assert not stream.closed  # the caller owns it


def test_a_path_where_nothing_is_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="cannot be opened"):
        table_reader.read_table(tmp_path / "none.csv", "none.csv")
