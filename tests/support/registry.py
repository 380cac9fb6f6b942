"""Real registries for tests, on free ports of loopback: Debian's docker-registry, with or without TLS and a login, and
go-containerregistry's, which has the referrers API."""

import contextlib
import fcntl
import hashlib
import json
import os
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


@contextlib.contextmanager
def second_registry(certificates: Path | None = None) -> Iterator[str]:
    """Run the registry of tests/second-registry until the context ends; its host:port.

    Args:
        certificates: A directory for them, when it is to speak TLS; `ca.pem` in it signs its certificate.
    """
    flags = list[str]()
    if certificates is not None:
        _write_certificates(certificates)
        flags = [f"-certificate={certificates / 'server.pem'}", f"-key={certificates / 'server.key'}"]
    command = [str(_built()), *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def _built() -> Path:
    """The program, built when its sources have no binary yet; that lies outside the clone, as devcluster's does."""
    sources = Path(__file__).parents[1] / "second-registry"
    texts = [(sources / name).read_bytes() for name in ("main.go", "go.mod", "go.sum")]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "wasmlet"
    cache.mkdir(parents=True, exist_ok=True)
    program = cache / f"second-registry-{hashlib.sha256(b''.join(texts)).hexdigest()[:16]}"
    with (cache / "second-registry.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the second builder finds the first one's binary
        if not program.exists():
            go = shutil.which("go")
            if go is None:
                pytest.fail("Go is missing; it builds tests/second-registry")
            environment = {"GOCACHE": str(cache / "go-build"), **os.environ, "CGO_ENABLED": "0"}
            command = [go, "build", "-trimpath", "-mod=readonly", "-o", f"{program}.new", "."]
            subprocess.run(command, cwd=sources, env=environment, check=True)
            Path(f"{program}.new").rename(program)
    return program


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
