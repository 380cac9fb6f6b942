"""`wasmlet ps`, `logs`, `stop`, `rm` and `inspect`: pods that are there."""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import click
import msgspec

from wasmlet import config
from wasmlet.base import clock
from wasmlet.base.errors import ConflictError, NotFoundError, UserError, WasmletError
from wasmlet.cli import complain, connect
from wasmlet.cli.connect import Agent
from wasmlet.cli.exits import FAILED
from wasmlet.cli.follow import Output
from wasmlet.cli.output import Table, output_option, print_json
from wasmlet.kube.types import ContainerStatus
from wasmlet.pods.accounts import Account, Frame, Run
from wasmlet.sandbox import inspection
from wasmlet.sandbox.logs import Line, LogReader
from wasmlet.sandbox.program import find_engine_program

POLL_SECONDS = 0.05
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

# --- finding pods -----------------------------------------------------------------------------------------------------


async def accounts(settings: config.Config) -> tuple[Agent | None, list[Account]]:
    """The agent, if one has pods, and all its pods."""
    agent = await connect.find(settings)
    return agent, [] if agent is None else await agent.call("GET", "/pods", list[Account])


async def pod_named(settings: config.Config, name: str) -> tuple[Agent, Account]:
    """The pod called `name`: NAMESPACE/NAME, NAME, a UID, or six characters or more of one's beginning.

    A bare name means the namespace default, and where that has no such pod the only other that has.

    Raises:
        NotFoundError: There is none.
        ConflictError: There are several.
    """
    agent, pods = await accounts(settings)
    called = [each for each in pods if _is_called(each, name)]
    in_default = [each for each in called if each.pod.metadata.namespace == "default"]
    found = in_default if in_default and "/" not in name else called
    if agent is None or not found:
        raise NotFoundError(f"there is no pod {name}", hint="wasmlet ps lists them")
    if len(found) > 1:
        names = {f"{each.pod.metadata.namespace}/{each.pod.metadata.name}" for each in found}
        ways = names if len(names) == len(found) else {each.pod.metadata.uid for each in found}
        raise ConflictError(f"{len(found)} pods are called {name}", hint=f"name one of {', '.join(sorted(ways))}")
    return agent, found[0]


def _is_called(account: Account, name: str) -> bool:
    meta = account.pod.metadata
    namespace, _, own = name.rpartition("/")
    if own == meta.name and namespace in ("", meta.namespace):
        return True
    return len(name) >= 6 and meta.uid.startswith(name)


# --- ps ---------------------------------------------------------------------------------------------------------------


@click.command("ps")
@output_option
@click.pass_obj
def ps_command(state: str | None, output: str) -> None:
    """List pods, running and ended."""
    _, pods = asyncio.run(accounts(config.load(state=state)))
    if output == "json":
        print_json({"apiVersion": "v1", "kind": "List", "items": [each.pod for each in pods]})
        return
    table = Table("NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE", "UID")
    for each in pods:
        meta, status = each.pod.metadata, each.pod.status
        containers = status.container_statuses
        total = len(each.pod.spec.containers)
        table.add(
            meta.namespace,
            meta.name,
            f"{sum(container.ready for container in containers)}/{total}",
            shown_status(each),
            str(sum(container.restart_count for container in containers)),
            age(status.start_time),
            meta.uid[:8],
        )
    table.print()


def shown_status(account: Account) -> str:
    """One word for a pod, as kubectl chooses it: a container's reason before the phase."""
    status = account.pod.status
    if status.reason:
        return status.reason
    if account.stage == "ending":
        return "Terminating"
    for position, container in enumerate(status.init_container_statuses):
        if (reason := _reason(container)) not in ("", "Completed"):
            total = len(status.init_container_statuses)
            return f"Init:{position}/{total}" if reason == "PodInitializing" else f"Init:{reason}"
    reasons = [reason for container in status.container_statuses if (reason := _reason(container))]
    unfinished = [reason for reason in reasons if reason != "Completed"]
    if status.phase == "Succeeded":
        return "Completed"
    return next(iter(unfinished), status.phase)


