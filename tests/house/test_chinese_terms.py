"""The Chinese catalogue uses one term per concept, and no spaces between Chinese characters."""

from __future__ import annotations

import re

import pytest
from babel.messages.pofile import read_po

from core import i18n
from core.message import msg

# The English term, its translation, and translations that must not be used. A sample is a text that ships with
# Fabula or is written on request (样例); an example is training data (示例).
_GLOSSARY = [
    ("prompt", "提示词", r"提示(?!词)"),
    ("example", "示例", r"(?<!少)样本"),
    ("provider", "服务商", r"提供商|供应商"),
    ("account", "账号", r"账户|帐号|帐户"),
    ("fine-tune", "微调", r"调优|精调"),
    ("checkpoint", "检查点", r"存档点|断点"),
]


def _translations() -> list[tuple[str, str]]:
    with i18n.catalogue_path("zh_CN").open("rb") as file:
        catalogue = read_po(file, locale="zh_CN", domain=i18n.DOMAIN)
    return [
        (message.id if isinstance(message.id, str) else message.id[0], text)
        for message in catalogue
        if message.id
        for text in ([message.string] if isinstance(message.string, str) else message.string or ())
    ]


@pytest.mark.parametrize(("english", "term", "other"), _GLOSSARY, ids=[row[0] for row in _GLOSSARY])
def test_a_notion_has_one_chinese_word(english: str, term: str, other: str) -> None:
    found = _translations()
    assert [text for _id, text in found if re.search(other, text)] == []
    assert [text for key, text in found if english in key.lower() and term in text]


def test_what_a_model_learns_from_is_not_called_a_sample() -> None:
    called = [key for key, text in _translations() if "样例" in text and "sample" not in key.lower()]
    assert called == []


def test_no_translation_has_a_space_between_two_characters() -> None:
    assert [text for _id, text in _translations() if re.search(r"[\u4e00-\u9fff] +[\u4e00-\u9fff]", text)] == []


@pytest.mark.parametrize(
    ("template", "values", "shown"),
    [
        ("{rows} 没有 {column}", {"rows": "1 行", "column": "氛围"}, "1 行没有氛围"),
        ("{rows} 没有 {column}", {"rows": "1 行", "column": "mood"}, "1 行没有 mood"),
        ("第 {n} 行", {"n": 3}, "第 3 行"),
        ("在 **{name}** 中", {"name": "氛围"}, "在**氛围**中"),
        ("在 **{name}** 中", {"name": "mood"}, "在 **mood** 中"),
        ("约 {time} 后", {"time": "3 分钟"}, "约 3 分钟后"),
        ("列 {name}：{name}", {"name": "a 氛围 b"}, "列 a 氛围 b：a 氛围 b"),
        ("{name} 有 {name}", {"name": "{x} 中 文"}, "{x} 中 文有 {x} 中 文"),
    ],
)
def test_a_chinese_value_has_no_space_around_it(template: str, values: dict[str, object], shown: str) -> None:
    assert i18n.ChineseTemplate(template).format(**values) == shown


def test_what_core_says_has_no_space_around_a_chinese_value() -> None:
    told = i18n.translator("zh_CN").translated(msg("There is no column {column}.", column="氛围"))
    assert "氛围" in told and " 氛围" not in told and "氛围 " not in told
