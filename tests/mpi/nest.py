"""Fast start of ranks: mpiexec starts a stub, and a process that has already imported torch forks the rank for it.

    python nest.py serve SOCKET
    mpiexec -n 2 python -I -S nest.py stub SOCKET (-m MODULE | FILE) ARGUMENTS ...

The rank takes over the stub's environment, folder, streams and connections to mpiexec.  Both die together, by the same
signal, so mpiexec and the other ranks see the same as for any other rank.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys

_TO_MPIEXEC = ("PMI_FD", "HYDI_CONTROL_FD")  # file descriptors that MPICH's mpiexec names in the environment


def stub(path, *arguments):
    """Request a rank, and end with the same status or signal."""
    names = [name for name in _TO_MPIEXEC if name in os.environ]
    descriptors = [0, 1, 2, *(int(os.environ[name]) for name in names)]
    order = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd(), "names": names}
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [json.dumps(order).encode() + b"\n"], descriptors)
        status = int(server.recv(16) or -signal.SIGKILL)
    if status < 0:
        os.kill(os.getpid(), -status)
    sys.exit(status)


def serve(path):
    """Fork a guardian for each stub until nothing uses this server; in a forked rank, return its order."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # guardians leave no zombies
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        print("ready", flush=True)
        while listener in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                return _guard(connection)
            connection.close()
    sys.exit()


def _guard(connection):
    """Fork the rank, and make it and its stub die together; returns only in the rank."""
    data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 8)
    while not data.endswith(b"\n"):
        data += connection.recv(1 << 20)
    # This ends when the rank ends, for whatever reason.
    lifeline, held_by_the_rank = os.pipe()
    rank = os.fork()
    if rank == 0:
        connection.close()
        return json.loads(data), descriptors
    for descriptor in (held_by_the_rank, *descriptors):
        os.close(descriptor)
    if lifeline not in select.select([lifeline, connection], [], [])[0]:
        os.kill(rank, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1])
    with contextlib.suppress(OSError):
        connection.sendall(str(status).encode())
    os._exit(0)


def become(order, descriptors):
    """Become the rank that the stub was started for."""
    import runpy

    os.environ.clear()
    os.environ.update(order["environment"])
    os.environ.update(zip(order["names"], map(str, descriptors[3:]), strict=True))
    os.chdir(order["folder"])
    for number, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, number)
    first, *rest = order["arguments"]
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *rest], os.path.dirname(first)
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    if what == "stub":
        stub(*given)
    # The modules that ranks import; creating an optimiser imports the second one.
    import torch._dynamo  # noqa: F401

    from sagips_kit import cli  # noqa: F401
    from sagips_kit.running import launch  # noqa: F401

    become(*serve(*given))
