"""`wasmlet run`."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable

import click
import msgspec

from wasmlet import config
from wasmlet.base.errors import NotFoundError, WasmletError
from wasmlet.cli import complain, connect
from wasmlet.cli.bundles import Options, from_target
from wasmlet.cli.connect import Agent, AgentAwayError
from wasmlet.cli.exits import NOT_FOUND, exit_status
from wasmlet.cli.follow import Follower, Output, StartFailedError, catch_interrupts
from wasmlet.images import trust
from wasmlet.pods.accounts import Account, Frame
from wasmlet.pods.bundle import Bundle


@click.command("run", context_settings={"ignore_unknown_options": False})
@click.argument("target")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.option("-d", "--detach", is_flag=True, help="Print the pods' names once they run, and leave them running.")
@click.option("-n", "--namespace", default="", help="Namespace of the pods, instead of the manifest's.")
@click.option("--name", default="", help="Name of the pod (a module or image gets one made up).")
@click.option("-e", "--env", multiple=True, metavar="NAME=VALUE", help="A variable; may be repeated.")
@click.option("-v", "--volume", "volumes", multiple=True, metavar="HOST:GUEST[:ro]", help="A host directory.")
@click.option("-w", "--workdir", default="", metavar="PATH", help="The guest's working directory.")
@click.option("-m", "--memory", default="", metavar="QUANTITY", help="Memory limit, such as 64Mi.")
@click.option("--image-policy", metavar="FILE", help="Which images may run [env: WASMLET_IMAGE_POLICY].")
@click.option(
    "--restart", type=click.Choice(["Never", "OnFailure", "Always"]), help="When the program ends.  [default: Never]"
)
@click.pass_obj
def run_command(
    state: str | None,
    target: str,
    arguments: tuple[str, ...],
    detach: bool,
    namespace: str,
    name: str,
    env: tuple[str, ...],
    volumes: tuple[str, ...],
    workdir: str,
    memory: str,
    image_policy: str | None,
    restart: str | None,
) -> int:
    """Run TARGET: a manifest (.yaml, .yml, .json or "-"), a .wasm file, or an image.

    What the containers write goes to stdout and stderr; the exit status is the container's. Ctrl-C stops with
    grace, a second one kills. Arguments after -- go to a module or an image.
    """
    settings = config.load(state=state, image_policy=image_policy)
    options = Options(
        name=name,
        namespace=namespace,
        env=env,
        volumes=volumes,
        working_dir=workdir,
        memory=memory,
        restart=restart or "",
        is_interactive=not detach,
    )
    try:
        if settings.image_policy is not None:
            trust.check_file(settings.image_policy)
        bundles, warnings = from_target(target, arguments, options)
        for bundle in bundles:
            bundle.image_policy = str(settings.image_policy or "")
        for warning in warnings:
            click.echo(f"wasmlet: warning: {warning}", err=True)
        return asyncio.run(_detached(settings, bundles) if detach else _attached(settings, bundles))
    except StartFailedError as error:
        complain(error)
        return error.status
    except NotFoundError as error:
        complain(error)
        return NOT_FOUND
    except WasmletError as error:
        complain(error)
        return exit_status(error)


async def _attached(settings: config.Config, bundles: list[Bundle]) -> int:
    agent = await connect.reach(settings)
    several = len(bundles) > 1 or any(len(_containers(each)) > 1 for each in bundles)
    output = Output(prefixed=several)
    show = _shower()
    followers: list[Follower] = []
    for bundle in bundles:
        bundle.attached = True
        for container in bundle.pod.spec.containers:
            container.stdin_once = container.stdin  # the end of this process's stdin is the guest's
        name = bundle.pod.metadata.name if len(bundles) > 1 else ""
        takes_stdin = not any(each.takes_stdin for each in followers) and any(
            each.stdin for each in bundle.pod.spec.containers
        )
        followers.append(Follower(agent, bundle.uid, name=name, output=output, show=show, takes_stdin=takes_stdin))
    async with _submitted(agent, bundles):
        catch_interrupts(followers)
        statuses = await asyncio.gather(*(_followed(each) for each in followers))
    return next((each for each in statuses if each), 0)


async def _followed(follower: Follower) -> int:
    """The exit status of one pod; what keeps it from starting is said at once, since others may go on for long."""
    try:
        return await follower.run()
    except WasmletError as error:
        complain(WasmletError(f"pod {follower.name}: {error.message}", hint=error.hint) if follower.name else error)
        return error.status if isinstance(error, StartFailedError) else exit_status(error)


@contextlib.asynccontextmanager
async def _submitted(agent: Agent, bundles: list[Bundle]) -> AsyncIterator[None]:
    """Pods that the agent has; all of them are removed again when one is refused, or Ctrl-C comes before the end."""
    there: list[Bundle] = []
    try:
        for bundle in bundles:
            there.append(bundle)
            await agent.call("POST", "/pods", Account, bundle)
        yield
    except BaseException:
        for bundle in there:
            await _remove(agent, bundle)
        raise


async def _remove(agent: Agent, bundle: Bundle) -> None:
    with contextlib.suppress(NotFoundError, AgentAwayError):
        await agent.call("DELETE", f"/pods/{bundle.uid}", dict[str, str], gracePeriodSeconds=0)


def _containers(bundle: Bundle) -> list[str]:
    return [each.name for each in [*bundle.pod.spec.init_containers, *bundle.pod.spec.containers]]


async def _detached(settings: config.Config, bundles: list[Bundle]) -> int:
    """All of them, or none: one that cannot start takes the others with it."""
    agent = await connect.reach(settings)
    async with _submitted(agent, bundles):
        accounts = [await _until_started(agent, bundle) for bundle in bundles]
    runs = [run for account in accounts if account is not None for run in account.runs]
    for address in (address for run in runs if run.started for address in run.serves):
        click.echo(address, err=True)
    for bundle in bundles:
        click.echo(bundle.pod.metadata.name)
    return 0


async def _until_started(agent: Agent, bundle: Bundle) -> Account | None:
    """The pod as soon as something of it runs.

    Raises:
        StartFailedError: It cannot start.
    """
    show, account = _shower(), None
    async for line in agent.lines(f"/pods/{bundle.uid}/watch"):
        frame = msgspec.json.decode(line, type=Frame)
        show(frame)
        if frame.account is None:
            continue
        account = frame.account
        Follower.raise_failed_start(account)
        if account.stage in ("ended", "gone") or any(run.started for run in account.runs):
            break
    return account


def _shower() -> Callable[[Frame], None]:
    """Draws progress on a terminal; a pipe gets the guest's bytes and nothing else."""
    if not sys.stderr.isatty():
        return lambda _frame: None
    from wasmlet.cli.progress import ProgressLine

    return ProgressLine().show
