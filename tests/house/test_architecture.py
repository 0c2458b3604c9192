"""Rules of the house: app → pages → core, each library used in one place only, and a role for every action."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_SOURCES = sorted([_ROOT / "app.py", *_ROOT.glob("pages/**/*.py"), *_ROOT.glob("core/**/*.py")])
_CORE = [path for path in _SOURCES if path.is_relative_to(_ROOT / "core")]
_ENGINE = [path for path in _SOURCES if path.is_relative_to(_ROOT / "core" / "engine")]

# Library → the only paths in the project that may import it.
_KNOWN_ONLY_TO = {
    "openai": ("core/providers/",),
    "backoff": ("core/providers/",),
    "dbos": ("core/jobs/workflows.py",),
    "altair": ("core/charts/",),
    "tsdownsample": ("core/charts/",),
    "genai_prices": ("core/pricing/bundled_prices.py",),
    "toktok": ("core/pricing/tokens.py",),
    "aiohttp": ("core/providers/",),
    "limits": ("pages/ui/web_security.py",),
    "cryptography": ("core/secret_key.py",),
    "fsspec": ("core/s3_client.py",),
    "s3fs": ("core/s3_client.py",),
    "pydantic_settings": ("core/setting_fields.py",),
    "python_calamine": ("core/datasets/",),
    "pyarrow": ("core/datasets/", "core/charts/vega_lite.py", "core/engine/training/shared_bucket.py"),
    "babel": ("core/i18n.py", "core/locale/"),
    "alembic": ("core/db/",),
    "prometheus_client": ("core/metrics.py",),
    "smtplib": ("core/alerts/channels.py",),
    "sqlalchemy": ("core/",),
    "streamlit": ("app.py", "pages/"),
    "torch": ("core/engine/",),
    "transformers": ("core/engine/",),
    "xllamacpp": ("core/engine/",),
    "gguf": ("core/engine/",),
}

# What the engine, which must run standalone, may import from the rest.
_KNOWN_TO_THE_ENGINE = (
    "core.engine",
    "core.process_environment",
    "core.errors",
    "core.languages",
    "core.message",
    "core.logs",
    "core.packaged_models",
    "core.tracker_runs",
    "core.file_permissions",
    "core.address_rules",
    "core.s3_client",
    "core.checked_transport",
)

_ABOVE_GENERATION = (
    "core.finetuning", "core.evaluation", "core.migrate", "core.stories", "core.tours", "core.jobs",
)  # fmt: skip
_PAGE_PACKAGES = ("cost", "dataset", "home", "move", "settings", "story", "training")
# A part → what it must not import: imports only point downwards.
_MAY_NOT_IMPORT = {
    "core/db/": ("core.pricing", "core.providers", "core.datasets", "core.generation", *_ABOVE_GENERATION),
    "core/pricing/": ("core.providers", "core.datasets", "core.generation", *_ABOVE_GENERATION),
    "core/providers/": ("core.pricing", "core.datasets", "core.generation", *_ABOVE_GENERATION),
    "core/people/": ("core.pricing", "core.providers", "core.datasets", "core.generation", *_ABOVE_GENERATION),
    "core/datasets/": ("core.providers", "core.generation", *_ABOVE_GENERATION),
    "core/generation/": _ABOVE_GENERATION,
    "core/finetuning/": ("core.evaluation", "core.migrate", "core.stories", "core.tours", "core.jobs"),
    "core/evaluation/": ("core.migrate", "core.tours", "core.jobs"),
    "core/alerts/": ("core.evaluation", "core.stories", "core.tours", "core.jobs"),
    "core/jobs/": ("core.admin",),
    "core/migrate/": ("core.evaluation", "core.stories", "core.tours", "core.jobs"),
    "core/stories/": (
        "core.datasets",
        "core.generation",
        "core.finetuning",
        "core.evaluation",
        "core.tours",
        "core.jobs",
    ),
    "core/tours/": ("core.stories", "core.jobs"),
    "core/": ("app", "pages", "tests", "bench", "data"),
    "pages/": ("app", "tests", "bench", "core.jobs.worker", "core.engine", "sqlalchemy"),
    # What pages share knows no page: components draw, and cache, state, i18n and background know no component.
    "pages/ui/components/": tuple(f"pages.ui.{page}" for page in _PAGE_PACKAGES),
    **{
        f"pages/ui/{name}.py": ("pages.ui.components", *(f"pages.ui.{page}" for page in _PAGE_PACKAGES))
        for name in (
            "background",
            "cache",
            "i18n",
            "live_updates",
            "open_tabs",
            "server_setup",
            "sign_in",
            "state",
            "streamlit_patches",
            "visible",
        )
    },
}


def _where(path: Path) -> str:
    return path.relative_to(_ROOT).as_posix()


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Every absolute module that a file imports, including inside functions, with its line."""
    return tuple(_found(_tree(path), path))


