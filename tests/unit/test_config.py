"""Flags, environment, file, defaults: in this order."""

import os
from pathlib import Path

import pytest

from wasmlet import config
from wasmlet.base.errors import UserError


@pytest.fixture(autouse=True)
def _a_plain_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize(
    ("flag", "environment", "expected"),
    [
        ("/flag", {"WASMLET_STATE": "/env"}, "/flag"),
        (None, {"WASMLET_STATE": "/env", "XDG_STATE_HOME": "/xdg"}, "/env"),
        (None, {"XDG_STATE_HOME": "/xdg"}, "/xdg/wasmlet"),
        (None, {}, "{home}/.local/state/wasmlet"),
        ("", {"WASMLET_STATE": ""}, "{home}/.local/state/wasmlet"),
    ],
)
def test_the_state_directory(flag: str | None, environment: dict[str, str], expected: str, tmp_path: Path) -> None:
    assert str(config.load(state=flag, environment=environment).state) == expected.format(home=tmp_path)


def test_a_relative_state_directory_counts_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert config.load(state="s", environment={}).state == tmp_path / "s"


def test_roots_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert config.load(environment={"WASMLET_CONFIG": os.devnull}).state == Path("/var/lib/wasmlet")


def test_a_file_that_the_environment_names_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read the configuration in .*/absent\.toml: .*No such file"):
        config.load(environment={"WASMLET_CONFIG": str(tmp_path / "absent.toml")})
    assert config.load(environment={"XDG_CONFIG_HOME": str(tmp_path), "WASMLET_CONFIG": ""}).file == config.File()


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(UserError, match="this user has no home directory; choose a place with --state"):
        config.load(environment={})
    assert config.load(state=str(tmp_path), environment={}).state == tmp_path


@pytest.mark.parametrize("variables", [{"WASMLET_CONFIG": "{home}/c.toml"}, {"XDG_CONFIG_HOME": "{home}/xdg"}, {}])
def test_the_file(variables: dict[str, str], tmp_path: Path) -> None:
    environment = {name: value.format(home=tmp_path) for name, value in variables.items()}
    for path in ("c.toml", "xdg/wasmlet/config.toml", ".config/wasmlet/config.toml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    names = {"WASMLET_CONFIG": "c.toml", "XDG_CONFIG_HOME": "xdg/wasmlet/config.toml"}
    path = next((names[name] for name in environment), ".config/wasmlet/config.toml")
    (tmp_path / path).write_text(
        'insecure-registries = ["a:1"]\nca-files = ["/ca"]\ncompile-memory-mib = 7\nengine-idle-seconds = 1\n'
        'agent-idle-seconds = 2.5\nnode-name = "Node"\n'
    )
    loaded = config.load(environment=environment)
    assert loaded.file == config.File(
        insecure_registries=["a:1"], ca_files=["/ca"], compile_memory_mib=7, engine_idle_seconds=1.0,
        agent_idle_seconds=2.5, node_name="Node",
    )  # fmt: skip
    assert loaded.node_name == "node"


@pytest.mark.parametrize(
    ("flag", "variable", "written", "expected"),
    [
        ("host", "podcidr", "podcidr", "host"),
        (None, "host", "podcidr", "host"),
        (None, "", "host", "host"),
        (None, None, "", "podcidr"),
    ],
)
def test_the_network_mode(tmp_path: Path, flag: str | None, variable: str | None, written: str, expected: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'network = "{written}"\n' if written else "")
    environment = {"WASMLET_CONFIG": str(path)} | ({"WASMLET_NETWORK": variable} if variable is not None else {})
    assert config.load(network=flag, environment=environment).network == expected


@pytest.mark.parametrize(
    ("flag", "variable", "written", "expected"),
    [
        ("/flag", "/env", "/file", "/flag"),
        (None, "/env", "/file", "/env"),
        (None, "", "/file", "/file"),
        ("here", None, "", "{home}/here"),
        (None, None, "", "None"),
    ],
)
def test_the_image_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str | None, variable: str | None, written: str, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.toml"
    path.write_text(f'image-policy = "{written}"\n')
    environment = {"WASMLET_CONFIG": str(path)} | ({"WASMLET_IMAGE_POLICY": variable} if variable is not None else {})
    loaded = config.load(image_policy=flag, environment=environment)
    assert str(loaded.image_policy) == expected.format(home=tmp_path)


def test_a_network_mode_that_is_none() -> None:
    with pytest.raises(UserError, match="'bridge' is no network mode; choose podcidr or host"):
        config.load(environment={"WASMLET_NETWORK": "bridge"})


def test_no_file_is_the_defaults() -> None:
    loaded = config.load(environment={})
    assert loaded.file == config.File()
    assert loaded.node_name == os.uname().nodename.lower()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"nodename = 'x'\n", "nodename"),
        (b"node-name = 3\n", "node-name"),
        (b"compile-memory-mib = 'much'\n", "compile-memory-mib"),
        (b"network = 'bridge'\n", "bridge"),
        (b"healthz-port = 65536\n", "healthz-port"),
        (b"healthz-port = -1\n", "healthz-port"),
        (b"compile-memory-mib = 0\n", "compile-memory-mib"),
        (b"shutdown-grace-seconds = -1\n", "shutdown-grace-seconds"),
        (b"a = \n", "line 1"),
        (b"\xff", "utf-8"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "c.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=text) as error:
        config.load(environment={"WASMLET_CONFIG": str(path)})
    assert str(path) in error.value.message


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Is a directory"):
        config.load(environment={"WASMLET_CONFIG": str(tmp_path)})
