"""Proxies by environment variables."""

import pytest

from wasmlet.base.errors import UserError
from wasmlet.images.proxies import Proxies, Proxy, from_environment

PROXY = Proxy("http://proxy.example:3128")


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({"HTTPS_PROXY": "http://proxy.example:3128"}, "https://r.example/v2/", PROXY),
        ({"https_proxy": "proxy.example:3128"}, "https://r.example/v2/", PROXY),
        ({"https_proxy": "http://proxy.example:3128", "HTTPS_PROXY": "http://other"}, "https://r.example/", PROXY),
        ({"HTTPS_PROXY": "http://proxy.example:3128"}, "http://r.example/v2/", None),
        ({"HTTP_PROXY": "http://proxy.example:3128"}, "http://r.example/v2/", PROXY),
        ({"HTTPS_PROXY": "http://u:p%40s@proxy.example:3128/x"}, "https://r.example/", Proxy(PROXY.url, "u", "p@s")),
        ({"HTTPS_PROXY": "http://[fd00::1]:8080"}, "https://r.example/", Proxy("http://[fd00::1]:8080")),
        ({}, "https://r.example/", None),
    ],
)
def test_the_scheme_chooses_the_proxy(environment: dict[str, str], url: str, proxy: Proxy | None) -> None:
    assert from_environment(environment).of(url) == proxy


@pytest.mark.parametrize(
    ("listed", "host", "direct"),
    [
        ("*", "r.example", True),
        ("r.example", "r.example", True),
        ("r.example", "a.r.example", True),
        ("r.example", "other.example", False),
        ("r.example", "xr.example", False),
        (".r.example", "a.r.example", True),
        (".r.example", "r.example", False),
        ("*.r.example", "a.r.example", True),
        ("R.EXAMPLE , x", "r.example", True),
        ("r.example:443", "r.example", True),
        ("r.example:443", "r.example:5000", False),
        ("r.example:5000", "r.example:5000", True),
        ("10.0.0.0/8", "10.1.2.3:5000", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "r.example", False),
        ("10.0.0.0/99", "10.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("0.1.2.3", "10.1.2.3", False),
        ("fd00::/8", "[fd00::1]:5000", True),
        ("[fd00::1]:5000", "[fd00::1]:5000", True),
        ("fd00::1", "[fd00::1]", True),
        ("", "localhost:5000", True),
        ("", "127.9.9.9", True),
        ("", "[::1]:5000", True),
    ],
)
def test_no_proxy_is_go_s(listed: str, host: str, direct: bool) -> None:
    proxies = from_environment({"HTTPS_PROXY": PROXY.url, "NO_PROXY": listed})
    assert (proxies.of(f"https://{host}/v2/") is None) == direct


@pytest.mark.parametrize("value", ["socks5://proxy:1", "http://:99", "http://proxy:port", "http://u:s3cret@"])
def test_what_is_no_proxy_is_named_without_its_value(value: str) -> None:
    with pytest.raises(UserError, match="HTTPS_PROXY") as caught:
        from_environment({"HTTPS_PROXY": value})
    assert value not in str(caught.value)


def test_the_representation_shows_no_password() -> None:
    assert "s3cret" not in repr(from_environment({"HTTPS_PROXY": "http://u:s3cret@proxy"}))
    assert hash(Proxies()) == hash(Proxies())
