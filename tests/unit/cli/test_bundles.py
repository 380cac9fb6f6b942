"""What was named on the command line → bundles."""

import io
import re
from pathlib import Path

import pytest

from wasmlet.base.errors import NotFoundError, UserError
from wasmlet.cli.bundles import Options, from_target
from wasmlet.pods.admission import refuse

POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: r/app:1}]}\n"


@pytest.fixture(autouse=True)
def _in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("app.wasm", "Über App_2.wasm", "noext", "---.wasm"):
        (tmp_path / name).write_bytes(b"\0asm\x01\0\0\0")
    (tmp_path / "folder").mkdir()


@pytest.mark.parametrize(
    ("target", "image", "container"),
    [
        ("app.wasm", "file:{here}/app.wasm", "app"),
        ("./app.wasm", "file:{here}/app.wasm", "app"),
        ("{here}/app.wasm", "file:{here}/app.wasm", "app"),
        ("noext", "file:{here}/noext", "noext"),
        ("Über App_2.wasm", "file:{here}/Über App_2.wasm", "ber-app-2"),
        ("---.wasm", "file:{here}/---.wasm", "app"),
        ("ghcr.io/some/image:1.2", "ghcr.io/some/image:1.2", "image"),
        ("localhost:5000/image", "localhost:5000/image", "image"),
        ("r/image@sha256:" + "0" * 64, "r/image@sha256:" + "0" * 64, "image"),
        ("hello", "hello", "hello"),
    ],
)
def test_modules_and_images(target: str, image: str, container: str, tmp_path: Path) -> None:
    (bundle,), warnings = from_target(target.format(here=tmp_path), ["a", "b"], Options())
    (made,) = bundle.pod.spec.containers
    assert (made.image, made.name, made.args) == (image.format(here=tmp_path.absolute()), container, ["a", "b"])
    assert re.fullmatch(rf"{re.escape(container)}-[bcdfghjklmnpqrstvwxz2456789]{{5}}", bundle.pod.metadata.name)
    assert bundle.pod.metadata.namespace == "default"
    assert (made.stdin, made.stdin_once, bundle.pod.spec.restart_policy) == (True, True, "Never")
    assert warnings == []
    assert refuse(bundle.pod) is None


