"""An OpenID provider that can lie: what its ID token says, who signed it, and how. And the way through a sign-in."""

from __future__ import annotations

import base64
import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
from itsdangerous import TimestampSigner, URLSafeTimedSerializer
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from tests.support import team

CLIENT_ID = "fabula"
COOKIE_SECRET = "0123456789abcdef0123456789abcdef"
USER_COOKIE = "_streamlit_user"
SECRETS = f"""
[auth]
redirect_uri = "http://localhost:{{{{port}}}}/oauth2callback"
cookie_secret = "{COOKIE_SECRET}"

[auth.company]
client_id = "{CLIENT_ID}"
client_secret = "secret"
server_metadata_url = "{{url}}/.well-known/openid-configuration"
"""
"""Streamlit's secrets for a studio on any port; `{url}` is the provider's address."""
_KEY, _OTHER_KEY = (RSAKey.generate_key(2048, {"kid": name}) for name in ("ours", "theirs"))
_browsers = itertools.count()
Json = dict[str, Any]


class OidcServer:
    """The provider; a context manager. Set what the next ID tokens say.

    Attributes:
        claims: of the person who signs in.
        twist: changes the claims of the token just before it is signed.
        signed_by: `provider`; `stranger`: another key under the same id; `nobody`: algorithm none; `client`: HMAC with
            the client's secret.
    """

    def __init__(self) -> None:
        self.claims: Json = {}
        self.twist: Callable[[Json], Json] = lambda said: said
        self.signed_by = "provider"
        self._nonces: dict[str, str] = {}
        self._http = ThreadingHTTPServer(("localhost", 0), type("Handler", (_Handler,), {"oidc": self}))
        self.url = f"http://localhost:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def says(self, email: str, /, **changes: Any) -> None:
        """The next sign-ins are of this person, with these changes of the token. None leaves a claim out."""
        self.claims = {"sub": f"subject of {email}", "email": email, "email_verified": True, "name": "Someone"}
        self.twist, self.signed_by = (lambda said: said | changes), "provider"

    def metadata(self) -> Json:
        """The discovery document."""
        return {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/jwks",
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
        }

    def authorize(self, query: Mapping[str, list[str]]) -> str:
        """Where the browser is sent after the person has agreed."""
        code = f"code-{len(self._nonces)}"
        self._nonces[code] = query.get("nonce", [""])[0]
        answer = {"code": code, "state": query["state"][0]}
        return f"{query['redirect_uri'][0]}?{urlencode(answer)}"

    def id_token(self, code: str) -> str:
        """The token for a code."""
        now = int(time.time())
        nonce = self._nonces.get(code, "")
        said = {"iss": self.url, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": nonce, **self.claims}
        claims = {name: value for name, value in self.twist(said).items() if value is not None}
        if self.signed_by == "nobody":
            return f"{_base64(json.dumps({'alg': 'none'}))}.{_base64(json.dumps(claims))}."
        if self.signed_by == "client":
            return jwt.encode({"alg": "HS256", "kid": "ours"}, claims, OctKey.import_key("secret"))
        key = _KEY if self.signed_by == "provider" else _OTHER_KEY
        return jwt.encode({"alg": "RS256", "kid": "ours"}, claims, key)


class _Handler(BaseHTTPRequestHandler):
    oidc: OidcServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/authorize":
            self._answer(302, b"", {"location": self.oidc.authorize(parse_qs(parts.query))})
        elif parts.path == "/jwks":
            self._json({"keys": [_KEY.as_dict(private=False)]})
        else:
            self._json(self.oidc.metadata())

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["content-length"])).decode())
        token = self.oidc.id_token(form["code"][0])
        self._json({"access_token": "a", "token_type": "Bearer", "expires_in": 300, "id_token": token})

    def _json(self, body: Json) -> None:
        self._answer(200, json.dumps(body).encode(), {"content-type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """No log output."""


def _base64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def browser() -> httpx2.Client:
    """A client that keeps cookies and follows no redirect. Each has another address: a studio limits sign-ins by it."""
    number = next(_browsers)
    transport = httpx2.HTTPTransport(local_address=f"127.1.{number // 250}.{number % 250 + 1}")
    return httpx2.Client(transport=transport, follow_redirects=False, timeout=60)


def cookie(origin: str, *, secret: str = COOKIE_SECRET, age_s: float = 0.0, **claims: Any) -> dict[str, str]:
    """Streamlit's cookie for someone at `corp.example` who has signed in, of any age. Each call is another sign-in."""

    class Signer(TimestampSigner):
        def get_timestamp(self) -> int:
            return int(time.time() - age_s)

    said = {**team.claims("vera@corp.example", aud=CLIENT_ID, provider="company"), **claims}
    value = json.dumps({**said, "origin": origin, "is_logged_in": True})
    return {USER_COOKIE: str(URLSafeTimedSerializer(secret, salt=USER_COOKIE, signer=Signer).dumps(value))}


def sign_in(studio_url: str) -> dict[str, str]:
    """Go through a sign-in as a browser does; the studio's cookies afterwards."""
    payload = {"provider": "company", "exp": int(time.time()) + 60}
    token = jwt.encode({"alg": "HS256"}, payload, OctKey.import_key(COOKIE_SECRET))
    with browser() as person:
        answer = person.get(f"{studio_url}/auth/login", params={"provider": token})
        agreed = person.get(answer.headers["location"])  # the provider's page
        person.get(agreed.headers["location"])  # back at the studio
        return {name: value for name, value in person.cookies.items() if name.startswith("_streamlit")}
