"""Docker's credential helpers: real programs, and a real registry that wants a login."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.programs import script
from tests.support.registry import PASSWORD, USERNAME, RunningRegistry
from wasmlet.base.errors import UserError
from wasmlet.images.credentials import Credential
from wasmlet.images.helpers import DockerHelpers, helper_of
from wasmlet.images.library import Library
from wasmlet.images.reference import parse_remote
from wasmlet.images.settings import Settings

KEEPER = """
import json, sys
assert sys.argv[1:] == ["get"]
server = sys.stdin.read()
kept = json.load(open({file!r}))
if server not in kept:
    print("credentials not found in native keychain")
    raise SystemExit(1)
print(json.dumps({{"ServerURL": server, "Username": kept[server][0], "Secret": kept[server][1]}}))
"""


class Docker:
    """A home with a config.json and a helper `keeper` that knows what `keep` is told."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "kept.json"
        script(directory, "docker-credential-keeper", KEEPER.format(file=str(self.file)))
        self.environment = {"PATH": f"{directory}:{os.environ['PATH']}", "DOCKER_CONFIG": str(directory)}
        self.helpers = DockerHelpers(self.environment, directory)

    def configure(self, **document: Any) -> None:
        (self.directory / "config.json").write_text(json.dumps(document))

    def keep(self, **logins: tuple[str, str]) -> None:
        self.file.write_text(json.dumps(logins))

    async def logins(self, image: str) -> tuple[Credential, ...]:
        return await self.helpers.logins(parse_remote(image))


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    return Docker(tmp_path)


async def test_a_registry_s_helper_is_asked_before_the_store(docker: Docker) -> None:
    docker.configure(credHelpers={"a.example:5000": "keeper"}, credsStore="nowhere", auths={"a.example:5000": {}})
    docker.keep(**{"a.example:5000": ("u", "p")})
    assert await docker.logins("a.example:5000/x") == (Credential("a.example:5000", "u", "p"),)
    assert await docker.logins("b.example/x") == ()  # the store is no program here: told in the log


async def test_the_store_knows_docker_hub_by_its_old_name_and_identity_tokens(docker: Docker) -> None:
    docker.configure(credsStore="keeper")
    docker.keep(**{"https://index.docker.io/v1/": ("<token>", "refresh"), "c.example": ("u", "")})
    assert await docker.logins("hello") == (Credential("docker.io", identity_token="refresh"),)
    assert await docker.logins("b.example/x") == ()
    assert await docker.logins("c.example/x") == ()


@pytest.mark.parametrize("answer", ["", "[]", "{}", '{"Username": 1, "Secret": "x"}', "[" * 100_000])
async def test_what_is_no_answer_is_no_login(docker: Docker, answer: str, caplog: pytest.LogCaptureFixture) -> None:
    script(docker.directory, "docker-credential-broken", f"print({answer[:10]!r} * {max(1, len(answer) // 10)})")
    docker.configure(credsStore="broken")
    assert await docker.logins("b.example/x") == ()
    assert "answered with something else" in caplog.text


@pytest.mark.parametrize("name", ["../sh", "a b", "", 3, "-x"])
def test_only_programs_names_are_run(name: object) -> None:
    reference = parse_remote("b.example/x")
    if name == "":
        assert helper_of({"credHelpers": {"b.example": name}}, reference, source="f") is None
        return
    with pytest.raises(UserError, match="no program's name"):
        helper_of({"credHelpers": {"b.example": name}}, reference, source="f")


async def test_files_that_cannot_be_read_are_passed_over(docker: Docker, caplog: pytest.LogCaptureFixture) -> None:
    (docker.directory / "config.json").write_text("{")
    assert await docker.logins("b.example/x") == ()
    docker.configure(credHelpers=["keeper"])
    assert await docker.logins("b.example/x") == ()
    assert caplog.text.count("credential helpers passed over") == 2


async def test_a_registry_lets_in_whom_the_helper_knows(
    docker: Docker, guarded_registry: RunningRegistry, settings: Settings, module_file: Path
) -> None:
    assert guarded_registry.ca_file is not None
    settings = dataclasses.replace(settings, ca_files=(guarded_registry.ca_file,))
    name = f"{guarded_registry.address}/helped/hello:v1"
    docker.configure(credHelpers={guarded_registry.address: "keeper"})
    docker.keep(**{guarded_registry.address: (USERNAME, "wrong")})
    library = Library(settings, sources=(docker.helpers,))
    with pytest.raises(UserError, match="refused the credentials of alice"):
        await library.push(module_file, name)
    docker.keep(**{guarded_registry.address: (USERNAME, PASSWORD)})
    await library.push(module_file, name)
    assert (await library.pull(name)).module.read_bytes() == module_file.read_bytes()
    await library.close()
