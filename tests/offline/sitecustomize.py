"""Put this folder on PYTHONPATH and Python, with all its children, has no network: only this machine answers."""

import socket

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex
_getaddrinfo = socket.getaddrinfo


def _is_local(host) -> bool:
    return host is None or str(host) in ("", "localhost", "::1") or str(host).startswith("127.")


def _refuse_or(function):
    def wrapped(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
            raise OSError(f"the network is off in this run: {address}")
        return function(self, address)

    return wrapped


def _local_getaddrinfo(host, *args, **kwargs):
    if not _is_local(host):
        raise socket.gaierror(f"the network is off in this run: {host}")
    return _getaddrinfo(host, *args, **kwargs)


socket.socket.connect = _refuse_or(_connect)
socket.socket.connect_ex = _refuse_or(_connect_ex)
socket.getaddrinfo = _local_getaddrinfo
