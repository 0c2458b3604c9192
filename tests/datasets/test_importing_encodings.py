"""Detection of the encoding from the bytes; invalid bytes affect only their line."""

from __future__ import annotations

import io

import pytest

from core.datasets.importers import decoding, table_reader
from core.errors import BadFile

STORY = "从前有一位英雄，一夜之间穿越到现代，学会了飞行。"
TABLE = f"朝代,故事\n唐,{STORY}\n宋,{STORY}\n"


def rows(found: table_reader.Imported) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in found.frame.to_numpy()]


@pytest.mark.parametrize(
    ("codec", "encoding"),
    [("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16"), ("utf-32-le", "UTF-32"), ("utf-32-be", "UTF-32")],
)
def test_wide_characters_without_a_mark_are_seen_by_their_nuls(codec: str, encoding: str) -> None:
    found = table_reader.read_table(TABLE.encode(codec), "a.csv")
    assert (found.encoding, rows(found)[0]) == (encoding, ["唐", STORY])


def test_utf_16_of_nothing_but_long_chinese_stories_is_still_seen() -> None:
    found = table_reader.read_table(f"朝代,故事\n唐,{STORY * 40}\n".encode("utf-16-le"), "a.csv")
    assert (found.encoding, rows(found)) == ("UTF-16", [["唐", STORY * 40]])


def test_some_nuls_do_not_make_utf_16() -> None:
    found = table_reader.read_table(b"a,b\nx,\0y\nz,\0w\n" + b"1,2\n" * 40, "a.csv")
    assert (found.encoding, len(found.frame), found.left_out) == ("UTF-8", 40, 2)


@pytest.mark.parametrize(
    ("codec", "encoding", "scratch"),
    [
        ("utf-8", "UTF-8", b"\xff"),
        ("utf-8-sig", "UTF-8 with BOM", b"\xff"),
        ("gbk", "GBK", b"\xff"),
        ("utf-16-le", "UTF-16", b"\x00\xdc"),  # half of a pair
    ],
)
def test_a_scratch_costs_its_line_only(codec: str, encoding: str, scratch: bytes) -> None:
    text = f"朝代,故事\n唐,{STORY}\n宋,{STORY}!\n元,{STORY}\n"
    mark = "!".encode("utf-16-le" if codec == "utf-16-le" else "ascii")
    found = table_reader.read_table(text.encode(codec).replace(mark, scratch), "a.csv")
    assert (found.encoding, rows(found)) == (encoding, [["唐", STORY], ["元", STORY]])
    assert found.problems == ["Line 3, column 2: Some bytes are not valid characters."]


def test_a_file_cut_off_in_the_middle_of_a_character_keeps_its_other_rows() -> None:
    found = table_reader.read_table(TABLE.encode().rstrip()[:-1], "a.csv")
    assert rows(found) == [["唐", STORY]] and found.problems == [
        "Line 3, column 2: Some bytes are not valid characters."
    ]


def test_a_scratched_line_of_jsonl_is_named() -> None:
    good = f'{{"prompt": "唐", "completion": "{STORY}"}}\n'.encode()
    found = table_reader.read_table(good + good.replace(b"}", b"\xff}") + good, "a.jsonl")
    assert len(found.frame) == 2 and found.problems == ["Line 2: Some bytes are not valid characters."]


def test_accents_of_western_europe_are_not_taken_for_chinese() -> None:
    found = table_reader.read_table("ville,texte\nOrléans,Où est le héros ?\nMünchen,Grüße\n".encode("cp1252"), "a.csv")
    assert (found.encoding, rows(found)[1]) == ("Windows-1252", ["München", "Grüße"])


@pytest.mark.parametrize("name", decoding.CHOICES)
def test_a_person_can_say_how_to_read_it(name: str) -> None:
    text = "a,b\nfilé,x\n" if name == "Windows-1252" else "a,b\n英雄,x\n"
    found = table_reader.read_table(text.encode(decoding.CHOICES[name]), "a.csv", encoding=name)
    assert found.encoding == name and rows(found)[0][0] in ("filé", "英雄")


def test_a_wrong_choice_names_the_lines_that_do_not_fit() -> None:
    with pytest.raises(BadFile, match="Some bytes are not valid characters"):
        table_reader.read_table(b"a,b\n1,\xff\xff\n", "a.csv", encoding="UTF-8")


def test_what_is_decoded_whole_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MAX_DECODE_BYTES", 10)
    with pytest.raises(BadFile, match="the limit is"):
        decoding.decode(TABLE.encode(), "a.csv")


def test_a_character_on_the_border_of_two_blocks_is_whole() -> None:
    text = "a,b\n" + "x" * ((1 << 20) - 5) + "\n" + f"1,{STORY}\n"
    file = io.BytesIO(text.encode())
    assert decoding.detect(file, "a.csv").label == "UTF-8"
    assert rows(table_reader.read_table(file, "a.csv")) == [["1", STORY]]
    assert decoding.detect(io.BytesIO(text.encode("gbk")), "a.csv").label == "GBK"
