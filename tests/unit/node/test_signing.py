"""Asking for a certificate, over real HTTP."""

import asyncio
import base64
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.fake_api import FakeApi
from tests.support.waiting import eventually
from tests.unit.node.authority import Authority
from wasmlet.base.errors import RetryableError, UserError, WasmletError
from wasmlet.kube.client import Client
from wasmlet.node import keys, signing
from wasmlet.node.signing import CLIENT, SERVING, obtain

SUBJECT = keys.Subject(node="n")
KEY = keys.new_key()
NAME = keys.request_name(KEY, SUBJECT, CLIENT.usages)
PLURAL = "certificatesigningrequests"


def document(api: FakeApi) -> dict[str, Any]:
    posted: dict[str, Any] = json.loads(api.asked("POST")[0].body)
    return posted


@contextlib.asynccontextmanager
async def asking(api: FakeApi, client: Client, **changes: Any) -> AsyncIterator[asyncio.Task[bytes]]:
    """A request that is under way, its POST done."""
    values: dict[str, Any] = {"wait_seconds": 10.0}
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_caught(obtain(client, CLIENT, SUBJECT, KEY, **(values | changes))))
        await eventually(lambda: api.asked("POST") and (api.watching or task.done()), api.seen)
        yield task


async def _caught(work: Any) -> Any:
    try:
        return await work
    except (UserError, RetryableError) as error:
        return error


async def test_approved_and_issued(api: FakeApi, client: Client) -> None:
    async with asking(api, client, certificate_seconds=3600) as task:
        sent = document(api)
        assert sent["metadata"] == {"name": NAME}
        assert sent["spec"]["signerName"] == "kubernetes.io/kube-apiserver-client-kubelet"
        assert sent["spec"]["usages"] == ["digital signature", "client auth"]
        assert sent["spec"]["expirationSeconds"] == 3600
        await api.put(PLURAL, sent | {"status": {"conditions": [{"type": "Approved", "status": "True"}]}})
        await api.put(PLURAL, Authority().answered(sent))
        assert keys.fits(await task, KEY)


async def test_a_second_try_finds_the_first(api: FakeApi, client: Client) -> None:
    async with asking(api, client):
        await api.put(PLURAL, Authority().answered(document(api)))
    assert keys.fits(await obtain(client, CLIENT, SUBJECT, KEY, wait_seconds=10.0), KEY)
    assert len(api.asked("POST")) == 2


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        ({"conditions": [{"type": "Denied", "status": "True", "reason": "No", "message": "go away"}]}, UserError,
         "Denied"),
        ({"conditions": [{"type": "Failed", "status": "True"}]}, RetryableError, "Failed"),
        ({"certificate": "%"}, RetryableError, "RetryableError"),
    ],
)  # fmt: skip
async def test_refused(api: FakeApi, client: Client, status: Any, kind: type[WasmletError], reason: str) -> None:
    async with asking(api, client) as task:
        await api.put(PLURAL, document(api) | {"status": status})
        error: Any = await task
    assert (type(error), error.reason) == (kind, reason)
    assert NAME in str(error)


async def test_deleted(api: FakeApi, client: Client) -> None:
    async with asking(api, client) as task:
        await api.remove(PLURAL, NAME)
        error: Any = await task
    assert (type(error), error.reason) == (RetryableError, "Deleted")


async def test_nobody_answers(api: FakeApi, client: Client) -> None:
    async with asking(api, client, wait_seconds=0.2) as task:
        error: Any = await task
    assert error.reason == "NotApproved"
    assert f"kubectl certificate approve {NAME}" in str(error)


async def test_a_certificate_for_another_key_is_not_taken(api: FakeApi, client: Client) -> None:
    async with asking(api, client) as task:
        stolen = Authority().sign(keys.request(keys.new_key(), SUBJECT))
        await api.put(PLURAL, document(api) | {"status": {"certificate": base64.b64encode(stolen).decode()}})
        error: Any = await task
    assert "another key" in str(error)


async def test_somebody_elses_request_of_that_name(api: FakeApi, client: Client) -> None:
    await api.put(PLURAL, {"metadata": {"name": NAME}, "spec": {"signerName": SERVING.signer}})
    with pytest.raises(UserError, match="not for ours"):
        await obtain(client, CLIENT, SUBJECT, KEY, wait_seconds=10.0)


async def test_cancelled_it_leaves_no_watch(api: FakeApi, client: Client) -> None:
    async with asking(api, client) as task:
        await eventually(lambda: api.watching)
        task.cancel()
    await eventually(lambda: not api.watching, api.watching)


async def test_a_request_that_waits_for_a_person_is_told_once(
    api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(signing, "REMINDER_SECONDS", 0.01)
    caplog.set_level(logging.INFO, logger="wasmlet.node.signing")
    line = f"the certificate request waits for an approval: kubectl certificate approve {NAME}"
    async with asking(api, client) as task:
        await eventually(lambda: line in caplog.messages, caplog.messages)
        await api.put(PLURAL, Authority().answered(document(api)))
        assert keys.fits(await task, KEY)
    assert caplog.messages.count(line) == 1