def _reason(container: ContainerStatus) -> str:
    state = container.state
    if state.waiting is not None:
        return state.waiting.reason
    return state.terminated.reason if state.terminated is not None else ""


def age(start_time: str | None) -> str:
    """How long ago, as kubectl writes it: 5s, 3m, 2h, 4d."""
    if start_time is None:
        return "-"
    seconds = max(0, int(time.time() - clock.from_text(start_time)))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size or (unit == "m" and seconds >= 120):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


# --- logs -------------------------------------------------------------------------------------------------------------


@click.command("logs")
@click.argument("pod")
@click.argument("named", metavar="[CONTAINER]", required=False)
@click.option("-c", "--container", default=None, metavar="NAME", help="The same as CONTAINER.")
@click.option("-f", "--follow", is_flag=True, help="Go on until the container has ended.")
@click.option("-p", "--previous", is_flag=True, help="The run before the present one.")
@click.option("-t", "--timestamps", is_flag=True, help="Begin each line with its time.")
@click.option("--tail", type=click.IntRange(-1), default=-1, metavar="LINES", help="Only the last stored lines.")
@click.option("--since", default=None, metavar="DURATION", help="Only lines younger than this: 30, 90s, 5m, 2h.")
@click.pass_obj
def logs_command(
    state: str | None,
    pod: str,
    named: str | None,
    container: str | None,
    follow: bool,
    previous: bool,
    timestamps: bool,
    tail: int,
    since: str | None,
) -> None:
    """Print what a container of POD wrote: stdout to stdout, stderr to stderr."""
    youngest = None if since is None else time.time() - _seconds(since)

    def wanted(lines: list[Line]) -> list[Line]:
        if youngest is not None:
            lines = [line for line in lines if line.moment >= youngest]
        if tail >= 0:
            lines = lines[-tail:] if tail else []
        return lines

    if named and container:
        raise UserError("the container is named twice", hint="once is enough: logs POD -c NAME")
    asyncio.run(_logs(config.load(state=state), pod, container or named, wanted, follow, previous, timestamps))


async def _logs(
    settings: config.Config,
    name: str,
    container: str | None,
    wanted: Callable[[list[Line]], list[Line]],
    follow: bool,
    previous: bool,
    timestamps: bool,
) -> None:
    agent, account = await pod_named(settings, name)
    run = _chosen_run(account, container, previous=previous)
    reader, output = LogReader(Path(run.log)), Output(prefixed=False)
    lines: list[Line] = []
    while more := reader.read():
        lines += more
    output.write(run.container, [_stamped(each, timestamps) for each in wanted(lines)])
    if follow and run.exit_code is None:
        await _follow(agent, account.pod.metadata.uid, run, reader, output, timestamps)
    if reader.has_lost:
        click.echo("wasmlet: warning: some output was rotated away before it was read", err=True)


def _seconds(duration: str) -> float:
    """A number of seconds, or numbers with units: 90s, 5m, 1h30m."""
    parts = re.findall(r"([0-9.]+)(ms|s|m|h|d)", duration)
    try:
        whole = "".join(number + unit for number, unit in parts) == duration and parts
        seconds = sum(float(number) * UNITS[unit] for number, unit in parts) if whole else float(duration)
        if 0 <= seconds < math.inf:
            return seconds
    except ValueError:
        pass
    raise UserError(f"--since {duration!r} is no duration", hint="such as 30, 90s, 5m or 2h")


def _chosen_run(account: Account, container: str | None, *, previous: bool) -> Run:
    meta = account.pod.metadata
    names = [each.name for each in [*account.pod.spec.init_containers, *account.pod.spec.containers]]
    if container is None:
        container = account.pod.spec.containers[0].name
        if len(names) > 1:
            click.echo(f'Defaulted container "{container}" out of: {", ".join(names)}', err=True)
    if container not in names:
        raise NotFoundError(
            f"container {container!r} not found in pod {meta.name!r}", hint=f"it has {', '.join(names)}"
        )
    runs = [each for each in account.runs if each.container == container]
    if previous:
        runs = runs[:-1]
        if not runs:
            raise NotFoundError(f"previous terminated container {container!r} in pod {meta.name!r} not found")
    if not runs:
        failure = account.failures.get(container) or account.failures.get("")
        why = failure.shown if failure is not None else "ContainerCreating"
        raise NotFoundError(f"container {container!r} in pod {meta.name!r} is waiting to start: {why}")
    return runs[-1]


