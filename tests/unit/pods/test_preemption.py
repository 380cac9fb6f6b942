"""Who makes room for a critical pod."""

from tests.support import pods
from tests.support.pods import container
from wasmlet.kube.types import Pod, ResourceRequirements
from wasmlet.pods import preemption, requests
from wasmlet.pods.admission import Neighbour, NodeFacts

NODE = NodeFacts(name="n", allocatable={"cpu": "4", "memory": "4Gi", "pods": "4"})
CRITICAL = 2_000_000_000


def pod(name: str = "p", *, priority: int | None = None, guaranteed: bool = False, **amounts: str) -> Pod:
    limits = dict(amounts) if guaranteed else {}
    resources = ResourceRequirements(requests=dict(amounts), limits=dict(limits))
    return pods.pod(container(resources=resources), name=name, priority=priority)


def chosen(wanted: Pod, *others: Pod) -> list[str] | None:
    found = preemption.victims(wanted, NODE, [Neighbour(each, requests.of_pod(each)) for each in others])
    return None if found is None else [each.pod.metadata.name for each in found]


def test_nobody_goes_when_there_is_room() -> None:
    assert chosen(pod(priority=CRITICAL, cpu="1"), pod("a", cpu="3")) == []


def test_the_smallest_that_suffices_goes() -> None:
    others = pod("small", cpu="500m"), pod("right", cpu="1"), pod("large", cpu="2500m")
    assert chosen(pod(priority=CRITICAL, cpu="1"), *others) == ["right"]
    assert chosen(pod(priority=CRITICAL, cpu="1500m"), *others) == ["large"]


def test_several_go_when_one_is_not_enough() -> None:
    others = pod("a", cpu="1"), pod("b", cpu="1"), pod("c", cpu="2")
    assert chosen(pod(priority=CRITICAL, cpu="3"), *others) == ["c", "a"]


def test_burstable_pods_go_before_guaranteed_ones() -> None:
    sure = pod("sure", guaranteed=True, cpu="2", memory="1Gi")
    assert chosen(pod(priority=CRITICAL, cpu="2"), sure, pod("loose", cpu="2")) == ["loose"]
    assert chosen(pod(priority=CRITICAL, cpu="4"), sure, pod("loose", cpu="2")) == ["loose", "sure"]


def test_a_full_node_gives_a_best_effort_pods_place() -> None:
    others = [pod(name) for name in "abc"]
    assert chosen(pod(priority=CRITICAL), *others, pod("d", cpu="1")) == ["a"]


def test_critical_pods_stay_but_for_higher_priorities() -> None:
    other = pod("other", priority=CRITICAL, cpu="4")
    assert chosen(pod(priority=CRITICAL, cpu="1"), other) is None
    assert chosen(pod(priority=CRITICAL + 1, cpu="1"), other) == ["other"]


def test_what_nobody_can_give() -> None:
    wanted, other = pod(priority=CRITICAL, cpu="5"), pod("other", cpu="1")
    assert chosen(wanted, other) is None
    refusal = preemption.refusal(wanted, NODE, [Neighbour(other, requests.of_pod(other))])
    assert refusal.reason == "UnexpectedAdmissionError"
    assert refusal.message.endswith("no set of running pods found to reclaim resources: [(res: cpu, q: 2000), ]")
