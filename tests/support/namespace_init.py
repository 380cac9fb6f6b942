"""The first process of a Linux node's namespaces: directories of its own over the machine's, then collect what ends.

It runs alone, by its path, as process 1: what it mounts is seen inside only, and its end is the end of all.
"""

import os
import signal
import subprocess
import sys

# Where containerd, runc, the kubelet and CNI write whatever they are told.
HIDDEN = ("/run", "/var/lib", "/var/log")


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    for directory in HIDDEN:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        signal.sigwait({signal.SIGCHLD})
        while _collect():
            pass


def _collect() -> bool:
    """Whether there was one."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


if __name__ == "__main__":
    main()
