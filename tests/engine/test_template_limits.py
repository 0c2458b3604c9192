"""Chat templates: what they may do gives what transformers gives, and what would use up memory or time is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="requirements-engine.txt is not installed")

from core.engine.bases import llama_probe
from core.engine.chat_messages import BadLine, ChatMessage
from core.engine.formats.gguf_file import ModelCard
from core.engine.serving import chat_template
from core.engine.serving.chat import format_for
from core.engine.serving.template_limits import MAX_BYTES, TemplateRefused
from tests.support.hostile_templates import TEMPLATES
from tests.support.tiny_models import TinyModel
from tests.support.waiting import at_once

ROOT = Path(__file__).parents[2]


@cache
def _measured() -> dict[str, Any]:
    """How every hostile template ended in its own process, and how far its memory has grown."""
    command = [sys.executable, "-m", "tests.support.hostile_templates"]
    answer: dict[str, Any] = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout)
    return answer


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_would_use_up_memory_or_time_is_refused(name: str) -> None:
    assert _measured()["ends"][name] == "refused"


def test_the_memory_of_all_hostile_templates_stays_within_the_limit() -> None:
    assert _measured()["bytes"] < 2 * MAX_BYTES  # what they made, and what was made to measure and refuse it


@pytest.mark.parametrize("name", ["nested lists: {{ n.x }}", "output", "keeping texts", "loops in loops"])
def test_training_and_serving_refuse_the_same(name: str) -> None:
    card = ModelCard("llama", 512, 400, 2, 1, "", TEMPLATES[name], control=("<e>",), eos_text="<e>")
    found = format_for(card)
    assert found is not None
    turns = [ChatMessage("user", "a text"), ChatMessage("assistant", "an answer")]
    with pytest.raises(BadLine) as in_serving:
        found.prompt(turns[:1])
    with pytest.raises(BadLine) as in_training:
        found.segments(turns)
    assert in_serving.value.sentence == in_training.value.sentence


_ALLOWED = (
    "{{ messages[0].content | trim }}",
    "{{ messages[0]['content'] | upper | lower | title | capitalize }}",
    "{{ messages | length }}{{ messages | first }}{{ messages | last }}",
    "{{ messages[1:] }}{{ messages[::-1] }}",
    "{{ messages[0].content[:3] }}{{ messages[0].content[-3:] }}",
    "{{ messages | tojson }}",
    "{{ messages[0] | tojson(indent=2) }}",
    "{{ messages | map(attribute='content') | join(', ') }}",
    "{{ messages | map(attribute='role') | map('upper') | list }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}",
    "{{ messages | rejectattr('role', 'in', ['user']) | list }}",
    "{{ messages | groupby('role') | list }}",
    "{{ [3, 1, 2] | sort }}{{ [1, 1, 2] | unique | list }}{{ [1, 2] | sum }}",
    "{{ messages | sum(attribute='number') }}",
    "{{ [1, 2] | max }}{{ [1, 2] | min }}{{ [1, 2] | reverse | list }}",
    "{{ {'b': 1, 'a': 2} | dictsort }}{{ {'a': 1} | items | list }}",
    "{{ missing | default('none') }}",
    "{{ 3.456 | round(1) }}{{ '12' | int }}{{ '1.5' | float }}{{ -1 | abs }}",
    "{{ 'a\nb' | indent(4, true) }}",
    "{{ 'a<b' | e }}{{ 'a<b' | safe }}",
    "{{ 'a b' | replace('a', 'b') }}{{ 'a' | string }}{{ 'ab' | list }}",
    "{{ '%s and %d' | format('a', 1) }}{{ '%s' % 'a' }}{{ '%(a)s' % {'a': 1} }}",
    "{{ '{} {b}'.format('a', b=1) }}",
    ("{{ 'a,b,c'.split(',') }}{{ ' a b '.split() }}{{ 'a,b,c'.rsplit(',', 1)[-1] }}{{ 'a\nb'.splitlines() }}"),
    "{{ ' a '.strip() }}{{ 'xa'.lstrip('x') }}{{ 'a\n'.rstrip('\n') }}{{ 'abc'.replace('b', '-') }}",
    ("{{ 'abc'.startswith('a') }}{{ 'abc'.endswith(('c', 'd')) }}{{ 'abc'.find('b') }}{{ 'abab'.rfind('b') }}"),
    ("{{ 'a-b'.partition('-') }}{{ '-'.join(['a', 'b']) }}{{ 'Ab'.lower() }}{{ 'abc'.removeprefix('a') }}"),
    ("{{ 'abc'.count('b') }}{{ '12'.isdigit() }}{{ messages[0].get('role') }}{{ messages[0].get('missing', 'none') }}"),
    "{{ messages[0].items() | list }}{{ messages[0].keys() | list }}",
    "{{ [1, 2].index(2) }}{{ (1, 2) }}",
    "{% for key, value in messages[0].items() %}{{ key }}={{ value }}{% endfor %}",
    (
        "{% for m in messages if m.role == 'user' %}{{ loop.index }}/{{ loop.length }}"
        "{{ loop.cycle('a', 'b') }}{% endfor %}"
    ),
    (
        "{% for m in messages %}{{ loop.previtem.role if loop.previtem else '' }}"
        "{{ loop.nextitem is defined }}{% endfor %}"
    ),
    "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    (
        "{% macro turn(m, end='.') %}{{ m.role ~ end }}{{ caller() if caller }}{% endmacro %}"
        "{{ turn(messages[0]) }}{% call turn(messages[1], end='!') %}inside{% endcall %}"
    ),
    (
        "{% set ns = namespace(found=false, all=[]) %}{% for m in messages %}{% set ns.found = true %}"
        "{% set ns.all = ns.all + [m.role] %}{% endfor %}{{ ns.found }}{{ ns.all }}"
    ),
    "{% set text %}a {{ messages[0].role }}{% endset %}{{ text }}{% filter upper %}abc{% endfilter %}",
    ("{{ dict(a=1, b=2) }}{{ range(3) | list }}{{ range(1, 9, 2) | list }}{{ 'a' * 3 }}{{ [1] * 2 + [2] }}{{ 7 % 4 }}"),
    "{{ 'a' in messages[0].content }}{{ 'role' in messages[0] }}{{ 1 < 2 <= 3 }}{{ 'a' is in ['a'] }}",
    (
        "{{ messages is iterable }}{{ messages[0] is mapping }}{{ 'a' is string }}{{ 3 is odd }}"
        "{{ 4 is divisibleby(2) }}"
    ),
    (
        "{{ messages[0].number is none }}{{ missing is defined }}{{ true is boolean }}{{ 2 ** 8 }}"
        "{{ 7 // 2 }}{{ not 1 }}"
    ),
    ("{% if messages[0].content is string and messages | length > 1 %}a{% elif x %}b{% else %}c{% endif %}"),
    "{{ tools }}{{ documents }}{{ missing.missing if missing is defined }}",
)
_MESSAGES = [
    {"role": "user", "content": " a text, 明 \U0001f642 ", "number": 1},
    {"role": "assistant", "content": "an <answer> & more", "number": 2},
]


@pytest.mark.parametrize("source", _ALLOWED)
def test_what_templates_use_gives_what_transformers_gives(source: str) -> None:
    from transformers.utils.chat_template_utils import _compile_jinja_template

    expected = _compile_jinja_template(source).render(messages=_MESSAGES, tools=None, documents=None)
    assert chat_template.render(source, _MESSAGES) == expected


def test_llama_cpp_does_not_render_the_template_of_a_model_that_it_loads(tmp_path: Path) -> None:
    path = TinyModel("qwen3", chat_template=TEMPLATES["loops in loops"]).write(tmp_path / "tiny.gguf")
    with llama_probe.loaded(path, 1) as probe:
        assert probe.tokens("a text")


def test_two_renderings_at_once_have_a_budget_each() -> None:
    source = "{% for i in range(20000) %}{% endfor %}a"
    assert at_once(8, lambda: chat_template.render(source, [])) == ["a"] * 8


def test_a_refused_template_does_not_count_for_the_next_one() -> None:
    with pytest.raises(TemplateRefused):
        chat_template.render(TEMPLATES["loops in loops"], [])
    assert chat_template.render("{{ messages | length }}", [{"role": "user", "content": ""}]) == "1"
