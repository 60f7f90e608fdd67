#!/usr/bin/env python3
"""Shows the runbook on this machine: python3 html/serve.py [PORT]. Needs Python 3 and nothing else."""

import functools
import http.server
import pathlib
import sys

PORT = 8000


class Handler(http.server.SimpleHTTPRequestHandler):
    # The same rules as a gateway's.
    HEADERS = {
        "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }

    def end_headers(self):
        for name, value in self.HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_):
        pass


def main():
    port = int(sys.argv[1]) if len(sys.argv) > 1 else PORT
    folder = pathlib.Path(__file__).resolve().parent
    handler = functools.partial(Handler, directory=folder)
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
    except OSError as error:
        sys.exit(f"port {port}: {error.strerror}; try another: python3 html/serve.py 8001")
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
