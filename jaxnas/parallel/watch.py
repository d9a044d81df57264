"""Watch that ends a process when another of its run has died, with an error that names it.

JAX's own heartbeats take half a minute, in which the remaining processes wait for each other in
collectives. When process 0 dies, JAX aborts the others without naming it. Therefore every process
keeps a connection to process 0, which the system closes when either of the two dies.
"""

import ctypes
import os
import selectors
import signal
import socket
import struct
import sys
import threading
from typing import Any

import jax

from jaxnas.parallel.collectives import from_process_0

_NUMBER = struct.Struct("!i")
_GOODBYE = -1
_FAILED = 1
# Time for a process that knows why another has ended to report it itself.
_GRACE_S = 2.0
# A connection to a vanished machine counts as closed after 10 s idle and 3 probes, 5 s apart.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class Watch:
    """Watch of this process over the others."""

    def __init__(self, host: str | None):
        """Connects all processes, all of which must call it.

        Args:
          host: host of process 0 as the others reach it; None uses its host name.

        Raises:
          OSError: process 0 cannot be reached, or a process ended while it connected.
        """
        self._index = jax.process_index()
        self._others: dict[int, socket.socket] = {}
        self._ended = threading.Event()
        listener = None
        if self._index == 0:
            listener = socket.create_server(("", 0), backlog=jax.process_count())

        def own_address() -> list[Any]:
            assert listener is not None  # called in process 0 only
            return [host or socket.gethostname(), listener.getsockname()[1]]

        address = from_process_0(own_address)
        if listener is not None:
            with listener:
                for _ in range(jax.process_count() - 1):
                    connection, _ = listener.accept()
                    index = _receive(connection)
                    if index is None:
                        raise ConnectionError("a process of this run ended while it connected")
                    self._others[index] = connection
        else:
            connection = socket.create_connection(tuple(address), timeout=60)
            connection.settimeout(None)
            connection.sendall(_NUMBER.pack(self._index))
            self._others[0] = connection
            self._handle_abort()
        for connection in self._others.values():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
        threading.Thread(target=self._listen, daemon=True).start()

    def end(self) -> None:
        """Announces to the others that this process ends normally."""
        self._ended.set()
        for connection in self._others.values():
            _send(connection, _GOODBYE)

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for index, connection in self._others.items():
                selector.register(connection, selectors.EVENT_READ, index)
            while selector.get_map():
                for key, _ in selector.select():
                    assert isinstance(key.fileobj, socket.socket)
                    number = _receive(key.fileobj)
                    if number == _GOODBYE:
                        selector.unregister(key.fileobj)
                    else:
                        # A closed connection: that process is dead. A number: process 0 names one.
                        self._leave(key.data if number is None else number)

    def _leave(self, dead: int) -> None:
        if self._ended.wait(_GRACE_S):
            threading.Event().wait()  # this process is ending and reports the cause itself
        for index, connection in self._others.items():
            if index != dead:
                _send(connection, dead)
        print(
            f"error: process {dead} of this run has died; its own output may say why. Run the "
            f"same command again to resume from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(_FAILED)

    def _handle_abort(self) -> None:
        """Reports the death of process 0 if JAX notices it first and aborts."""

        def aborted(number: int) -> None:
            try:
                gone = not self._others[0].recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                gone = False  # another cause: the abort continues
            except OSError:
                gone = True
            if gone:
                self._leave(0)

        # The module signal runs handlers after the C handler returns, but abort's must not return.
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._handler)


def _receive(connection: socket.socket) -> int | None:
    """Returns the next number, or None if the connection is closed."""
    try:
        content = connection.recv(_NUMBER.size, socket.MSG_WAITALL)
    except OSError:
        return None
    return _NUMBER.unpack(content)[0] if len(content) == _NUMBER.size else None


def _send(connection: socket.socket, number: int) -> None:
    try:
        connection.sendall(_NUMBER.pack(number))
    except OSError:  # that process has ended too
        pass
