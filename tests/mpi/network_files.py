"""Ranks whose run lies on a network file system, as NFS without locks shows it to each of them.

Arguments: those of `sagips run`.  A client of NFS asks the server when it opens a file that it knows of, and then sees
what other clients have closed before.  What it has found out about a name (size, times, that there is no such file) and
about a folder it believes for some seconds.  Locks are refused.  Each rank is a client of its own, and sees at once
what it changes itself.
"""

import builtins
import errno
import fcntl
import functools
import io
import os
import sys
import time

from sagips_kit import RunSpec
from sagips_kit.cli import main

AGE_S = 2.0
_real = {name: getattr(os, name) for name in ("stat", "lstat", "scandir", "listdir")}
_open = builtins.open
_CHANGES = ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "link", "symlink", "utime", "chmod", "truncate")


class Client:
    """What this process believes about names below a folder."""

    def __init__(self, folder):
        self.folder, self.believed, self.n_believed = str(folder), {}, 0

    def has(self, path):
        return isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.folder)

    def ask(self, name, path, make):
        """What `make` gives or raises; what was found out lately is not asked again."""
        key = name, os.fspath(path)
        now = time.monotonic()
        found, error, since = self.believed.get(key, (None, None, -AGE_S))
        if now - since >= AGE_S:
            try:
                found, error = make(), None
            except FileNotFoundError as missing:
                found, error = None, missing
            self.believed[key] = found, error, now
        else:
            self.n_believed += 1
        if error is not None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
        return found

    def forget(self, path):
        """After a change by this process."""
        path = os.fspath(path)
        for key in [*self.believed]:
            if key[1] in (path, os.path.dirname(path)):
                del self.believed[key]


def install(client):
    """Let this process see files as a client of the network file system."""

    def looks(name):
        real = _real[name]

        @functools.wraps(real)
        def look(path=".", *args, **options):
            if not client.has(path) or args or options.get("dir_fd") is not None:
                return real(path, *args, **options)
            if name != "scandir":
                return client.ask(f"{name}{options}", path, lambda: real(path, **options))
            entries = client.ask(name, path, lambda: [*real(path)])
            return _Entries(entries)

        return look

    def changes(name):
        real = getattr(os, name)

        @functools.wraps(real)
        def change(*args, **options):
            try:
                return real(*args, **options)
            finally:
                for path in filter(client.has, args):
                    client.forget(path)

        return change

    @functools.wraps(_open)
    def opened(path, mode="r", *args, **options):
        if not client.has(path):
            return _open(path, mode, *args, **options)
        if not set(mode) & set("wax+"):
            missing = client.believed.get(("open", os.fspath(path)))
            if missing and missing[1] is not None:
                client.ask("open", path, lambda: _open(path, mode, *args, **options).close())
            try:
                return _open(path, mode, *args, **options)
            except FileNotFoundError as error:
                client.believed["open", os.fspath(path)] = None, error, time.monotonic()
                raise
        try:
            return _open(path, mode, *args, **options)
        finally:
            client.forget(path)

    for name in _real:
        setattr(os, name, looks(name))
    for name in _CHANGES:
        setattr(os, name, changes(name))
    builtins.open = io.open = opened

    def refuse(*args):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    fcntl.flock = fcntl.lockf = refuse


class _Entries(list):
    """What `os.scandir` gives."""

    def __enter__(self):
        return iter(self)

    def __exit__(self, *exception):
        pass

    def close(self):
        pass


if __name__ == "__main__":
    client = Client(RunSpec.from_file(sys.argv[1]).store)
    install(client)
    status = main(["run", *sys.argv[1:]])
    print(f"{client.n_believed} times, something old was believed")
    sys.exit(status)
