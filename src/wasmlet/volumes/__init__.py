"""Volumes: what a pod's `spec.volumes` names becomes a directory of the host, ready for an engine to open.

In comes one `Volume` of a pod with the source of its objects; out goes a `HostVolume` (`volume`): host directory,
read-only or not, foreign or not. `mount` is the facade: `set_up` makes a volume or brings its content up to date,
`tear_down` removes all of a pod's. Behind it one kind a file: `config_map`, `secret`, `downward_api` and `projected`
each collect a payload (file name → content, mode), which `atomic` writes as the kubelet does, with one flip per
update; `empty_dir` and `host_path` hand out directories. `fields` reads what a pod says about itself, for downward
volumes here and for variables in `pods.environment`.

`sub_path` finds a place inside a volume, and `root` builds what a container sees: its root directory with single files
placed in it, and the ordered list of directories that the engine opens (WASI opens directories only).

On disk, as the kubelet: `{pod directory}/volumes/kubernetes.io~{kind}/{name}`. Paths that a guest can write are
followed only through `base.beneath`.
"""
