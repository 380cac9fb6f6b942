"""Engines seen from Python.

Nouns: an *engine* is a process that hosts *sandboxes*; a *pool key* says which sandboxes may share one; an *artifact*
is a compiled module; an *account* is what the engines said of a sandbox. In come a module's path and digest and a
`SandboxSpec`; out go events, and files: CRI logs and `exit.json`, which the engine writes and the agent reads.

- `protocol` the documents of protocol/engine.openapi.yaml
- `client`   one engine over its socket
- `engines`  adopting and ending engines, one for each pool; what they said of their sandboxes
- `launching` starting one; `handle` one that lives
- `artifacts` compiling in helper processes, and the cache
- `logs`     reading CRI log files
- `records`  what is saved of an engine
- `network`  addresses of pods; `pod_cidr` the mode with a network of its own, `namespace` that network in the kernel
- `program`  where the engine's program is

Works without a cluster: imports nothing of `kube`.
"""
