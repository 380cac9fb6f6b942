"""What a pod asks of its node."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from wasmlet.kube.types import Container, Pod, PodSpec, ResourceRequirements
from wasmlet.pods.requests import amounts_of, of_pod, total


def asking(policy: str | None = None, *, limits: dict[str, str | int] | None = None, **requests: str) -> Container:
    resources = ResourceRequirements(requests=dict(requests), limits=dict(limits or {}))
    return Container(name="c", image="i", restart_policy=policy, resources=resources)


def pod(*apps: Container, inits: tuple[Container, ...] = (), **spec: object) -> Pod:
    return Pod(spec=PodSpec(containers=list(apps), init_containers=list(inits), **spec))  # type: ignore[arg-type]


def test_app_containers_are_added() -> None:
    assert of_pod(pod(asking(cpu="250m", memory="64Mi"), asking(cpu="1"))) == {"cpu": 1250, "memory": 64 << 20}


def test_a_pod_that_asks_for_nothing() -> None:
    assert of_pod(pod(asking())) == {}


def test_the_largest_init_container_counts_when_it_is_more_than_the_apps() -> None:
    inits = (asking(cpu="3"), asking(cpu="2", memory="1Mi"))
    assert of_pod(pod(asking(cpu="1", memory="2Mi"), inits=inits)) == {"cpu": 3000, "memory": 2 << 20}


def test_the_example_of_the_sidecar_proposal() -> None:
    # KEP-753: an init container runs beside the sidecars before it only.
    inits = (asking(cpu="2"), asking("Always", cpu="1"), asking(cpu="2"), asking("Always", cpu="3"), asking(cpu="1"))
    assert of_pod(pod(asking(cpu="1"), inits=inits)) == {"cpu": 5000}
    assert of_pod(pod(asking(cpu="500m"), inits=(*inits, asking(cpu="6")))) == {"cpu": 10000}


def test_overhead_is_added_and_the_pods_own_requests_replace_its_containers() -> None:
    own = ResourceRequirements(requests={"cpu": "3", "ephemeral-storage": "9Gi"})
    subject = pod(asking(cpu="1", memory="1Ki"), resources=own, overhead={"cpu": "10m", "memory": "1"})
    assert of_pod(subject) == {"cpu": 3010, "memory": 1025}


def test_a_limit_stands_for_a_missing_request() -> None:
    assert of_pod(pod(asking(limits={"cpu": "1", "memory": "5"}, cpu="100m"))) == {"cpu": 100, "memory": 5}


def test_amounts_are_rounded_up_once() -> None:
    assert of_pod(pod(*[asking(cpu="100u", memory="0.4")] * 3)) == {"cpu": 1, "memory": 2}
    assert amounts_of({"cpu": "3920m", "memory": "2Ki", "pods": "110"}) == {"cpu": 3920, "memory": 2048, "pods": 110}


millis = st.integers(0, 10_000)
containers = st.builds(
    lambda amount, policy: asking(policy, cpu=f"{amount}m"), millis, st.sampled_from([None, "Always"])
)


@given(st.lists(millis, min_size=1, max_size=4), st.lists(containers, max_size=6), millis)
def test_the_worst_moment_of_a_pods_life(apps: list[int], inits: list[Container], overhead: int) -> None:
    """Walk through the start as it happens, and take the largest sum."""
    moments, sidecars = [], 0
    for each in inits:
        wanted = int(Fraction(str(each.resources.requests["cpu"]).removesuffix("m")))
        moments.append(sidecars + wanted)
        sidecars += wanted if each.restart_policy == "Always" else 0
    moments.append(sidecars + sum(apps))
    found = of_pod(
        pod(*(asking(cpu=f"{each}m") for each in apps), inits=tuple(inits), overhead={"cpu": f"{overhead}m"})
    )
    assert found == {"cpu": max(moments) + overhead}


@given(st.lists(st.dictionaries(st.sampled_from(["cpu", "memory", "x/y"]), st.integers(0, 2**60)), max_size=8))
def test_totals(each: list[dict[str, int]]) -> None:
    found = total(each)
    assert all(found[name] == sum(one.get(name, 0) for one in each) for name in found)
    assert set(found) == {name for one in each for name in one}
