"""From credentials that may only ask, to an identity on disk; over real HTTP."""

import json
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from tests.support.fake_api import Authorities, FakeApi, status
from tests.unit.node.authority import Authority
from wasmlet.base.errors import ConflictError, RetryableError, UserError
from wasmlet.kube import kubeconfig
from wasmlet.kube.errors import ForbiddenError, UnauthorizedError
from wasmlet.kube.kubeconfig import Access
from wasmlet.node import bootstrap, keys
from wasmlet.node.bootstrap import Joining

PLURAL = "certificatesigningrequests"
PINS = (f"sha256:{'0' * 64}",)


@pytest.fixture
def joining(tmp_path: Path) -> Joining:
    return Joining(node="n", kubeconfig=tmp_path / "a" / "kubeconfig", pki_directory=tmp_path / "pki")


async def answered(response: web.Response) -> web.StreamResponse | None:
    return response


def approves(api: FakeApi, answer: dict[str, Any] | None = None) -> None:
    """Answer each request at once, or with `answer` as its status."""
    authority = Authority()

    async def behave(request: web.Request) -> web.StreamResponse | None:
        if request.method != "POST" or not request.path.endswith(PLURAL):
            return None
        document = await request.json()
        if (PLURAL, document["metadata"]["name"]) in known:
            return status(409, "AlreadyExists", "there")
        known.add((PLURAL, document["metadata"]["name"]))
        done = authority.answered(document) if answer is None else document | {"status": answer}
        return web.json_response(await api.put(PLURAL, done), status=201)

    known: set[tuple[str, str]] = set()
    api.behaviours.append(behave)


async def test_a_cluster_without_the_rights_for_tokens(api: FakeApi, joining: Joining) -> None:
    async def behave(request: web.Request) -> web.StreamResponse | None:
        return status(403, "Forbidden", "may not") if request.path.endswith(PLURAL) else None

    api.behaviours.append(behave)
    with pytest.raises(ForbiddenError, match=r"kubectl apply -f deploy/rbac\.yaml"):
        await bootstrap.bootstrap(joining, replace(api.access, token="t"))


async def test_an_identity_is_made(api: FakeApi, joining: Joining) -> None:
    approves(api)
    access = await bootstrap.bootstrap(joining, replace(api.access, token="t", authority=b"PEM"))
    written = yaml.safe_load(joining.kubeconfig.read_text())
    assert written["clusters"][0]["cluster"]["server"] == api.url
    pair = joining.pki_directory / "wasmlet-client-current.pem"
    assert written["users"][0]["user"] == {"client-certificate": str(pair), "client-key": str(pair)}
    assert stat.S_IMODE(joining.kubeconfig.stat().st_mode) == 0o600
    assert bootstrap.node_of(access) == "n"
    assert bootstrap.is_ours(access, joining.pki_directory)
    assert not bootstrap.is_ours(api.access, joining.pki_directory)
    assert bootstrap.usable(joining) == access == kubeconfig.load(joining.kubeconfig)
    assert not list(joining.pki_directory.glob("*.tmp"))


async def test_a_crash_before_the_answer_asks_for_the_same(api: FakeApi, joining: Joining) -> None:
    approves(api, {})
    with pytest.raises(Exception, match="nobody answered"):
        await bootstrap.bootstrap(replace(joining, approval_seconds=0.05), api.access)
    names = {json.loads(each.body)["metadata"]["name"] for each in api.asked("POST")}
    sent = json.loads(api.asked("POST")[0].body)
    await api.put(PLURAL, Authority().answered(sent))
    await bootstrap.bootstrap(joining, api.access)
    assert names == {json.loads(each.body)["metadata"]["name"] for each in api.asked("POST")}


async def test_a_denied_request_is_not_asked_again(api: FakeApi, joining: Joining) -> None:
    approves(api, {"conditions": [{"type": "Denied", "status": "True"}]})
    for _ in range(2):
        with pytest.raises(UserError, match="was denied"):
            await bootstrap.bootstrap(joining, api.access)
    assert len({each.body for each in api.asked("POST")}) == 2
    assert not joining.kubeconfig.exists()


async def test_it_waits_for_a_server_that_starts(
    api: FakeApi, joining: Joining, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "SERVER_RETRY_SECONDS", 0.01)
    approves(api)
    left = 3

    async def behave(request: web.Request) -> web.StreamResponse | None:
        nonlocal left
        left -= 1
        if request.path != "/healthz":
            return None
        return web.Response(status=500) if left > 0 else web.Response(text="ok")

    api.behaviours.insert(0, behave)
    assert bootstrap.node_of(await bootstrap.bootstrap(joining, api.access)) == "n"


