"""Certificates by ACME, from a real authority: issued, kept over a restart, renewed, and what happens when none comes."""

import http.client
import json
import re
import socket
import ssl
import stat
import urllib.parse

import pytest
from cryptography import x509

from authority import PEBBLE, Pebble
from gateway import PATIENCE, Gateway

pytestmark = pytest.mark.skipif(PEBBLE is None, reason="pebble is not installed")

DOMAINS = ["ai.example.com", "other.example.com"]


class Owner:
    """Starts gateways with one cache, at one authority, behind one door."""

    def __init__(self, folder, door):
        self.cache = folder / "cache"
        self.door = door

    def start(self, pebble, **settings):
        gateway = Gateway(
            ACME_DOMAINS=",".join(DOMAINS),
            ACME_EMAIL="owner@example.com",
            ACME_CACHE_DIR=str(self.cache),
            ACME_DIRECTORY_URL=pebble.directory,
            SSL_CERT_FILE=str(pebble.certificate),
            **settings,
        )
        self.door.target = urllib.parse.urlsplit(gateway.base).port
        return gateway


@pytest.fixture
def owner(tmp_path, door):
    return Owner(tmp_path, door)


def issued(line):
    return line["message"].startswith("new certificate by ACME, valid until")


def connect(gateway, root, name):
    """A connection as a client would make it that trusts the authority, and the certificate that it was shown."""
    context = ssl.create_default_context(cadata=root)
    address = ("127.0.0.1", urllib.parse.urlsplit(gateway.base).port)
    connection = context.wrap_socket(socket.create_connection(address, PATIENCE), server_hostname=name)
    return connection, x509.load_der_x509_certificate(connection.getpeercert(binary_form=True))


def ask(connection, path="/health"):
    connection.sendall(f"GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: close\r\n\r\n".encode())
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.read()


def test_a_certificate_is_issued_and_kept_over_a_restart(tmp_path, owner, names, door):
    pebble = Pebble(tmp_path, names, door)
    try:
        gateway = owner.start(pebble)
        gateway.wait_for_log(issued)
        for name in DOMAINS:
            connection, certificate = connect(gateway, pebble.root(), name)
            assert ask(connection)[0] == 200
            names_in_it = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert sorted(names_in_it.get_values_for_type(x509.DNSName)) == DOMAINS
        serial = certificate.serial_number
        assert pebble.orders() == 1
        assert gateway.stop() == 0

        gateway = owner.start(pebble)
        kept = gateway.wait_for_log(lambda line: line["message"].startswith("certificate from ACME_CACHE_DIR"))
        assert "valid until" in kept["message"]
        connection, certificate = connect(gateway, pebble.root(), DOMAINS[0])
        assert ask(connection)[0] == 200
        assert certificate.serial_number == serial
        assert pebble.orders() == 1, "a restart orders nothing"
        assert gateway.stop() == 0
    finally:
        pebble.stop()
    # Both keys in the cache are for the owner's eyes only.
    files = sorted(owner.cache.iterdir())
    assert [re.sub("-.*", "", file.name) for file in files] == ["account", "certificate"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(owner.cache.stat().st_mode) == 0o700


def test_a_certificate_is_renewed_while_requests_run_even_if_the_authority_has_forgotten_us(tmp_path, owner, names, door):
    first = Pebble(tmp_path, names, door, lifetime_seconds=15)
    gateway = owner.start(first)
    try:
        gateway.wait_for_log(issued)
        after = gateway.log_length()
        connection, before = connect(gateway, first.root(), DOMAINS[0])
        gateway.wait_for_log(issued, after)
        renewed, certificate = connect(gateway, first.root(), DOMAINS[0])
        assert certificate.serial_number != before.serial_number
        # What was connected before goes on.
        assert ask(connection)[0] == ask(renewed)[0] == 200
        assert gateway.stop() == 0
    finally:
        first.stop()

    # An authority that has lost its memory. It is at another port now, so the account is told to be there.
    account = next(owner.cache.glob("account-*.json")).read_text(encoding="utf-8")
    second = Pebble(tmp_path, names, door)
    try:
        for file in owner.cache.iterdir():
            file.unlink()
        gateway = owner.start(second)
        gateway.wait_for_log(issued)
        assert gateway.stop() == 0
        certificate, kept = next(owner.cache.glob("certificate-*")), next(owner.cache.glob("account-*"))
        certificate.unlink()
        kept.write_text(account.replace(f":{first.port}/", f":{second.port}/"), encoding="utf-8")
        gateway = owner.start(second)
        gateway.wait_for_log(issued)
        assert gateway.stop() == 0
        assert kept.read_text(encoding="utf-8") != account

        # An account whose key is none any more is replaced too; until then the log says what is served.
        certificate.unlink()
        spoilt = json.loads(kept.read_text(encoding="utf-8")) | {"key_pkcs8": "AAAA"}
        kept.write_text(json.dumps(spoilt), encoding="utf-8")
        owner.cache.chmod(0o777)
        gateway = owner.start(second)
        gateway.wait_for_log(issued)
        warned = gateway.wait_for_log(lambda line: line["message"].startswith("ACME_CACHE_DIR: everybody may write"))
        assert warned["severity"] == "WARNING"
        assert gateway.stop() == 0
    finally:
        second.stop()


def test_a_name_that_leads_elsewhere_is_told_and_nothing_falls_over(tmp_path, owner, names, door):
    pebble = Pebble(tmp_path, names, door)
    names.lead_here = False
    gateway = owner.start(pebble)
    try:
        failed = gateway.wait_for_log(lambda line: line["message"].startswith("no certificate by ACME"))
        assert failed["severity"] == "ERROR"
        assert failed["message"].endswith("; there is none to serve; next attempt in 1 min")
        assert DOMAINS[0] in failed["message"] or DOMAINS[1] in failed["message"], failed
        # Without a certificate nobody is served, and nobody is kept waiting.
        with pytest.raises(ssl.SSLError):
            connect(gateway, pebble.root(), DOMAINS[0])
        assert gateway.stop() == 0
    finally:
        pebble.stop()


def test_a_cache_that_cannot_be_used_is_named_at_start(tmp_path, owner, names, door):
    owner.cache.write_text("not a folder", encoding="utf-8")
    pebble = Pebble(tmp_path, names, door)
    try:
        with pytest.raises(AssertionError, match="no such line"):
            owner.start(pebble)
    finally:
        pebble.stop()
