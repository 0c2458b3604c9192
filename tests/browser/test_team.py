"""Team mode in a real browser, with a real OpenID provider: sign in, act, lose the role or the sign-in in open tabs."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import select

from core.actor import Actor, Role
from core.db.store import Store
from core.db.tables import Person, Spend
from core.finetuning import job_views
from core.people import invitations, people
from core.people.people import PersonView
from core.people.sign_in import SignedIn
from core.pricing import budget, budget_requests
from core.settings import Settings
from tests.support import browser_page, ledger_rows, studio_process, team
from tests.support.browser_page import BUSY_MS, choose, expect, press, settled, visit
from tests.support.studio_process import RunningStudio
from tests.support.waiting import until

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

pytestmark = browser_page.MARKS
provider_mock = pytest.importorskip("oidc_provider_mock", reason="oidc-provider-mock is not installed")

_SCREENSHOTS = Path(__file__).parents[2] / "docs" / "screenshots"
_MEMBERS: dict[str, Role] = {"hugo": "editor", "lena": "editor", "mara": "admin"}
_SECRETS = """
[auth]
redirect_uri = "http://localhost:{{port}}/oauth2callback"
cookie_secret = "0123456789abcdef0123456789abcdef"

[auth.company]
client_id = "fabula"
client_secret = "secret"
server_metadata_url = "{url}/.well-known/openid-configuration"

[auth.other]
client_id = "fabula"
client_secret = "secret"
server_metadata_url = "{url}/.well-known/openid-configuration"
"""


@pytest.fixture(scope="module")
def provider() -> Iterator[str]:
    """The address of a real OpenID provider, which signs anybody in as anybody."""
    with provider_mock.run_server_in_thread(0) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture(scope="module")
def studio(provider: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningStudio, Settings]]:
    """A studio in team mode."""
    home: Path = tmp_path_factory.mktemp("team") / "home"
    environ = team.studio_variables(home, _SECRETS.format(url=provider))
    with studio_process.running(home, **environ) as running:
        yield running, Settings.from_env({**team.TEAM_VARIABLES, "FABULA_HOME": str(home)})


@pytest.fixture
def store(studio: tuple[RunningStudio, Settings]) -> Iterator[Store]:
    """The studio's ledger."""
    ledger = Store(studio[1].database_url)
    yield ledger
    ledger.close()


@pytest.fixture
def admin(store: Store, studio: tuple[RunningStudio, Settings]) -> Actor:
    """The first admin, in another browser."""
    person: SignedIn = team.arrive(store, studio[1])
    return person.actor(store)


def _known(provider: str, subject: str, **claims: object) -> None:
    """Tell the provider what it says of someone."""
    request = urllib.request.Request(
        f"{provider}/users/{subject}",
        json.dumps(claims).encode(),
        {"Content-Type": "application/json"},
        method="PUT",
    )
    urllib.request.urlopen(request, timeout=30).close()


def _sign_in(page: Page, subject: str, button: str = "sign_in_company") -> None:
    press(page, button)
    page.locator("input[name=sub]").fill(subject)
    page.get_by_role("button", name="Authorize").click()
    settled(page)


def _arrive(browser: Browser, url: str, provider: str, name: str, *, verified: bool = True) -> Page:
    """A new visitor signs in."""
    _known(provider, name, email=f"{name}@example.org", email_verified=verified, name=name.capitalize())
    page = visit(browser, f"{url}/?lang=en")
    _sign_in(page, name)
    return page


def _person(store: Store, admin: Actor, name: str) -> PersonView:
    return next(one for one in people.everyone(store, admin) if one.email == f"{name}@example.org")


def _closed(page: Page, sentence: str) -> None:
    """The page is replaced by the sign-in page, without a click."""
    expect(page.get_by_text(sentence)).to_be_visible(timeout=BUSY_MS)
    expect(page.locator(".st-key-sign_in_menu")).to_have_count(0)


@pytest.mark.parametrize("path", ["", "training", "settings"])
def test_every_address_leads_a_stranger_to_the_sign_in_page(
    browser: Browser, studio: tuple[RunningStudio, Settings], path: str
) -> None:
    page = visit(browser, f"{studio[0].url}/{path}?lang=en")
    expect(page.locator(".st-key-sign_in_company")).to_be_visible()
    expect(page.get_by_text("members of a team")).to_be_visible()
    expect(page.get_by_text("New job")).to_have_count(0)


@pytest.mark.parametrize("value", ["forged", "eyJpc3MiOiJ4Iiwic3ViIjoieCJ9.aaaa.bbbb"])
def test_a_forged_cookie_is_worthless(
    browser: Browser, studio: tuple[RunningStudio, Settings], admin: Actor, value: str
) -> None:
    cookie = {"name": "_streamlit_user", "value": value, "domain": "localhost", "path": "/"}
    kept = {**cookie, "expires": -1, "httpOnly": True, "secure": False, "sameSite": "Lax"}
    page = visit(browser, f"{studio[0].url}/settings?lang=en", storage_state={"cookies": [kept], "origins": []})
    expect(page.locator(".st-key-sign_in_company")).to_be_visible()
    expect(page.locator(".st-key-sign_in_menu")).to_have_count(0)


