"""Who may use an image that is here: records of pulls, by the kubelet's policies, and a registry with a login."""

import dataclasses
from collections.abc import AsyncIterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.registry import PASSWORD, USERNAME, RunningRegistry
from tests.unit.images.fake_registry import FakeRegistry
from tests.unit.images.test_store import add_image
from wasmlet.base.errors import UserError, WasmletError
from wasmlet.images.access import Access, Grant, Verification, VerificationPolicy
from wasmlet.images.credentials import Credential, Origin
from wasmlet.images.image import PullPolicy
from wasmlet.images.library import Library
from wasmlet.images.reference import parse_remote
from wasmlet.images.settings import Settings
from wasmlet.images.sources import Account
from wasmlet.images.store import Store


def secret(name: str = "regcred", *, namespace: str = "a", uid: str = "1", password: str = PASSWORD) -> Credential:
    return Credential("*", USERNAME, password, origin=Origin("Secret", namespace, name, uid))


OTHER = secret(namespace="b", uid="2", password="another")


def test_a_pull_without_a_login_or_with_the_node_s_is_everybody_s() -> None:
    assert Access().proved(None) == Access().proved(Credential("*", "node", "x")) == Access(everyone=True)
    assert Access(everyone=True).proved(secret()) == Access(everyone=True)
    assert Access(everyone=True).admitting([]) is not None


def test_a_secret_admits_itself_its_copies_and_its_next_version() -> None:
    access = Access().proved(secret())
    assert access.admitting([]) is None
    assert access.admitting([OTHER, Credential("*", USERNAME, PASSWORD)]) is None
    assert access.admitting([OTHER, secret()]) == access
    copied = access.admitting([secret("copy", namespace="b", uid="3")])
    assert copied is not None
    assert len(copied.grants) == 2
    rotated = access.admitting([secret(password="new")])
    assert rotated is not None
    assert rotated.admitting([secret("elsewhere", password="new")]) is not None
    again = secret(uid="made again", password="new")
    assert access.admitting([again]) is None


def test_a_service_account_admits_itself_alone() -> None:
    login = Credential("*", "u", "p", origin=Origin("ServiceAccount", "a", "puller", "1"))
    access = Access().proved(login)
    assert access.knows_accounts
    assert access.admits_account("a", "puller", "1")
    assert not access.admits_account("a", "puller", "2")
    assert access.admitting([login]) is None  # by its account, not by what a cloud gave it


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 200)), max_size=300))
def test_records_are_bounded_and_keep_the_latest(proofs: list[tuple[str, int]]) -> None:
    access = Access()
    for namespace, number in proofs:
        access = access.proved(secret(str(number), namespace=namespace, password=str(number)))
        assert access.grants[0].name == str(number)
    assert len(set(access.grants)) == len(access.grants) <= 100


PULLED, PRELOADED = Access(), None


@pytest.mark.parametrize(
    ("policy", "image", "access", "needed"),
    [
        ("NeverVerify", "a.example/x", PULLED, False),
        ("NeverVerifyPreloadedImages", "a.example/x", PULLED, True),
        ("NeverVerifyPreloadedImages", "a.example/x", PRELOADED, False),
        ("NeverVerifyAllowlistedImages", "a.example/x:v1", PRELOADED, False),
        ("NeverVerifyAllowlistedImages", "a.example/y", PRELOADED, True),
        ("NeverVerifyAllowlistedImages", "b.example/team/y", PULLED, False),
        ("NeverVerifyAllowlistedImages", "b.example/teams/y", PRELOADED, True),
        ("AlwaysVerify", "a.example/x", PRELOADED, True),
    ],
)
def test_policies(policy: VerificationPolicy, image: str, access: Access | None, needed: bool) -> None:
    verification = Verification(policy, ("a.example/x", "b.example/team/*"))
    assert verification.is_needed(parse_remote(image), access) is needed


@pytest.mark.parametrize("pattern", ["", "/*", "a.example/x:v1", "a.example/*/x", " a", "a.example/x*", "A/B"])
def test_wrong_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="allowlist"):
        Verification("NeverVerifyAllowlistedImages", (pattern,))


class Node:
    """A library on a store of its own, and a private image."""

    def __init__(self, settings: Settings, image: str) -> None:
        self.settings, self.image = settings, image
        self.library = Library(settings)

    async def ensures(
        self, *logins: Credential, policy: PullPolicy = "IfNotPresent", account: Account | None = None
    ) -> bool:
        """Whether it was downloaded."""
        _, pulled = await self.library.ensure(
            self.image, pull_policy=policy, credentials=self.here(*logins), account=account
        )
        return pulled

    def here(self, *logins: Credential) -> list[Credential]:
        """The logins for the image's registry."""
        return [dataclasses.replace(each, pattern=self.image.partition("/")[0]) for each in logins]

    async def restart(self, **changes: object) -> None:
        await self.library.close()
        self.library = Library(dataclasses.replace(self.settings, **changes))  # type: ignore[arg-type]


