"""What a pod has before its first container: its addresses."""

import os

from tests.support.agent import NODE_IP, Agent
from tests.support.networks import laboratory, needs_root
from tests.support.pods import bundle, container
from tests.support.waiting import eventually
from wasmlet.base.errors import RetryableError
from wasmlet.sandbox.namespace import Namespace
from wasmlet.sandbox.network import Addresses
from wasmlet.sandbox.pod_cidr import PodCidr


async def test_addresses_are_kept_across_agents_and_never_shared(agent: Agent) -> None:
    agent.addresses = lambda: Addresses("10.9.0.0/29", "fd09::/64", reserved=2)
    await agent.restart()
    first, second = bundle(container("main", "sleep")), bundle(container("main", "sleep"))
    for each in (first, second):
        agent.dispatch.submit(each)
        await agent.until_running(each)
    addresses = [agent.worker(each).facts.pod_ips for each in (first, second)]
    assert addresses == [["10.9.0.2", "fd09::2"], ["10.9.0.3", "fd09::3"]]
    agent.dispatch.end(first.uid, grace_seconds=0, remove=True)
    await eventually(lambda: not agent.dispatch.has(first.uid), agent.dispatch)
    await agent.restart()
    third = bundle(container("main", "sleep"))
    agent.dispatch.submit(third)
    await agent.until_running(third)
    assert agent.worker(second).facts.pod_ips == addresses[1]
    assert agent.worker(third).facts.pod_ips == addresses[0]
    status = agent.worker(third).status()
    assert (status.pod_ip, [each.ip for each in status.pod_ips]) == ("10.9.0.2", ["10.9.0.2", "fd09::2"])


async def test_a_pod_without_an_address_waits_says_so_and_goes_on(agent: Agent) -> None:
    agent.addresses = lambda: Addresses("10.9.0.0/30", reserved=2)
    await agent.restart()
    first, second = bundle(container("main", "sleep")), bundle(container("main", "hello"))
    for each in (first, second):
        agent.dispatch.submit(each)
    await agent.until_running(first)
    message = await agent.until_waiting(second, "ContainerCreating")
    assert message.startswith("all 1 addresses of 10.9.0.0/30 are in use")
    assert f"Failed to create pod sandbox: {message}" in agent.told("FailedCreatePodSandBox")
    assert agent.told("FailedMount") == []
    agent.dispatch.end(first.uid, grace_seconds=0, remove=True)
    assert await agent.until_ended(second) == "Succeeded"


class Unready(Addresses):
    """A network that comes later."""

    ready = False

    def claim(self, uid: str) -> tuple[str, ...]:
        if not self.ready:
            raise RetryableError("network is not ready: no tool", reason="NetworkNotReady")
        return super().claim(uid)


async def test_pods_wait_for_the_network_but_not_those_of_the_host(agent: Agent) -> None:
    network = Unready("10.9.0.0/29")
    agent.addresses = lambda: network
    await agent.restart()
    waiting, on_host = bundle(container("main", "hello")), bundle(container("main", "hello"), host_network=True)
    for each in (waiting, on_host):
        agent.dispatch.submit(each)
    assert await agent.until_ended(on_host) == "Succeeded"
    assert agent.worker(on_host).facts.pod_ips == [NODE_IP]
    assert await agent.until_waiting(waiting, "ContainerCreating") == "network is not ready: no tool"
    assert "network is not ready: no tool" in agent.told("NetworkNotReady")
    failure = agent.worker(waiting).facts.volume_failure
    assert failure is not None
    failure.retry_at += 3600  # as after many tries
    network.ready = True
    agent.dispatch.retry()
    assert await agent.until_ended(waiting) == "Succeeded"
    assert agent.worker(waiting).facts.pod_ips == ["10.9.0.1"]


@needs_root
async def test_engines_join_the_network_of_their_pods(agent: Agent) -> None:
    with laboratory(agent.directory) as lab:
        pods = Namespace(agent.directory, node="node")
        lab.node.do(lambda: pods.make(["10.9.0.0/24"]))
        mode = PodCidr(pods)
        agent.addresses = lambda: mode
        await agent.restart()
        mode.problem = None
        mode._addresses.set_ranges(["10.9.0.0/24"])
        inside, on_host = bundle(container("main", "sleep")), bundle(container("main", "sleep"), host_network=True)
        for each in (inside, on_host):
            agent.dispatch.submit(each)
            await agent.until_running(each)
        networks = {each.record.key.network: each.engine.pid for each in agent.engines.handles}
        assert set(networks) == {"", str(pods.path)}
        inodes = {key: os.stat(f"/proc/{pid}/ns/net").st_ino for key, pid in networks.items()}
        assert inodes[str(pods.path)] == pods.path.stat().st_ino
        assert inodes[""] == os.stat("/proc/self/ns/net").st_ino
