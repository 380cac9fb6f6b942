"""What others may ask of this agent.

- `local` the terminal's API on a Unix socket in the state directory
- `hub`   news of pods for watchers

The kubelet's HTTPS API (one verb a file) will stand beside them.
"""
