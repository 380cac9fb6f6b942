"""Who a caller is: certificates first, then tokens, else nobody."""

import pytest

from tests.unit.server.kubelet_api import Cluster, Time
from wasmlet.server.authentication import AUTHENTICATED, Authenticator, Certificate, bearer_token
from wasmlet.server.reviews import Identity

NOT_AFTER = "Nov 23 10:00:00 2026 GMT"
MOMENT = 1795428000.0


def certificate(*subject: tuple[str, str]) -> Certificate:
    return Certificate({"subject": tuple((name,) for name in subject), "notAfter": NOT_AFTER}, "abc")


class Desk:
    """An authenticator and what it stands on."""

    def __init__(self, *, audiences: tuple[str, ...] = ()) -> None:
        self.cluster = Cluster()
        self.cluster.add_token("good", "jane")
        self.time = Time()
        self.wall = MOMENT - 10
        self.authenticator = Authenticator(self.cluster, audiences=audiences, now=self.time, clock=lambda: self.wall)

    async def name(self, authorization: str = "", shown: Certificate | None = None) -> str:
        identity = await self.authenticator.identify(shown, authorization)
        return "" if identity is None else identity.name


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc ", "abc"),
        ("BEARER abc def", "abc"),
        ("Basic abc", ""),
        ("Bearer", ""),
        ("Bearerabc", ""),
        ("", ""),
    ],
)
def test_bearer_tokens(header: str, token: str) -> None:
    assert bearer_token(header) == token


async def test_a_certificate_says_name_and_groups() -> None:
    shown = certificate(("organizationName", "a"), ("organizationName", "b"), ("commonName", "jane"))
    identity = await Desk().authenticator.identify(shown, "")
    extra = (("authentication.kubernetes.io/credential-id", ("X509SHA256=abc",)),)
    assert identity == Identity("jane", groups=("a", "b", AUTHENTICATED), extra=extra)


async def test_a_certificate_goes_before_a_token() -> None:
    desk = Desk()
    assert await desk.name("Bearer good", certificate(("commonName", "john"))) == "john"
    assert desk.cluster.asked == []


@pytest.mark.parametrize("subject", [(), (("commonName", ""),), (("organizationName", "system:masters"),)])
async def test_a_certificate_without_a_name_is_none(subject: tuple[tuple[str, str], ...]) -> None:
    desk = Desk()
    assert await desk.name("", certificate(*subject)) == ""
    assert await desk.name("Bearer good", certificate(*subject)) == "jane"


async def test_a_certificate_that_expires_during_a_connection() -> None:
    desk = Desk()
    shown = certificate(("commonName", "john"))
    assert await desk.name("", shown) == "john"
    desk.wall = MOMENT
    assert await desk.name("", shown) == ""


async def test_a_token_is_asked_for_once_in_two_minutes() -> None:
    desk = Desk()
    for _ in range(5):
        assert await desk.name("Bearer good") == "jane"
    assert desk.cluster.asked == [("token", "good")]
    del desk.cluster.tokens["good"]  # it is taken away
    desk.time.now += 119
    assert await desk.name("Bearer good") == "jane"
    desk.time.now += 1
    assert await desk.name("Bearer good") == ""


async def test_an_unknown_token_may_soon_be_known() -> None:
    desk = Desk()
    assert await desk.name("Bearer new") == ""
    desk.cluster.add_token("new", "joan")
    assert await desk.name("Bearer new") == ""
    desk.time.now += 10
    assert await desk.name("Bearer new") == "joan"


async def test_a_token_for_others() -> None:
    desk = Desk()
    desk.cluster.add_token("vault", "jane", audiences=("vault",))
    assert await desk.name("Bearer vault") == ""
    assert await Desk(audiences=("vault",)).name("Bearer good") == ""


async def test_an_api_server_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk()
    desk.cluster.is_away = True
    assert await desk.name("Bearer good") == ""
    assert "good" not in caplog.text
    desk.cluster.is_away = False
    assert await desk.name("Bearer good") == "jane"


async def test_no_token_is_kept() -> None:
    desk = Desk()
    await desk.name("Bearer good")
    for kept in desk.authenticator._tokens._kept.values():
        assert all(len(key) == 32 and b"good" not in key for key in kept._values)


async def test_a_token_that_is_no_text() -> None:
    assert await Desk().name("Bearer \udcff") == ""


async def test_everybody_is_among_the_authenticated_once() -> None:
    desk = Desk()
    desk.cluster.tokens["good"] = (Identity("jane", groups=(AUTHENTICATED, "a")), ("api",))
    identity = await desk.authenticator.identify(None, "Bearer good")
    assert identity is not None
    assert identity.groups == (AUTHENTICATED, "a")
    await desk.authenticator.close()
