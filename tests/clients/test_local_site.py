"""html/serve.py shows the local site, that alone, to this machine alone, on a bare Python."""

import ast
import http.client
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import PATIENCE, ROOT

SERVE = ROOT / "html/serve.py"
# Nothing that is installed beside Python is in reach.
BARE = [sys.executable, "-I", "-S", str(SERVE)]


@pytest.fixture(scope="module")
def address():
    with subprocess.Popen([*BARE, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            host, port = re.fullmatch(r"http://([\d.]+):(\d+)/\n", process.stdout.readline()).groups()
            yield host, int(port)
        finally:
            process.terminate()
            assert process.communicate(timeout=PATIENCE) == ("", ""), "it said something while serving"


def ask(address, path, method="GET"):
    connection = http.client.HTTPConnection(*address, timeout=PATIENCE)
    connection.putrequest(method, path)
    connection.endheaders()
    answer = connection.getresponse()
    return answer, answer.read()


def test_files(address):
    kinds = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
             ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}  # fmt: skip
    files = sorted(path for path in SERVE.parent.iterdir() if path != SERVE and path.is_file())
    assert len(files) == 4
    for file in files:
        answer, body = ask(address, f"/{file.name}?x=1")
        assert (answer.status, body) == (200, file.read_bytes())
        assert answer.headers["content-type"] == kinds[file.suffix]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        head, nothing = ask(address, f"/{file.name}", "HEAD")
        assert (head.status, nothing, head.headers["content-length"]) == (200, b"", str(len(body)))
    assert ask(address, "/")[1] == (SERVE.parent / "index.html").read_bytes()


@pytest.mark.parametrize(
    "path",
    ["/serve.py", "/../SPEC.md", "/%2e%2e/SPEC.md", "/..%2fSPEC.md", "//etc/passwd", "/etc/passwd", "/%00", "//evil.example/..",
     "/site.css/", "/./index.html", "/index.html%00", "/INDEX.HTML", "http://evil.example/", "*"],
)  # fmt: skip
def test_nothing_else(address, path):
    answer, _ = ask(address, path)
    assert answer.status == 404
    assert answer.headers["location"] is None


def test_no_other_method(address):
    assert ask(address, "/", "POST")[0].status == 501


def test_this_machine_alone(address):
    assert address[0] == "127.0.0.1"
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"]
    assert f"0100007F:{address[1]:04X}" in listening
    assert f"00000000:{address[1]:04X}" not in listening


@pytest.mark.parametrize("words", [["abc"], ["-1"], ["65536"], ["99999999999"], ["1", "2"], ["²"]])
def test_what_is_no_port_is_told(words):
    run = subprocess.run([*BARE, *words], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "python3 html/serve.py [PORT], with a PORT from 0 to 65535\n"


def test_a_port_that_is_taken_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = subprocess.run([*BARE, str(port)], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert run.returncode == 1
    assert re.fullmatch(rf"port {port}: .+; try another: python3 html/serve.py 8001\n", run.stderr)


def test_older_pythons_understand_it():
    ast.parse(SERVE.read_text(encoding="utf-8"), feature_version=(3, 9))
