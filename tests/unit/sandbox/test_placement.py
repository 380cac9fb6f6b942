"""Where engines run. systemd is a stub that does what `systemd-run --scope` does: become what follows."""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from wasmlet.base.errors import UserError
from wasmlet.sandbox.engines import Access, Engines, PoolKey, Settings
from wasmlet.sandbox.placement import Beside, Groups, Placement, Scopes, choose, service_of, unprotect

UNIFIED = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup"))


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("0::/system.slice/wasmlet.service\n", "wasmlet.service"),
        ("5:memory:/x\n1:name=systemd:/system.slice/wasmlet-b.service\n0::/\n", "wasmlet-b.service"),
        ("0::/user.slice/user-0.slice/session-3.scope\n", ""),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/wasmlet.service\n", ""),  # systemd-run --user
        ("4:cpu:/system.slice/docker.service\n0::/\n", ""),
        ("0::/\n", ""),
        ("", ""),
    ],
)
def test_the_agents_unit(text: str, unit: str) -> None:
    assert service_of(text) == unit


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine that systemd has booted, and on which this process is its service."""
    (tmp_path / "booted").mkdir()
    (tmp_path / "cgroup").write_text("0::/system.slice/wasmlet.service\n")
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "systemd-run"
    program.write_text(
        "#!/bin/sh\n"
        f'printf "%s\\n" "$@" >> {tmp_path}/asked\n'
        f"[ -e {tmp_path}/refuses ] && {{ echo Failed to start transient scope unit >&2; exit 1; }}\n"
        'while [ "$1" != -- ]; do shift; done; shift; exec "$@"\n'
    )
    program.chmod(0o755)
    return tmp_path


def chosen(machine: Path, *, directory: Path | None = None) -> Placement:
    return choose(
        directory=directory, memory_bytes=1 << 30, cgroups=machine / "cgroup", booted=machine / "booted",
        environment={"PATH": f"{machine / 'bin'}:/usr/bin:/bin", "SYSTEMD_EXEC_PID": str(os.getpid())}, is_root=True,
    )  # fmt: skip


def test_a_service_of_systemd_asks_for_scopes(machine: Path) -> None:
    placement = chosen(machine)
    assert isinstance(placement, Scopes)
    assert placement.command("default-0a1b") == [
        f"{machine}/bin/systemd-run", "--scope", "--quiet", "--collect", "--unit=wasmlet-default-0a1b.scope",
        "--slice=wasmlet.slice", "--description=Engine of wasmlet.service", "--property=Before=wasmlet.service",
        "--property=TasksMax=infinity", "--property=MemoryMax=1073741824", "--",
    ]  # fmt: skip


@pytest.mark.parametrize("change", ["no systemd", "no service", "a command in a service", "no root", "no program"])
def test_elsewhere_engines_are_beside_the_agent(machine: Path, change: str) -> None:
    match change:
        case "no systemd":
            (machine / "booted").rmdir()
        case "no service":
            (machine / "cgroup").write_text("0::/user.slice/user-0.slice/session-3.scope\n")
        case "no program":
            (machine / "bin" / "systemd-run").unlink()
    main = os.getppid() if change == "a command in a service" else os.getpid()
    placement = choose(
        directory=None, memory_bytes=0, is_root=change != "no root", cgroups=machine / "cgroup",
        booted=machine / "booted", environment={"PATH": str(machine / "bin"), "SYSTEMD_EXEC_PID": str(main)},
    )  # fmt: skip
    assert type(placement) is Beside


def test_a_delegated_directory_must_be_one(machine: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UserError, match="is no control group"):
        chosen(machine, directory=machine)
    (machine / "cgroup.procs").touch()
    (machine / "cgroup.subtree_control").write_text("cpu memory\n")
    assert isinstance(chosen(machine, directory=machine), Groups)
    assert caplog.records == []
    (machine / "cgroup.subtree_control").write_text("cpu\n")
    chosen(machine, directory=machine)
    assert [each.getMessage() for each in caplog.records] == ["engines have no memory bound"]


@pytest.fixture
async def pool(state_directory: Path, engine_program: Path, machine: Path) -> AsyncIterator[Engines]:
    access = Access(write=(state_directory / "pods",))
    settings = Settings(directory=state_directory / "engines", access=access, idle_seconds=60.0)
    pool = Engines(settings, program=engine_program, placement=chosen(machine))
    yield pool
    await pool.close(end_idle=True)


async def test_an_engine_starts_in_its_scope(pool: Engines, machine: Path, state_directory: Path) -> None:
    handle = await pool.acquire(PoolKey("default"))
    assert handle.engine.pid == handle.record.pid  # systemd-run becomes the engine
    asked = (machine / "asked").read_text().splitlines()
    assert f"--unit=wasmlet-{handle.record.id}.scope" in asked
    assert asked[asked.index("--") + 2 :] == [
        "serve",
        "--directory",
        str(handle.client.directory),
        f"--write={state_directory / 'pods'}",
    ]


async def test_a_scope_that_is_refused_keeps_no_pod_from_starting(
    pool: Engines, machine: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    (machine / "refuses").touch()
    handle = await pool.acquire(PoolKey("default"))
    assert handle.engine.pid == handle.record.pid
    (record,) = caplog.records
    assert record.getMessage() == "engine without a place of its own"
    assert "Failed to start transient scope unit" in vars(record)["error"]
    assert pool.launcher.problem == ""


@pytest.mark.parametrize(("before", "after"), [("-900\n", "0"), ("0\n", "0\n"), ("500\n", "500\n")])
def test_an_engine_is_not_spared_as_the_agent_is(tmp_path: Path, before: str, after: str) -> None:
    (tmp_path / "12").mkdir()
    (tmp_path / "12" / "oom_score_adj").write_text(before)
    unprotect(12, processes=tmp_path)
    assert (tmp_path / "12" / "oom_score_adj").read_text() == after
    unprotect(13, processes=tmp_path)  # has ended


def test_the_bound_comes_before_the_process(tmp_path: Path) -> None:
    group = tmp_path / "engine-a"
    group.mkdir()
    (group / "memory.max").write_text("max")
    Groups(tmp_path, memory_bytes=1 << 20).place("a", 12)
    assert (group / "memory.max").read_text() == str(1 << 20)
    assert (group / "cgroup.procs").read_text() == "12"


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A real control group of the test's own."""
    for root in UNIFIED:
        directory = root / "wasmlet-test"
        try:
            directory.mkdir()
        except OSError:
            continue
        if (directory / "cgroup.procs").exists():
            yield directory
            directory.rmdir()
            return
        directory.rmdir()
    pytest.skip("this machine lets nobody make a group in cgroup v2")


async def test_an_engine_moves_into_its_group_and_the_group_goes_with_it(
    state_directory: Path, engine_program: Path, delegated: Path
) -> None:
    pool = Engines(
        Settings(directory=state_directory / "engines"), program=engine_program,
        placement=Groups(delegated, memory_bytes=0),
    )  # fmt: skip
    handle = await pool.acquire(PoolKey("default"))
    group = delegated / f"engine-{handle.record.id}"
    assert (group / "cgroup.procs").read_text().split() == [str(handle.record.pid)]
    assert Path(f"/proc/{handle.record.pid}/cgroup").read_text().rstrip().endswith(f"/{group.name}")
    await pool.close(end_idle=True)
    assert not group.exists()
