"""Which objects a pod refers to."""

from tests.support.pods import container, pod
from wasmlet.kube.types import (
    ConfigMapVolume,
    EnvFromSource,
    EnvVar,
    EnvVarSource,
    KeySelector,
    LocalObjectReference,
    ObjectReference,
    ProjectedObject,
    ProjectedVolume,
    SecretVolume,
    Volume,
    VolumeProjection,
)
from wasmlet.pods.references import references_of


def test_every_place_that_the_node_authorizer_counts() -> None:
    variable = EnvVar(name="A", value_from=EnvVarSource(secret_key_ref=KeySelector(name="env-secret", key="k")))
    other = EnvVar(name="B", value_from=EnvVarSource(config_map_key_ref=KeySelector(name="env-map", key="k")))
    froms = [
        EnvFromSource(config_map_ref=ObjectReference(name="from-map")),
        EnvFromSource(secret_ref=ObjectReference(name="from-secret")),
    ]
    sources = [
        VolumeProjection(config_map=ProjectedObject(name="projected-map")),
        VolumeProjection(secret=ProjectedObject(name="projected-secret")),
    ]
    volumes = [
        Volume(name="a", config_map=ConfigMapVolume(name="volume-map")),
        Volume(name="b", secret=SecretVolume(secret_name="volume-secret")),
        Volume(name="c", projected=ProjectedVolume(sources=sources)),
    ]
    made = pod(
        container("main", env=[variable], env_from=froms),
        init_containers=[container("init", env=[other])],
        volumes=volumes,
        image_pull_secrets=[LocalObjectReference(name="login")],
    )
    assert references_of(made) == {
        ("Secret", "login"), ("Secret", "env-secret"), ("ConfigMap", "env-map"), ("ConfigMap", "from-map"),
        ("Secret", "from-secret"), ("ConfigMap", "volume-map"), ("Secret", "volume-secret"),
        ("ConfigMap", "projected-map"), ("Secret", "projected-secret"),
    }  # fmt: skip
