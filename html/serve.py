#!/usr/bin/env python3
"""Shows the runbook on this machine: python3 html/serve.py [PORT]. Needs Python 3.9 or later and nothing else."""

import http.server
import pathlib
import sys

PORT = 8000
FOLDER = pathlib.Path(__file__).resolve().parent
# All that there is to see. Not by the system's own table: some call a script plain text, which browsers then refuse.
TYPES = {
    "index.html": "text/html; charset=utf-8",
    "site.css": "text/css; charset=utf-8",
    "site.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
# The same rules as a gateway's.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Handler(http.server.BaseHTTPRequestHandler):
    server_version = "ai-proxy-html"
    sys_version = ""

    def do_GET(self):
        # A path is looked up, and never led to the file system.
        path = self.path.partition("?")[0]
        name = "index.html" if path == "/" else path[1:]
        if not path.startswith("/") or name not in TYPES:
            self.send_error(404)
            return
        content = (FOLDER / name).read_bytes()
        self.send_response(200)
        self.send_header("content-type", TYPES[name])
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET

    def end_headers(self):
        for name, value in HEADERS.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_):
        """A browser that leaves is no news."""


def main():
    words = sys.argv[1:]
    if len(words) > 1 or not all(word.isdecimal() and int(word) < 65536 for word in words):
        sys.exit("python3 html/serve.py [PORT], with a PORT from 0 to 65535")
    port = int(words[0]) if words else PORT
    try:
        server = Server(("127.0.0.1", port), Handler)
    except OSError as error:
        sys.exit(f"port {port}: {error.strerror}; try another: python3 html/serve.py 8001")
    print(f"http://127.0.0.1:{server.server_port}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
