"""The kubelet's credential provider plugins: real programs, what they are asked, how long their answers are kept."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.programs import script
from tests.support.registry import PASSWORD, USERNAME, RunningRegistry
from wasmlet.base.errors import UserError
from wasmlet.images.credentials import Credential, Origin
from wasmlet.images.library import Library
from wasmlet.images.plugins import Plugin, load_plugins, parse_duration
from wasmlet.images.reference import parse_remote
from wasmlet.images.settings import Settings

V1 = "credentialprovider.kubelet.k8s.io/v1"
ASKED = """
import json, os, sys
with open({file!r}, "a") as log:
    print(json.dumps([json.load(sys.stdin), sys.argv[1:], os.environ.get("REGION")]), file=log)
print(open({answer!r}).read())
"""


@dataclasses.dataclass
class Account:
    """A service account; the tests count what is asked of it."""

    namespace: str = "default"
    name: str = "puller"
    annotations: dict[str, str] = dataclasses.field(default_factory=lambda: {"role": "reader", "team": "a", "x": "y"})
    tokens: list[str] = dataclasses.field(default_factory=lambda: ["token-1"])

    async def look(self) -> tuple[str, Mapping[str, str]]:
        return "uid-1", self.annotations

    async def token(self, audience: str) -> str:
        return f"{audience}:{self.tokens[0]}"


class Cloud:
    """A plugin `cloud`, its configuration, and what it was asked."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.now = directory, 0.0
        self.log, self.answer_file = directory / "asked", directory / "answer"
        script(directory, "cloud", ASKED.format(file=str(self.log), answer=str(self.answer_file)))
        self.provider: dict[str, Any] = {
            "name": "cloud", "matchImages": ["*.cloud.example", "cloud.example:5000/team"],
            "defaultCacheDuration": "10m", "apiVersion": V1,
        }  # fmt: skip

    def plugin(self) -> Plugin:
        (plugin,) = load_plugins(self.configuration(self.provider), self.directory)
        plugin._clock = lambda: self.now
        return plugin

    def configuration(self, *providers: Mapping[str, Any], **more: Any) -> Path:
        document = {"kind": "CredentialProviderConfig", "apiVersion": "kubelet.config.k8s.io/v1"} | more
        path = self.directory / "config.yaml"
        path.write_text(yaml.safe_dump(document | {"providers": [dict(each) for each in providers]}))
        return path

    def answers(self, key: str, auth: dict[str, tuple[str, str]], duration: str | None = None) -> None:
        document = {
            "kind": "CredentialProviderResponse", "apiVersion": V1, "cacheKeyType": key,
            "auth": {pattern: {"username": name, "password": word} for pattern, (name, word) in auth.items()},
        }  # fmt: skip
        self.answer_file.write_text(json.dumps(document | ({} if duration is None else {"cacheDuration": duration})))

    def asked(self) -> list[Any]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


async def test_a_plugin_is_asked_as_the_kubelet_asks(cloud: Cloud) -> None:
    cloud.provider |= {"args": ["--get"], "env": [{"name": "REGION", "value": "here"}]}
    cloud.answers("Image", {"*.cloud.example": ("u", "p"), "other.example": ("v", "q")})
    found = await cloud.plugin().logins(parse_remote("eu.cloud.example/app:v1"), None)
    assert found == (Credential("*.cloud.example", "u", "p"), Credential("other.example", "v", "q"))
    request = {"kind": "CredentialProviderRequest", "apiVersion": V1, "image": "eu.cloud.example/app"}
    assert cloud.asked() == [[request, ["--get"], "here"]]
    assert await cloud.plugin().logins(parse_remote("elsewhere.example/app"), None) == ()
    assert await cloud.plugin().logins(parse_remote("cloud.example:5000/other"), None) == ()
    assert len(cloud.asked()) == 1


@pytest.mark.parametrize(("key", "times"), [("Image", [1, 2, 3]), ("Registry", [1, 1, 2]), ("Global", [1, 1, 1])])
async def test_answers_are_kept_by_their_key(cloud: Cloud, key: str, times: list[int]) -> None:
    plugin, found = cloud.plugin(), list[int]()
    cloud.answers(key, {"*.cloud.example": ("u", "p")})
    for image in ("a.cloud.example/x", "a.cloud.example/y", "b.cloud.example/x"):
        for _ in range(2):
            await plugin.logins(parse_remote(image), None)
        found.append(len(cloud.asked()))
    assert found == times


@pytest.mark.parametrize(("duration", "kept"), [(None, 600.0), ("1m30s", 90.0), ("0s", 0.0)])
async def test_answers_are_kept_as_long_as_they_say(cloud: Cloud, duration: str | None, kept: float) -> None:
    plugin, image = cloud.plugin(), parse_remote("a.cloud.example/x")
    cloud.answers("Global", {"*.cloud.example": ("u", "p")}, duration)
    for moment, expected in ((0.0, 1), (kept - 1, 1 if kept else 2), (kept, 2 if kept else 3)):
        cloud.now = moment
        await plugin.logins(image, None)
        assert len(cloud.asked()) == expected


