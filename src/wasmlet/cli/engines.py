"""`wasmlet engines`: the processes that pods run in, and the upgrade of them.

An engine of another release than the agent's takes nothing new, and ends when its last sandbox has. `drain` does not
wait for that: it restarts pods in batches, and goes on only when a batch is ready again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import click

from wasmlet import config
from wasmlet.base.errors import NotFoundError, WasmletError
from wasmlet.cli import connect
from wasmlet.cli.connect import Agent
from wasmlet.cli.output import Table, output_option, print_json, shown_size
from wasmlet.pods.accounts import Account, EngineAccount, Renewal
from wasmlet.sandbox.protocol import Budget, Confinement

POLL_SECONDS = 0.1


@click.group("engines", invoke_without_command=True)
@output_option
@click.pass_context
def engines_command(context: click.Context, output: str) -> None:
    """List the engines of this state directory, with their pools and what they use."""
    if context.invoked_subcommand is not None:
        return
    found = asyncio.run(_engines(config.load(state=context.obj)))
    if output == "json":
        print_json(found)
        return
    table = Table(
        "ENGINE", "POOL", "NETWORK", "VERSION", "PODS", "SANDBOXES", "DESCRIPTORS", "MAPS", "CONNECTIONS",
        "OF GUESTS", "MEMORY", "USER", "HELD BY", "PID",
    )  # fmt: skip
    for each in found:
        version = f"{each.engine.version} old" if each.old else each.engine.version
        table.add(
            each.id, _pool(each), "pods" if each.network else "host", version,
            str(len(each.pods)), str(each.engine.running), _share(each.engine.descriptors), _share(each.engine.maps),
            _share(each.engine.connections), _share(each.engine.memory, shown_size), shown_size(each.memory_bytes),
            _user(each.engine.confinement), _walls(each.engine.confinement), str(each.engine.pid),
        )  # fmt: skip
    table.print()


@engines_command.command("drain")
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="So many pods at a time.")
@click.option("--timeout", type=click.IntRange(min=1), default=300, show_default=True, help="Seconds for a batch.")
@click.pass_obj
def drain_command(state: str | None, batch: int, timeout: int) -> None:
    """Restart the pods of engines of another release, batch by batch, each when the one before is ready again.

    Containers end with their hooks and grace. Those that their restart policy would not start again, and init
    containers, go on where they are until they end.
    """
    asyncio.run(_drain(config.load(state=state), batch=batch, timeout_seconds=timeout))


async def _engines(settings: config.Config) -> list[EngineAccount]:
    agent = await connect.find(settings)
    return [] if agent is None else await agent.call("GET", "/engines", list[EngineAccount])


def _pool(each: EngineAccount) -> str:
    return f"{each.namespace}/{each.dedicated[:8]}" if each.dedicated else each.namespace or "all"


def _share(budget: Budget | None, shown: Callable[[int], str] = str) -> str:
    if budget is None:
        return ""
    return f"{shown(budget.used)} ({100 * budget.used // max(budget.limit, 1)}%)"


def _user(confinement: Confinement | None) -> str:
    """Its number, and its group's where that is another."""
    if confinement is None:
        return ""
    numbers = dict.fromkeys((confinement.user, confinement.group))
    return ":".join(map(str, numbers))


def _walls(confinement: Confinement | None) -> str:
    """What the kernel holds the process by; `-o json` has what is missing, in words."""
    if confinement is None:
        return "nothing"
    walls = ["landlock"] * bool(confinement.landlock) + ["seccomp"] * confinement.seccomp
    return ",".join(walls) or "nothing"


async def _drain(settings: config.Config, *, batch: int, timeout_seconds: float) -> None:
    agent = await connect.find(settings)
    old = [each for each in await _engines(settings) if each.old]
    if agent is None or not old:
        click.echo("every engine is of this release")
        return
    pods = sorted({uid for each in old for uid in each.pods})
    places = {each.id for each in old}
    for start in range(0, len(pods), batch):
        renewed = dict[str, list[str]]()
        for uid in pods[start : start + batch]:
            try:
                renewed[uid] = (await agent.call("POST", f"/pods/{uid}/renew", Renewal)).containers
            except NotFoundError:
                continue  # it is gone meanwhile
            except WasmletError as error:
                raise WasmletError(
                    f"no engine of this release takes pods: {error.message}",
                    hint=f"{len(pods) - start} of {len(pods)} pods were left as they are, in their engines",
                ) from error
        await _until_ready(agent, renewed, places, timeout_seconds=timeout_seconds)


async def _until_ready(agent: Agent, renewed: dict[str, list[str]], old: set[str], *, timeout_seconds: float) -> None:
    """Raises WasmletError when a pod does not become ready: an upgrade that breaks pods goes no further."""
    deadline = time.monotonic() + timeout_seconds
    for uid, containers in renewed.items():
        while True:
            try:
                account = await agent.call("GET", f"/pods/{uid}", Account)
            except NotFoundError:
                break
            name = f"{account.pod.metadata.namespace}/{account.pod.metadata.name}"
            if not containers:
                click.echo(f"{name}: goes on in its engine until it ends (restart policy)")
                break
            if account.stage in ("ended", "gone") or _is_ready(account, containers, old):
                click.echo(f"{name}: restarted {', '.join(containers)}")
                break
            if time.monotonic() > deadline:
                raise WasmletError(
                    f"{name} is not ready again after {timeout_seconds:g} s; the other pods were left as they are",
                    hint=f"wasmlet inspect {name}",
                )
            await asyncio.sleep(POLL_SECONDS)


def _is_ready(account: Account, containers: list[str], old: set[str]) -> bool:
    last = {run.container: run for run in account.runs}  # in the order of their attempts
    moved = all(last[name].started and last[name].engine_socket.split("/")[-2] not in old for name in containers)
    return moved and any(each.type == "Ready" and each.status == "True" for each in account.pod.status.conditions)
