"""Ends a process when another of its run has died, with a line that names it.

JAX's own heartbeats need half a minute, and meanwhile the processes left wait for each other in
collectives; when process 0 dies, JAX aborts the others without naming it. So every process keeps a
connection to process 0, which the system closes when either of the two dies.
"""

import ctypes
import os
import selectors
import signal
import socket
import struct
import sys
import threading

import jax

from jaxnas.parallel.agreement import from_process_0

_NUMBER = struct.Struct("!i")
_GOODBYE = -1
_FAILED = 1
# In which a process that knows why another has ended says so itself.
_GRACE_S = 2.0
# Seconds until a connection to a machine that is gone without a word counts as closed.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class Watch:
    """Of this process over the others."""

    def __init__(self, host: str | None):
        """Connects all processes, all of which must call it.

        Args:
          host: of process 0, as the others reach it; None is its host name.

        Raises:
          OSError: process 0 cannot be reached.
        """
        self._index, self._others = jax.process_index(), {}
        self._ended = threading.Event()
        listener = None
        if self._index == 0:
            listener = socket.create_server(("", 0), backlog=jax.process_count())
        address = from_process_0(lambda: [host or socket.gethostname(), listener.getsockname()[1]])
        if listener is not None:
            with listener:
                for _ in range(jax.process_count() - 1):
                    connection, _ = listener.accept()
                    self._others[_receive(connection)] = connection
        else:
            connection = socket.create_connection(tuple(address), timeout=60)
            connection.settimeout(None)
            connection.sendall(_NUMBER.pack(self._index))
            self._others[0] = connection
            self._hear_abort()
        for connection in self._others.values():
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                connection.setsockopt(socket.IPPROTO_TCP, option, value)
        threading.Thread(target=self._listen, daemon=True).start()

    def end(self) -> None:
        """Tells the others that this process ends as it should."""
        self._ended.set()
        for connection in self._others.values():
            _tell(connection, _GOODBYE)

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for index, connection in self._others.items():
                selector.register(connection, selectors.EVENT_READ, index)
            while selector.get_map():
                for key, _ in selector.select():
                    word = _receive(key.fileobj)
                    if word == _GOODBYE:
                        selector.unregister(key.fileobj)
                    else:
                        # Nothing was said: it is dead. Otherwise process 0 says who is.
                        self._leave(key.data if word is None else word)

    def _leave(self, dead: int) -> None:
        if self._ended.wait(_GRACE_S):
            threading.Event().wait()  # this process knows better, and is about to end
        for index, connection in self._others.items():
            if index != dead:
                _tell(connection, dead)
        print(
            f"error: process {dead} of this run has died; its own output may say why. Run the "
            f"same command again to go on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        os._exit(_FAILED)

    def _hear_abort(self) -> None:
        """Has the death of process 0 named where JAX hears of it first, and aborts."""

        def aborted(number: int) -> None:
            try:
                gone = not self._others[0].recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                gone = False  # something else is wrong: the abort goes on
            except OSError:
                gone = True
            if gone:
                self._leave(0)

        # Not by the module signal, whose handlers run after the signal's, which must not return.
        self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
        ctypes.CDLL(None).signal(signal.SIGABRT, self._handler)


def _receive(connection: socket.socket) -> int | None:
    """The next number; None where the connection is closed."""
    try:
        content = connection.recv(_NUMBER.size, socket.MSG_WAITALL)
    except OSError:
        return None
    return _NUMBER.unpack(content)[0] if len(content) == _NUMBER.size else None


def _tell(connection: socket.socket, number: int) -> None:
    try:
        connection.sendall(_NUMBER.pack(number))
    except OSError:  # it is gone, too
        pass
