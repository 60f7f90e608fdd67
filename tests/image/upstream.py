"""What the gateway talks to, in a container outside its own: the metadata server, Vertex AI over TLS, and the one DNS
server that knows where vertex.test is.

    upstream.py [ADDRESS]   listens there, or on the address of this container

Prints the certificate of the authority that vertex.test's is signed by, then `ready`.
"""

import http.server
import json
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time

NAME = "vertex.test"
METADATA_PORT, VERTEX_PORT, DNS_PORT = 18080, 18443, 53
PROJECT = "project-of-the-test"
BEARER = "ya29.of-the-test"
PATH = f"/v1/projects/{PROJECT}/locations/global/endpoints/openapi/chat/completions"
ANSWER = '{"choices":[{"message":{"role":"assistant","content":"Hi."}}]}'
# Long enough that a stream is under way when the gateway is told to stop, and far less than its grace.
PIECES, PIECE_SECONDS = 20, 0.1

CERTIFICATES = """
[req]
distinguished_name = name
prompt = no
[name]
CN = of the test
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
[server]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:%s
""" % NAME


def openssl(command):
    subprocess.run(["openssl", *command.split()], cwd="/tmp", check=True, stderr=subprocess.DEVNULL)


def make_certificates():
    with open("/tmp/config", "w", encoding="ascii") as file:
        file.write(CERTIFICATES)
    new = "-config config -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
    openssl(f"req -x509 {new} -extensions authority -days 2 -keyout authority.key -out authority.pem")
    openssl(f"req {new} -keyout server.key -out server.csr")
    signed = "-CA authority.pem -CAkey authority.key -CAcreateserial -extfile config -extensions server -days 2"
    openssl(f"x509 -req {signed} -in server.csr -out server.pem")


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, kind, text, *more):
        body = text.encode()
        self.send_response(status)
        for name, value in (("content-type", kind), ("content-length", str(len(body))), *more):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


class Metadata(Handler):
    def do_GET(self):
        google = ("metadata-flavor", "Google")
        path = self.path.partition("?")[0]
        if self.headers["metadata-flavor"] != "Google":
            self.answer(403, "text/plain", "no", google)
        elif path == "/computeMetadata/v1/project/project-id":
            self.answer(200, "text/plain", PROJECT, google)
        elif path == "/computeMetadata/v1/instance/service-accounts/default/token":
            token = {"access_token": BEARER, "expires_in": 3599, "token_type": "Bearer"}
            self.answer(200, "application/json", json.dumps(token), google)
        else:
            self.answer(404, "text/plain", "no such thing", google)


class Vertex(Handler):
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        asked = (self.path, self.headers["authorization"], self.headers["host"], request["model"])
        if asked != (PATH, f"Bearer {BEARER}", f"{NAME}:{VERTEX_PORT}", "google/gemini-2.5-flash"):
            self.answer(400, "application/json", json.dumps({"error": {"message": repr(asked)}}))
        elif request.get("stream"):
            self.stream()
        else:
            self.answer(200, "application/json", ANSWER)

    def stream(self):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(PIECES):
            self.piece(f'data: {{"choices":[{{"delta":{{"content":"{number} "}}}}]}}\n\n')
            time.sleep(PIECE_SECONDS)
        self.piece("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def piece(self, text):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text.encode()))
        self.wfile.flush()


class Dns(socketserver.BaseRequestHandler):
    """One question, one answer: the address of vertex.test, or that there is no such name."""

    def handle(self):
        query, reply = self.request
        end = query.index(b"\0", 12) + 5
        labels, rest = [], query[12:end]
        while rest[0]:
            labels.append(rest[1 : rest[0] + 1].decode().lower())
            rest = rest[rest[0] + 1 :]
        known = ".".join(labels) == NAME
        wants_address = rest[1:5] == b"\0\1\0\1"
        found = known and wants_address
        # A response, with authority and recursion; NXDOMAIN for any other name.
        flags = b"\x85\x80" if known else b"\x85\x83"
        head = query[:2] + flags + b"\0\1" + (b"\0\1" if found else b"\0\0") + b"\0\0\0\0"
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(self.server.server_address[0]) if found else b""
        reply.sendto(head + query[12:end] + record, self.client_address)


def main(address):
    make_certificates()
    metadata = Server((address, METADATA_PORT), Metadata)
    vertex = Server((address, VERTEX_PORT), Vertex)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain("/tmp/server.pem", "/tmp/server.key")
    vertex.socket = tls.wrap_socket(vertex.socket, server_side=True)
    dns = socketserver.ThreadingUDPServer((address, DNS_PORT), Dns)
    for server in (metadata, vertex, dns):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    with open("/tmp/authority.pem", encoding="ascii") as file:
        print(file.read(), end="")
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else socket.gethostbyname(socket.gethostname()))
