"""Stands between a client and the gateway, passes all bytes on, and notes what the client sends."""

import re
import socket
import threading
from urllib.parse import urlsplit


class Recorder:
    """Has `base` and `key` like a gateway."""

    def __init__(self, gateway):
        upstream = urlsplit(gateway.base)
        self._upstream = (upstream.hostname, upstream.port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.base = f"http://127.0.0.1:{self._server.getsockname()[1]}{upstream.path}"
        self.key = gateway.key
        # What came on each connection.
        self._sent = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            server = socket.create_connection(self._upstream)
            sent = bytearray()
            self._sent.append(sent)
            threading.Thread(target=_pass_on, args=(client, server, sent), daemon=True).start()
            threading.Thread(target=_pass_on, args=(server, client, bytearray()), daemon=True).start()

    def sent(self):
        """All that came, one connection after the other."""
        return "".join(sent.decode("latin-1") for sent in self._sent)

    def heads(self):
        """The headers of each chat, by name in lower case."""
        chats = re.findall(r"POST /v1/chat/completions HTTP/1\.1\r\n((?:[^\r\n]+\r\n)+)\r\n", self.sent())
        lines = [[line.partition(":") for line in head.splitlines()] for head in chats]
        return [{name.lower(): value.strip() for name, _, value in head} for head in lines]

    def stop(self):
        self._server.close()


def _pass_on(source, target, noted):
    try:
        while piece := source.recv(65536):
            noted += piece
            target.sendall(piece)
    except OSError:
        pass
    try:
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass
