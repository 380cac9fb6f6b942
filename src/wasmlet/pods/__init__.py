"""The heart: what happens to a pod, from its submission to its end.

Nouns: a *bundle* is a pod with what came with it; *facts* are what happened, saved; the *plan* says the next step; a
*worker* does it; the *status* is rendered from facts. In come bundles and the wish that a pod ends; out go sandboxes
in engines, files below the pod's directory, statuses and news.

Where pods come from: `source` (the API server), `static` (a directory) with `mirror`, and the room `server`;
`validation` says what no node could run.

- `dispatch`  one worker for each UID; the pods of this agent. `orphans` what nobody knows any more
- `worker`    the loop: observe, plan, do, save. `rooms` what it is given; `accounts` what it says
- `bundle`    a pod on disk; `facts` what is saved; `directories` where all its files are

What the plan decides, pure:

- `plan`      the table: stage × facts → step. Of its rules, `restarts` says whether and when a container runs again,
  `stops` how containers end; `view` what the rules look at, `steps` what they answer
- `admission` whether this node takes a pod: `requests`, `affinity`, `quality`; `preemption` who makes room for it
- `status`    PodStatus and exit code from facts

How the worker does it:

- `entrance`, `preparation`, `start`, `stopping` the steps; `observation` and `endings` what came of them; `health` with
  `probes` (`http_get`) and `hooks`; `exec`
- `start`     the long one: image (`pull`, `image_volumes`), `environment` (`environment_file`, `expansion`, `hosts`,
  `network`), what runs (`programs`, `applications`, `serving`, `demands`), where (`pools`, `handlers`), and the
  engine's `orders`; `failures` on the way

For the node: `report` tells statuses to the API server, `references` which objects pods need, `service_accounts` as
whom they speak, `collection` which images they need no more.
"""