def _found(tree: ast.AST, path: Path) -> Iterator[tuple[str, int]]:
    package = path.relative_to(_ROOT).with_suffix("").parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def _is(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("library", _KNOWN_ONLY_TO)
def test_each_library_is_known_in_one_place(library: str) -> None:
    allowed = _KNOWN_ONLY_TO[library]
    offenders = [
        f"{_where(path)}:{line}"
        for path in _SOURCES
        for module, line in _imports(path)
        if _is(module, library) and not _where(path).startswith(allowed)
    ]
    assert not offenders


@pytest.mark.parametrize("part", _MAY_NOT_IMPORT)
def test_arrows_point_one_way(part: str) -> None:
    offenders = [
        f"{_where(path)}:{line} imports {module}"
        for path in _SOURCES
        if _where(path).startswith(part)
        for module, line in _imports(path)
        for forbidden in _MAY_NOT_IMPORT[part]
        if _is(module, forbidden)
    ]
    assert not offenders


@pytest.mark.parametrize("part", ["core", "pages"])
def test_modules_import_each_other_in_one_direction(part: str) -> None:
    """A module is placed once all that it imports is (also inside functions); a cycle stays unplaced."""
    paths = [path for path in _SOURCES if path.is_relative_to(_ROOT / part) and path.name != "__init__.py"]
    names = {".".join(path.relative_to(_ROOT).with_suffix("").parts): path for path in paths}
    unplaced = {name: {module for module, _ in _imports(path)} & names.keys() - {name} for name, path in names.items()}
    while ready := [name for name, imports in unplaced.items() if not imports & unplaced.keys()]:
        for name in ready:
            del unplaced[name]
    assert not unplaced


def test_the_engine_knows_nothing_of_its_siblings_but_what_is_named_here() -> None:
    offenders = [
        f"{_where(path)}:{line} imports {module}"
        for path in _ENGINE
        for module, line in _imports(path)
        if _is(module, "core") and module != "core" and not any(_is(module, known) for known in _KNOWN_TO_THE_ENGINE)
    ]
    assert not offenders


def test_of_the_engine_the_studio_imports_only_its_rules() -> None:
    """The studio talks to the engine over HTTP; the rules for training files, job requests and settings are pure and
    shared, and so is the list of files in its home folder, for backups."""
    rules = (
        "core.engine.chat_messages", "core.engine.cors_origins", "core.engine.finetune_format",
        "core.engine.home_files", "core.engine.job_rules", "core.engine.launcher_settings", "core.engine.message_text",
        "core.engine.serve_settings",
        "core.engine.number_checks",
        "core.engine.training_options",
    )  # fmt: skip
    offenders = [
        f"{_where(path)}:{line} imports {module}"
        for path in _SOURCES
        if path not in _ENGINE
        for module, line in _imports(path)
        if _is(module, "core.engine") and module != "core.engine" and not any(_is(module, rule) for rule in rules)
    ]
    assert not offenders


def test_only_one_module_touches_session_state() -> None:
    allowed = {"pages/ui/state.py", "pages/ui/i18n.py"}  # i18n reads the language from its own widget
    offenders = [
        f"{_where(path)}:{node.lineno}"
        for path in _SOURCES
        if _where(path) not in allowed
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Attribute) and node.attr == "session_state"
    ]
    assert not offenders


