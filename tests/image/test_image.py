"""What is in the image, and what it does in the narrowest container."""

import http.client
import json
import os
import pathlib
import re
import secrets
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import support
from support import IMAGE, PATIENCE_SECONDS, PYTHON_IMAGE, ROOT, Saved, Tree, bridge, docker, needs_engine
from upstream import ANSWER, METADATA_PORT, NAME, PIECES, VERTEX_PORT

MOST_BYTES = 15_000_000
# What Cloud Run gives between SIGTERM and SIGKILL.
STOP_SECONDS = 10
KEY = "sk_test_of-the-image_0123456789"
NARROW = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "256m"]

tree = saved = None


def setUpModule():
    global tree, saved
    if support.engine_runs():
        tree = Tree()
        unittest.addModuleCleanup(tree.remove)
        support.build(tree)
        saved = Saved()


def version():
    return re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]


@needs_engine
class Contents(unittest.TestCase):
    def test_size(self):
        size = sum(len(contents) for contents in saved.files.values())
        reported = json.loads(docker("image", "inspect", IMAGE))[0]["Size"]
        print(f"{size} bytes in files, {reported} by the engine's count", end=" ", flush=True)
        self.assertLess(size, MOST_BYTES)
        self.assertLess(reported, MOST_BYTES)

    def test_how_it_starts(self):
        config = saved.config["config"]
        self.assertEqual(config["Entrypoint"], ["/ai-proxy"])
        self.assertFalse(config.get("Cmd"))
        self.assertEqual(config["User"], "65532:65532")
        self.assertEqual(list(config["ExposedPorts"]), ["8080/tcp"])
        self.assertFalse(config.get("Volumes"))
        # Nothing is set but the engine's own.
        self.assertEqual([entry.partition("=")[0] for entry in config["Env"]], ["PATH"])

    def test_labels(self):
        prefix = "org.opencontainers.image."
        labels = saved.config["config"]["Labels"]
        of_cargo = (ROOT / "Cargo.toml").read_text()
        self.assertEqual(labels[prefix + "title"], "ai-proxy")
        self.assertIn(f'description = "{labels[prefix + "description"]}"', of_cargo)
        self.assertIn(f'license = "{labels[prefix + "licenses"]}"', of_cargo)
        self.assertEqual(labels[prefix + "version"], version())
        self.assertEqual(labels[prefix + "revision"], "of-the-test")

    def test_every_file_is_accounted_for(self):
        libraries = r"lib(64)?/([a-z0-9_]+-linux-gnu/)?(ld-linux-[a-z0-9-]+|lib(c|m|gcc_s))\.so\.\d+"
        known = [
            "ai-proxy",
            libraries,
            r"etc/(group|nsswitch\.conf|os-release|passwd|ssl/certs/ca-certificates\.crt)",
            r"var/lib/dpkg/status\.d/(libc6|libgcc-s1|ca-certificates)",
            r"usr/share/doc/(libc6|libgcc-s1|ca-certificates)/copyright",
        ]
        self.assertEqual([name for name in saved.files if not re.fullmatch("|".join(known), name)], [])
        self.assertIn("etc/passwd", saved.files)

    def test_one_program_and_so_no_shell(self):
        programs = []
        for name, contents in saved.files.items():
            self.assertFalse(contents.startswith(b"#!"), name)
            if contents.startswith(b"\x7fELF") and not re.search(r"\.so\.\d+$", name):
                programs.append(name)
        self.assertEqual(programs, ["ai-proxy"])
        for shell in ("sh", "bash", "/bin/sh", "/bin/bash", "/bin/busybox"):
            run = ["docker", "run", "--rm", "--network", "none", "--entrypoint", shell, IMAGE]
            self.assertEqual(subprocess.run(run, capture_output=True).returncode, 127, shell)

    def test_nothing_is_writable_or_raises_privileges(self):
        for name, member in saved.members.items():
            self.assertEqual((member.uid, member.gid), (0, 0), name)
            self.assertIn(member.type, (b"0", b"5"), name)
            self.assertEqual(member.mode & 0o7022, 0, f"{name}: {member.mode:o}")

    def test_the_program_is_stripped(self):
        # As the table of sections names them.
        for section in (b"\0.symtab\0", b"\0.debug_info\0"):
            self.assertFalse(section in saved.files["ai-proxy"], section)

    def test_the_program_names_its_crates(self):
        tool = ROOT / "tools/release/named_crates.py"
        with tempfile.NamedTemporaryFile() as program:
            program.write(saved.files["ai-proxy"])
            program.flush()
            said = subprocess.run([sys.executable, tool, program.name], capture_output=True, text=True)
        self.assertEqual(said.returncode, 0, said.stderr)
        named = {(crate["name"], crate["version"]) for crate in json.loads(said.stdout)["packages"]}
        self.assertIn(("ai-proxy", version()), named)
        locked = re.findall(r'^name = "(.+)"\nversion = "(.+)"$', (ROOT / "Cargo.lock").read_text(), re.MULTILINE)
        self.assertLessEqual(named, set(locked))
        self.assertGreater(len(named), 100)

    def test_no_secret_in_any_layer(self):
        canary = tree.canary.encode()
        for name, contents in {**saved.blobs, **saved.files}.items():
            self.assertFalse(canary in contents, name)
        self.assertEqual([name for name in saved.members if "key" in name or ".env" in name or ".git" in name], [])
        self.assertNotIn(tree.canary, docker("history", "--no-trunc", IMAGE))

    def test_certificates(self):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=saved.files["etc/ssl/certs/ca-certificates.crt"].decode("utf-8"))
        names = {value for each in context.get_ca_certs() for part in each["subject"] for _, value in part}
        # What Google's own servers are signed by.
        self.assertLessEqual({"GTS Root R1", "GTS Root R4"}, names)

    def test_it_says_its_version(self):
        self.assertIn(version(), docker("run", "--rm", "--network", "none", *NARROW, IMAGE, "--version"))


