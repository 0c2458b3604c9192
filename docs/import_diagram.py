"""Generate the diagram in docs/architecture.md from the code's imports: `python docs/import_diagram.py`.

An arrow means "imports". Arrows implied by others are left out (transitive reduction), and so are modules that every
package may import (errors, messages, settings and so on). `--check` changes nothing and exits with status 1 if the
diagram in the document is out of date.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_DOCUMENT = _ROOT / "docs" / "architecture.md"
_BEGIN, _END = "```mermaid\n", "```\n"

# Box → its label, and the packages or modules in it. Modules outside all boxes are shared by all and not drawn.
_BOXES = {
    "app": ("app.py<br>server, start and stop", ("app",)),
    "pages": ("pages/<br>Streamlit scripts and pages/ui", ("pages",)),
    "admin": ("core/admin<br>backup, restore, check", ("core.admin",)),
    "alerts": ("core/alerts<br>webhook and e-mail", ("core.alerts",)),
    "jobs": ("core/jobs<br>worker, engine supervisor", ("core.jobs",)),
    "tours": ("core/tours<br>the guided tour", ("core.tours",)),
    "charts": ("core/charts<br>Vega-Lite", ("core.charts",)),
    "model_profile": ("core/model_profile<br>what a model is for", ("core.model_profile",)),
    "stories": ("core/stories<br>streams, library, votes", ("core.stories",)),
    "evaluation": ("core/evaluation<br>held-out rows, metrics, before and after", ("core.evaluation",)),
    "migrate": ("core/migrate<br>moving an account here", ("core.migrate",)),
    "finetuning": ("core/finetuning<br>jobs, curves", ("core.finetuning",)),
    "generation": ("core/generation<br>runs, batches, retries", ("core.generation",)),
    "datasets": ("core/datasets<br>recipes, import, quality", ("core.datasets",)),
    "pricing": ("core/pricing<br>prices, budgets, spend", ("core.pricing",)),
    "providers": ("core/providers<br>OpenAI-compatible clients", ("core.providers",)),
    "people": ("core/people<br>sign-in, roles", ("core.people",)),
    "db": ("core/db<br>the ledger", ("core.db",)),
    "engine": ("core/engine<br>fine-tuning server", ("core.engine",)),
}
# Connections at run time that no import shows: (from, to, label).
_RUNTIME = (("providers", "engine", "HTTP"),)


def _box_of(module: str) -> str | None:
    """The box that a module belongs to; if several match, the one with the longest package name."""
    found = [
        (len(package), box)
        for box, (_, packages) in _BOXES.items()
        for package in packages
        if module == package or module.startswith(package + ".")
    ]
    return max(found)[1] if found else None


def _imports(path: Path) -> Iterator[str]:
    """Every module, and every name from a module, that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def arrows() -> set[tuple[str, str]]:
    """(box, box that it imports) of all code, without arrows that follow from others."""
    found: set[tuple[str, str]] = set()
    for path in [_ROOT / "app.py", *_ROOT.glob("pages/**/*.py"), *_ROOT.glob("core/**/*.py")]:
        start = _box_of(".".join(path.relative_to(_ROOT).with_suffix("").parts))
        targets = {_box_of(module) for module in _imports(path)} - {None, start}
        found |= {(start, target) for target in targets if start and target}
    return {arrow for arrow in found if not _has_detour(arrow, found)}


def _has_detour(arrow: tuple[str, str], all_arrows: set[tuple[str, str]]) -> bool:
    start, target = arrow
    reached = {b for a, b in all_arrows if a == start and b != target}
    while more := {b for a, b in all_arrows if a in reached} - reached:
        reached |= more
    return target in reached


def diagram() -> str:
    """The picture as Mermaid."""
    order = list(_BOXES)
    lines = ["flowchart TD"]
    lines += [f'    {box}["{label}"]' for box, (label, _) in _BOXES.items()]
    drawn = sorted(arrows(), key=lambda arrow: (order.index(arrow[0]), order.index(arrow[1])))
    lines += [f"    {a} --> {b}" for a, b in drawn]
    lines += [f"    {a} -. {label} .-> {b}" for a, b, label in _RUNTIME]
    return "\n".join(lines) + "\n"


def updated(document: str) -> str:
    """The document with the picture of today's imports."""
    before, _, rest = document.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return before + _BEGIN + diagram() + _END + after


def main() -> int:
    """Write the picture, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 when it is out of date")
    check = parser.parse_args().check
    document = _DOCUMENT.read_text(encoding="utf-8")
    new = updated(document)
    if new != document and not check:
        _DOCUMENT.write_text(new, encoding="utf-8")
    return int(check and new != document)


if __name__ == "__main__":
    sys.exit(main())