def test_no_markup_is_smuggled_into_a_page() -> None:
    words = ("unsafe_allow_html", "st.html(", "components.html(")
    offenders = [
        f"{_where(path)}: {word}" for path in _SOURCES for word in words if word in path.read_text(encoding="utf-8")
    ]
    assert not offenders


_IMPORT_ALL = """
import importlib, json, sys
report = {"missing": []}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as exc:
        if not name.startswith("core.engine") or (exc.name or "").startswith("core"):
            raise
        report["missing"].append(name)  # requirements-engine.txt is optional
report["loaded"] = [name for name in sys.modules if name.split(".")[0] in ("streamlit", "pages", "app")]
print(json.dumps(report))
"""


def test_all_of_core_imports_without_streamlit() -> None:
    names = [
        ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in _CORE
        if "migrations" not in path.parts  # Alembic runs those, inside its own context
    ]
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL, json.dumps(names)],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=240,  # torch and transformers on a cold disk
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["loaded"] == []


def test_no_class_name_stands_for_two_classes() -> None:
    places: dict[str, list[str]] = {}
    for path in _SOURCES:
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(_where(path))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_each_thing_has_one_address() -> None:
    """Two packages gather the names of their modules; nothing else passes on what it imports."""
    gathers = {"core/providers/__init__.py", "core/db/tables/__init__.py"}
    offenders = [
        f"{_where(path)}:{node.lineno}"
        for path in _SOURCES
        if _where(path) not in gathers
        for node in ast.walk(_tree(path))
        if (isinstance(node, ast.ImportFrom) and any(alias.asname == alias.name for alias in node.names))
        or (isinstance(node, ast.Name) and node.id == "__all__")
    ]
    assert offenders == []


# --- roles ------------------------------------------------------------------------------------------------------------

# Calls that change something (a write transaction, a file) or that a provider may bill, by the name of the method.
_CHANGES = frozenset({"session", "write_text", "write_bytes", "unlink"})
_PAID = frozenset({"complete", "stream", "speak", "create_job", "create_batch"})
_BELOW_ACTIONS = ("core/db/", "core/engine/")  # an action calls these; they know no roles
# The engine's token and the key that encrypts the providers' keys are made on first use; signing in precedes any role;
# guests have a link instead of a role.
_NO_ACTION = frozenset(
    {
        "core.people.sign_in.sign_in",
        "core.providers.engine_endpoint.token",
        "core.secret_key.SecretKey",
        "core.stories.guest_votes.vote",
    }
)
_ROLE_CORE = [path for path in _CORE if not _where(path).startswith(_BELOW_ACTIONS)]
_PAGES = [path for path in _SOURCES if path.is_relative_to(_ROOT / "pages")]
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def _module(path: Path) -> str:
    return ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")


@cache
def _definitions() -> dict[str, tuple[Path, _Definition]]:
    """Every function and class of core at the top level of its module, by its dotted name."""
    return {
        f"{_module(path)}.{node.name}": (path, node)
        for path in _ROLE_CORE
        for node in _tree(path).body
        if isinstance(node, _Definition)
    }


@cache
def _modules() -> dict[str, Path]:
    return {_module(path): path for path in _ROLE_CORE}


@cache
def _names(path: Path) -> dict[str, str]:
    """What the names of a module stand for: its own definitions, and what it imports from core."""
    module = _module(path)
    own = {name.removeprefix(f"{module}."): name for name in _definitions() if name.rpartition(".")[0] == module}
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("core")
        for alias in node.names
    }
    return imported | own


def _defined(name: str) -> str | None:
    """The definition that a dotted name leads to, also through a module that imports it; None: it is none of core's."""
    if name in _definitions():
        return name
    module, _, attribute = name.rpartition(".")
    path = _modules().get(module)
    onward = _names(path).get(attribute) if path is not None else None
    return None if onward is None or onward == name else _defined(onward)


def _uses(tree: ast.AST, path: Path) -> Iterator[tuple[str, int]]:
    """The functions and classes of core that the code names, called or passed on, with the line."""
    names = _names(path)
    for node in ast.walk(tree):
        base = node.value if isinstance(node, ast.Attribute) else node
        if isinstance(base, ast.Name) and isinstance(base.ctx, ast.Load) and base.id in names:
            dotted = names[base.id] + (f".{node.attr}" if isinstance(node, ast.Attribute) else "")
            if (found := _defined(dotted) or _defined(names[base.id])) is not None:
                yield found, base.lineno