@pytest.mark.parametrize(("cache_type", "times"), [("ServiceAccount", 1), ("Token", 2)])
async def test_a_plugin_gets_the_token_of_the_pod_s_account(cloud: Cloud, cache_type: str, times: int) -> None:
    cloud.provider["tokenAttributes"] = {
        "serviceAccountTokenAudience": "cloud", "requireServiceAccount": True, "cacheType": cache_type,
        "requiredServiceAccountAnnotationKeys": ["role"], "optionalServiceAccountAnnotationKeys": ["team", "none"],
    }  # fmt: skip
    plugin, image, account = cloud.plugin(), parse_remote("a.cloud.example/x"), Account()
    cloud.answers("Registry", {"*.cloud.example": ("u", "p")})
    origin = Origin("ServiceAccount", "default", "puller", "uid-1")
    assert await plugin.logins(image, account) == (Credential("*.cloud.example", "u", "p", origin=origin),)
    request = cloud.asked()[0][0]
    assert request["serviceAccountToken"] == "cloud:token-1"
    assert request["serviceAccountAnnotations"] == {"role": "reader", "team": "a"}
    account.tokens[0] = "token-2"
    await plugin.logins(image, account)
    assert len(cloud.asked()) == times
    await plugin.logins(image, Account(name="another"))
    assert len(cloud.asked()) == times + 1
    assert await plugin.logins(image, None) == ()
    assert await plugin.logins(image, Account(annotations={})) == ()
    assert len(cloud.asked()) == times + 1


@pytest.mark.parametrize(
    "answer",
    [
        "", "{}", '{"kind": "CredentialProviderResponse"}', "[" * 50_000,
        json.dumps({"kind": "CredentialProviderResponse", "apiVersion": f"{V1}beta1", "cacheKeyType": "Image"}),
        json.dumps({"kind": "CredentialProviderResponse", "apiVersion": V1, "cacheKeyType": "Pod"}),
        json.dumps({"kind": "CredentialProviderResponse", "apiVersion": V1, "cacheKeyType": "Image",
                    "cacheDuration": "soon", "auth": {"x": {"password": "s3cret"}}}),
    ],
)  # fmt: skip
async def test_a_plugin_that_fails_gives_no_login_and_tells_no_secret(
    cloud: Cloud, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    cloud.answer_file.write_text(answer)
    assert await cloud.plugin().logins(parse_remote("a.cloud.example/x"), None) == ()
    script(cloud.directory, "cloud", "raise SystemExit(3)")
    assert await cloud.plugin().logins(parse_remote("a.cloud.example/x"), None) == ()
    assert caplog.text.count("credential provider failed") == 2
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": "../cloud"}, "cannot be a plugin's name"),
        ({"name": "absent"}, "is no program in"),
        ({"matchImages": []}, "has no matchImages"),
        ({"apiVersion": "v1"}, "speaks 'v1'"),
        ({"defaultCacheDuration": "ten minutes"}, "is no duration"),
        ({"surprise": 1}, "unknown field"),
        ({"tokenAttributes": {"serviceAccountTokenAudience": "x"}}, "requireServiceAccount"),
    ],
)
def test_a_wrong_configuration_is_refused(cloud: Cloud, change: dict[str, Any], text: str) -> None:
    with pytest.raises(UserError, match=text):
        load_plugins(cloud.configuration(cloud.provider | change), cloud.directory)


def test_a_configuration_may_be_a_directory_and_must_name_each_plugin_once(cloud: Cloud, tmp_path: Path) -> None:
    folder = tmp_path / "providers"
    folder.mkdir()
    script(cloud.directory, "second", "")
    cloud.configuration(cloud.provider).rename(folder / "b.yaml")
    cloud.configuration(cloud.provider | {"name": "second"}).rename(folder / "a.yml")
    (folder / "notes.txt").write_text("no configuration")
    assert [repr(each) for each in load_plugins(folder, cloud.directory)] == [
        "<Plugin second kept=0>", "<Plugin cloud kept=0>",
    ]  # fmt: skip
    with pytest.raises(UserError, match="each once"):
        load_plugins(cloud.configuration(cloud.provider, cloud.provider), cloud.directory)
    with pytest.raises(UserError, match="apiVersion"):
        load_plugins(cloud.configuration(cloud.provider, apiVersion="v1"), cloud.directory)
    with pytest.raises(UserError, match="cannot read"):
        load_plugins(tmp_path / "absent.yaml", cloud.directory)


@pytest.mark.parametrize(("text", "seconds"), [("1h30m", 5400.0), ("0", 0.0), ("1.5s", 1.5), ("12h0m0s", 43200.0)])
def test_durations_are_go_s(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds
    for wrong in ("", "5", "m", "1h 2m", "-1s"):
        with pytest.raises(ValueError, match="is no duration"):
            parse_duration(wrong)


async def test_a_registry_lets_in_whom_a_plugin_knows(
    cloud: Cloud, guarded_registry: RunningRegistry, settings: Settings, module_file: Path
) -> None:
    assert guarded_registry.ca_file is not None
    cloud.provider["matchImages"] = [guarded_registry.address]
    cloud.answers("Registry", {guarded_registry.address: (USERNAME, PASSWORD)})
    settings = dataclasses.replace(settings, ca_files=(guarded_registry.ca_file,))
    library = Library(settings, sources=(cloud.plugin(),))
    await library.push(module_file, f"{guarded_registry.address}/plugged/hello:v1")
    await library.pull(f"{guarded_registry.address}/plugged/hello:v1")
    assert len(cloud.asked()) == 1
    await library.close()