async def _follow(agent: Agent, uid: str, run: Run, reader: LogReader, output: Output, timestamps: bool) -> None:
    """Go on until the agent says that the run has ended."""
    ended = asyncio.Event()

    async def watch() -> None:
        with contextlib.suppress(WasmletError):
            async for line in agent.lines(f"/pods/{uid}/watch"):
                account = msgspec.json.decode(line, type=Frame).account
                runs = account.runs if account is not None else []
                if any(each.sandbox == run.sandbox and each.exit_code is not None for each in runs):
                    break
        ended.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(watch(), name="watch")
        while True:
            last = ended.is_set()
            while lines := reader.read():
                output.write(run.container, [_stamped(each, timestamps) for each in lines])
            if last:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await ended.wait()


def _stamped(line: Line, timestamps: bool) -> Line:
    return Line(line.time, line.stream, f"{line.time} ".encode() + line.content) if timestamps else line


# --- stop and rm ------------------------------------------------------------------------------------------------------


@click.command("stop")
@click.argument("pods", nargs=-1, required=True)
@click.option("-t", "--time", "grace", type=click.FloatRange(0), default=None, metavar="SECONDS", help="Grace period.")
@click.pass_obj
def stop_command(state: str | None, pods: tuple[str, ...], grace: float | None) -> int:
    """End PODS, and wait until they have ended. Their logs stay; rm removes them."""
    settings = config.load(state=state)
    return _each(pods, lambda name: _end(settings, name, grace=grace, remove=False))


@click.command("rm")
@click.argument("pods", nargs=-1, required=True)
@click.option("-t", "--time", "grace", type=click.FloatRange(0), default=None, metavar="SECONDS", help="Grace period.")
@click.pass_obj
def rm_command(state: str | None, pods: tuple[str, ...], grace: float | None) -> int:
    """Remove PODS with their logs and volumes; one that runs is stopped first."""
    settings = config.load(state=state)
    return _each(pods, lambda name: _end(settings, name, grace=grace, remove=True))


def _each(names: tuple[str, ...], act: Callable[[str], Coroutine[Any, Any, None]]) -> int:
    """Do it for each; one that fails does not keep the others from it."""
    result = 0
    for name in names:
        try:
            asyncio.run(act(name))
        except WasmletError as error:
            complain(error)
            result = FAILED
        else:
            click.echo(name)
    return result


async def _end(settings: config.Config, name: str, *, grace: float | None, remove: bool) -> None:
    agent, account = await pod_named(settings, name)
    uid = account.pod.metadata.uid
    query: dict[str, object] = {} if grace is None else {"gracePeriodSeconds": grace}
    await agent.call("DELETE", f"/pods/{uid}", dict[str, str], remove=str(remove).lower(), **query)
    with contextlib.suppress(NotFoundError):
        async for line in agent.lines(f"/pods/{uid}/watch"):
            seen = msgspec.json.decode(line, type=Frame).account
            if seen is not None and seen.stage == "gone" and not remove:
                return


# --- inspect ----------------------------------------------------------------------------------------------------------


@click.command("inspect")
@click.argument("target", metavar="POD|FILE.wasm")
@click.pass_obj
def inspect_command(state: str | None, target: str) -> None:
    """Show all there is to say about a pod or a .wasm file, as JSON.

    Of a pod: spec, status, runs, failures and news. Of a file: its kind, size, WASI, imports and exports, which of
    its imports are missing here, and why it would not run.
    """
    if target.endswith(".wasm") or target.startswith((".", "/")):
        print_json(inspection.inspect(Path(target), program=find_engine_program()))
        return

    async def get() -> Account:
        agent, account = await pod_named(config.load(state=state), target)
        return await agent.call("GET", f"/pods/{account.pod.metadata.uid}", Account)

    print_json(asyncio.run(get()))
