"""Three replicas behind a load balancer, restarted one after the other under load: nothing fails and nothing is cut.

A replica goes as deploy/kubernetes.yaml has it go: the load balancer is told first, some time passes, then comes SIGTERM, and what runs
may finish.
"""

import contextlib
import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse

import pytest

from gateway import GREETING, PATIENCE, Gateway

HAPROXY = shutil.which("haproxy")
pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")

KEY = "sk_live_scale-out-0123456789abcdef"
REPLICAS = ["one", "two", "three"]
CLIENTS = 12
# Between the load balancer's word and SIGTERM: preStop in the manifest, where more than one load balancer has to learn it.
PRE_STOP_SECONDS = 0.3

CONFIGURATION = """
global
  stats socket {folder}/admin.sock mode 600 level admin
  stats timeout 1m
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend clients
  bind unix@{folder}/clients.sock
  default_backend gateways
backend gateways
  balance roundrobin
"""


class LoadBalancer:
    """HAProxy, which is told by its owner where the replicas are and which of them take requests."""

    def __init__(self, folder):
        self.folder = folder
        # Where they are is told before they are made ready.
        servers = "".join(f"  server {name} 127.0.0.1:1 disabled\n" for name in REPLICAS)
        file = folder / "haproxy.cfg"
        file.write_text(CONFIGURATION.format(folder=folder) + servers, encoding="utf-8")
        self.process = subprocess.Popen([HAPROXY, "-db", "-f", file], stderr=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE
        while not (folder / "clients.sock").exists():
            assert self.process.poll() is None and time.monotonic() < until, "HAProxy does not start"
            time.sleep(0.01)

    def tell(self, command):
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as admin:
            admin.settimeout(PATIENCE)
            admin.connect(str(self.folder / "admin.sock"))
            admin.sendall(f"{command}\n".encode())
            said = b"".join(iter(lambda: admin.recv(4096), b"")).decode().strip()
        assert not said or "changed" in said or "no need to change" in said, said

    def connect(self):
        connection = http.client.HTTPConnection("gateway", timeout=PATIENCE)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PATIENCE)
        connection.sock.connect(str(self.folder / "clients.sock"))
        return connection

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


class Replica:
    """One gateway, started anew as often as wanted."""

    def __init__(self, name, balancer, grace_seconds):
        self.name, self.balancer = name, balancer
        self.settings = {
            "API_KEYS_JSON": json.dumps([{"id": "load", "key": KEY}]),
            "SHUTDOWN_GRACE_SECONDS": str(grace_seconds),
        }
        self.gateway = None
        # Requests that were running when the stop began and were answered to their end.
        self.finished_while_stopping = 0

    def start(self):
        self.gateway = Gateway(**self.settings)
        port = urllib.parse.urlsplit(self.gateway.base).port
        self._wait_until_ready(port)
        self.balancer.tell(f"set server gateways/{self.name} addr 127.0.0.1 port {port}")
        self.balancer.tell(f"set server gateways/{self.name} state ready")

    @staticmethod
    def _wait_until_ready(port):
        until = time.monotonic() + PATIENCE
        while True:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as probe:
                probe.request("GET", "/readyz")
                if probe.getresponse().status == 200:
                    return
            assert time.monotonic() < until, "the replica does not become ready"
            time.sleep(0.02)

    def go(self):
        self.balancer.tell(f"set server gateways/{self.name} state drain")
        time.sleep(PRE_STOP_SECONDS)
        before = self.gateway.log_length()
        assert self.gateway.stop() == 0
        lines = self.gateway.log_lines(before)
        self.finished_while_stopping += sum(line.get("outcome") == "completed" for line in lines)


class Load:
    """Clients that ask again and again, half of them for streams, on connections that they keep."""

    def __init__(self, balancer):
        self.balancer = balancer
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self.answered, self.failures = 0, []
        self.threads = [threading.Thread(target=self._run, args=(number % 2 == 0,)) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()

    def _run(self, stream):
        connection = self.balancer.connect()
        while not self.stopping.is_set():
            try:
                self._ask(connection, stream)
            except (AssertionError, OSError, http.client.HTTPException) as error:
                with self.lock:
                    self.failures.append(repr(error))
                connection.close()
                connection = self.balancer.connect()
            else:
                with self.lock:
                    self.answered += 1
            if connection.sock is None:
                # The answer said that it was the last one on its connection.
                connection = self.balancer.connect()
        connection.close()

    @staticmethod
    def _ask(connection, stream):
        prompt = "Describe a rainy evening in three paragraphs." if stream else "Say hi."
        body = {"model": "flash", "stream": stream, "messages": [{"role": "user", "content": prompt}]}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"x-api-key": KEY})
        answer = connection.getresponse()
        content = answer.read().decode()
        assert answer.status == 200, content
        if stream:
            assert content.endswith("data: [DONE]\n\n"), content[-200:]
        else:
            assert json.loads(content)["choices"][0]["message"]["content"] == GREETING

    def wait_for_answers(self, more):
        """Until so many more have been answered, or have failed."""
        with self.lock:
            goal = self.answered + len(self.failures) + more
        until = time.monotonic() + PATIENCE
        while self.answered + len(self.failures) < goal:
            assert time.monotonic() < until, "the load does not go on"
            time.sleep(0.01)

    def stop(self):
        self.stopping.set()
        for thread in self.threads:
            thread.join(PATIENCE)


def roll(folder, grace_seconds):
    """Restarts all replicas under load, and tells how that went: replicas, answers, failures."""
    balancer = LoadBalancer(folder)
    replicas = [Replica(name, balancer, grace_seconds) for name in REPLICAS]
    load = None
    try:
        for replica in replicas:
            replica.start()
        load = Load(balancer)
        load.wait_for_answers(2 * CLIENTS)
        for replica in replicas:
            replica.go()
            replica.start()
            load.wait_for_answers(CLIENTS)
    finally:
        if load:
            load.stop()
        for replica in replicas:
            if replica.gateway:
                replica.gateway.stop()
        balancer.stop()
    return replicas, load.answered, load.failures


def test_a_rolling_restart_fails_and_cuts_nothing(tmp_path):
    replicas, answered, failures = roll(tmp_path, grace_seconds=20)
    assert not failures, failures[:5]
    assert answered > 5 * CLIENTS
    # Each stop met requests that were running: else it would have shown nothing.
    assert all(replica.finished_while_stopping for replica in replicas)


def test_a_restart_without_grace_would_be_noticed(tmp_path):
    _, _, failures = roll(tmp_path, grace_seconds=0)
    assert failures
