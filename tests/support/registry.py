"""A real registry for tests: Debian's docker-registry on a free loopback port, with or without TLS and a login."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
import trustme

PROGRAM: Final = "docker-registry"
USERNAME: Final = "alice"
PASSWORD: Final = "s3cret-word"
# `htpasswd -nbB -C 5 alice s3cret-word`: the registry takes bcrypt only.
HTPASSWD: Final = "alice:$2y$05$VNf3jwvleAp7Y0TU.UyFJ.b6FdaLTpQVJ06gGOw/.tCCp9BxX2K7K\n"
START_SECONDS: Final = 20.0
_LISTENING: Final = re.compile(rb"listening on 127\.0\.0\.1:(\d+)")


@dataclass(frozen=True)
class RunningRegistry:
    """Attributes: `address` is host:port; `ca_file` signs its certificate (None: plain HTTP)."""

    address: str
    ca_file: Path | None
    blobs: Path
    log: Path

    def blob(self, digest: str) -> Path:
        """Where the registry keeps a blob's content."""
        hexadecimal = digest.removeprefix("sha256:")
        return self.blobs / "sha256" / hexadecimal[:2] / hexadecimal / "data"


@contextlib.contextmanager
def docker_registry(
    directory: Path, *, tls: bool = False, login: bool = False, access_log: bool = False
) -> Iterator[RunningRegistry]:
    """Run a registry whose files lie in `directory` (empty) until the context ends."""
    program = shutil.which(PROGRAM)
    if program is None:
        pytest.fail(f"{PROGRAM} is missing; install it: apt-get install -y docker-registry")
    ca_file = _write_certificates(directory) if tls else None
    (directory / "htpasswd").write_text(HTPASSWD)
    # JSON is YAML.
    configuration = _configuration(directory, tls=tls, login=login, access_log=access_log)
    (directory / "config.yml").write_text(json.dumps(configuration))
    log = directory / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen([program, "serve", str(directory / "config.yml")], stdout=stream, stderr=stream)
    try:
        port = _wait_for_port(process, log)
        data = directory / "data" / "docker" / "registry" / "v2" / "blobs"
        yield RunningRegistry(f"127.0.0.1:{port}", ca_file, data, log)
    finally:
        process.kill()
        process.wait()


def _configuration(directory: Path, *, tls: bool, login: bool, access_log: bool) -> dict[str, object]:
    http: dict[str, object] = {"addr": "127.0.0.1:0", "secret": "of one test run"}
    if tls:
        http["tls"] = {"certificate": str(directory / "server.pem"), "key": str(directory / "server.key")}
    configuration: dict[str, object] = {
        "version": 0.1,
        "log": {"level": "info", "accesslog": {"disabled": not access_log}},
        "storage": {"filesystem": {"rootdirectory": str(directory / "data")}, "delete": {"enabled": True}},
        "http": http,
    }
    if login:
        configuration["auth"] = {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}}
    return configuration


def _write_certificates(directory: Path) -> Path:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(directory / "server.key")
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(directory / "server.pem", append=number > 0)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    return directory / "ca.pem"


def _wait_for_port(process: subprocess.Popen[bytes], log: Path) -> int:
    give_up = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < give_up:
        if found := _LISTENING.search(log.read_bytes()):
            return int(found[1])
        time.sleep(0.01)
    process.kill()
    return pytest.fail(f"{PROGRAM} did not start:\n{log.read_text(errors='replace')}")
