"""Tokens of pods: asked for once, renewed in time, kept while the API server is away."""

import asyncio
import dataclasses
import json

import pytest

from tests.support.fake_api import FakeApi, status, times
from wasmlet.base.errors import NotFoundError, RetryableError
from wasmlet.kube.client import Client
from wasmlet.kube.errors import ForbiddenError
from wasmlet.kube.tokens import TokenSource, Wanted

WANTED = Wanted(namespace="team", pod="web", pod_uid="u", service_account="default")


class Now:
    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now(api: FakeApi) -> Now:
    now = Now()
    api.now = now
    return now


@pytest.fixture
def source(client: Client, now: Now) -> TokenSource:
    return TokenSource(client, now=now, jitter=lambda: 1.0, forbidden_seconds=2.0)


async def test_a_token_is_bound_to_its_pod(api: FakeApi, source: TokenSource) -> None:
    token = await source.token(dataclasses.replace(WANTED, audience="vault"))
    assert (token.value, token.expires_at) == ("token-1", 1_700_003_607.0)
    assert "token-1" not in repr(token) + repr(source)
    assert api.seen[-1].path == "/api/v1/namespaces/team/serviceaccounts/default/token"
    assert json.loads(api.seen[-1].body) == {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {
            "audiences": ["vault"],
            "expirationSeconds": 3607,
            "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": "u"},
        },
    }


async def test_a_token_is_renewed_after_four_fifths_of_its_life(source: TokenSource, now: Now) -> None:
    first = await source.token(WANTED)
    now.seconds += 0.8 * 3607 - 11
    assert await source.token(WANTED) is first
    now.seconds += 2
    assert (await source.token(WANTED)).value == "token-2"


async def test_a_long_token_is_renewed_each_day(source: TokenSource, now: Now) -> None:
    wanted = dataclasses.replace(WANTED, expiration_seconds=30 * 86400)
    await source.token(wanted)
    now.seconds += 86400 - 11
    assert (await source.token(wanted)).value == "token-1"
    now.seconds += 2
    assert (await source.token(wanted)).value == "token-2"


async def test_the_life_that_the_server_gives_counts(api: FakeApi, source: TokenSource, now: Now) -> None:
    api.token_seconds = 1000
    await source.token(WANTED)
    now.seconds += 795
    assert (await source.token(WANTED)).value == "token-2"


async def test_each_pod_account_and_audience_has_its_own(source: TokenSource) -> None:
    others = [WANTED, *(dataclasses.replace(WANTED, **change) for change in (
        {"pod_uid": "v"}, {"audience": "a"}, {"service_account": "s"}, {"expiration_seconds": 600},
    ))]  # fmt: skip
    assert len({(await source.token(each)).value for each in others}) == 5
    source.release("u")
    assert repr(source) == "<TokenSource of 1 tokens>"
    assert (await source.token(WANTED)).value == "token-6"


async def test_many_ask_at_once_and_one_request_is_made(api: FakeApi, source: TokenSource) -> None:
    tokens = await asyncio.gather(*(source.token(WANTED) for _ in range(10)))
    assert {each.value for each in tokens} == {"token-1"}
    assert len(api.seen) == 1


async def test_an_old_token_is_kept_while_it_is_good(
    api: FakeApi, source: TokenSource, now: Now, caplog: pytest.LogCaptureFixture
) -> None:
    await source.token(WANTED)
    api.behaviours.append(times(99, lambda: status(500, "InternalError", "")))
    now.seconds += 3500
    assert (await source.token(WANTED)).value == "token-1"
    assert (await source.token(WANTED)).value == "token-1"
    assert len(api.seen) == 2  # not asked again at once
    assert "token-1" not in caplog.text
    now.seconds += 200
    with pytest.raises(RetryableError):
        await source.token(WANTED)
    api.behaviours.clear()
    assert (await source.token(WANTED)).value == "token-2"


async def test_the_authorizer_may_need_a_moment(api: FakeApi, source: TokenSource) -> None:
    api.behaviours.append(times(2, lambda: status(403, "Forbidden", "no relationship found")))
    assert (await source.token(WANTED)).value == "token-1"
    api.behaviours.append(times(99, lambda: status(403, "Forbidden", "no relationship found")))
    with pytest.raises(ForbiddenError, match="no relationship"):
        await source.token(dataclasses.replace(WANTED, pod_uid="v"))


async def test_an_account_that_is_missing(api: FakeApi, source: TokenSource) -> None:
    api.behaviours.append(times(1, lambda: status(404, "NotFound", 'serviceaccounts "default" not found')))
    with pytest.raises(NotFoundError, match='serviceaccounts "default" not found'):
        await source.token(WANTED)
