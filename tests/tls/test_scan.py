"""What a scanner that others wrote finds: only protocols and suites of today, and none of the known holes."""

import urllib.parse

import pytest
from sslyze import ScanCommand, Scanner, ServerNetworkLocation, ServerScanRequest
from sslyze.plugins.robot.implementation import RobotScanResultEnum

from authority import self_signed
from gateway import Gateway


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scan")
    chain, key = self_signed(folder, "scanned")
    gateway = Gateway(TLS_CERT_FILE=str(chain), TLS_KEY_FILE=str(key))
    try:
        port = urllib.parse.urlsplit(gateway.base).port
        location = ServerNetworkLocation(hostname="localhost", port=port, ip_address="127.0.0.1")
        commands = {
            ScanCommand.SSL_2_0_CIPHER_SUITES,
            ScanCommand.SSL_3_0_CIPHER_SUITES,
            ScanCommand.TLS_1_0_CIPHER_SUITES,
            ScanCommand.TLS_1_1_CIPHER_SUITES,
            ScanCommand.TLS_1_2_CIPHER_SUITES,
            ScanCommand.TLS_1_3_CIPHER_SUITES,
            ScanCommand.TLS_1_3_EARLY_DATA,
            ScanCommand.TLS_COMPRESSION,
            ScanCommand.TLS_FALLBACK_SCSV,
            ScanCommand.HEARTBLEED,
            ScanCommand.OPENSSL_CCS_INJECTION,
            ScanCommand.ROBOT,
            ScanCommand.SESSION_RENEGOTIATION,
        }
        scanner = Scanner()
        scanner.queue_scans([ServerScanRequest(server_location=location, scan_commands=commands)])
        (scan,) = scanner.get_results()
        assert scan.scan_result, scan.connectivity_error_trace
        yield scan.scan_result
    finally:
        assert gateway.stop() == 0


def result(attempt):
    assert attempt.result is not None, attempt.error_trace
    return attempt.result


@pytest.mark.parametrize("version", ["ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1"])
def test_old_protocols_are_refused(findings, version):
    found = result(getattr(findings, f"{version}_cipher_suites"))
    assert not found.is_tls_version_supported


@pytest.mark.parametrize("version", ["tls_1_2", "tls_1_3"])
def test_todays_protocols_have_only_suites_with_forward_secrecy_and_authenticated_encryption(findings, version):
    found = result(getattr(findings, f"{version}_cipher_suites"))
    names = [suite.cipher_suite.name for suite in found.accepted_cipher_suites]
    assert names
    for name in names:
        assert version == "tls_1_3" or name.startswith("TLS_ECDHE_"), name
        assert "GCM" in name or "CHACHA20_POLY1305" in name, name


def test_none_of_the_known_holes_is_there(findings):
    assert not result(findings.heartbleed).is_vulnerable_to_heartbleed
    assert not result(findings.openssl_ccs_injection).is_vulnerable_to_ccs_injection
    assert not result(findings.tls_compression).supports_compression
    assert not result(findings.tls_1_3_early_data).supports_early_data
    assert not result(findings.session_renegotiation).is_vulnerable_to_client_renegotiation_dos
    assert result(findings.session_renegotiation).supports_secure_renegotiation
    safe = {RobotScanResultEnum.NOT_VULNERABLE_NO_ORACLE, RobotScanResultEnum.NOT_VULNERABLE_RSA_NOT_SUPPORTED}
    assert result(findings.robot).robot_result in safe
