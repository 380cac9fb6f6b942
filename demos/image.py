"""Builds an image from a Dockerfile with the standard library alone: `python demos/image.py FOLDER NAME > ARCHIVE`.

It knows what an image of a WebAssembly program needs: FROM scratch, COPY of files and folders, ENV, WORKDIR, EXPOSE,
ENTRYPOINT and CMD in their JSON form. The archive is an OCI image layout in a tar, one layer for each COPY, as docker
and buildah write it; `wasmlet load`, podman and skopeo read it. The same folder gives the same bytes.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shlex
import sys
import tarfile
from pathlib import Path
from typing import Any, Final

MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
CONFIG: Final = "application/vnd.oci.image.config.v1+json"
LAYER: Final = "application/vnd.oci.image.layer.v1.tar+gzip"
LISTS: Final = {"ENTRYPOINT": "Entrypoint", "CMD": "Cmd"}


class Image:
    """An image that grows by one instruction after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layers: list[bytes] = []
        self.execution: dict[str, Any] = {}

    def obey(self, instruction: str, rest: str) -> None:
        """Do what a line of a Dockerfile says; ValueError for one that is not known here."""
        if instruction == "COPY":
            source, destination = shlex.split(rest)
            self.layers.append(layer(self.folder / source, destination))
        elif instruction == "ENV":
            self.execution.setdefault("Env", []).extend(shlex.split(rest))
        elif instruction == "WORKDIR":
            self.execution["WorkingDir"] = rest
        elif instruction == "EXPOSE":
            self.execution.setdefault("ExposedPorts", {})[rest] = {}
        elif instruction in LISTS:
            self.execution[LISTS[instruction]] = json.loads(rest)
        elif (instruction, rest) != ("FROM", "scratch"):
            raise ValueError(f"not known here: {instruction} {rest}")

    def archive(self, name: str) -> bytes:
        """The image as an OCI archive."""
        compressed = [gzip.compress(each, mtime=0) for each in self.layers]
        config = encoded(
            {
                "os": "wasi",
                "architecture": "wasm",
                "config": self.execution,
                "rootfs": {"type": "layers", "diff_ids": [digest(each) for each in self.layers]},
            }
        )
        layers = [described(LAYER, each) for each in compressed]
        manifest = encoded(
            {"schemaVersion": 2, "mediaType": MANIFEST, "config": described(CONFIG, config), "layers": layers}
        )
        entry = described(MANIFEST, manifest) | {"annotations": {"org.opencontainers.image.ref.name": name}}
        files = {"oci-layout": encoded({"imageLayoutVersion": "1.0.0"})}
        files |= {"index.json": encoded({"schemaVersion": 2, "manifests": [entry]})}
        files |= {f"blobs/sha256/{digest(each)[7:]}": each for each in (config, manifest, *compressed)}
        return packed({path: (tarfile.TarInfo(path), content) for path, content in files.items()})


def layer(source: Path, destination: str) -> bytes:
    """The layer of one COPY: a file under the name `destination`, or a folder's content below it."""
    files = [source] if source.is_file() else sorted(each for each in source.rglob("*") if not each.is_dir())
    members = {}
    for file in files:
        path = destination.lstrip("/")
        if file != source:
            path = f"{path.rstrip('/')}/{file.relative_to(source)}"
        elif destination.endswith("/"):
            path += file.name
        member = tarfile.TarInfo(path)
        if file.is_symlink():
            member.type, member.linkname = tarfile.SYMTYPE, str(file.readlink())
        members[path] = (member, b"" if file.is_symlink() else file.read_bytes())
    return packed(members)


def packed(members: dict[str, tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A tar archive."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member, content in members.values():
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def described(media_type: str, content: bytes) -> dict[str, Any]:
    """A descriptor."""
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}


def digest(content: bytes) -> str:
    """What an image calls a content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def encoded(document: dict[str, Any]) -> bytes:
    """JSON."""
    return json.dumps(document).encode()


def build(folder: Path, name: str) -> bytes:
    """The archive of the image that `folder`'s Dockerfile describes."""
    image = Image(folder)
    for line in (folder / "Dockerfile").read_text().splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction and not instruction.startswith("#"):
            image.obey(instruction, rest.strip())
    return image.archive(name)


if __name__ == "__main__":
    sys.stdout.buffer.write(build(Path(sys.argv[1]), sys.argv[2]))