def _declared(node: ast.AST) -> bool:
    """Whether `@requires` decorates a function, or on the constructor of a class."""
    if isinstance(node, ast.ClassDef):
        return any(
            isinstance(part, ast.FunctionDef) and part.name == "__init__" and _declared(part) for part in node.body
        )
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and any(
        isinstance(one, ast.Call) and isinstance(one.func, ast.Name) and one.func.id == "requires"
        for one in node.decorator_list
    )


def _method_calls(tree: ast.AST, methods: frozenset[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in methods:
            yield f"{node.lineno} calls {node.func.attr}()"


def _unchecked(name: str, seen: set[str]) -> Iterator[str]:
    """Changes that a function or class leads to without passing a declaration, as the way to them."""
    path, node = _definitions()[name]
    if name in seen or name in _NO_ACTION or _declared(node):
        return
    seen.add(name)
    changes = _CHANGES if _where(path).startswith("core/providers/") else _CHANGES | _PAID  # clients call themselves
    yield from (f"{name}:{call}" for call in _method_calls(node, changes))
    for used, _line in _uses(node, path):
        yield from (f"{name} → {way}" for way in _unchecked(used, seen))


def test_whatever_pages_call_declares_its_role_before_it_changes_something() -> None:
    offenders = [
        f"{_where(path)}:{line} {way}"
        for path in _PAGES
        for name, line in _uses(_tree(path), path)
        for way in _unchecked(name, set())
    ]
    assert not offenders


def test_pages_send_no_paid_request_and_write_nothing_themselves() -> None:
    offenders = [f"{_where(path)}:{call}" for path in _PAGES for call in _method_calls(_tree(path), _CHANGES | _PAID)]
    assert not offenders


def test_every_action_that_takes_an_actor_declares_its_role() -> None:
    """Functions with a `session` are parts of an action, which has the role."""
    offenders = [
        name
        for name, (_path, node) in _definitions().items()
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and not _declared(node)
        if {"actor"} == {argument.arg for argument in [*node.args.args, *node.args.kwonlyargs]} & {"actor", "session"}
    ]
    assert not offenders


def test_only_one_module_of_the_pages_knows_who_the_visitor_is() -> None:
    offenders = [
        f"{_where(path)}:{line}"
        for path in _PAGES
        for module, line in _imports(path)
        if module == "core.actor.LOCAL" and _where(path) != "pages/ui/sign_in.py"
    ]
    assert not offenders


# Calls of shared lists whose result is not shown: whether any model is there, the speed of one, the chain of a job that
# one may read, the models of the engine after its start, the last day of a model that is shown.
_SHARED_LISTS = frozenset({"dataset_list", "job_list", "models", "trainable", "job_of"})
_MAY_READ_ALL = frozenset(
    {
        "pages/ui/visible.py",
        "pages/ui/components/models.py",
        "pages/ui/components/prompt_formats.py",
        "pages/ui/components/shutdown_notes.py",
        "pages/ui/dataset/run_settings.py",
        "pages/ui/home/examples_form.py",
        "pages/ui/settings/providers_card.py",
        "pages/ui/training/evaluation_tab.py",
        "pages/ui/training/job_list.py",
        "pages/ui/training/job_view.py",
    }
)


def test_pages_list_what_the_visitor_may_read() -> None:
    """Pages ask `visible`, not `cache`, which has everybody's things."""
    callers = {
        _where(path)
        for path in _PAGES
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if node.value.id == "cache" and node.attr in _SHARED_LISTS
    }
    assert callers == _MAY_READ_ALL


def test_only_the_providers_package_knows_the_kind_of_an_endpoint() -> None:
    """Everything else asks for its capabilities."""
    pattern = re.compile(r"provider\.kind\b")
    offenders = [
        f"{_where(path)}:{number}"
        for path in _SOURCES
        if not _where(path).startswith("core/providers/")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert offenders == []