@pytest.mark.parametrize(("name", "verified", "told"), [("mallory", True, "not invited"), ("una", False, "verified")])
def test_who_is_not_invited_or_not_verified_stays_out(
    browser: Browser,
    studio: tuple[RunningStudio, Settings],
    provider: str,
    name: str,
    verified: bool,
    told: str,
) -> None:
    page = _arrive(browser, studio[0].url, provider, name, verified=verified)
    expect(page.get_by_text(told)).to_be_visible()
    expect(page.locator(".st-key-sign_in_menu")).to_have_count(0)


@pytest.mark.parametrize(
    ("name", "change", "told"),
    [
        ("dora", "disable", "You have been signed out"),
        ("sam", "sign_out_everywhere", "You have been signed out"),
        ("rolf", "set_role", "changed your role"),
    ],
)
def test_open_tabs_close_by_themselves(
    browser: Browser,
    studio: tuple[RunningStudio, Settings],
    provider: str,
    store: Store,
    admin: Actor,
    name: str,
    change: str,
    told: str,
) -> None:
    invitations.invite(store, admin, f"{name}@example.org", "editor")
    page = _arrive(browser, studio[0].url, provider, name)
    other = page.context.new_page()  # a second tab with the same cookie
    other.goto(f"{studio[0].url}/training?lang=en")
    for tab in (page, other):
        expect(tab.locator(".st-key-sign_in_menu")).to_be_visible()
    person = _person(store, admin, name)
    role: tuple[Role, ...] = ("viewer",) if change == "set_role" else ()
    getattr(people, change)(store, admin, person.id, *role)
    for tab in (page, other):
        _closed(tab, told)


def test_signing_out_closes_the_other_tabs_and_the_cookie_is_worthless(
    browser: Browser, studio: tuple[RunningStudio, Settings], provider: str, store: Store, admin: Actor
) -> None:
    invitations.invite(store, admin, "olga@example.org", "editor")
    page = _arrive(browser, studio[0].url, provider, "olga")
    expect(page.locator(".st-key-sign_in_menu")).to_be_visible()
    cookies = page.context.cookies()
    other = page.context.new_page()
    other.goto(f"{studio[0].url}/cost?lang=en")
    expect(other.locator(".st-key-sign_in_menu")).to_be_visible()
    page.locator(".st-key-sign_in_menu button").click()
    page.locator(".st-key-sign_in_out button").click()
    _closed(other, "You have been signed out")

    thief = browser.new_context()
    thief.add_cookies(cookies)  # type: ignore[arg-type]  # what `cookies` returned
    stolen = thief.new_page()
    stolen.goto(f"{studio[0].url}/training?lang=en")
    _closed(stolen, "You have been signed out")


def test_a_viewer_is_refused_and_an_admin_manages_people(
    browser: Browser, studio: tuple[RunningStudio, Settings], provider: str, store: Store, admin: Actor
) -> None:
    invitations.invite(store, admin, "vera@example.org", "viewer")
    viewer = _arrive(browser, studio[0].url, provider, "vera")
    viewer.goto(f"{studio[0].url}/dataset?lang=en")
    settled(viewer)
    viewer.get_by_role("radio", name="Bring your own", exact=True).click()
    viewer.locator('[class*="st-key-dataset_sample_"] button').first.click()
    expect(viewer.get_by_text("Viewers can't do this. Nothing was changed.").first).to_be_visible()

    invitations.invite(store, admin, "alma@example.org", "admin")
    manager = _arrive(browser, studio[0].url, provider, "alma")
    manager.goto(f"{studio[0].url}/settings?lang=en")
    settled(manager)
    press(manager, f"settings_disable_{_person(store, admin, 'vera').id}")
    _closed(viewer, "You have been signed out")


