"""The files in `deploy/` parse, and every command, path and setting in them exists in this version."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from streamlit import config as streamlit_config

from core import team_mode
from core.admin import __main__ as admin
from core.engine import __main__ as engine
from core.settings import Settings
from core.team_mode import ServerSetup
from pages.ui import server_routes

_ROOT = Path(__file__).parents[2]
_DEPLOY = _ROOT / "deploy"
_UNITS = sorted((_DEPLOY / "systemd").iterdir())
# Keys of systemd.unit(5), systemd.service(5), systemd.exec(5), systemd.timer(5) that we use.
_UNIT_KEYS = {
    "Unit": {"Description", "After", "Wants"},
    "Service": {
        *("Type", "User", "WorkingDirectory", "EnvironmentFile", "Environment", "ExecStart", "Restart"),
        *("TimeoutStopSec", "StateDirectory", "StateDirectoryMode", "UMask", "NoNewPrivileges"),
        *("ProtectSystem", "ProtectHome", "PrivateTmp"),
    },
    "Timer": {"OnCalendar", "Persistent"},
    "Install": {"WantedBy"},
}


def _text(name: str) -> str:
    return (_DEPLOY / name).read_text(encoding="utf-8")


def _instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, with continued lines joined."""
    lines = _text("Dockerfile").replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip() and not line.startswith("#")]


def _unit(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keep the case of keys
    parser.read_string(path.read_text(encoding="utf-8"))
    return parser


def _documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(_text("kubernetes.yaml")))


def _pods() -> list[dict[str, Any]]:
    return [one["spec"]["template"]["spec"] for one in _documents() if one["kind"] in ("StatefulSet", "Deployment")]


def _compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(_text("compose.yaml"))
    return loaded


def _commands() -> Iterator[tuple[str, list[str]]]:
    """(file, command line) of every Python process in the files."""
    for instruction, arguments in _instructions():
        if instruction in ("CMD", "HEALTHCHECK"):
            yield "Dockerfile", json.loads(arguments[arguments.index("[") :])
    for service in _compose()["services"].values():
        check = service.get("healthcheck", {}).get("test", [])[1:]
        yield from (("compose.yaml", one) for one in (service.get("command"), check) if one and one[0] == "python")
    for pod in _pods():
        for container in pod["containers"]:
            probes = [
                container.get(f"{kind}Probe", {}).get("exec", {}) for kind in ("liveness", "readiness", "startup")
            ]
            lines = [container.get("command"), *(probe.get("command") for probe in probes)]
            yield from (("kubernetes.yaml", line) for line in lines if line)
    for path in _UNITS:
        if "Service" in (unit := _unit(path)):
            line = shlex.split(unit["Service"]["ExecStart"])
            yield path.name, shlex.split(line[2].removeprefix("exec ")) if line[0] == "/bin/sh" else line


def test_there_is_a_command_for_each_process() -> None:
    modules = {line[2] for _, line in _commands() if line[1] == "-m"}
    assert modules == {"streamlit", "core.engine", "core.jobs.worker", "core.admin"}


