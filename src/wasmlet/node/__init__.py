"""What the machine is to a cluster: its identity, its Node object, its Lease, its conditions, its end.

Three stories, told by `Node` (composition.py):

- *Identity*: `discovery` finds the cluster's authority by a token, `bootstrap` turns the token into a client
  certificate and a kubeconfig (both by `waiting`), `certificates` keeps it and the serving certificate fresh (`keys`
  makes, `signing` asks, `store` keeps).
- *Presence*: `machine` and `addresses` read what the machine has, `status` and `conditions` (both pure) turn that into
  a NodeStatus, `registration` makes the Node object, `report` keeps it true, `lease` says "alive".
- *End*: `shutdown` decides which pods stop when, with how much grace, before the machine goes.

In: a `kube.Client`, and `Sources` (what other rooms know: images, reasons against Ready, ...). Out: writes to the API
server, and `Node.latest`, the Node object as the cluster has it (labels, podCIDRs, taints) for admission and network.
"""
