"""What the components of an application are given."""

from pathlib import Path

import pytest

from wasmlet.base.errors import GuestError, UserError
from wasmlet.images.application import Component, Part
from wasmlet.pods import applications
from wasmlet.sandbox.protocol import EnvVar

PART = Part(
    "front",
    ("/...",),
    environment=(("MODE", "test"), ("LEVEL", "1")),
    variables=(("token", "{{ secret }}"), ("greeting", "{{word}}!"), ("both", "{{ word }}{{ secret }}"), ("MODE", "x")),
    defaults=(("word", "hello"),),
)


def environment(*given: EnvVar) -> dict[str, tuple[str, bool]]:
    found = applications.environment(PART, list(given))
    assert [each.name for each in found] == sorted(each.name for each in found)
    return {each.name: (each.value, each.secret) for each in found}


def test_a_components_own_variables_are_filled_by_the_pod() -> None:
    assert environment() == {"MODE": ("test", False), "LEVEL": ("1", False), "greeting": ("hello!", False)}
    given = EnvVar(name="SPIN_VARIABLE_SECRET", value="s3cret", secret=True)
    assert environment(given, EnvVar(name="LEVEL", value="2")) == {
        "LEVEL": ("2", False),
        "MODE": ("test", False),
        "SPIN_VARIABLE_SECRET": ("s3cret", True),
        "both": ("hellos3cret", True),
        "greeting": ("hello!", False),
        "token": ("s3cret", True),
    }


def test_a_container_without_an_application_has_what_the_pod_gives() -> None:
    given = [EnvVar(name="B", value="1"), EnvVar(name="A", value="2")]
    assert applications.environment(None, given) == given


def test_components_are_programs_with_places_of_their_own(tmp_path: Path) -> None:
    (running,) = applications.running([Component(PART, tmp_path / "module", "sha256:1", 5)])
    assert (running.program.digest, running.program.name, running.part) == ("sha256:1", "front", PART)
    made = applications.make_place(tmp_path, 1)
    assert made == applications.place(tmp_path, 1) == tmp_path / "components" / "1"
    assert {path.stat().st_mode & 0o777 for path in (made, made.parent)} == {0o755}


def test_errors_say_which_component_they_are_about() -> None:
    kept = GuestError("it imports what nobody has", reason="MissingImport", hint="build it anew")
    with pytest.raises(GuestError, match="component front: it imports") as caught, applications.about(PART):
        raise kept
    assert (caught.value.reason, caught.value.hint) == ("MissingImport", "build it anew")
    assert kept.message == "it imports what nobody has"
    with pytest.raises(UserError, match=r"^as it is$"), applications.about(None):
        raise UserError("as it is")
    with pytest.raises(GuestError, match="serves no wasi:http"):
        applications.require_server(PART, "command")
    applications.require_server(PART, "http")
    applications.require_server(None, "command")
