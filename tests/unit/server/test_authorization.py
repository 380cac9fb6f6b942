"""What a caller may do, and for how long that is believed."""

import pytest

from tests.unit.server.kubelet_api import NODE, Cluster, Time
from wasmlet.server.authorization import Attributes, Authorizer, ReviewFailedError, attributes, forbidden_text
from wasmlet.server.reviews import Identity

JANE = Identity("jane")


@pytest.mark.parametrize(
    ("path", "subresources"),
    [
        ("/stats/summary", ("stats",)),
        ("/metrics", ("metrics",)),
        ("/metrics/cadvisor", ("metrics",)),
        ("/logs/", ("log",)),
        ("/checkpoint/a/b/c", ("checkpoint",)),
        ("/statusz", ("statusz",)),
        ("/flagz", ("configz",)),
        ("/pods", ("pods", "proxy")),
        ("/pods/x", ("pods", "proxy")),
        ("/runningpods/", ("pods", "proxy")),
        ("/healthz", ("healthz", "proxy")),
        ("/healthz/ping", ("healthz", "proxy")),
        ("/configz", ("configz", "proxy")),
        ("/containerLogs/a/b/c", ("proxy",)),
        ("/exec/a/b/c", ("proxy",)),
        ("/podsx", ("proxy",)),
        ("/healthzx/", ("proxy",)),
        ("//pods", ("proxy",)),
        ("/", ("proxy",)),
        ("*", ("proxy",)),
        ("", ("proxy",)),
        ("/debug/pprof/", ("proxy",)),
    ],
)
def test_paths(path: str, subresources: tuple[str, ...]) -> None:
    assert attributes("GET", path) == Attributes("get", subresources)


@pytest.mark.parametrize(
    ("method", "verb"),
    [("GET", "get"), ("POST", "create"), ("PUT", "update"), ("PATCH", "patch"), ("DELETE", "delete"), ("HEAD", "")],
)
def test_methods(method: str, verb: str) -> None:
    assert attributes(method, "/").verb == verb


def test_the_text_for_who_may_not() -> None:
    wanted = attributes("GET", "/pods")
    text = "Forbidden (user=jane, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"
    assert forbidden_text(JANE, wanted) == text


async def test_one_of_the_subresources_is_enough() -> None:
    cluster = Cluster(rights={("jane", "get", "proxy")})
    authorizer = Authorizer(cluster, node_name=NODE)
    assert await authorizer.allows(JANE, attributes("GET", "/pods"))
    assert cluster.asked == [("access", "jane", "get", "pods"), ("access", "jane", "get", "proxy")]
    assert not await authorizer.allows(JANE, attributes("POST", "/exec/a/b/c"))
    await authorizer.close()


async def test_rights_that_are_taken_away_end_within_five_minutes() -> None:
    time, cluster = Time(), Cluster(rights={("jane", "get", "proxy")})
    authorizer = Authorizer(cluster, node_name=NODE, now=time)
    wanted = attributes("GET", "/containerLogs/a/b/c")
    assert await authorizer.allows(JANE, wanted)
    cluster.rights.clear()
    time.now += 299
    assert await authorizer.allows(JANE, wanted)
    time.now += 1
    assert not await authorizer.allows(JANE, wanted)


async def test_rights_that_are_given_begin_within_half_a_minute() -> None:
    time, cluster = Time(), Cluster()
    authorizer = Authorizer(cluster, node_name=NODE, now=time)
    wanted = attributes("GET", "/containerLogs/a/b/c")
    assert not await authorizer.allows(JANE, wanted)
    cluster.rights.add(("jane", "get", "proxy"))
    time.now += 29
    assert not await authorizer.allows(JANE, wanted)
    time.now += 1
    assert await authorizer.allows(JANE, wanted)


async def test_verdicts_are_for_one_identity() -> None:
    cluster = Cluster(rights={("jane", "get", "proxy")})
    authorizer = Authorizer(cluster, node_name=NODE)
    await authorizer.allows(JANE, attributes("GET", "/exec"))
    await authorizer.allows(Identity("jane", groups=("a",)), attributes("GET", "/exec"))
    assert len(cluster.asked) == 2


async def test_nobody_can_say() -> None:
    authorizer = Authorizer(Cluster(is_away=True), node_name=NODE)
    with pytest.raises(ReviewFailedError) as caught:
        await authorizer.allows(JANE, attributes("GET", "/pods"))
    text = "Authorization error (user=jane, verb=get, resource=nodes, subresource=pods)"
    assert caught.value.message == text
