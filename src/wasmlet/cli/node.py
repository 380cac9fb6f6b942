"""`wasmlet node`: the agent, in the foreground; `wasmlet join`: its identity in a cluster."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wasmlet import agent, config
from wasmlet.cli.connect import KUBECONFIG_NAME

if TYPE_CHECKING:
    from wasmlet.cluster import Settings as ClusterSettings

T = TypeVar("T")


@click.command("node")
@click.option("--idle", is_flag=True, hidden=True, help="End when no pod lives and nobody asks any more.")
@click.option("--ready", type=int, hidden=True, metavar="DESCRIPTOR", help="Write a byte there when it answers.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option("--kubeconfig", metavar="FILE", help="Be a node of a cluster, by this identity (joining writes one).")
@click.option("--bootstrap-kubeconfig", metavar="FILE", help="Credentials that may ask for an identity.")
@click.option("--node-name", metavar="NAME", help="The node's name; default is the host's.")
@click.option("--node-ip", "node_ips", multiple=True, metavar="ADDRESS", help="An address of the node, one per family.")
@click.option("--port", type=int, default=10250, show_default=True, help="Where the kubelet API listens.")
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
@click.option("--healthz-port", type=int, envvar="WASMLET_HEALTHZ_PORT", help="On loopback; 0 is off. [default: 10248]")
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
    **node_options: Any,
) -> None:
    """Serve a state directory in the foreground: pods, probes and restart policies go on while it runs.

    Other commands start one in the background when they need it. One agent serves a state directory; its end
    (SIGTERM, Ctrl-C) stops no pod, and the next one takes them up again.

    With --kubeconfig or --bootstrap-kubeconfig, or after `wasmlet join`, it is a node of a Kubernetes cluster.
    """
    logging.basicConfig(level=log_level.upper(), handlers=[_handler()])
    settings = config.load(state=state, network=network)
    idle_seconds = settings.file.agent_idle_seconds if idle else None
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        identity = Path(kubeconfig) if kubeconfig else settings.state / KUBECONFIG_NAME
        joins = bool(kubeconfig or bootstrap_kubeconfig) or identity.exists()
        cluster = _cluster(settings, identity, bootstrap_kubeconfig, node_options) if joins and not idle else None
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
    from wasmlet.cluster import Settings
    from wasmlet.node import settings as node

    taints = tuple(node.parse_taint(each) for each in options["taints"])
    file, by_priority = settings.file, options["shutdown_grace_by_priority"]
    client_ca_file = _first(options["client_ca_file"], file.client_ca_file)
    return Settings(
        network=settings.network,
        kubeconfig=identity,
        bootstrap_kubeconfig=Path(bootstrap_kubeconfig) if bootstrap_kubeconfig else None,
        client_ca_file=Path(client_ca_file) if client_ca_file else None,
        healthz_port=_first(options["healthz_port"], file.healthz_port),
        node=node.Settings(
            name=options["node_name"] or settings.node_name,
            directory=settings.state,
            pki_directory=settings.state / "pki",
            port=options["port"],
            node_ips=options["node_ips"],
            os_label=options["os_label"],
            labels=dict(node.parse_label(each) for each in options["labels"]),
            taints=taints or node.DEFAULT_TAINTS,
            provider_id=options["provider_id"],
            max_pods=options["max_pods"],
            reserved=node.parse_reserved(options["reserved"].split(",")) if options["reserved"] else {},
            shutdown_grace_seconds=_first(options["shutdown_grace_seconds"], file.shutdown_grace_seconds),
            shutdown_critical_seconds=_first(options["shutdown_critical_seconds"], file.shutdown_critical_seconds),
            shutdown_grace_by_priority=node.parse_priorities(
                file.shutdown_grace_by_priority.items() if by_priority is None else _pairs(by_priority)
            ),
        ),
    )


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
@click.option("--token", required=True, metavar="TOKEN", help="A bootstrap token, as `kubeadm token create` prints it.")
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
    state: str | None, server: str, token: str, ca_hashes: tuple[str, ...], unsafe_skip_ca_verification: bool,
    node_name: str | None,
) -> None:  # fmt: skip
    """Ask a cluster for an identity, and keep it in the state directory; `wasmlet node` then is that node."""
    from wasmlet.node import bootstrap

    logging.basicConfig(level="INFO", handlers=[_handler()])
    settings = config.load(state=state)
    config.make_state_directory(settings)
    joining = bootstrap.Joining(
        node=node_name or settings.node_name,
        kubeconfig=settings.state / KUBECONFIG_NAME,
        pki_directory=settings.state / "pki",
    )
    asyncio.run(
        bootstrap.join(
            joining, server=server, token=token, ca_hashes=ca_hashes,
            skips_ca_verification=unsafe_skip_ca_verification,
        )
    )  # fmt: skip
    click.echo(f"joined as {joining.node}; start the node with: wasmlet node")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes the loop: uvloop where it is installed (the extra `fast`), else asyncio itself."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    uvloop = importlib.import_module("uvloop")
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class _Logfmt(logging.Formatter):
    """`time=… level=… message="…" key=value`: one line a record, fields last."""

    _STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        fields |= {key: value for key, value in vars(record).items() if key not in self._STANDARD}
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={_quoted(str(value))}" for key, value in fields.items())


def _handler() -> logging.Handler:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Logfmt())
    return handler


def _quoted(text: str) -> str:
    plain = text and not any(each in text for each in ' "=\n\\')
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
