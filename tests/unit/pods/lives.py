"""Pods for tests of the rules of a pod's life, and their simulated lives."""

from typing import Any

from tests.support.pods import container, pod
from tests.support.simulation import Simulation
from wasmlet.kube.types import (
    Container,
    ExitCodes,
    HTTPGetAction,
    Lifecycle,
    LifecycleHandler,
    Probe,
    RestartRule,
    SleepAction,
)

PROBE = Probe(http_get=HTTPGetAction(port=80))
HOOK = LifecycleHandler(sleep=SleepAction(seconds=1))
BOTH = Lifecycle(post_start=HOOK, pre_stop=HOOK)
PRE_STOP = Lifecycle(pre_stop=HOOK)
POST_START = Lifecycle(post_start=HOOK)


def app(name: str = "main", **fields: Any) -> Container:
    return container(name, "exit", **fields)


def sidecar(name: str = "side", **fields: Any) -> Container:
    return app(name, restart_policy="Always", **fields)


def rule(action: str, *codes: int, operator: str = "In") -> RestartRule:
    return RestartRule(action=action, exit_codes=ExitCodes(operator=operator, values=list(codes)))


def life(*containers: Container, **spec: Any) -> Simulation:
    return Simulation(pod(*containers, **spec))
