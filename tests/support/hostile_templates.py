"""Chat templates that try to use up memory or time. `python -m tests.support.hostile_templates` measures them.

The module renders each one and prints a JSON object: name → how it ended, and the total memory used.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Mapping

_BIG = "{% set big = 'x' * 3000000 %}"
_DOUBLED = "{% set n = namespace(x=['a']) %}{% for i in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}"
_TUPLES = "{% set n = namespace(x=('a',)) %}{% for i in range(60) %}{% set n.x = (n.x, n.x) %}{% endfor %}"
_MANY = "{% set many = range(9000) | list %}"

TEMPLATES: Mapping[str, str] = {
    # texts and lists that grow with a number
    "text times number": "{{ ('a' * 1000000000) | length }}",
    "number times text": "{{ (1000000000 * 'a') | length }}",
    "list times number": "{{ ([1] * 1000000000) | length }}",
    "times in steps": "{% set n = namespace(x='a') %}{% for i in range(9) %}{% set n.x = n.x * 1000 %}{% endfor %}",
    "range": "{{ range(1000000000) | list | length }}",
    "range of huge numbers": "{{ range(10 ** 30) | length }}",
    "format with %": "{{ '%999999999d' % 1 }}",
    "format with % and a width as value": "{{ '%*d' % (999999999, 1) }}",
    "filter format": "{{ '%999999999d' | format(1) }}",
    "filter format with a width as value": "{{ '%*d' | format(999999999, 1) }}",
    "format with braces": "{{ '{:>999999999}'.format(1) }}",
    "format with a width as value": "{{ '{:{}}'.format(1, 999999999) }}",
    "format with many braces": "{{ ('{0}' * 100000).format('a' * 100000) }}",
    "format_map": "{{ '{a:>999999999}'.format_map({'a': 1}) }}",
    "test odd": "{{ '%999999999d' is odd }}",
    "test divisibleby": "{{ '%999999999d' is divisibleby(3) }}",
    **{f"method {name}": f"{{{{ 'a'.{name}(999999999) }}}}" for name in ("center", "ljust", "rjust", "zfill")},
    "method expandtabs": "{{ '\\t'.expandtabs(999999999) }}",
    "method to_bytes": "{{ (1).to_bytes(999999999, 'big') }}",
    "method translate": "{{ 'aaaa'.translate({97: 'b' * 3000000}) | length }}",
    "method replace": "{{ ('a' * 1000000).replace('a', 'b' * 1000000) | length }}",
    "method join": "{{ ('b' * 1000000).join('a' * 1000000) | length }}",
    "method split": _BIG.replace("3000000", "3900000") + "{% for i in range(99) %}{{ big.split('x') }}{% endfor %}",
    "filter center": "{{ 'a' | center(999999999) }}",
    "filter indent": "{{ 'a\\na' | indent(999999999) }}",
    "filter indent by text": "{{ ('a\\n' * 100000) | indent('b' * 100000) }}",
    "filter replace": "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) | length }}",
    "filter join": "{{ range(99999) | join('b' * 1000000) | length }}",
    "filter tojson": "{{ [[1]] | tojson(indent=999999999) }}",
    "filter tojson with text": "{{ [[1]] | tojson(indent='a' * 3000000) }}",
    "filter batch": "{{ [1] | batch(999999999, 'a') | list | length }}",
    "filter slice": "{{ [1] | slice(999999999) | list | length }}",
    "filter round": "{{ 1 | round(999999999, 'ceil') }}",
    "filter round of text": "{{ 'a' | round(20, 'ceil') }}",
    "filter wordwrap": "{{ 'a b' | wordwrap(1, wrapstring='b' * 3000000) }}",
    "filter list of a text": "{% set l = namespace(x=[]) %}" + _BIG + "{% for i in range(99) %}"
    "{% set l.x = l.x + [big | list] %}{% endfor %}",
    "filter map": _BIG + "{% for i in range(9999) %}{{ [big] | map('upper') | list | length }}{% endfor %}",
    "function lipsum": "{{ lipsum(n=999999) }}",
    "power": "{{ (10 ** 10) ** (10 ** 8) }}",
    "squares": "{% set n = namespace(x=3) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "date": "{{ strftime_now('%999999999d') }}",
    "date of a long format": "{{ strftime_now('%c' * 1000000) }}",
    # growing step by step
    "doubling with ~": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "doubling with +": "{% set n = namespace(x='aa') %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling a list": "{% set n = namespace(x=[1]) %}{% for i in range(60) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "doubling with a block": "{% set n = namespace(x='aa') %}{% for i in range(60) %}"
    "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
    "doubling with join": "{% set n = namespace(x='aa') %}{% for i in range(60) %}"
    "{% set n.x = [n.x, n.x] | join %}{% endfor %}",
    "keeping texts": _BIG + "{% set l = namespace(x=[]) %}{% for i in range(9999) %}"
    "{% set l.x = [l.x, big ~ i] %}{% endfor %}",
    "keeping slices": _MANY + "{% set l = namespace(x=[]) %}{% for i in range(99999) %}"
    "{% set l.x = [l.x, many[1:]] %}{% endfor %}",
    "keeping lists": "{% set l = namespace(x=[]) %}{% for i in range(200000) %}{% set l.x = [l.x, "
    + "1, " * 20_000 + "] %}{% endfor %}",
    "keeping blocks": _BIG + "{% set l = namespace(x=[]) %}{% for i in range(9999) %}"
    "{% set y %}{{ big }}{% endset %}{% set l.x = [l.x, y] %}{% endfor %}",
    "keeping copies": _MANY + "{% set l = namespace(x=[]) %}{% for i in range(99999) %}"
    "{% set l.x = [l.x, many.copy()] %}{% endfor %}",
    "keeping dictionaries": _MANY + "{% set d = dict(many | groupby('real')) %}{% set l = namespace(x=[]) %}"
    "{% for i in range(99999) %}{% set l.x = [l.x, dict(d)] %}{% endfor %}",
    "output": _BIG + "{% for i in range(9999) %}{{ big }}{% endfor %}",
    "output of data": "{% for i in range(200000) %}" + "a" * 100_000 + "{% endfor %}",
    "output of a macro": _BIG + "{% macro m() %}{{ big }}{{ big }}{% endmacro %}{% macro k() %}{{ m() }}{{ m() }}"
    "{% endmacro %}{% for i in range(99) %}{% set x = k() ~ k() %}{% endfor %}",
    # nested lists: small in memory, but endless as text
    **{
        f"nested lists: {use}": _DOUBLED + use
        for use in (
            "{{ n.x }}", "{{ n.x | string }}", "{{ n.x ~ '' }}", "{{ '%s' % n.x }}", "{{ '%s' % (n.x,) }}",
            "{{ '{}'.format(n.x) }}", "{{ n.x | tojson }}", "{{ n.x == n.x[0] }}", "{{ 'b' in n.x }}",
            "{{ n.x is eq(n.x[0]) }}", "{{ n.x | join }}", "{{ [n.x, n.x] | sort }}", "{{ [n.x, n.x] | max }}",
            "{{ n.x.index('b') }}", "{{ n.x.count('b') }}", "{{ raise_exception(n.x) }}", "{{ [n] | upper }}",
            "{{ 'a'.replace('a', n.x | string) }}", "{{ n.x is lower }}", "{{ [[n.x]] | selectattr(0, 'eq', n.x[0]) "
            "| list }}",
        )
    },
    **{
        f"nested tuples: {use}": _TUPLES + use
        for use in ("{{ {n.x: 1} }}", "{{ {}[n.x].y }}", "{{ [n.x, n.x] | unique | list }}", "{{ {1: 2}.get(n.x) }}",
                    "{{ n.x in {1: 2} }}", "{{ dict([[n.x, 1]]) }}")
    },
    # templates that take too long
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "conditions of loops": "{% for i in range(99999) %}{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "one list in loops": _MANY + "{% for a in many %}" * 5 + "{% endfor %}" * 5,
    "filters in loops": _MANY + "{% for a in many %}{{ many | sum }}{% endfor %}",
    "searching in loops": _BIG + "{% for i in range(99999) %}{{ 'y' in big }}{% endfor %}",
    "comparing in loops": _BIG + "{% set other = big ~ 'y' %}{% for i in range(99999) %}{{ big ~ 'x' == other }}"
    "{% endfor %}",
    "searching backwards": "{{ ('a' * 3000000).rfind('ab' + 'a' * 1500000) }}",
    "splitting backwards": "{{ ('a' * 3000000).rsplit('ab' + 'a' * 1500000) }}",
    "stripping": "{{ ('a' * 3000000).strip('b' * 3000000 + 'a') }}",
    "filter trim": "{{ ('a' * 3000000) | trim('b' * 3000000 + 'a') }}",
    "macro": "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    "macros": "{% macro twice(n) %}{% if n %}{{ twice(n - 1) ~ twice(n - 1) }}{% endif %}{% endmacro %}{{ twice(60) }}",
    "blocks": "".join(
        f"{{% block b{n} %}}{{{{ self.b{n + 1}() }}}}{{{{ self.b{n + 1}() }}}}{{% endblock %}}" for n in range(40)
    ) + "{% block b40 %}a{% endblock %}",
    "recursive loop": "{% for x in [1, 2] recursive %}{{ loop([1, 2]) }}{% endfor %}",
    "long body": "{% for i in range(200000) %}" + "{% if i %}{% endif %}" * 5_000 + "{% endfor %}",
    "refund": "{% for i in range(99999) %}{{ -999999 | fabula_step }}{{ -999999 | fabula_data }}"
    "{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "refund by map": "{% for i in range(99999) %}{{ [-999999] | map('fabula_step') | list }}"
    "{% for j in range(99999) %}{% endfor %}{% endfor %}",
    # the template itself is too large
    "long template": "a" * 10_000_000,
    "deep template": "{% for m in messages %}" * 25 + "{% endfor %}" * 25,
    "deep expression": "{{ " + "(" * 50_000 + "1" + ")" * 50_000 + " }}",
    "long sum": "{{ " + "1 + " * 60_000 + "1 }}",
    "long number": "{{ " + "9" * 100_000 + " + 1 }}",
}  # fmt: skip


def main() -> None:
    """Render every template and print how it ended; `bytes`: the growth of this process's memory."""
    from core.engine.serving import chat_template, template_limits

    chat_template.render("{{ messages }}", [])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ends = {}
    for name, source in TEMPLATES.items():
        try:
            chat_template.render(source, [{"role": "user", "content": "a text"}])
        except template_limits.TemplateRefused as exc:
            ends[name] = "out of memory" if isinstance(exc.__cause__, MemoryError) else "refused"
        else:
            ends[name] = "rendered"
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    json.dump({"ends": ends, "bytes": grown * (1 if sys.platform == "darwin" else 1024)}, sys.stdout)


if __name__ == "__main__":
    main()
