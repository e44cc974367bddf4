"""Who gets in, and what is said where the page cannot be served. The page itself: tests/lm/test_lm_rating.py."""

import asyncio
import importlib.util
import re
import socket

import pytest

from bilevel_rl.rating import AnswerStore, RatingPage
from bilevel_rl.rating.guard import NO_HOST, NO_ORIGIN, NO_TOKEN, Guard, token_for
from commands import call

TOKEN = "abcdefghijklmnop-_09"


def visit(token, *, kind="http", query="", **headers):
    """Status, text and headers of what a visitor gets; 200 where it got through the guard."""
    sent = []

    async def behind(scope, receive, send):
        sent.append({"type": "http.response.start", "status": 200, "headers": []})
        sent.append({"type": "http.response.body", "body": b"page"})

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind,
        "path": "/",
        "query_string": query.encode(),
        "server": ("127.0.0.1", 8765),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(Guard(behind, token)(scope, None, send))
    if sent[0]["type"] == "websocket.close":
        return sent[0]["code"], "", {}
    return sent[0]["status"], sent[1]["body"].decode(), dict(sent[0]["headers"])


def test_the_link_with_the_token_sets_a_cookie_which_then_suffices():
    status, _, headers = visit(TOKEN, query=f"token={TOKEN}", host="rater.example:8765")
    assert (status, headers[b"location"]) == (303, b"/")
    cookie = headers[b"set-cookie"].decode()
    assert cookie == f"rating_token_8765={TOKEN}; HttpOnly; SameSite=Lax; Path=/"
    for kind in ("http", "websocket"):
        assert visit(TOKEN, kind=kind, cookie=f"other=1; rating_token_8765={TOKEN}")[0] == 200


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"query": "token="},
        {"query": f"token={TOKEN[:-1]}"},
        {"cookie": f"rating_token_8766={TOKEN}"},
        {"cookie": "?="},
    ],
)
def test_nobody_gets_in_without_the_token(given):
    assert visit(TOKEN, host="127.0.0.1:8765", **given)[:2] == (403, NO_TOKEN)
    assert visit(TOKEN, kind="websocket", host="127.0.0.1:8765", **given)[0] == 1008


def test_without_a_token_only_this_machines_names_lead_to_the_page():
    for host in ("127.0.0.1:8765", "localhost:8765", "[::1]:8765", "localhost"):
        assert visit(None, host=host)[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "192.168.0.2:8765", ""):
        assert visit(None, host=host)[:2] == (403, NO_HOST)
        assert visit(None, kind="websocket", host=host)[0] == 1008


def test_other_sites_cannot_answer_in_somebodys_browser():
    for token, given in ((None, {}), (TOKEN, {"cookie": f"rating_token_8765={TOKEN}"})):
        at_home = {"host": "localhost:8765", **given}
        assert visit(token, kind="websocket", origin="http://localhost:8765", **at_home)[0] == 200
        assert visit(token, kind="websocket", origin="http://evil.example", **at_home)[0] == 1008
        assert visit(token, origin="http://localhost:3000", **at_home)[:2] == (403, NO_ORIGIN)


def test_a_token_is_made_where_others_reach_the_host():
    assert [token_for(host, None) for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8")] == [None] * 4
    made = {token_for(host, None) for host in ("0.0.0.0", "::", "192.168.0.2", "rater.example")}
    assert len(made) == 4
    assert all(re.fullmatch(r"[\w-]{32}", token) for token in made)
    assert token_for("127.0.0.1", TOKEN) == TOKEN
    for token in ("short", "a" * 15, "with spaces in between", "umlaut-äääääääääääää"):
        with pytest.raises(ValueError, match="token must have at least 16 characters"):
            token_for("0.0.0.0", token)


def test_without_the_extra_one_line_names_it(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "nicegui" else found(name))
    code, out, err = call("rate", tmp_path)
    assert (code, out) == (2, "")
    assert err == "error: the rating page needs nicegui, which is not installed: pip install 'bilevel-rl[rate]'\n"


def test_what_cannot_be_served_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert f"error: {tmp_path} has no answers.db: nobody has been asked" in call("rate", tmp_path)[2]
    AnswerStore(tmp_path).close()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, _, err = call("rate", tmp_path, "--port", port)
        assert (code, f"127.0.0.1:{port}: Address already in use; --port 0" in err) == (2, True), err
    assert "token must have at least 16" in call("rate", tmp_path, "--token", "secret")[2]
    assert "port must be at most 65535, got 65536" in call("rate", tmp_path, "--port", 65536)[2]


def test_the_address_that_is_printed_has_the_token(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    AnswerStore(tmp_path).close()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", RatingPage(tmp_path, port=0).url)
    assert re.fullmatch(
        rf"http://{re.escape(socket.gethostname())}:\d+/\?token=[\w-]{{32}}",
        RatingPage(tmp_path, host="0.0.0.0", port=0).url,
    )