async def test_a_token_that_is_not_known_is_told_at_once_and_tried_on(
    api: FakeApi, joining: Joining, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert bootstrap.SERVER_SECONDS == 300.0
    monkeypatch.setattr(bootstrap, "SERVER_SECONDS", 0.5)
    monkeypatch.setattr(bootstrap, "SERVER_RETRY_SECONDS", 0.01)
    api.behaviours.append(lambda _: answered(status(401, "Unauthorized", "Unauthorized")))
    text = f"the API server {api.url} does not know the credentials of {api.access.source} (401 Unauthorized)"
    with pytest.raises(UnauthorizedError) as raised:
        await bootstrap.bootstrap(joining, api.access)
    assert raised.value.message == f"{text} (tried for 0.5 s)"
    assert len(api.asked("GET")) > 3
    (told,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert told.getMessage().startswith(f"waiting for the cluster: {text}; the token may be mistyped")


async def test_a_server_that_is_not_there_is_told_at_once_and_once(
    joining: Joining, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bootstrap, "SERVER_SECONDS", 0.3)
    monkeypatch.setattr(bootstrap, "SERVER_RETRY_SECONDS", 0.01)
    access = Access(source="the file", server="http://127.0.0.1:1")
    refused = "cannot reach the API server: cannot connect to the API server 127.0.0.1:1: connection refused"
    with pytest.raises(RetryableError):
        await bootstrap.bootstrap(joining, access)
    (told,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert told.getMessage() == f"API server away: {refused}"


@pytest.mark.parametrize("name", ["Bad_Name", "a b", "", "-a"])
def test_a_name_that_no_node_can_have(joining: Joining, name: str) -> None:
    with pytest.raises(UserError, match="is no name for a node"):
        replace(joining, node=name)


@pytest.mark.parametrize(("ready", "is_refused"), [("True", True), ("Unknown", False), ("False", False)])
async def test_a_living_namesake_ends_a_join(api: FakeApi, joining: Joining, ready: str, is_refused: bool) -> None:
    approves(api)
    await api.put("nodes", {
        "metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": ready}]},
    })  # fmt: skip
    if is_refused:
        with pytest.raises(ConflictError, match="Ready in the cluster already"):
            await bootstrap.bootstrap(joining, api.access, refuses_namesake=True)
        assert api.asked("POST") == []
    else:
        await bootstrap.bootstrap(joining, api.access, refuses_namesake=True)


# --- what is there already --------------------------------------------------------------------------------------------


def write_identity(joining: Joining, *, node: str = "n", begin: datetime | None = None) -> None:
    key = keys.new_key()
    pem = Authority().sign(
        keys.request(key, keys.Subject(node=node)), begin=begin or datetime.now(UTC), life=timedelta(hours=1)
    )
    pair = bootstrap.client_store(joining.pki_directory).save(pem, key, now=0.0)
    bootstrap.write_kubeconfig(joining.kubeconfig, Authorities.make().access("https://127.0.0.1:1"), pair)


def test_what_is_usable(joining: Joining) -> None:
    assert bootstrap.usable(joining) is None
    write_identity(joining)
    assert bootstrap.usable(joining)
    write_identity(joining, begin=datetime.now(UTC) - timedelta(hours=2))
    assert bootstrap.usable(joining) is None
    (joining.pki_directory / "wasmlet-client-current.pem").unlink()
    assert bootstrap.usable(joining) is None


def test_another_nodes_certificate_is_told(joining: Joining) -> None:
    write_identity(joining, node="other")
    with pytest.raises(UserError, match=r"for the node 'other', not for 'n'; run with --node-name other"):
        bootstrap.usable(joining)


async def test_joining_twice_changes_nothing_and_another_cluster_is_refused(joining: Joining) -> None:
    write_identity(joining)
    token = "abcdef.0123456789abcdef"
    access = await bootstrap.join(joining, server="127.0.0.1:1", token=token, ca_hashes=PINS)
    assert access.server == "https://127.0.0.1:1"
    with pytest.raises(ConflictError, match=r"has joined https://127\.0\.0\.1:1 already; to leave it: wasmlet leave"):
        await bootstrap.join(joining, server="127.0.0.1:2", token=token, ca_hashes=PINS)


def test_a_directory_that_cannot_be_written(joining: Joining) -> None:
    joining.kubeconfig.parent.touch()
    with pytest.raises(UserError, match="cannot write the kubeconfig"):
        bootstrap.write_kubeconfig(joining.kubeconfig, Authorities.make().access("https://x"), Path("/pair"))


async def test_a_join_without_a_hash_must_be_wanted(joining: Joining) -> None:
    write_identity(joining)
    token = "abcdef.0123456789abcdef"
    with pytest.raises(UserError, match=r"anybody who knows the token.*kubeadm token create --print-join-command"):
        await bootstrap.join(joining, server="127.0.0.1:1", token=token, ca_hashes=())
    await bootstrap.join(joining, server="127.0.0.1:1", token=token, ca_hashes=(), skips_ca_verification=True)


def test_a_certificate_that_is_over_says_what_the_clock_says(
    joining: Joining, caplog: pytest.LogCaptureFixture
) -> None:
    begin = datetime(2024, 1, 1, tzinfo=UTC)
    write_identity(joining, begin=begin)
    assert bootstrap.usable(joining, now=lambda: begin.timestamp() + 7200) is None
    assert "over since 2024-01-01T01:00:00Z (this machine's clock: 2024-01-01T02:00:00Z)" in caplog.text
