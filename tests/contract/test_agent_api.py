"""The terminal's API of a real agent: whatever comes over its socket is answered in time and is nobody's end."""

import contextlib
import http.client
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.support.command import Command
from tests.support.guests import guest
from tests.support.processes import end_all

TIMEOUT_SECONDS = 20
EXAMPLES = 100

text = st.text(max_size=20)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
# No image that a registry would be asked for.
images = st.sampled_from(
    ["file:/no/such.wasm", "file:", "file:no", "", " ", "UPPER", "a@sha256:1", "../x"]
) | anything.filter(lambda it: not isinstance(it, str))
words = ["name", "command", "args", "env", "resources", "volumeMounts", "livenessProbe", "ports", "securityContext"]
containers = st.lists(
    st.dictionaries(st.sampled_from(words), anything, max_size=3).flatmap(
        lambda others: images.map(lambda image: {"name": "c", **others, "image": image})
    ),
    max_size=2,
)
specs = st.dictionaries(
    st.sampled_from(["volumes", "initContainers", "restartPolicy", "terminationGracePeriodSeconds", "tolerations"]),
    anything,
    max_size=2,
).flatmap(lambda others: containers.map(lambda made: {**others, "containers": made}))
metadata = st.fixed_dictionaries(
    {"name": st.just("p") | text, "namespace": st.just("default") | text, "uid": st.uuids().map(str) | text},
    optional={"labels": anything, "annotations": anything},
)
pods = st.fixed_dictionaries({"metadata": metadata | anything, "spec": specs | anything})
bodies = st.one_of(
    st.binary(max_size=200),
    anything.map(lambda it: json.dumps(it).encode()),
    st.fixed_dictionaries(
        {"pod": pods}, optional={"source": st.just("local") | text, "file": text, "credentials": anything}
    ).map(lambda it: json.dumps(it).encode()),
    st.just(b"[" * 100_000),
)
segments = st.sampled_from(
    ["pods", "engines", "version", "debug", "lag", "exec", "attach", "renew", "..", "%2e%2e", "%00"]
)
paths = st.lists(segments | text.map(lambda it: re.sub(r"[^!-~]", "%C3", it)), min_size=1, max_size=4).map(
    lambda it: "/" + "/".join(it)
)
queries = st.sampled_from(
    ["", "?gracePeriodSeconds=-1", "?gracePeriodSeconds=1e400", "?remove=perhaps", "?%ff&&=", "?a=" + "b" * 5000]
)
methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "BREW"])


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory, engine_program: Path) -> Iterator[Command]:
    """A terminal whose agent runs one pod."""
    state = tmp_path_factory.mktemp("agent") / "state"
    made = Command(state, program=engine_program)
    try:
        made.succeed("run", "-d", "--name", "neighbour", str(guest("sleep")))
        yield made
    finally:
        end_all(state)


def ask(state: Path, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """Status and body; a connection that is cut, as servers may that do not read a body to its end, counts as 400."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(TIMEOUT_SECONDS)
        client.connect(str(state / "agent.sock"))
        head = f"{method} {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        with contextlib.suppress(ConnectionError):
            client.sendall(head.encode() + body)
        answer = http.client.HTTPResponse(client, method=method)
        try:
            answer.begin()
            return answer.status, answer.read()
        except ConnectionError:
            return 400, b""


def is_well(command: Command, pid: int) -> None:
    assert ask(command.state, "GET", "/version")[0] == 200
    assert command.agent_pid() == pid
    listed: list[dict[str, Any]] = json.loads(ask(command.state, "GET", "/pods")[1])
    (neighbour,) = (each for each in listed if each["pod"]["metadata"].get("name", "").startswith("neighbour"))
    (run,) = neighbour["runs"]
    assert (run["attempt"], run["started"], run["exitCode"]) == (0, True, None)


def test_any_request_is_answered_and_none_is_the_agents_fault(command: Command) -> None:
    pid, submitted = command.agent_pid(), set[str]()

    @hypothesis.settings(max_examples=EXAMPLES, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(methods, paths, queries, bodies)
    def answered(method: str, path: str, query: str, body: bytes) -> None:
        status, content = ask(command.state, method, path + query, body)
        assert status < 500, (status, content)

    @hypothesis.settings(max_examples=EXAMPLES, suppress_health_check=list(hypothesis.HealthCheck))
    @hypothesis.given(bodies)
    def submitted_or_refused(body: bytes) -> None:
        status, content = ask(command.state, "POST", "/pods", body)
        assert status < 500, (status, content)
        if status == 201:
            submitted.add(json.loads(content)["pod"]["metadata"]["uid"])

    answered()
    submitted_or_refused()
    is_well(command, pid)
    for uid in submitted:
        assert ask(command.state, "DELETE", f"/pods/{uid}?gracePeriodSeconds=0")[0] in (202, 404)
    is_well(command, pid)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /pods HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET /pods HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
        b"POST /pods HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        b"POST /pods HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"\x00" * 10_000,
        b"POST /pods HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{",
    ],
    ids=lambda it: repr(it[:24]),
)
def test_what_is_no_request_harms_nobody(command: Command, sent: bytes) -> None:
    pid = command.agent_pid()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        client.connect(str(command.state / "agent.sock"))
        try:
            client.sendall(sent)
            assert not client.recv(4096).startswith((b"HTTP/1.1 2", b"HTTP/1.1 5"))
        except (TimeoutError, ConnectionError, BrokenPipeError):
            pass  # it waits for more, or is gone
    is_well(command, pid)


def test_a_body_has_an_end(command: Command) -> None:
    pid = command.agent_pid()
    status, _ = ask(command.state, "POST", "/pods", b" " * (17 << 20))
    assert status == 413
    is_well(command, pid)
