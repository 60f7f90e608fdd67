"""Pebble, a real ACME server, with the small network that it needs: names that lead here, and a port to ask at."""

import contextlib
import datetime
import ipaddress
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway import PATIENCE

PEBBLE = shutil.which("pebble")


def self_signed(folder, name="authority"):
    """A certificate for this machine's own addresses, which vouches for itself: its file and that of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain, private = Path(folder, f"{name}.pem"), Path(folder, f"{name}-key.pem")
    chain.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return chain, private


class Names:
    """A name server to which every name is this machine, while `lead_here` is set, and else does not exist."""

    def __init__(self):
        self.lead_here = True
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                query, client = self.socket.recvfrom(4096)
            except OSError:
                return
            end = query.index(b"\0", 12) + 5
            question = query[12:end]
            is_address = question[-4:-2] == b"\0\1" and self.lead_here
            code = 0 if self.lead_here else 3
            head = query[:2] + bytes([0x81, 0x80 | code]) + b"\0\1" + (b"\0\1" if is_address else b"\0\0") + b"\0\0\0\0"
            record = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1" if is_address else b""
            self.socket.sendto(head + question + record, client)

    def close(self):
        self.socket.close()


class Door:
    """A port that leads to another one, which may be known only later."""

    def __init__(self):
        self.target = None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                outside, _ = self.listener.accept()
            except OSError:
                return
            if self.target is None:
                outside.close()
                continue
            inside = socket.create_connection(("127.0.0.1", self.target), PATIENCE)
            for one, other in ((outside, inside), (inside, outside)):
                threading.Thread(target=self._copy, args=(one, other), daemon=True).start()

    @staticmethod
    def _copy(source, sink):
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.close()


class Pebble:
    """The authority. `certificate` is what its own port is verified against, `root()` what it issues by."""

    def __init__(self, folder, names, door, lifetime_seconds=None):
        self.certificate, key = self_signed(folder)
        settings = {
            "listenAddress": "127.0.0.1:0",
            "managementListenAddress": "127.0.0.1:0",
            "certificate": str(self.certificate),
            "privateKey": str(key),
            "httpPort": door.port,
            "tlsPort": door.port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": False,
        }
        if lifetime_seconds:
            settings["certificateValidityPeriod"] = lifetime_seconds
        config = Path(folder, "pebble.json")
        config.write_text(json.dumps({"pebble": settings}), encoding="utf-8")
        self.log = Path(folder, "pebble.log")
        with self.log.open("w", encoding="utf-8") as log:
            # Without the good nonces that it refuses by chance: the library gives up after three, and a test would fail by chance.
            self.process = subprocess.Popen(
                [PEBBLE, "-strict", "-config", config, "-dnsserver", names.address],
                env={"PATH": os.environ["PATH"], "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.context = ssl.create_default_context(cafile=self.certificate)
        self.port = self.management = None
        try:
            self._find_ports()
        except BaseException:
            self.stop()
            raise

    def _find_ports(self):
        """It does not tell the ports that the system has chosen; the system does."""
        until = time.monotonic() + PATIENCE
        while not (self.port and self.management):
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            assert time.monotonic() < until, "Pebble opens no port"
            for port in listening_ports(self.process.pid):
                with contextlib.suppress(OSError):
                    if self._get(port, "/dir"):
                        self.port = port
                with contextlib.suppress(OSError):
                    if self._get(port, "/roots/0"):
                        self.management = port

    def _get(self, port, path):
        url = f"https://127.0.0.1:{port}{path}"
        with urllib.request.urlopen(url, context=self.context, timeout=PATIENCE) as answer:
            return answer.read().decode()

    @property
    def directory(self):
        return f"https://127.0.0.1:{self.port}/dir"

    def root(self):
        """The certificate by which it issues, in PEM: another one each time it starts."""
        return self._get(self.management, "/roots/0")

    def orders(self):
        """How many orders it has taken."""
        return self.log.read_text(encoding="utf-8").count("Added order ")

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE)


def listening_ports(process):
    """The TCP ports at which a process listens, by what the kernel tells of its descriptors."""
    sockets = set()
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        with contextlib.suppress(OSError):
            sockets.add(os.readlink(descriptor))
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                ports.add(int(fields[1].rsplit(":", 1)[1], 16))
    return ports