@needs_engine
class Running(unittest.TestCase):
    """With a read-only file system and no capabilities, and the upstream of upstream.py in a container of its own.

    Where upstream is, only a DNS server knows; where the metadata server is, only /etc/hosts. Upstream's certificate
    is trusted because of what stands where the image has its certificates.
    """

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="ai-proxy-image-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        # Without a bridge all are in the machine's own network, on an address that nobody else takes.
        cls.address = None if bridge() else f"127.{1 + secrets.randbelow(250)}.{secrets.randbelow(250)}.53"
        network = [] if bridge() else ["--network", "host"]
        script = f"{support.HERE / 'upstream.py'}:/upstream.py:ro"
        play = ["python3", "-B", "/upstream.py", *([] if bridge() else [cls.address])]
        upstream = docker("run", "--detach", *network, "--volume", script, PYTHON_IMAGE, *play).strip()
        cls.addClassCleanup(docker, "rm", "--force", "--volumes", upstream)
        said = wait_for(upstream, r"(?s)(-----BEGIN.*)ready\n")
        if bridge():
            cls.address = docker("inspect", "--format", "{{.NetworkSettings.IPAddress}}", upstream).strip()
        (cls.folder / "authority.pem").write_text(said[1])
        (cls.folder / "resolv.conf").write_text(f"nameserver {cls.address}\noptions timeout:2\n")
        for path in cls.folder.iterdir():
            path.chmod(0o644)

    def start(self, *options):
        """The gateway, once it listens."""
        settings = {
            "API_KEYS_JSON": json.dumps([{"id": "image", "key": KEY}]),
            "GOOGLE_VERTEX_BASE_URL": f"https://{NAME}:{VERTEX_PORT}",
            "GCE_METADATA_HOST": f"metadata.test:{METADATA_PORT}",
        }
        if bridge():
            network = ["--publish", "127.0.0.1::8080"]
        else:
            network = ["--network", "host"]
            settings.update(HOST="127.0.0.1", PORT="0")
        network += ["--add-host", f"metadata.test:{self.address}"]
        network += ["--volume", f"{self.folder}/resolv.conf:/etc/resolv.conf:ro"]
        trusted = ["--volume", f"{self.folder}/authority.pem:/etc/ssl/certs/ca-certificates.crt:ro"]
        environment = [word for name, value in settings.items() for word in ("--env", f"{name}={value}")]
        run = ["run", "--detach", *NARROW, *network, *trusted, *environment, *options, IMAGE]
        self.container = docker(*run).strip()
        self.addCleanup(docker, "rm", "--force", "--volumes", self.container)
        self.find_port()

    def find_port(self):
        listening = wait_for(self.container, r'"address":"[^"]*:(\d+)"')
        self.port = int(docker("port", self.container, "8080/tcp").rpartition(":")[2] if bridge() else listening[1])

    def open(self, path, body=None, key=KEY):
        """An answer whose body is yet to be read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        self.addCleanup(connection.close)
        if body is None:
            connection.request("GET", path, headers={"x-api-key": key})
        else:
            chat = {"model": "flash", "messages": [{"role": "user", "content": "Say hi."}], **body}
            connection.request("POST", path, json.dumps(chat), {"x-api-key": key, "content-type": "application/json"})
        return connection.getresponse()

    def ask(self, path, body=None, key=KEY):
        answer = self.open(path, body, key)
        return answer.status, answer.read().decode()

    def stop(self):
        """Tells it to stop; the exit code, and how long that took."""
        began = time.monotonic()
        docker("stop", "--time", str(STOP_SECONDS), self.container)
        took = time.monotonic() - began
        state = json.loads(docker("inspect", self.container))[0]["State"]
        self.assertFalse(state["OOMKilled"])
        return state["ExitCode"], took

    def test_health_and_readiness(self):
        self.start()
        status, text = self.ask("/health")
        self.assertEqual((status, json.loads(text)["ok"]), (200, True))
        self.wait_until_ready()

    def wait_until_ready(self):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            status, text = self.ask("/readyz")
            if status == 200:
                self.assertEqual(json.loads(text), {"ready": True})
                return
            self.assertEqual(status, 503)
            self.assertLess(time.monotonic(), deadline, docker("logs", self.container))
            time.sleep(0.05)

    def test_a_chat_a_stream_and_the_models(self):
        self.start()
        chat = self.ask("/v1/chat/completions", {})
        self.assertEqual(chat, (200, ANSWER), docker("logs", self.container))
        status, stream = self.ask("/v1/chat/completions", {"stream": True})
        self.assertEqual((status, stream.count("data: "), stream[-14:]), (200, PIECES + 1, "data: [DONE]\n\n"))
        status, models = self.ask("/v1/models")
        self.assertEqual((status, json.loads(models)["object"]), (200, "list"))
        # The project is the metadata server's; every line is for Cloud Logging.
        lines = [json.loads(line) for line in docker("logs", self.container).splitlines()]
        self.assertEqual([line["status"] for line in lines if "httpRequest" in line], [200, 200, 200])
        self.assertNotIn(KEY, docker("logs", self.container))

    def test_any_other_user_may_run_it(self):
        self.start("--user", "4321:4321")
        self.assertEqual(self.ask("/v1/chat/completions", {})[0], 200)

    def test_it_has_no_privileges(self):
        self.start()
        process = json.loads(docker("inspect", self.container))[0]["State"]["Pid"]
        status = pathlib.Path(f"/proc/{process}/status")
        if not status.exists():
            self.skipTest("the engine is on another machine")
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        self.assertEqual(fields["Uid"].split(), ["65532"] * 4)
        self.assertEqual(fields["Gid"].split(), ["65532"] * 4)
        self.assertEqual({int(value, 16) for name, value in fields.items() if name.startswith("Cap")}, {0})
        self.assertEqual(fields["NoNewPrivs"].strip(), "1")

    def test_it_stops_when_it_is_told_to(self):
        self.start()
        self.assertEqual(self.ask("/health")[0], 200)
        code, took = self.stop()
        self.assertEqual(code, 0)
        self.assertLess(took, STOP_SECONDS)

    def test_a_stream_that_runs_is_finished_first(self):
        self.start()
        answer = self.open("/v1/chat/completions", {"stream": True})
        first = answer.readline()
        ended = []
        stopping = threading.Thread(target=lambda: ended.append(self.stop()))
        stopping.start()
        rest = answer.read().decode()
        stopping.join()
        self.assertTrue(first.startswith(b"data: "))
        self.assertEqual((rest.count("data: "), rest[-14:]), (PIECES, "data: [DONE]\n\n"))
        [(code, took)] = ended
        self.assertEqual(code, 0)
        self.assertLess(took, STOP_SECONDS)

    def test_a_broken_configuration_is_said_and_ends_it(self):
        run = ["docker", "run", "--rm", "--network", "none", *NARROW, IMAGE]
        ended = subprocess.run(run, capture_output=True, text=True)
        self.assertEqual(ended.returncode, 64)
        self.assertIn("API_KEYS_JSON", ended.stderr)

    def test_dev_as_readme_starts_it(self):
        dev = readme()[1]
        self.container = bash(dev.replace("docker run --rm", "docker run --detach")).strip()
        self.addCleanup(docker, "rm", "--force", "--volumes", self.container)
        self.find_port()
        # Without a key of the environment's it makes one.
        key = wait_for(self.container, r"API_KEY='(.+?)'")[1]
        status, text = self.ask("/v1/chat/completions", {}, key)
        self.assertEqual(status, 200)
        self.assertIn("Hi there!", text)

    def test_credentials_as_readme_mounts_them(self):
        # As gcloud leaves them: for their owner only.
        file = self.folder / "home/.config/gcloud/application_default_credentials.json"
        file.parent.mkdir(parents=True)
        file.write_text('{"type":"authorized_user","client_id":"c","client_secret":"s","refresh_token":"r"}')
        file.chmod(0o600)
        keys = self.folder / "api-keys.json"
        keys.write_text(json.dumps([{"id": "image", "key": KEY}]))
        keys.chmod(0o600)
        gateway = readme()[2]
        for option in NARROW[:5]:
            self.assertIn(option, gateway)
        home = str(self.folder / "home")
        said = bash(f"{gateway} check", self.folder, HOME=home, GOOGLE_CLOUD_PROJECT="mine")
        self.assertRegex(said, r"ok +configuration")
        self.assertRegex(said, r"project +mine")


def readme():
    """The three commands of its section, for the image of the tests and on a port of the system's choice."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("### In a container\n")[2]
    text = re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1].replace("\\\n", "")
    publish = "--publish 127.0.0.1:8080:8080"
    assert text.count(publish) == 2 and text.count(" ai-proxy") == 3, text
    anywhere = "--publish 127.0.0.1::8080" if bridge() else "--network host --env PORT=0"
    return text.replace(publish, anywhere).replace(" ai-proxy", f" {IMAGE}").splitlines()


def bash(command, folder=None, **environment):
    run = subprocess.run(
        ["bash", "-c", command], cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if run.returncode != 0:
        raise AssertionError(f"{command}: {run.stderr}")
    return run.stdout


def wait_for(container, pattern):
    """What a container says in the end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        run = subprocess.run(["docker", "logs", container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        found = re.search(pattern, run.stdout)
        if found:
            return found
        alive = docker("inspect", "--format", "{{.State.Running}}", container).strip() == "true"
        if not alive or time.monotonic() > deadline:
            raise AssertionError(f"it has not said {pattern}, but:\n{run.stdout}")
        time.sleep(0.05)


if __name__ == "__main__":
    unittest.main()
