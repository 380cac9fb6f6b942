"""Spin applications of several components by way of a real registry, each asked by its routes."""

from __future__ import annotations

import contextlib
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.conftest import Wasmlet
from tests.support.cosign import push
from tests.support.file_images import build, files, put
from tests.support.guests import guest, http_guest, spin_guest
from tests.support.registry import docker_registry
from tests.support.spin_images import Part, application

PAGE = b"<h1>" + b"a page that is larger than what is written into the application " * 3
SHOP = (
    Part(
        "front",
        ["/", "/static/..."],
        spin_guest().read_bytes(),
        {"site/index.html": PAGE, "site/tiny": b"tiny"},
        {"MODE": "production"},
        {"greeting": "{{ word }}, world"},
    ),
    Part("users", ["/users/:id", "/users/:id/..."], spin_guest().read_bytes(), {"site/other": b"other"}),
    Part("back", ["/count", "/silent"], http_guest().read_bytes()),
    Part("hidden", [{"private": True}], http_guest().read_bytes()),
)
VARIABLES = {"word": {"default": "hello"}}


@contextlib.contextmanager
def serving(wasmlet: Wasmlet, *arguments: str) -> Iterator[str]:
    """Where what runs is served, without a slash at the end."""
    running = wasmlet.start("run", *arguments)
    try:
        assert running.stderr is not None
        url = next(line.decode().strip() for line in running.stderr if b"http://" in line)
        yield ("http://" + url.partition("http://")[2]).removesuffix("/")
    finally:
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=20)


def asked(url: str) -> set[str]:
    return set(urllib.request.urlopen(url, timeout=20).read().decode().splitlines())


def status(url: str) -> int:
    try:
        return int(urllib.request.urlopen(url, timeout=20).status)
    except urllib.error.HTTPError as error:
        return error.code


def test_each_component_answers_its_routes(tmp_path: Path, wasmlet: Wasmlet) -> None:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as registry:
        push(registry.address, "tools/shop", application(*SHOP, variables=VARIABLES))
        with serving(wasmlet, f"{registry.address}/tools/shop:1") as url:
            front = asked(f"{url}/static/x/y?q=1")
            assert front >= {
                "env MODE=production",
                "env greeting=hello, world",
                f"file /site/index.html {PAGE.decode()}",
                "file /site/tiny tiny",
                "requests 1",
                "spin-base-path: /",
                "spin-component-route: /static",
                f"spin-full-url: {url}/static/x/y?q=1",
                "spin-matched-route: /static/...",
                "spin-path-info: /x/y",
                "spin-raw-component-route: /static/...",
            }
            assert "spin-path-info: " in asked(f"{url}/")
            users = asked(f"{url}/users/42/edit")
            assert users >= {"file /site/other other", "spin-path-match-id: 42", "spin-path-info: /edit"}
            assert not users & {"env MODE=production", "file /site/tiny tiny"}
            assert urllib.request.urlopen(f"{url}/count", timeout=20).read() == b"1"
            assert [status(f"{url}{path}") for path in ("/users", "/nothing", "/count/1", "/silent")] == [
                404, 404, 404, 502,
            ]  # fmt: skip
            assert status(f"{url}/.well-known/spin/health") == 200


def test_variables_of_the_pod_count(tmp_path: Path, wasmlet: Wasmlet) -> None:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as registry:
        push(registry.address, "tools/shop", application(*SHOP[:2], variables=VARIABLES))
        arguments = ("-e", "SPIN_VARIABLE_WORD=bye", "-e", "MODE=test", f"{registry.address}/tools/shop:1")
        with serving(wasmlet, *arguments) as url:
            assert asked(f"{url}/") >= {"env greeting=bye, world", "env MODE=test"}


MANIFEST = """
spin_manifest_version = 2
[application]
name = "shop"
[[trigger.http]]
route = "/..."
component = "front"
[[trigger.http]]
route = "/users/:id"
component = "users"
[component.front]
source = "target/guest.wasm"
files = [{ source = "assets", destination = "/site" }]
[component.users]
source = "target/guest.wasm"
environment = { MODE = "users" }
"""


def test_a_spin_toml_in_an_image_of_files_runs(wasmlet: Wasmlet) -> None:
    contents = {
        "spin.toml": MANIFEST.encode(),
        "target/guest.wasm": spin_guest().read_bytes(),
        "assets/page": b"from the image",
    }
    wasmlet.state.mkdir()
    name = put(wasmlet.state / "images", "localhost/test/shop:1", build(files(contents)))
    with serving(wasmlet, name) as url:
        assert asked(f"{url}/any/thing") >= {"file /site/page from the image", "spin-path-info: /any/thing"}
        users = asked(f"{url}/users/7")
        assert users >= {"env MODE=users", "spin-path-match-id: 7"}
        assert not any(line.startswith("file") for line in users)


def test_the_component_that_cannot_serve_is_named(tmp_path: Path, wasmlet: Wasmlet) -> None:
    (tmp_path / "registry").mkdir()
    with docker_registry(tmp_path / "registry") as registry:
        command = Part("job", ["/job"], guest("hello.component").read_bytes())
        push(registry.address, "tools/shop", application(*SHOP[:2], command))
        refused = wasmlet("run", f"{registry.address}/tools/shop:1", status=None)
        assert refused.returncode != 0
        assert b"component job: it is a command and serves no wasi:http" in refused.stderr
