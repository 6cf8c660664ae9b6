"""A TCP link to a server, which can lose everything on its way."""

import contextlib
import socket
import threading
import time

from servers.support import Server, free_port


class Link(Server):
    """Forwards connections to a server of this machine, until they are to be lost.

    While the link is down, packets are lost in both directions as on a network that drops them:
    of open connections nothing arrives, and nobody is told; demands for new ones get no answer,
    since Linux drops them (SYN) when the queue of those that nobody has accepted is full. This
    needs no right of root, as rules of a firewall would.

    :param target: port of the server on 127.0.0.1
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        #: how long each kilobyte takes from the server to the clients, in seconds
        self.pace = 0.0
        #: how many bytes the clients have got
        self.forwarded = 0
        self._up = threading.Event()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._fillers: list[socket.socket] = []
        self._lock = threading.Lock()

    @property
    def connections(self) -> int:
        """How many connections clients hold open through the link."""
        with self._lock:
            return len(self._open)

    def start(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=128)
        self._up.set()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self) -> None:
        if self._listener is not None:
            listener, self._listener = self._listener, None
            self.resume()
            with contextlib.suppress(OSError):  # wakes accept up
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            self.cut()

    def pause(self) -> None:
        """Lose all packets."""
        self._up.clear()
        self._listener.listen(0)
        # One is accepted by the thread that waits for it, one is queued, others get no answer.
        while True:
            filler = socket.socket()
            filler.settimeout(0.3)
            self._fillers.append(filler)
            try:
                filler.connect(("127.0.0.1", self.port))
            except TimeoutError:
                return

    def resume(self) -> None:
        """End :meth:`pause`: what was sent meanwhile arrives."""
        for filler in self._fillers:
            filler.close()
        self._fillers.clear()
        if self._listener is not None:
            self._listener.listen(128)
        self._up.set()

    def cut(self) -> None:
        """Close all open connections."""
        with self._lock:
            for client in self._open:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _address = listener.accept()
            except OSError:
                return  # the end
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()
            self._up.wait()

    def _forward(self, client: socket.socket) -> None:
        self._up.wait()
        with client:
            try:
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            with self._lock:
                self._open.add(client)
            back = threading.Thread(target=self._copy, args=(server, client, True), daemon=True)
            with server:
                back.start()
                self._copy(client, server)
                back.join()
            with self._lock:
                self._open.discard(client)

    def _copy(self, source: socket.socket, target: socket.socket, back: bool = False) -> None:
        """Copy what arrives, until one of both ends; then end both."""
        with contextlib.suppress(OSError):
            while data := source.recv(1024 if back and self.pace else 65536):
                if back:
                    time.sleep(self.pace)
                    self.forwarded += len(data)
                self._up.wait()
                target.sendall(data)
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
