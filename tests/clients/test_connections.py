"""No telemetry: a running gateway connects to the hosts that it is configured with and to nobody else, says the kernel."""

import codecs
import contextlib
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import threading

import pytest

from gateway import PATIENCE, PROGRAM

KEY = "sk_live_0123456789abcdef0123"
# What name services of the machine itself are asked by, and how.
NAME_SERVICE_SOCKETS = {"/var/run/nscd/socket", "/run/systemd/resolve/io.systemd.Resolve"}


def can_trace():
    command = ["strace", "-qq", "-e", "trace=none", "true"]
    return shutil.which("strace") and not subprocess.run(command, capture_output=True, check=False).returncode


pytestmark = pytest.mark.skipif(not can_trace(), reason="strace is not installed, or may not trace")


class Google(http.server.BaseHTTPRequestHandler):
    """Metadata server and Vertex AI, each on a port of its own."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self.path.partition("?")[0].endswith("/token"):
            self.reply({"access_token": "ya29.test", "expires_in": 3599, "token_type": "Bearer"})
        else:
            self.reply({})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if body.get("stream"):
            self.reply("data: {}\n\ndata: [DONE]\n\n", "text/event-stream")
        else:
            self.reply({"object": "chat.completion"})

    def reply(self, content, kind="application/json"):
        content = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("metadata-flavor", "Google")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def google():
    """Where it listens."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Google) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield "{}:{}".format(*server.server_address)
        server.shutdown()


class Traced:
    """A gateway under strace, and its log."""

    def __init__(self, folder, *strace, **settings):
        self.trace = folder / "trace"
        self.keys = folder / "keys.json"
        self.write_keys("me")
        calls = "connect,sendto,sendmsg,sendmmsg,bind"
        command = ["strace", "-f", "-qq", "-s", "512", "-e", f"trace={calls}", *strace, "-o", self.trace, PROGRAM, "serve"]
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(folder),
            "HOST": "127.0.0.1",
            "PORT": "0",
            "GOOGLE_CLOUD_PROJECT": "test-project",
            "API_KEYS_FILE": str(self.keys),
            **settings,
        }
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, encoding="utf-8")
        self.lines = []
        self.address = self.wait_for("listening on ")["address"]

    def write_keys(self, name):
        self.keys.write_text(json.dumps([{"id": name, "key": KEY, "metrics": True}]), encoding="utf-8")

    def wait_for(self, beginning):
        for text in self.process.stdout:
            self.lines.append(json.loads(text))
            if self.lines[-1]["message"].startswith(beginning):
                return self.lines[-1]
        raise AssertionError(f"no line begins with {beginning!r}: {self.lines}")

    def ask(self, method, path, body=None):
        """Status and text of the answer."""
        connection = http.client.HTTPConnection(self.address, timeout=PATIENCE)
        connection.request(method, path, body and json.dumps(body), {"x-api-key": KEY})
        answer = connection.getresponse()
        with contextlib.closing(connection):
            return answer.status, answer.read().decode()

    def chat(self, **more):
        return self.ask("POST", "/v1/chat/completions", {"model": "flash", "messages": [], **more})

    def pid(self):
        """Of the gateway, which strace has started."""
        return int(self.trace.read_text(encoding="utf-8").split(maxsplit=1)[0])

    def stop(self):
        """Ends it, and tells what it called."""
        os.kill(self.pid(), signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0
        self.process.stdout.close()
        return self.trace.read_text(encoding="utf-8")


@pytest.fixture
def traced(tmp_path):
    """Starts gateways, and kills those that a failure leaves behind."""
    running = []

    def start(*strace, **settings):
        running.append(Traced(tmp_path, *strace, **settings))
        return running[-1]

    yield start
    for gateway in running:
        if gateway.process.poll() is None:
            # strace that is told to end ends what it traces.
            gateway.process.send_signal(signal.SIGTERM)
            gateway.process.wait(PATIENCE)


def destinations(trace):
    """Addresses of `connect`, and those that a datagram names itself."""
    internet = r'sin_port=htons\((\d+)\), sin_addr=inet_addr\("([\d.]+)"\)|sin6_port=htons\((\d+)\).*?inet_pton\(AF_INET6, "([^"]+)"'
    found = set()
    for line in trace.splitlines():
        if re.search(r"\bbind\(", line):
            continue
        for port, address, port6, address6 in re.findall(internet, line):
            found.add(f"{address or address6}:{port or port6}")
        found.update(re.findall(r'sa_family=AF_UNIX, sun_path=@?"([^"]+)"', line))
    return found - NAME_SERVICE_SOCKETS


def names_asked_for(trace):
    """The names in queries to name servers."""
    names = set()
    for message in re.findall(r"sendmmsg\(.*", trace):
        for text in re.findall(r'iov_base="((?:[^"\\]|\\.)*)"', message):
            query = codecs.decode(text, "unicode_escape").encode("latin-1")[12:]
            labels = []
            while query and query[0]:
                labels.append(query[1 : 1 + query[0]].decode())
                query = query[1 + query[0] :]
            names.add(".".join(labels).lower())
    return names


def name_servers():
    """As glibc takes them."""
    try:
        with open("/etc/resolv.conf", encoding="utf-8") as file:
            servers = re.findall(r"^\s*nameserver\s+(\S+)", file.read(), re.MULTILINE)
    except FileNotFoundError:
        servers = []
    return {f"{server}:53" for server in servers or ["127.0.0.1"]}


def test_no_connection_but_to_the_configured_hosts(traced):
    """A whole life: start, requests, a reload of the keys, a stop."""
    with google() as metadata, google() as vertex:
        gateway = traced(GCE_METADATA_HOST=metadata, GOOGLE_VERTEX_BASE_URL=f"http://{vertex}")
        assert gateway.chat()[0] == 200
        assert "[DONE]" in gateway.chat(stream=True)[1]
        gateway.write_keys("another")
        gateway.wait_for("API_KEYS_FILE has changed and is in use")
        for path in ["/", "/docs", "/health", "/readyz", "/metrics", "/v1/models", "/nothing"]:
            assert gateway.ask("GET", path)[0] in (200, 404)
        assert gateway.chat()[0] == 200
        trace = gateway.stop()
    assert destinations(trace) == {metadata, vertex}
    assert not names_asked_for(trace)


def test_no_name_is_asked_for_but_that_of_vertex_ai(traced):
    """With the hosts of the defaults. The kernel is told to refuse the queries, so that none leaves this machine."""
    with google() as metadata:
        gateway = traced("-e", "inject=sendmmsg:error=ENETUNREACH", GCE_METADATA_HOST=metadata)
        status, text = gateway.chat()
        assert (status, json.loads(text)["error"]["code"]) == (502, "upstream_unreachable")
        trace = gateway.stop()
    assert destinations(trace) <= {metadata} | name_servers()
    host, asked = "aiplatform.googleapis.com", names_asked_for(trace)
    # With the machine's search domains behind it, where the name as it is was not found.
    assert host in asked and all(name == host or name.startswith(f"{host}.") for name in asked), asked
