"""Who may open the page: whoever knows the token, or, without one, only what this machine itself asks for."""

import hmac
import ipaddress
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

TOKEN = re.compile(r"[A-Za-z0-9_-]{16,200}")

COOKIE = "rating_token"

NO_TOKEN = "This page needs its token: open the whole link that `bilevel-rl rate` printed, with ?token=… at its end."

NO_HOST = "This page is for this machine only: open it as http://127.0.0.1, or start it with --token."

NO_ORIGIN = "Another site asked for this page."


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def token_for(host: str, token: str | None) -> str | None:
    """The token of a page: the given one, a random one where others can reach the host, otherwise none.

    Raises:
        ValueError: it is too short to be secret, or has characters that an address changes.
    """
    if token is None:
        return None if is_loopback(host) else secrets.token_urlsafe(24)
    if not TOKEN.fullmatch(token):
        raise ValueError("token must have at least 16 characters, of letters, digits, - and _; without it one is made")
    return token


class Guard:
    """An ASGI application in front of another, which it passes on to only what may pass.

    The link with the token sets a cookie and leads to the address without it.

    Args:
        app: what is behind it.
        token: None lets in what has a Host of this machine, so that no other site's name leads here.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], token: str | None):
        self._app, self._token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send):
        """As ASGI has it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is None and scope["type"] == "http" and self._is_right(_asked_with(scope)):
            cookie = f"{self._name(scope)}={self._token}; HttpOnly; SameSite=Lax; Path=/"
            await _respond(send, 303, "", {"location": scope["path"], "set-cookie": cookie})
        elif refusal is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _respond(send, 403, refusal, {})

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> str | None:
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return NO_ORIGIN
        if self._token is None:
            host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
            return None if is_loopback(host) else NO_HOST
        given = (_asked_with(scope), _cookies(headers.get("cookie", "")).get(self._name(scope)))
        return None if any(map(self._is_right, given)) else NO_TOKEN

    def _is_right(self, given: str | None) -> bool:
        is_there = given is not None and self._token is not None
        return is_there and hmac.compare_digest(given.encode(), self._token.encode())  # pyright: ignore

    @staticmethod
    def _name(scope: Scope) -> str:
        return f"{COOKIE}_{(scope.get('server') or ('', 0))[1]}"  # Cookies do not tell ports apart.


def _asked_with(scope: Scope) -> str | None:
    found = parse_qs(scope["query_string"].decode("latin-1")).get("token")
    return found[0] if found else None


def _cookies(header: str) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header).items()}
    except CookieError:
        return {}


async def _respond(send: Send, status: int, text: str, headers: dict[str, str]):
    usual = {"content-type": "text/plain; charset=utf-8", "cache-control": "no-store"} | headers
    lines = [(name.encode(), value.encode("latin-1")) for name, value in usual.items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": text.encode()})
