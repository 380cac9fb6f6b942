"""hosts.toml: mirrors, certificates, headers; what cannot be is refused with the file's name."""

from pathlib import Path

import pytest

from wasmlet.base.errors import UserError
from wasmlet.images import hosts
from wasmlet.images.hosts import Endpoint, Hosts
from wasmlet.images.tls import Tls

WHOLE = """
server = "https://r.example"
ca = "ca.pem"
client = [["me.pem", "me.key"]]
[host."https://mirror.example:5000/some/path"]
  capabilities = ["pull"]
  skip_verify = true
  ca = ["/a.pem", "b.pem"]
  [host."https://mirror.example:5000/some/path".header]
    authorization = "Basic s3cret"
    x-two = ["a", "b"]
[host."http://plain.example/api"]
  override_path = true
  client = "both.pem"
"""


def write(directory: Path, name: str, content: str) -> Path:
    (directory / name).mkdir(parents=True)
    (directory / name / "hosts.toml").write_text(content)
    return directory / name


def test_the_whole_format_is_read(tmp_path: Path) -> None:
    place = write(tmp_path, "r.example:5000", WHOLE)
    found = hosts.load(tmp_path, "r.example:5000")
    assert found == Hosts(
        (
            Endpoint(
                "https://mirror.example:5000/some/path/v2",
                Tls((Path("/a.pem"), place / "b.pem"), verify=False),
                {"authorization": "Basic s3cret", "x-two": "a, b"},
                frozenset({"pull"}),
                mirrors="r.example:5000",
            ),
            Endpoint(
                "http://plain.example/api",
                Tls(client=(place / "both.pem", place / "both.pem")),
                mirrors="r.example:5000",
            ),
        ),
        Endpoint("https://r.example/v2", Tls((place / "ca.pem",), (place / "me.pem", place / "me.key"))),
    )
    assert "s3cret" not in repr(found)


def test_the_default_is_for_registries_without_a_file(tmp_path: Path) -> None:
    write(tmp_path, "_default", '[host."https://mirror"]')
    write(tmp_path, "own", 'ca = "x.pem"')
    (found,) = hosts.load(tmp_path, "r.example").mirrors
    assert (found.base, found.mirrors) == ("https://mirror/v2", "r.example")
    assert hosts.load(tmp_path, "own") == Hosts(server=Endpoint("", Tls((tmp_path / "own" / "x.pem",))))
    assert hosts.load(tmp_path / "none", "r.example") == Hosts()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("server = 3", "server is not a str"),
        ("serwer = 'x'", "unknown key 'serwer'"),
        ("[host.'https://x']\nmirror = true", "unknown key 'mirror'"),
        ("host = 'x'", "host is not a dict"),
        ("[host]\n'https://x' = 1", "is no table"),
        ("[host.'ftp://x']", "is no URL"),
        ("[host.'https://user:s3cret@x']", "is no URL"),
        ("[host.'https://x']\ncapabilities = ['run']", "capabilities of 'https://x' are among"),
        ("ca = 3", "ca is a text"),
        ("client = [['a', 'b', 'c']]", "client is one file"),
        ("client = [['a', 'b'], ['c', 'd']]", "client is a text"),
        ("skip_verify = 'yes'", "skip_verify is not a bool"),
        ('[header]\nx = "a\\nb"', "printable"),
        ("= broken", "Invalid"),
    ],
)
def test_what_cannot_be_is_refused_with_the_files_name(tmp_path: Path, content: str, why: str) -> None:
    write(tmp_path, "r.example", content)
    with pytest.raises(UserError, match=rf"hosts\.toml: .*{why}"):
        hosts.load(tmp_path, "r.example")
