"""Language codes. Languages are identified by gettext's codes (`en`, `zh_CN`); `base_code` returns the bare language
(`zh`), as browsers send it and as the parts of composed stories are named.
"""

from __future__ import annotations

ENGLISH = "en"
CHINESE = "zh_CN"
LANGUAGES = {ENGLISH: "English", CHINESE: "简体中文"}
"""Language code → the language's own name."""


def base_code(language: str) -> str:
    """The language of a code, without its country or script, in lower case.

    >>> base_code("zh_CN"), base_code("zh-Hans"), base_code("zh")
    ('zh', 'zh', 'zh')
    """
    return language.strip().replace("-", "_").split("_")[0].lower()


def match(accepted: str | None) -> str:
    """The language to start with for a browser's locale or Accept-Language header.

    Every variant of Chinese maps to 简体中文; unsupported languages map to English.
    """
    for part in (accepted or "").split(","):
        code = base_code(part.split(";")[0])
        for language in LANGUAGES:
            if code == base_code(language):
                return language
    return ENGLISH
