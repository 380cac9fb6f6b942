"""`wasmlet node`: the agent, in the foreground; `wasmlet join`: its identity in a cluster."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO, TypeVar

import click

from wasmlet import agent, config
from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.cli.log import log_handler

if TYPE_CHECKING:
    from wasmlet.cluster import Settings as ClusterSettings
    from wasmlet.node.settings import Settings as NodeSettings

logger = logging.getLogger(__name__)

T = TypeVar("T")

SWITCH_SECONDS: Final = 0.0005
"""After how long a thread that computes gives way to the event loop, which lets go of the interpreter at each system
call. With Python's own 5 ms pods take longer to be Ready (docs/decisions/0005)."""

MAX_TOKEN_CHARACTERS: Final = 1024
"""Far more than a bootstrap token has."""


@click.command("node")
@click.option("--idle", is_flag=True, hidden=True, help="End when no pod lives and nobody asks any more.")
@click.option("--ready", type=int, hidden=True, metavar="DESCRIPTOR", help="Write a byte there when it answers.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option("--kubeconfig", metavar="FILE", help="Be a node of a cluster, by this identity (joining writes one).")
@click.option("--bootstrap-kubeconfig", metavar="FILE", help="Credentials that may ask for an identity.")
@click.option("--node-name", metavar="NAME", help="The node's name. [default: the identity's, else the host's]")
@click.option("--node-ip", "node_ips", multiple=True, metavar="ADDRESS", help="An address of the node, one per family.")
@click.option(
    "--port",
    type=click.IntRange(1, config.MAX_PORT),
    default=10250,
    show_default=True,
    help="Where the kubelet API listens.",
)
@click.option("--os-label", default="wasi", show_default=True, help="kubernetes.io/os; `linux` lets DaemonSets come.")
@click.option("--node-label", "labels", multiple=True, metavar="KEY=VALUE", help="May be repeated.")
@click.option(
    "--taint", "taints", multiple=True, metavar="KEY=VALUE:EFFECT", help="Of a new Node, for the default ones."
)
@click.option("--provider-id", default="", metavar="ID", help="spec.providerID.")
@click.option("--max-pods", type=int, default=110, show_default=True)
@click.option("--manifest-dir", metavar="DIRECTORY", help="Manifests of static pods, which run without a cluster too.")
@click.option("--reserved", default="", metavar="cpu=1,memory=2Gi", help="What other programs of the machine keep.")
@click.option("--client-ca-file", envvar="WASMLET_CLIENT_CA_FILE", metavar="FILE", help="Signs callers' certificates.")
@click.option(
    "--healthz-port",
    type=click.IntRange(0, config.MAX_PORT),
    envvar="WASMLET_HEALTHZ_PORT",
    help="On loopback; 0 is off. [default: 10248]",
)
@click.option(
    "--shutdown-grace-seconds",
    type=float,
    envvar="WASMLET_SHUTDOWN_GRACE_SECONDS",
    metavar="SECONDS",
    help="What pods have when the machine goes down; 0, the default, is off.",
)
@click.option(
    "--shutdown-critical-seconds",
    type=float,
    envvar="WASMLET_SHUTDOWN_CRITICAL_SECONDS",
    metavar="SECONDS",
    help="The last part of that, for critical pods.",
)
@click.option(
    "--shutdown-grace-by-priority", envvar="WASMLET_SHUTDOWN_GRACE_BY_PRIORITY", metavar="0=20,2000000000=10",
    help="Instead of both: seconds for each group of priorities, from the number on.",
)  # fmt: skip
@click.option(
    "--network",
    type=click.Choice(["podcidr", "host"]),
    help="Pods' addresses: of the Node's podCIDR (default), or the node's own [env: WASMLET_NETWORK].",
)
@click.option("--image-policy", metavar="FILE", help="Which images may run [env: WASMLET_IMAGE_POLICY].")
@click.pass_obj
def node_command(
    state: str | None,
    /,
    idle: bool,
    ready: int | None,
    log_level: str,
    kubeconfig: str | None,
    bootstrap_kubeconfig: str | None,
    manifest_dir: str | None,
    network: str | None,
    image_policy: str | None,
    **node_options: Any,
) -> None:
    """Serve a state directory in the foreground: pods, probes and restart policies go on while it runs.

    Other commands start one in the background when they need it. One agent serves a state directory; its end
    (SIGTERM, Ctrl-C) stops no pod, and the next one takes them up again.

    With --kubeconfig or --bootstrap-kubeconfig, or after `wasmlet join`, it is a node of a Kubernetes cluster.
    """
    logging.basicConfig(level=log_level.upper(), handlers=[log_handler()])
    settings = config.load(state=state, network=network, image_policy=image_policy)
    idle_seconds = settings.file.agent_idle_seconds if idle else None
    sys.setswitchinterval(SWITCH_SECONDS)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        identity = Path(kubeconfig) if kubeconfig else settings.state / config.KUBECONFIG_NAME
        joins = bool(kubeconfig or bootstrap_kubeconfig) or identity.exists()
        cluster = None
        if joins and not idle:
            cluster = _cluster(settings, identity, bootstrap_kubeconfig, node_options)
        elif not idle:
            _check_unused(settings, node_options)
            logger.info(
                "no cluster identity in %s: serving this machine's own pods only; `wasmlet join` makes one", identity
            )
        serving = agent.serve(
            settings,
            idle_seconds=idle_seconds,
            ready_descriptor=ready,
            cluster_settings=cluster,
            manifest_directory=Path(manifest_dir).absolute() if manifest_dir else None,
        )
        runner.run(serving)


def _cluster(
    settings: config.Config, identity: Path, bootstrap_kubeconfig: str | None, options: dict[str, Any]
) -> ClusterSettings:
    """The cluster's settings from the flags."""
    name = options["node_name"] or settings.file.node_name.lower() or _certified_name(identity) or settings.node_name
    node = _node(settings, name, options)
    client_ca_file = _client_ca_file(settings, options)
    from wasmlet.cluster import Settings

    return Settings(
        network=settings.network,
        kubeconfig=identity,
        bootstrap_kubeconfig=Path(bootstrap_kubeconfig) if bootstrap_kubeconfig else None,
        client_ca_file=client_ca_file,
        healthz_port=_first(options["healthz_port"], settings.file.healthz_port),
        node=node,
    )


def _check_unused(settings: config.Config, options: dict[str, Any]) -> None:
    """Raise UserError for flags that a cluster would not take, also while there is none; the host's name may be any."""
    _node(settings, options["node_name"] or "alone", options)
    _client_ca_file(settings, options)


def _node(settings: config.Config, name: str, options: dict[str, Any]) -> NodeSettings:
    from wasmlet.node import settings as node

    file, by_priority = settings.file, options["shutdown_grace_by_priority"]
    return node.Settings(
        name=name,
        directory=settings.state,
        pki_directory=settings.state / "pki",
        port=options["port"],
        node_ips=options["node_ips"],
        os_label=options["os_label"],
        labels=dict(node.parse_label(each) for each in options["labels"]),
        taints=tuple(node.parse_taint(each) for each in options["taints"]) or node.DEFAULT_TAINTS,
        provider_id=options["provider_id"],
        max_pods=options["max_pods"],
        reserved=node.parse_reserved(options["reserved"].split(",")) if options["reserved"] else {},
        shutdown_grace_seconds=_first(options["shutdown_grace_seconds"], file.shutdown_grace_seconds),
        shutdown_critical_seconds=_first(options["shutdown_critical_seconds"], file.shutdown_critical_seconds),
        shutdown_grace_by_priority=node.parse_priorities(
            file.shutdown_grace_by_priority.items() if by_priority is None else _pairs(by_priority)
        ),
    )


def _certified_name(identity: Path) -> str | None:
    """The node that the identity is for; None: there is no identity, or it is no node's."""
    from wasmlet.kube import kubeconfig
    from wasmlet.node import bootstrap

    try:
        return bootstrap.node_of(kubeconfig.load(identity))
    except NotFoundError:
        return None


def _client_ca_file(settings: config.Config, options: dict[str, Any]) -> Path | None:
    from wasmlet.server import tls

    chosen = _first(options["client_ca_file"], settings.file.client_ca_file)
    if not chosen:
        return None
    try:
        tls.check_authorities(Path(chosen))
    except UserError as error:
        raise UserError(f"--client-ca-file: {error.message}", hint=error.hint) from error
    return Path(chosen)


def _first(flag: T | None, file: T) -> T:
    """A flag, or its variable, beats the file."""
    return file if flag is None else flag


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """`0=20,100=10`; an empty text has none."""
    for each in filter(None, text.split(",")):
        key, _, value = each.partition("=")
        yield key, value


@click.command("join")
@click.option("--server", required=True, metavar="URL", help="The API server, such as https://host:6443.")
@click.option(
    "--token",
    envvar="WASMLET_TOKEN",
    metavar="TOKEN",
    help="A bootstrap token, as `kubeadm token create` prints it. Others on this machine may see it here.",
)
@click.option("--token-file", type=click.File(), metavar="FILE", help='Holds the token; "-" is standard input.')
@click.option(
    "--ca-hash", "ca_hashes", multiple=True, metavar="sha256:HASH", help="The pin of the cluster's authority."
)
@click.option(
    "--unsafe-skip-ca-verification",
    is_flag=True,
    help="Go without --ca-hash: whoever knows the token can pretend to be the cluster.",
)
@click.option("--node-name", metavar="NAME", help="The node's name; default is the host's.")
@click.pass_obj
def join_command(
    state: str | None, server: str, token: str | None, token_file: TextIO | None, ca_hashes: tuple[str, ...],
    unsafe_skip_ca_verification: bool, node_name: str | None,
) -> None:  # fmt: skip
    """Ask a cluster for an identity, and keep it in the state directory; `wasmlet node` then is that node."""
    from wasmlet.node import bootstrap

    if token_file is not None:
        token = token_file.read(MAX_TOKEN_CHARACTERS).strip()
    if not token:
        raise UserError("joining needs a bootstrap token", hint="give it by --token, --token-file or WASMLET_TOKEN")
    logging.basicConfig(level="INFO", handlers=[log_handler()])
    settings = config.load(state=state)
    joining = bootstrap.Joining(
        node=node_name or settings.node_name,
        kubeconfig=settings.state / config.KUBECONFIG_NAME,
        pki_directory=settings.state / "pki",
    )
    config.make_state_directory(settings)
    asyncio.run(
        bootstrap.join(
            joining, server=server, token=token, ca_hashes=ca_hashes,
            skips_ca_verification=unsafe_skip_ca_verification,
        )
    )  # fmt: skip
    click.echo(f"joined as {joining.node}; start the node with: {_start_command(settings, state, joining.node)}")


def _start_command(settings: config.Config, state: str | None, node: str) -> str:
    """What makes this machine the node that it has joined as; `wasmlet node` reads the name in the identity."""
    words = ["wasmlet", *(["--state", str(settings.state)] if state else []), "node"]
    if settings.file.node_name and settings.node_name != node:
        words += ["--node-name", node]  # it stands in the file, and that goes before the identity
    return shlex.join(words)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop: uvloop where it is installed (the extra `fast`), else asyncio itself."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    uvloop = importlib.import_module("uvloop")
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
