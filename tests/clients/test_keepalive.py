"""A long silence behind proxies that cut idle lines: with SSE_KEEPALIVE_SECONDS the stream survives, without it is lost."""

import concurrent.futures
import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import time
import urllib.parse

import pytest

from gateway import PATIENCE, Gateway

# 160 seconds of silence are 3.2, and an idle limit of 120 is 2.4.
SPEED = 50
IDLE_LIMIT_MS = 120_000 // SPEED
COMMENT = b": keep-alive\n\n"

HAPROXY = """
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server {limit}ms
frontend clients
  bind unix@{folder}/clients.sock
  default_backend gateway
backend gateway
  server gateway 127.0.0.1:{port}
"""

NGINX = """
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{
    listen unix:{folder}/clients.sock;
    location / {{
      proxy_pass http://127.0.0.1:{port};
      proxy_http_version 1.1;
      proxy_set_header connection "";
      proxy_buffering off;
      proxy_read_timeout {limit}ms;
    }}
  }}
}}
"""


def haproxy(folder):
    return HAPROXY, ["haproxy", "-db", "-f", folder / "conf"]


def nginx(folder):
    return NGINX, ["nginx", "-p", folder, "-e", folder / "error.log", "-c", folder / "conf"]


@contextlib.contextmanager
def middle_box(kind, folder, gateway):
    """A proxy of this kind before a gateway; tells where clients find it."""
    folder.mkdir()
    template, command = kind(folder)
    port = urllib.parse.urlsplit(gateway.base).port
    (folder / "conf").write_text(template.format(folder=folder, port=port, limit=IDLE_LIMIT_MS), encoding="utf-8")
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + PATIENCE
        while not (folder / "clients.sock").exists():
            assert process.poll() is None and time.monotonic() < until, f"{kind.__name__} does not start"
            time.sleep(0.01)
        yield folder / "clients.sock"
    finally:
        process.terminate()
        process.wait(PATIENCE)


def stream(path, key, marker):
    """What comes of a stream, and whether it came to its end."""
    connection = http.client.HTTPConnection("gateway", timeout=PATIENCE)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(PATIENCE)
    connection.sock.connect(str(path))
    with contextlib.closing(connection):
        body = {"model": "flash", "stream": True, "messages": [{"role": "user", "content": f"Say hi. [emulator:{marker}]"}]}
        headers = {"x-api-key": key, "content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        try:
            return answer.read(), True
        except http.client.IncompleteRead as error:
            return error.partial, False


@pytest.mark.parametrize("kind", [haproxy, nginx])
def test_a_silence_longer_than_the_idle_limit_of_a_proxy(kind, tmp_path):
    if shutil.which(kind.__name__) is None:
        pytest.skip(f"{kind.__name__} is not installed")
    with contextlib.ExitStack() as stack:
        paths = []
        for name, settings in (("with", {"SSE_KEEPALIVE_SECONDS": "1"}), ("without", {})):
            gateway = Gateway("--speed", str(SPEED), **settings)
            stack.callback(gateway.stop)
            paths.append((stack.enter_context(middle_box(kind, tmp_path / name, gateway)), gateway.key))
        jobs = [(path, key, marker) for path, key in paths for marker in ("silent-start", "silent-middle")]
        with concurrent.futures.ThreadPoolExecutor(len(jobs)) as pool:
            kept_start, kept_middle, lost_start, lost_middle = pool.map(lambda job: stream(*job), jobs)
    for body, whole in (kept_start, kept_middle):
        assert whole and body.endswith(b"data: [DONE]\n\n"), body
        assert 2 <= body.count(COMMENT) <= 3, body
        # Comments stand between events: without them every line is an event's or a blank one.
        events = body.replace(COMMENT, b"").split(b"\n\n")
        assert all(event.startswith(b"data: ") for event in events if event), body
    for body, whole in (lost_start, lost_middle):
        assert not whole and b"[DONE]" not in body, f"the limit is not real: {body}"
