"""No page contains a visible string that is not translated through the catalogue.

(What is in the catalogue: test_i18n.)
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_PAGES = sorted((_ROOT / "pages").rglob("*.py"))
_TRANSLATORS = {"_", "n_", "mark"}
# Strings that need no translation: an icon, a file, a key, a format, a command, a proper name.
_NOT_WORDS = re.compile(r":material/\w+:|:\w+\[|[a-z]+-badge|:small|\{[^}]*\}|ft:[\w.-]+")
_TECHNICAL_ARGUMENTS = {
    "key", "icon", "type", "width", "height", "gap", "layout", "mime", "file_name", "language", "color", "border",
    "horizontal_alignment", "vertical_alignment", "text_alignment", "label_visibility", "selection_mode", "bind",
    "persist_state", "on_change", "on_click", "on_select", "url_path", "format", "position", "scope",
    "initial_sidebar_state", "args", "format_func", "data",
    "page_icon", "avatar", "theme", "state", "delta_color", "delta_arrow", "submit_mode", "anchor",
    "pinned", "column_order", "selection_default", "default", "options", "duration", "autocomplete",
}  # fmt: skip
_PASSED_ON = {"str", "plain", "join", "format", "replace", "strip", "facts"}  # functions that display their arguments
# Only the first argument is displayed: options are shown by format_func; files and URLs are not displayed.
_PICKERS = {"selectbox", "multiselect", "pills", "segmented_control", "radio", "download_button", "link_button"}
_PROPER_NAMES = {"Fabula", "English", "简体中文", "Python", "OpenAI"}
_STREAMLIT = {
    "title", "header", "subheader", "caption", "markdown", "text", "write", "button", "download_button", "metric",
    "form_submit_button", "text_input", "text_area", "number_input", "selectbox", "multiselect", "pills",
    "segmented_control", "toggle", "checkbox", "radio", "slider", "select_slider", "file_uploader", "expander",
    "popover", "tabs", "progress", "spinner", "status", "toast", "error", "warning", "info", "success", "badge",
    "dialog", "page_link", "link_button", "dataframe", "table", "vega_lite_chart", "set_page_config", "Page",
    "TextColumn", "NumberColumn", "DatetimeColumn", "ProgressColumn", "Column", "menu_button", "chat_input",
}  # fmt: skip


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _name(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def _literals(node: ast.expr) -> Iterator[tuple[int, str]]:
    """Strings in this argument that reach the screen without a translation call."""
    if isinstance(node, ast.Call):
        if _name(node) in _PASSED_ON:
            for argument in [*node.args, *([node.func.value] if isinstance(node.func, ast.Attribute) else [])]:
                yield from _literals(argument)
        return
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.lineno, node.value
        return
    if isinstance(node, ast.Subscript | ast.Compare | ast.Lambda):
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from _literals(child)


def _is_log(call: ast.Call) -> bool:
    """Logs are for operators, in English."""
    of = call.func.value if isinstance(call.func, ast.Attribute) else None
    return isinstance(of, ast.Name) and of.id == "_log"


def _untranslated(path: Path) -> list[str]:
    found = []
    for call in _calls(ast.parse(path.read_text(encoding="utf-8"))):
        if _name(call) not in _STREAMLIT or _is_log(call):
            continue
        named = {k.arg: k.value for k in call.keywords if k.arg not in _TECHNICAL_ARGUMENTS}
        keyed = [named.pop(argument, None) for argument in ("column_config", "menu_items")]
        words = call.args[:1] if _name(call) in _PICKERS else call.args
        shown = [*words, *named.values(), *(v for d in keyed if isinstance(d, ast.Dict) for v in d.values)]
        for argument in shown:
            for line, text in _literals(argument):
                known = text in _PROPER_NAMES or text.endswith(".py")
                if not known and re.search(r"[^\W\d_]{2,}", _NOT_WORDS.sub("", text)):
                    found.append(f"{path.relative_to(_ROOT)}:{line}: {text!r}")
    return found


@pytest.mark.parametrize("path", _PAGES, ids=lambda path: str(path.relative_to(_ROOT)))
def test_no_page_holds_an_untranslated_visible_string(path: Path) -> None:
    assert _untranslated(path) == []


def test_translators_get_whole_sentences_not_pieced_ones() -> None:
    pieced = []
    for path in _PAGES:
        for call in _calls(ast.parse(path.read_text(encoding="utf-8"))):
            if _name(call) in _TRANSLATORS and any(isinstance(a, ast.JoinedStr | ast.BinOp) for a in call.args[:2]):
                pieced.append(f"{path.relative_to(_ROOT)}:{call.lineno}")
    assert pieced == []