@pytest.fixture
async def node(guarded_registry: RunningRegistry, settings: Settings, module_file: object) -> AsyncIterator[Node]:
    assert guarded_registry.ca_file is not None
    node = Node(
        dataclasses.replace(settings, ca_files=(guarded_registry.ca_file,)),
        f"{guarded_registry.address}/private/hello:v1",
    )
    await node.library.push(module_file, node.image, credentials=node.here(secret()))  # type: ignore[arg-type]
    yield node
    await node.library.close()


async def test_a_private_image_is_used_by_those_who_may_pull_it_only(node: Node) -> None:
    assert await node.ensures(secret())
    for wrong in ((), (OTHER,)):
        with pytest.raises(UserError, match=r"wants a login|refused the credentials"):
            await node.ensures(*wrong)
        with pytest.raises(UserError, match="is not present with pull policy of Never") as refused:
            await node.ensures(*wrong, policy="Never")
        assert refused.value.reason == "ErrImageNeverPull"
    await node.restart()
    assert not await node.ensures(secret(), policy="Never")
    assert not await node.ensures(secret("copy", namespace="b", uid="9"), policy="Never")
    rotated = secret("copy", namespace="b", uid="9", password="rotated")
    assert not await node.ensures(rotated, policy="Never")


async def test_what_the_node_itself_may_pull_is_everybody_s(node: Node) -> None:
    assert await node.ensures(secret())
    assert not await node.ensures(Credential("*", USERNAME, PASSWORD))  # asks the registry
    assert not await node.ensures(policy="Never")


async def test_policies_decide_whether_records_count(node: Node) -> None:
    await node.ensures(secret())
    await node.restart(verification=Verification("NeverVerify"))
    assert not await node.ensures(policy="Never")
    await node.restart(verification=Verification("AlwaysVerify"))
    with pytest.raises(UserError):
        await node.ensures()
    assert not await node.ensures(secret())


async def test_preloaded_images_are_everybody_s_unless_always_verified(node: Node) -> None:
    await node.ensures(secret())
    store = Store(node.settings.directory)
    (entry,) = store.entries()
    store.remove(entry.name, in_use={entry.manifest.digest, *await blobs(store, entry.name)})
    store.put(dataclasses.replace(entry, access=None))
    assert not await node.ensures(policy="Never")
    await node.restart(verification=Verification("AlwaysVerify"))
    with pytest.raises(UserError, match="wants a login"):
        await node.ensures()
    assert not await node.ensures(secret())
    assert store.entries()[0].access == Access().proved(secret())


async def blobs(store: Store, name: str) -> list[str]:
    content = store.find(name)
    assert content is not None
    return [each.digest for each in (content.manifest.config, *content.manifest.layers)]


def test_a_record_leaves_what_others_wrote_of_the_image(settings: Settings) -> None:
    store = Store(settings.directory)
    entry = add_image(store)
    index = settings.directory / "index.json"
    index.write_text(index.read_text().replace('"annotations":{', '"annotations":{"of.another.tool":"yes",'))
    store.grant(entry, Access(everyone=True))
    assert '"of.another.tool":"yes"' in index.read_text()
    assert store.entries()[0].access == Access(everyone=True)
    store.grant(dataclasses.replace(entry, name="example.test/gone:v1"), Access())
    assert len(store.entries()) == 1


async def test_a_record_that_cannot_be_read_admits_nobody(node: Node) -> None:
    await node.ensures(secret())
    index = node.settings.directory / "index.json"
    index.write_text(index.read_text().replace("grants", "grunts").replace("Secret", "Sacred"))
    with pytest.raises(UserError):
        await node.ensures(policy="Never")
    assert not await node.ensures(secret())


class Puller:
    """A service account."""

    namespace, name = "a", "puller"

    def __init__(self, uid: str) -> None:
        self.uid = uid

    async def look(self) -> tuple[str, Mapping[str, str]]:
        if not self.uid:
            raise WasmletError("the cluster does not say")
        return self.uid, {}

    async def token(self, audience: str) -> str:
        raise AssertionError(audience)


async def test_a_service_account_that_pulled_may_use_it(fake: FakeRegistry, settings: Settings) -> None:
    node = Node(settings, fake.add_image("v1"))
    await node.ensures()
    store = Store(settings.directory)
    (entry,) = store.entries()
    store.remove(entry.name, in_use={entry.manifest.digest, *await blobs(store, entry.name)})
    grant = Grant("ServiceAccount", "a", "puller", "1")
    store.put(dataclasses.replace(entry, access=Access(grants=(grant,))))
    assert not await node.ensures(policy="Never", account=Puller("1"))
    for wrong in (None, Puller("2"), Puller("")):
        with pytest.raises(WasmletError):
            await node.ensures(policy="Never", account=wrong)
    await node.library.close()