@pytest.mark.parametrize(
    ("target", "options", "error", "text"),
    [
        ("./none", {}, NotFoundError, "no such file: ./none"),
        ("/none", {}, NotFoundError, "no such file: /none"),
        ("none.wasm", {}, NotFoundError, "no such file: none.wasm"),
        ("none.yaml", {}, NotFoundError, "no such file: none.yaml"),
        ("folder", {}, UserError, "folder is a directory"),
        ("", {}, UserError, "is empty"),
        ("app.wasm", {"env": ("A",)}, UserError, "'A' is no NAME=VALUE"),
        ("app.wasm", {"env": ("=A",)}, UserError, "is no NAME=VALUE"),
        ("app.wasm", {"volumes": ("a",)}, UserError, "HOST:GUEST"),
        ("app.wasm", {"volumes": ("folder:relative",)}, UserError, "HOST:GUEST"),
        ("app.wasm", {"volumes": ("folder:/a:rx",)}, UserError, "HOST:GUEST"),
        ("app.wasm", {"volumes": ("none:/a",)}, NotFoundError, "no such file or directory: none"),
    ],
)
def test_what_cannot_be_used(target: str, options: dict[str, tuple[str, ...]], error: type, text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        from_target(target, [], Options(**options))  # type: ignore[arg-type]


def test_options_become_fields(tmp_path: Path) -> None:
    options = Options(
        name="mine", namespace="space", env=("A=1", "B=x=y", "C=$(A)", "D="),
        volumes=("folder:/data", "app.wasm:/a:ro"),
        working_dir="/data", memory="64Mi", restart="OnFailure", is_interactive=False,
    )  # fmt: skip
    (bundle,), _ = from_target("app.wasm", [], options)
    spec, (made,) = bundle.pod.spec, bundle.pod.spec.containers
    assert (bundle.pod.metadata.name, bundle.pod.metadata.namespace) == ("mine", "space")
    assert [(each.name, each.value) for each in made.env] == [("A", "1"), ("B", "x=y"), ("C", "$$(A)"), ("D", "")]
    assert [each.host_path.path for each in spec.volumes if each.host_path] == [
        str(tmp_path / "folder"), str(tmp_path / "app.wasm"),
    ]  # fmt: skip
    assert [(each.mount_path, each.read_only) for each in made.volume_mounts] == [("/data", False), ("/a", True)]
    assert (made.working_dir, made.resources.limits, spec.restart_policy, made.stdin) == (
        "/data", {"memory": "64Mi"}, "OnFailure", False,
    )  # fmt: skip


# --- manifests --------------------------------------------------------------------------------------------------------


def test_a_manifest_gets_what_the_api_server_would_fill_in(tmp_path: Path) -> None:
    (tmp_path / "folder" / "pod.yaml").write_text(
        POD.replace("name: p", "generateName: p-").replace("r/app:1", "file:../app.wasm")
        + "---\nkind: ConfigMap\napiVersion: v1\nmetadata: {name: m}\n---\nkind: Secret\napiVersion: v1\n"
        "metadata: {name: s}\n"
    )
    (bundle,), _ = from_target("folder/pod.yaml", [], Options())
    meta = bundle.pod.metadata
    assert re.fullmatch(r"p-[a-z0-9]{5}", meta.name)
    assert (meta.namespace, meta.generation, len(meta.uid)) == ("default", 1, 36)
    assert bundle.pod.spec.containers[0].image == f"file:{tmp_path}/folder/../app.wasm"
    assert [each.metadata.name for each in bundle.config_maps] == ["m"]
    assert [each.metadata.name for each in bundle.secrets] == ["s"]


def test_a_namespace_may_be_said_for_a_manifest(tmp_path: Path) -> None:
    (tmp_path / "pod.yml").write_text(POD)
    (bundle,), _ = from_target("pod.yml", [], Options(namespace="space"))
    assert bundle.pod.metadata.namespace == "space"


def test_a_namespace_said_for_a_manifest_holds_for_its_objects_too(tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text(POD + "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n")
    (bundle,), _ = from_target("pod.yaml", [], Options(namespace="space"))
    assert [each.metadata.namespace for each in bundle.config_maps] == ["space"]


def test_standard_input_counts_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = POD.replace("r/app:1", "file:app.wasm")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    (bundle,), _ = from_target("-", [], Options())
    assert bundle.pod.spec.containers[0].image == f"file:{tmp_path}/app.wasm"


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        (b"\xff\xfe", UserError, "is not text: byte 0"),
        (b"", UserError, "holds no Pod"),
        (b"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\n", UserError, "holds no Pod"),
        (POD.replace("name: p", "").encode(), UserError, "metadata.name"),
        (POD.replace("r/app:1", "file:none.wasm").encode(), NotFoundError, "no such file: .*none.wasm"),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path: Path, text: bytes, error: type, match: str) -> None:
    (tmp_path / "pod.yaml").write_bytes(text)
    with pytest.raises(error, match=match):
        from_target("pod.yaml", [], Options())


@pytest.mark.parametrize(
    ("arguments", "options"), [(["a"], {}), ([], {"name": "n"}), ([], {"env": ("A=1",)}), ([], {"memory": "1Mi"})]
)
def test_a_manifest_says_everything_itself(
    tmp_path: Path, arguments: list[str], options: dict[str, str | tuple[str, ...]]
) -> None:
    (tmp_path / "pod.yaml").write_text(POD)
    with pytest.raises(UserError, match="says arguments, name"):
        from_target("pod.yaml", arguments, Options(**options))  # type: ignore[arg-type]


def test_warnings_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "pod.yaml").write_text(POD + "status: {}\nwhat: 1\n")
    _, warnings = from_target("pod.yaml", [], Options())
    assert len(warnings) == 1
    assert "'what'" in warnings[0]


def test_a_directory_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").mkdir()
    with pytest.raises(UserError, match=r"cannot read odd\.yaml: Is a directory"):
        from_target("odd.yaml", [], Options())
