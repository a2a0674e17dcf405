"""Who may look: this machine alone, or whoever has the token.

A recording tells paths, code and sizes of somebody's work, and the server reads what is uploaded. Pages of
other sites, open in the same browser, can send requests here; they can neither name this server as their
origin nor know the token.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from dataclasses import dataclass, field
from typing import Any, Optional
from urllib.parse import urlsplit

from flask import Flask, Response, abort, redirect, request

_COOKIE = "oomdoctor-token"
# Nothing from elsewhere: plotly evaluates no code, Dash puts its configuration into the page.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:;"
    " object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Access:
    """How the server may be reached.

    Attributes:
        hosts: names that a browser may call it by, in small letters, without the port.
        token: what a visitor has to show; None: nothing.
    """

    hosts: frozenset[str] = field(default=frozenset({"127.0.0.1", "localhost", "::1"}))
    token: Optional[str] = None


def new_token() -> str:
    """One that nobody guesses."""
    return secrets.token_urlsafe(24)


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def guard(server: Flask, access: Access) -> None:
    """Refuse who may not look, before anything else is done."""

    def check() -> Any:
        host = _hostname(request.host)
        # Without a token the name matters: a site could have its own name lead to this address.
        if access.token is None and host.lower() not in access.hosts:
            abort(403, "this name is not the dashboard's")
        origin = request.headers.get("Origin")
        if origin is not None and _netloc(origin) != request.host.lower():
            abort(403, "the request comes from another site")
        if access.token is None:
            return None
        given = request.args.get("token")
        if given is not None and _same(given, access.token):
            rest = "&".join(
                part
                for part in request.query_string.decode("latin-1").split("&")
                if not part.startswith("token=")
            )
            answer = redirect(request.path + (f"?{rest}" if rest else ""))
            # Not Strict: a link to the dashboard in a mail or a chat would come without it.
            answer.set_cookie(_COOKIE, access.token, httponly=True, samesite="Lax")
            return answer
        if not _same(request.cookies.get(_COOKIE, ""), access.token):
            abort(403, "open the address that oomdoctor dashboard printed: it has the token")
        return None

    def seal(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = _POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        # By another name the connection is not secure, and a browser complains of what it ignores.
        if is_loopback(_hostname(request.host)):
            response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
            response.headers["Cross-Origin-Embedder-Policy"] = "require-corp"
        return response

    server.before_request(check)
    server.after_request(seal)


def _netloc(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""  # "http://["


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())