@pytest.mark.parametrize(("file", "line"), list(_commands()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_command_is_one_of_this_version(file: str, line: list[str]) -> None:
    program, option, what, *arguments = line
    assert program in ("python", "/opt/fabula/.venv/bin/python")
    if option == "-c":
        compile(what, file, "exec")
        return
    assert option == "-m"
    if what == "core.admin":
        admin.parser().parse_args(arguments)
    elif what == "core.engine":
        engine.parser().parse_args(arguments)
    elif what == "core.jobs.worker":
        assert arguments == [] and (_ROOT / "core/jobs/worker.py").is_file()
    else:
        assert what == "streamlit" and arguments[:2] == ["run", "app.py"]
        known = streamlit_config.get_config_options()
        assert [one for one in arguments[2:] if one.removeprefix("--").partition("=")[0] not in known] == []


def test_the_dockerfile_copies_what_is_there_and_runs_as_no_root() -> None:
    sources = [word for name, words in _instructions() if name == "COPY" for word in words.split()[:-1]]
    assert {"core", "pages", "data", "app.py"} <= set(sources)
    assert [one for one in sources if not (_ROOT / one).exists()] == []
    ignored = _text("Dockerfile.dockerignore").splitlines()
    assert [one for one in sources if f"!{one}" not in ignored] == []
    stages = re.split(r"^FROM ", _text("Dockerfile"), flags=re.MULTILINE)[2:]
    assert len(stages) == 2 and all("\nUSER 10001\n" in stage for stage in stages)
    assert not [name for name, words in _instructions() if name == "ENV" and re.search("TOKEN|KEY|PASSWORD", words)]


def test_every_address_of_a_health_check_is_a_route() -> None:
    paths = {route.path for route in server_routes.ROUTES}
    used = set(re.findall(r"/api/health/[a-z]+|/metrics", "".join(path.read_text() for path in _DEPLOY.rglob("*.*"))))
    assert used and used <= paths


@pytest.mark.parametrize("path", _UNITS, ids=lambda path: path.name)
def test_a_unit_has_known_keys_and_stops_no_worker_too_early(path: Path) -> None:
    unit = _unit(path)
    assert [key for section in unit.sections() for key in unit[section] if key not in _UNIT_KEYS[section]] == []
    if unit.has_option("Service", "Restart"):
        assert int(unit["Service"]["TimeoutStopSec"]) > 20 and unit["Service"]["User"] == "fabula"


def test_kubernetes_pods_are_unprivileged_probed_and_given_time_to_stop() -> None:
    assert [(one["apiVersion"], one["kind"]) for one in _documents()].count(("apps/v1", "StatefulSet")) == 3
    for pod in _pods():
        assert pod["securityContext"]["runAsNonRoot"] and pod["terminationGracePeriodSeconds"] > 20
        for container in pod["containers"]:
            assert "livenessProbe" in container and not container["securityContext"]["allowPrivilegeEscalation"]
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts == {"data"} | {volume["name"] for volume in pod.get("volumes", ())}
    services = {one["metadata"]["name"] for one in _documents() if one["kind"] == "Service"}
    assert services == {"web", "worker", "engine"}


def test_compose_has_the_whole_team_installation() -> None:
    compose = _compose()
    services = compose["services"]
    assert set(services) == {"web1", "web2", "worker", "engine", "postgres", "caddy"}
    named = {volume.split(":")[0] for one in services.values() for volume in one["volumes"]}
    assert {name for name in named if not name.startswith(".")} == set(compose["volumes"])
    assert "image: fabula:engine" in _text("compose.yaml") and "target: engine" in _text("compose.yaml")
    for name in ("web1", "web2"):
        assert f"{name}:8501" in _text("Caddyfile")
    wanted = set(re.findall(r"\$\{([A-Z_]+)", _text("compose.yaml")))
    assert wanted <= set(re.findall(r"^([A-Z_]+)=", _text("fabula.env.example"), re.MULTILINE))


def test_web_processes_believe_the_proxy_in_front_of_them_but_not_the_internet() -> None:
    services = _compose()["services"]
    allowed = [services[name]["environment"]["FORWARDED_ALLOW_IPS"] for name in ("web1", "web2")]
    containers = [container for pod in _pods() for container in pod["containers"] if container["name"] == "web"]
    allowed += [one["value"] for web in containers for one in web["env"] if one["name"] == "FORWARDED_ALLOW_IPS"]
    networks = [[ip_network(network) for network in value.split(",")] for value in allowed]
    assert len(networks) == 3 and not [one for found in networks for one in found if one.is_global]
    assert services["worker"]["environment"].keys() >= {"DATABASE_URL"} <= services["web1"]["environment"].keys()


def test_the_example_of_secrets_is_all_that_sign_in_needs_once_it_is_filled_in() -> None:
    auth = tomllib.loads(_text("secrets.toml.example").replace('""', f'"{"x" * 32}"'))["auth"]
    (host,) = re.findall(r"^SITE_HOST=(.+)$", _text("fabula.env.example"), re.MULTILINE)
    setup = ServerSetup(auth, auth["cookie_secret"], agent_api=False, trusted_user_headers={}, allowed_hosts=[host])
    team_mode.check(Settings.from_env({"FABULA_MODE": "team", "FABULA_ADMIN_EMAIL": "ann@example.com"}), setup)


def test_every_setting_in_the_files_is_documented() -> None:
    documented = (_ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    used = {name for path in _DEPLOY.rglob("*.*") for name in re.findall(r"\bFABULA_[A-Z_]+", path.read_text())}
    assert {name for name in used if name not in documented} == set()


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        ("Caddyfile", ["lb_policy cookie", "health_uri /api/health/ready", "max_size 512MB"]),
        ("nginx.conf", ["ip_hash", "proxy_http_version 1.1", "Upgrade $http_upgrade", "client_max_body_size 512m"]),
    ],
)
def test_a_proxy_keeps_a_browser_on_one_process_and_passes_websockets(file: str, parts: list[str]) -> None:
    text = _text(file)
    assert [part for part in parts if part not in text] == []
    assert text.count("{") == text.count("}")