def test_an_owner_shares_and_an_admin_sees_it_in_the_audit_log(
    browser: Browser, studio: tuple[RunningStudio, Settings], provider: str, store: Store, admin: Actor
) -> None:
    """With SCREENSHOTS set, the images in docs/screenshots are regenerated."""
    for name, role in _MEMBERS.items():
        invitations.invite(store, admin, f"{name}@example.org", role)
    owner, reader = (_arrive(browser, studio[0].url, provider, name) for name in ("hugo", "lena"))
    hugo = _person(store, admin, "hugo")
    made = {"status": "succeeded", "fine_tuned_model": "ft:writer:heroes"}
    job_id = ledger_rows.put_job(store, name="heroes", created_by=hugo.id, sharing="private", **made)
    owner.goto(f"{studio[0].url}/training?lang=en")
    settled(owner)
    press(owner, f"sharing_job_{job_id}")
    choose(owner, f"sharing_readers_{job_id}", "Lena (lena@example.org)")
    until(lambda: job_views.get(store, job_id).readers == (_person(store, admin, "lena").id,), "the list of readers")
    _saved(owner, "team-sharing")
    reader.goto(f"{studio[0].url}/training?lang=en")
    expect(reader.get_by_text("heroes").first).to_be_visible()
    expect(reader.get_by_text("Results file")).to_be_visible()

    manager = _arrive(browser, studio[0].url, provider, "mara")
    manager.goto(f"{studio[0].url}/settings?lang=en")
    settled(manager)
    manager.get_by_text("Audit log", exact=True).click()
    choose(manager, "settings_audit_action", "ownership.set_readers")
    settled(manager)
    expect(manager.locator(".st-key-settings_audit_export")).to_be_visible()
    expect(manager.get_by_text("No entries.")).to_have_count(0)
    choose(manager, "settings_audit_action", "All")
    export = manager.locator(".st-key-settings_audit_export")
    _saved(manager, "team-audit-log", manager.get_by_test_id("stExpander").filter(has=export))


@pytest.mark.slow
@pytest.mark.skipif("SCREENSHOTS" not in os.environ, reason="set SCREENSHOTS=1 to remake docs/screenshots")
def test_pictures_of_signing_in_people_and_budgets(browser: Browser, provider: str, tmp_path: Path) -> None:
    secrets = _SECRETS.format(url=provider).replace("auth.company", "auth.google").replace("auth.other", "auth.okta")
    environ = team.studio_variables(tmp_path / "home", secrets)
    settings = Settings.from_env({**team.TEAM_VARIABLES, "FABULA_HOME": str(tmp_path / "home")})
    _known(provider, "ann", email=team.ADMIN_EMAIL, email_verified=True, name="Ann Berger")
    with (
        studio_process.running(tmp_path / "home", **environ) as running,
        closing(Store(settings.database_url)) as store,
    ):
        page = visit(browser, f"{running.url}/?lang=en", width=1100, height=440)
        _saved(page, "team-sign-in")
        _sign_in(page, "ann", "sign_in_google")
        _put_team(store, settings)
        page.goto(f"{running.url}/settings?lang=en")
        settled(page)
        page.set_viewport_size({"width": 1400, "height": 1000})  # wide enough for a person's buttons to be in one row
        _saved(page, "team-people", page.locator(".st-key-settings_people"))
        page.set_viewport_size({"width": 1100, "height": 1000})
        _saved(page, "team-budgets", page.locator(".st-key-settings_budgets"))
        page.emulate_media(color_scheme="dark")
        page.goto(f"{running.url}/settings?lang=zh_CN")
        settled(page)
        _saved(page, "team-budgets-zh-dark", page.locator(".st-key-settings_budgets"))


def _put_team(store: Store, settings: Settings) -> None:
    """Members with every role, one invited and one disabled, and what they have spent of their budgets."""
    ann = Actor(_find(store, team.ADMIN_EMAIL).id, "Ann Berger", "admin")
    told = {"hugo": ("Hugo Lind", "editor", "38.90"), "lena": ("Lena Ortiz", "editor", "33.20")}
    told |= {"omar": ("Omar Said", "viewer", "4.15")}
    budget.set_budget(store, ann, "month", Decimal(500))
    budget.set_budget(store, ann, "each", Decimal(40))
    for name, (full_name, role, _usd) in told.items():
        invitations.invite(store, ann, f"{name}@example.com", role)  # type: ignore[arg-type]  # a table's column
        team.arrive(store, settings, f"{name}@example.com", name=full_name, iss="https://accounts.google.com")
    invitations.invite(store, ann, "mara@example.com", "editor")
    spent = {team.ADMIN_EMAIL: "12.40", **{f"{name}@example.com": usd for name, (_full, _role, usd) in told.items()}}
    facts = {"page": "dataset", "provider": "openai", "model": "gpt-4o-mini", "reference": "run"}
    ids = {email: _find(store, email).id for email in spent}
    with store.session() as session:
        session.add_all(Spend(actor=ids[email], cost_usd=Decimal(usd), **facts) for email, usd in spent.items())
    people.disable(store, ann, _find(store, "omar@example.com").id)
    hugo = _find(store, "hugo@example.com")
    budget_requests.ask(store, Actor(hugo.id, hugo.name, "editor"), "person", missing_usd=Decimal("6.50"))


def _find(store: Store, email: str) -> Person:
    with store.reading() as session:
        return session.scalars(select(Person).where(Person.email == email)).one()


def _saved(page: Page, name: str, element: Locator | None = None) -> None:
    """Save a picture of the page, or of one element, for the documents."""
    if "SCREENSHOTS" in os.environ:
        settled(page)
        (element or page).screenshot(path=_SCREENSHOTS / f"{name}.png", animations="disabled")
