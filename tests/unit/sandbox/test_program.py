"""Where the engine's program is."""

from pathlib import Path

import pytest

from wasmlet.base.errors import UserError
from wasmlet.sandbox.program import PROGRAM, find_engine_program


def test_the_environment_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "engine"
    program.touch(0o755)
    monkeypatch.setenv("WASMLET_ENGINE", str(program))
    assert find_engine_program() == program


@pytest.mark.parametrize("kind", ["missing", "directory", "plain"])
def test_a_wrong_name_is_an_error_and_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    path = tmp_path / kind
    if kind == "directory":
        path.mkdir()
    elif kind == "plain":
        path.touch(0o644)
    monkeypatch.setenv("WASMLET_ENGINE", str(path))
    with pytest.raises(UserError, match="is no executable file"):
        find_engine_program()


def test_this_environments_program_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / PROGRAM
    monkeypatch.delenv("WASMLET_ENGINE", raising=False)
    monkeypatch.setattr("sysconfig.get_path", lambda *_, **__: str(tmp_path / "none"))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    with pytest.raises(UserError, match="was found in none of") as failure:
        find_engine_program()
    assert "WASMLET_ENGINE" in (failure.value.hint or "")
    program.touch(0o755)
    assert find_engine_program() == program
