"""Challenges and tokens."""

import base64
import dataclasses

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.images.fake_registry import FakeRegistry, on
from wasmlet.base.errors import RetryableError, UserError
from wasmlet.images.authentication import Challenge, parse_challenges
from wasmlet.images.credentials import Credential
from wasmlet.images.library import Library
from wasmlet.images.settings import Settings


@pytest.mark.parametrize(
    ("header", "challenges"),
    [
        ('Basic realm="tests"', [Challenge("basic", {"realm": "tests"})]),
        (
            'Bearer realm="https://auth/token",service="r",scope="repository:a/b:pull,push"',
            [Challenge("bearer", {"realm": "https://auth/token", "service": "r", "scope": "repository:a/b:pull,push"})],
        ),
        (
            'Basic realm="x, y=z", charset=UTF-8, BEARER Realm="q\\"uoted"',
            [Challenge("basic", {"realm": "x, y=z", "charset": "UTF-8"}), Challenge("bearer", {"realm": 'q"uoted'})],
        ),
        ("Negotiate", [Challenge("negotiate", {})]),
        ("", []),
        ("=,=", []),
    ],
)
def test_challenges_are_parsed(header: str, challenges: list[Challenge]) -> None:
    assert parse_challenges([header]) == challenges


@given(st.lists(st.text(max_size=80), max_size=3))
def test_any_header_is_survived(headers: list[str]) -> None:
    assert all(challenge.scheme for challenge in parse_challenges(headers))


class TokenServer:
    """Guards a fake registry with bearer tokens, which its own `/token` gives out."""

    def __init__(self, fake: FakeRegistry, *, login: str = "", expires_in: float = 300) -> None:
        self.fake = fake
        self.login = login
        self.expires_in = expires_in
        self.given = 0
        self.asked: list[web.Request] = []
        self.realm = f"http://{fake.address}/token"
        fake.behaviours += [on("/token", self.give), on("/v2/", self.guard)]

    async def give(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        if request.method == "POST":
            form = await request.post()
            if form["refresh_token"] != "refresh-me" or form["grant_type"] != "refresh_token":
                return web.Response(status=401)
        elif self.login:
            expected = f"Basic {base64.b64encode(self.login.encode()).decode()}"
            if request.headers.get("Authorization") != expected:
                return web.json_response({"errors": [{"code": "UNAUTHORIZED", "message": "not s3cret"}]}, status=401)
        self.given += 1
        return web.json_response({"token": f"token-{self.given}", "expires_in": self.expires_in})

    async def guard(self, request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Authorization") == f"Bearer token-{self.given}" and self.given:
            return None
        challenge = f'Bearer realm="{self.realm}",service="tests",scope="repository:test/hello:pull"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})


async def test_an_anonymous_token_is_fetched_once_for_all_requests(library: Library, fake: FakeRegistry) -> None:
    server = TokenServer(fake)
    await library.pull(fake.add_image())
    assert server.given == 1
    assert dict(server.asked[0].query) == {"service": "tests", "scope": "repository:test/hello:pull"}
    assert "Authorization" not in server.asked[0].headers


async def test_a_token_is_renewed_when_it_runs_out(library: Library, fake: FakeRegistry) -> None:
    server = TokenServer(fake, expires_in=1)
    await library.pull(fake.add_image())
    assert server.given == 3  # manifest, config and module


async def test_a_token_that_the_registry_no_longer_takes_is_renewed(library: Library, fake: FakeRegistry) -> None:
    server = TokenServer(fake)
    await library.pull(fake.add_image())
    server.given += 1
    await library.pull(fake.add_image("other"))
    assert len(server.asked) == 2


async def test_user_and_password_go_to_the_token_server_only(library: Library, fake: FakeRegistry) -> None:
    TokenServer(fake, login="alice:s3cret")
    await library.pull(fake.add_image(), credentials=[Credential(fake.address, "alice", "s3cret")])
    with_login = {
        path.partition("?")[0] for _, path, headers in fake.seen if "Basic" in headers.get("Authorization", "")
    }
    assert with_login == {"/token"}


async def test_an_identity_token_is_exchanged(library: Library, fake: FakeRegistry) -> None:
    server = TokenServer(fake)
    await library.pull(fake.add_image(), credentials=[Credential(fake.address, "", "", "refresh-me")])
    assert [request.method for request in server.asked] == ["POST"]


async def test_every_fitting_login_is_tried(library: Library, fake: FakeRegistry) -> None:
    TokenServer(fake, login="alice:s3cret")
    wrong = Credential(f"{fake.address}/test", "bob", "wrong")
    await library.pull(fake.add_image(), credentials=[wrong, Credential(fake.address, "alice", "s3cret")])


async def test_a_refused_login_is_said_without_the_password(library: Library, fake: FakeRegistry) -> None:
    TokenServer(fake, login="alice:other")
    with pytest.raises(UserError, match="refused the credentials of alice for image") as caught:
        await library.pull(fake.add_image(), credentials=[Credential(fake.address, "alice", "s3cret")])
    assert "s3cret" not in str(caught.value)
    assert caught.value.reason == "ErrImagePull"
    with pytest.raises(UserError, match="wants a login"):
        await library.pull(fake.add_image())


async def test_a_token_server_elsewhere_must_speak_https(settings: Settings, fake: FakeRegistry) -> None:
    server = TokenServer(fake)
    library = Library(settings)
    for realm in ("ftp://auth/token", "http://user@host/token", "token", "http:///x"):
        server.realm = realm
        with pytest.raises(UserError, match="token server that is not used"):
            await library.pull(fake.add_image())
    await library.close()


@pytest.mark.parametrize(
    "answer", ["{", "[]", "{}", '{"token": 5}', '{"token": "a\\nb"}', '{"token":"a","expires_in":"x"}']
)
async def test_a_token_server_without_tokens_is_said(library: Library, fake: FakeRegistry, answer: str) -> None:
    async def give(_: web.Request) -> web.StreamResponse:
        return web.Response(text=answer)

    fake.behaviours.append(on("/token", give))
    TokenServer(fake)
    with pytest.raises(RetryableError, match=r"sent (no|a) token"):
        await library.pull(fake.add_image())


async def test_a_secret_body_is_not_redirected(settings: Settings, fake: FakeRegistry) -> None:
    async with FakeRegistry.running() as other:

        async def elsewhere(_: web.Request) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": f"http://{other.address}/token"})

        fake.behaviours.append(on("/token", elsewhere))
        TokenServer(fake)
        library = Library(dataclasses.replace(settings, attempts=1))
        with pytest.raises(UserError, match="status 307"):
            await library.pull(fake.add_image(), credentials=[Credential(fake.address, "", "", "refresh-me")])
        await library.close()
        assert other.seen == []
