"""A kubelet API under test: real TLS on a port of its own, a cluster's answers in memory, and callers of every kind."""

import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import aiohttp
import trustme

from wasmlet.base.errors import RetryableError
from wasmlet.pods.dispatch import Dispatch
from wasmlet.server.authentication import Authenticator
from wasmlet.server.authorization import Authorizer
from wasmlet.server.health import Health
from wasmlet.server.hub import Hub
from wasmlet.server.kubelet import KubeletServer, Settings
from wasmlet.server.reviews import Identity
from wasmlet.server.summary import Summary
from wasmlet.server.tls import TlsFiles

NODE = "node"
ADMIN = "kube-apiserver"
ADMIN_TOKEN = "the-admins-token"
HOST = "127.0.0.1"


class Time:
    """A clock that stands until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Cluster:
    """The API server's reviews. `rights` are (user, verb, subresource); the admin has all of them."""

    tokens: dict[str, tuple[Identity, tuple[str, ...]]] = field(default_factory=dict)
    rights: set[tuple[str, str, str]] = field(default_factory=set)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    is_away: bool = False

    async def token(self, token: str, *, audiences: Sequence[str]) -> Identity | None:
        self.asked.append(("token", token))
        if self.is_away:
            raise RetryableError("the API server is away")
        identity, own = self.tokens.get(token, (None, ()))
        wanted = set(audiences) or {"api"}
        return identity if wanted & set(own) else None

    async def access(self, identity: Identity, *, verb: str, subresource: str, node: str) -> bool:
        assert node == NODE
        self.asked.append(("access", identity.name, verb, subresource))
        if self.is_away:
            raise RetryableError("the API server is away")
        return identity.name == ADMIN or (identity.name, verb, subresource) in self.rights

    def add_token(self, token: str, name: str, *, audiences: tuple[str, ...] = ("api",)) -> None:
        self.tokens[token] = (Identity(name), audiences)


class Papers:
    """Certificates: of the server, of clients, and of the authorities that sign them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.server_authority = trustme.CA()
        self.client_authority = trustme.CA()
        self._count = 0

    def serving(self, *, client_authority: trustme.CA | None = None) -> TlsFiles:
        """Files of a new serving certificate."""
        self._count += 1
        path = self.directory / f"serving-{self._count}.pem"
        self.server_authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(path)
        authorities = self.directory / f"clients-{self._count}.pem"
        (client_authority or self.client_authority).cert_pem.write_to_path(authorities)
        return TlsFiles(certificate=path, key=path, client_ca=authorities)

    def client(
        self,
        name: str | None = None,
        *,
        groups: str = "system:masters",
        authority: trustme.CA | None = None,
        not_after: datetime | None = None,
    ) -> ssl.SSLContext:
        """What a caller connects with; without a name it shows no certificate."""
        context = ssl.create_default_context()
        self.server_authority.configure_trust(context)
        if name is not None:
            issuer = authority or self.client_authority
            leaf = issuer.issue_cert(common_name=name, organization_name=groups, not_after=not_after)
            leaf.configure_cert(context)
        return context


@dataclass
class Api:
    """A server, and what it stands on."""

    server: KubeletServer
    papers: Papers
    cluster: Cluster
    time: Time
    sessions: list[aiohttp.ClientSession] = field(default_factory=list)
    open: list[aiohttp.ClientResponse] = field(default_factory=list)

    def caller(self, name: str | None = None, **papers: object) -> aiohttp.ClientSession:
        """A session of its own connections, with a client certificate when there is a name."""
        context = self.papers.client(name, **papers)  # type: ignore[arg-type]
        session = aiohttp.ClientSession(
            f"https://{HOST}:{self.server.port}", connector=aiohttp.TCPConnector(ssl=context, limit=0)
        )
        self.sessions.append(session)
        return session

    async def begin(self, path: str, caller: aiohttp.ClientSession | None = None) -> aiohttp.ClientResponse:
        """An answer to the admin that is read later; it is closed at the end."""
        headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
        response = await (caller or self.caller()).get(path, headers=headers)
        self.open.append(response)
        return response

    async def get(self, path: str, *, token: str = ADMIN_TOKEN, method: str = "GET") -> tuple[int, str]:
        """Status and text for a caller with a token ("" for none)."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.caller().request(method, path, headers=headers) as response:
            return response.status, await response.text()


@contextlib.asynccontextmanager
async def served(
    directory: Path,
    dispatch: Dispatch,
    hub: Hub,
    *,
    settings: Settings | None = None,
    health: Health | None = None,
    summary: Summary | None = None,
) -> AsyncIterator[Api]:
    """A running API, whose admin has a token and a certificate."""
    papers, cluster, time = Papers(directory), Cluster(), Time()
    cluster.add_token(ADMIN_TOKEN, ADMIN)
    authenticator = Authenticator(cluster, now=time)
    authorizer = Authorizer(cluster, node_name=NODE, now=time)
    server = KubeletServer(
        settings or Settings(), dispatch, hub, authenticator, authorizer, health=health, summary=summary
    )
    server.rotate(papers.serving())
    await server.start(HOST, 0)
    api = Api(server, papers, cluster, time)
    try:
        yield api
    finally:
        for response in api.open:
            response.close()
        for session in api.sessions:
            await session.close()
        await server.close()
