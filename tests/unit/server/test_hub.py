"""News for watchers: bounded, newest wins."""

import asyncio

import pytest

from tests.support.pods import container, pod
from wasmlet.pods.accounts import News, Progress
from wasmlet.server.hub import KEPT_NEWS, Hub, Watch


def told(number: int) -> News:
    return News(moment=float(number), kind="Normal", reason="R", message=str(number))


async def seen(watch: Watch) -> Watch:
    """The watch, once there is something new."""
    async with asyncio.timeout(20):
        return await anext(aiter(watch))


async def has_nothing(watch: Watch) -> bool:
    try:
        async with asyncio.timeout(0.01):
            await anext(aiter(watch))
    except TimeoutError:
        return True
    return False


async def test_a_watch_begins_with_the_present() -> None:
    hub = Hub()
    with hub.watch("u") as watch:
        assert (await seen(watch)).changed
        assert await has_nothing(watch)


async def test_watchers_of_one_pod_see_it_and_no_other() -> None:
    hub, made = Hub(), pod(container())
    uid = made.metadata.uid
    with hub.watch(uid) as one, hub.watch(uid) as two, hub.watch("other") as other:
        for watch in (one, two, other):
            (await seen(watch)).changed = False
        hub.news(made, told(1))
        hub.progress(uid, Progress(container="c", stage="pull", subject="i", done_bytes=1))
        hub.progress(uid, Progress(container="c", stage="pull", subject="i", done_bytes=2))
        hub.changed(uid)
        for watch in (one, two):
            await seen(watch)
            assert [each.message for each in watch.news] == ["1"]
            assert watch.progress["c"].done_bytes == 2
            assert watch.changed
        assert await has_nothing(other)


async def test_a_slow_watcher_misses_old_news_and_nothing_grows() -> None:
    hub, made = Hub(), pod(container())
    uid = made.metadata.uid
    with hub.watch(uid) as watch:
        for number in range(KEPT_NEWS + 50):
            hub.news(made, told(number))
        assert len(watch.news) == KEPT_NEWS
        assert watch.news[-1].message == str(KEPT_NEWS + 49)
        assert len(hub.kept(uid)) == KEPT_NEWS


async def test_a_removed_pod_leaves_nothing() -> None:
    hub, made = Hub(), pod(container())
    uid = made.metadata.uid
    with hub.watch(uid) as watch:
        hub.news(made, told(1))
        (await seen(watch)).changed = False
        hub.removed(uid)
        assert (await seen(watch)).changed
    assert hub.kept(uid) == []
    assert hub._watches == {}


@pytest.mark.parametrize("uid", ["", "nobody"])
async def test_news_without_watchers_are_kept_and_no_error(uid: str) -> None:
    hub, made = Hub(), pod(container())
    made.metadata.uid = uid
    hub.changed(uid)
    hub.progress(uid, Progress(container="c", stage="pull", subject="i"))
    hub.news(made, told(1))
    assert len(hub.kept(uid)) == 1
