"""The heart: what happens to a pod, from its submission to its end.

Nouns: a *bundle* is a pod with what came with it; *facts* are what happened, saved; the *plan* says the next step; a
*worker* does it; the *status* is rendered from facts. In come bundles and the wish that a pod ends; out go sandboxes
in engines, files below the pod's directory, statuses and news.

- `dispatch`  one worker for each UID; the pods of this agent
- `worker`    the loop: observe, plan, do, save
- `plan`      the table: stage × facts → step; pure
- `restarts`  whether and when a container runs again; pure
- `facts`     what is saved
- `status`    PodStatus and exit code from facts; pure
- `start`     the one long step: image (`pull`), artifact, environment, root, sandbox (`orders`); `failures` on the way
- `environment`, `expansion`, `downward`, `hosts` what a container is told
- `endings`   what a container leaves
- `admission` whether this node takes a pod, `validation` whether any could; `preemption` who makes room for it;
  `requests`, `quality`, `affinity`, `demands`, `handlers` what it asks for; pure
- `entrance`  the edge of admission
- `probes`    liveness, readiness, startup
- `bundle`    a pod on disk, and where its files are
- `rooms`     what this room is given
"""
