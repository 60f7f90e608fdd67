"""The wrapper's promises, looked at from inside a real container, and what pi sends from there."""

import http.server
import json
import os
import select
import signal
import subprocess
import threading
import time
import unittest
import uuid

import support
from support import IMAGE, KEY, PATIENCE_SECONDS, User, mode, needs_engine, network, owner

GIB = 1 << 30
# What a shell adds to its environment by itself.
OF_THE_SHELL = {"HOSTNAME", "PWD", "OLDPWD", "SHLVL", "_"}

setUpModule = support.build_image


@needs_engine
class Container(unittest.TestCase):
    def setUp(self):
        self.user = User(self)
        self.user.environment["PI_SANDBOX_NETWORK"] = network()

    def inside(self, script, **changes):
        done = self.user.pi("shell", "-c", script, **changes)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def fields(self, path):
        return dict(line.split(":", 1) for line in self.inside(f"cat {path}").splitlines())

    def limit(self, second_version, first_version):
        """Of a control group, in whichever version the machine has."""
        return self.inside(f"cd /sys/fs/cgroup && cat {second_version} 2>/dev/null || cat {first_version}").strip()

    def test_two_mounts_and_no_more(self):
        points = set()
        for line in self.inside("cat /proc/self/mountinfo").splitlines():
            root, point, *_ = line.split()[3:]
            kind = line.split(" - ")[1].split()[0]
            if kind not in ("overlay", "proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"):
                points.add(point)
        # The engine's own: names and addresses, and the first process.
        points -= {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/sbin/docker-init", "/usr/sbin/docker-init"}
        self.assertEqual(points, {"/workspace", "/home/pi/.pi"})

    def test_nothing_else_of_the_machine_is_seen(self):
        name = f"canary-{uuid.uuid4()}"
        secrets = self.user.home / ".ssh"
        secrets.mkdir()
        for folder in (self.user.root, self.user.home, secrets, self.user.project):
            (folder / name).write_text("a secret")
        found = self.inside(f"find / -name {name} -not -path '/proc/*' 2>/dev/null || true")
        self.assertEqual(found.split(), [f"/workspace/{name}"])

    def test_no_socket_of_the_engine(self):
        self.assertEqual(self.inside("find / -type s 2>/dev/null || true"), "")
        self.inside("test ! -e /var/run/docker.sock && ! command -v docker")

    def test_the_callers_ids_and_never_root(self):
        ids = f"{self.user.uid} {self.user.gid} {self.user.gid}"
        self.assertEqual(self.inside("echo $(id -u) $(id -g) $(id -G)").strip(), ids)
        self.assertNotEqual(self.user.uid, 0)

    def test_the_image_by_itself_is_not_root_either(self):
        run = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "id", IMAGE]
        done = subprocess.run(run, capture_output=True, text=True)
        self.assertRegex(done.stdout, r"^uid=1000\(pi\) gid=1000\(pi\)")

    def test_no_capabilities_and_no_new_privileges(self):
        status = self.fields("/proc/self/status")
        sets = {name: int(value, 16) for name, value in status.items() if name.startswith("Cap")}
        self.assertEqual(set(sets), {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"})
        self.assertEqual(set(sets.values()), {0})
        self.assertEqual(status["NoNewPrivs"].strip(), "1")
        self.assertEqual(status["Seccomp"].strip(), "2")

    def test_limits(self):
        self.assertEqual(self.limit("memory.max", "memory/memory.limit_in_bytes"), str(4 * GIB))
        self.assertEqual(self.limit("pids.max", "pids/pids.max"), "512")

    def test_processes_of_the_machine_are_not_seen(self):
        names = self.inside("cat /proc/[0-9]*/comm").split()
        self.assertEqual(names[0], "docker-init")
        self.assertLessEqual(set(names), {"docker-init", "bash", "cat"})

    def test_variables(self):
        image = json.loads(subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True).stdout)
        of_the_image = {entry.split("=", 1)[0] for entry in image[0]["Config"]["Env"]}
        told = self.inside("env -0", SECRET_TOKEN="s", GOOGLE_APPLICATION_CREDENTIALS="/x", TERM="xterm-256color")
        seen = dict(entry.split("=", 1) for entry in told.split("\0") if entry)
        self.assertEqual(set(seen) - of_the_image - OF_THE_SHELL, {"AI_API_BASE", "API_KEY", "TERM"})
        self.assertEqual(seen["API_KEY"], KEY)
        self.assertEqual(seen["AI_API_BASE"], "https://gateway.example/v1")
        self.assertEqual(seen["TERM"], "xterm-256color")
        self.assertEqual(seen["HOME"], "/home/pi")

    def test_files_belong_to_the_caller(self):
        self.user.write("there.txt", "before")
        self.inside("echo after >there.txt && mkdir new && touch new/file ~/.pi/kept")
        made = [self.user.project / "new/file", self.user.project / "there.txt", self.user.home / ".pi-sandbox/kept"]
        for path in made:
            self.assertEqual(owner(path), (self.user.uid, self.user.gid), path)
        self.assertEqual(made[1].read_text(), "after\n")

    def test_the_home_directory_can_be_written_to_and_the_system_cannot(self):
        self.inside("touch ~/x /tmp/x && ! touch /usr/x /etc/x /x 2>/dev/null")

    def test_nothing_but_the_mounts_stays(self):
        self.inside("touch ~/x ~/.pi/stays")
        self.assertEqual(self.inside("ls ~/x 2>/dev/null; ls ~/.pi/stays"), "/home/pi/.pi/stays\n")

    def test_folders_of_any_name(self):
        odd = self.user.project / "a \"b\", c:d=é'$HOME"
        odd.mkdir()
        self.user.own(odd)
        self.inside("pwd >here", cwd=odd)
        self.assertEqual((odd / "here").read_text(), "/workspace\n")

    def test_exit_codes_and_input_pass(self):
        done = self.user.pi("shell", "-c", "exit 7")
        self.assertEqual(done.returncode, 7)
        reader, writer = os.pipe()
        os.write(writer, b"piped in")
        os.close(writer)
        self.assertEqual(self.inside("cat", stdin=reader), "piped in")
        os.close(reader)

    def test_the_tools_are_there(self):
        self.inside("for tool in git rg jq python3 curl fd node pi; do command -v $tool || exit 1; done")

    def test_git_works_in_the_mounted_folder(self):
        self.inside("git init -q && git -c user.name=n -c user.email=e@e.example commit -q --allow-empty -m first")
        self.assertTrue((self.user.project / ".git/HEAD").exists())

    def test_both_models_are_listed(self):
        done = self.user.pi("--list-models")
        self.assertEqual(done.returncode, 0, done.stderr)
        _, *rows = [line.split() for line in done.stdout.splitlines()]
        self.assertEqual([row[:2] for row in rows], [["aiaggies", "flash"], ["aiaggies", "pro-preview"]])

    def test_the_version_is_the_pinned_one(self):
        pinned = (support.FOLDER / "Dockerfile").read_text().split("ARG PI_VERSION=")[1].split()[0]
        self.assertEqual(self.user.pi("--version").stdout.strip(), pinned)

    def test_the_state_stays_private(self):
        self.user.pi("--list-models")
        self.assertEqual(mode(self.user.home / ".pi-sandbox"), 0o700)


class Recorder(http.server.BaseHTTPRequestHandler):
    """Notes each request, and answers with one word."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append((self.path, dict(self.headers), json.loads(body)))
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        delta = {"role": "assistant", "content": "Noted."}
        chunk = {
            "id": "1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "m",
            "choices": [{"index": 0, "delta": delta, "finish_reason": "stop"}],
        }
        self.wfile.write(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())

    def log_message(self, *_):
        pass


@needs_engine
class Sent(unittest.TestCase):
    """models.json, as this version of pi reads it."""

    def setUp(self):
        self.server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Recorder)
        self.server.requests = []
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.user = User(self)
        base = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.user.environment.update(PI_SANDBOX_NETWORK=network(), AI_API_BASE=base)

    def sent(self, *arguments):
        done = self.user.pi("-p", "Note this.", "--provider", "aiaggies", *arguments)
        self.assertEqual((done.returncode, done.stdout), (0, "Noted.\n"), done.stderr)
        return self.server.requests.pop()

    def test_key_route_and_body(self):
        for model, more in [("flash", []), ("pro-preview", ["--thinking", "high"])]:
            with self.subTest(model):
                path, headers, body = self.sent("--model", model, *more)
                self.assertEqual(path, "/v1/chat/completions")
                headers = {name.lower(): value for name, value in headers.items()}
                self.assertEqual(headers["x-api-key"], KEY)
                self.assertEqual(headers["authorization"], f"Bearer {KEY}")
                self.assertEqual(body["model"], model)
                self.assertEqual([message["role"] for message in body["messages"]], ["system", "user"])
                tools = {tool["function"]["name"] for tool in body["tools"]}
                self.assertEqual(tools, {"bash", "edit", "read", "write"})
                self.assertIs(body["stream"], True)
                self.assertFalse({"store", "reasoning_effort", "max_completion_tokens"} & set(body), list(body))

    def test_a_literal_key_is_not_sent_without_the_variable(self):
        done = self.user.pi("-p", "Note this.", "--provider", "aiaggies", "--model", "flash", API_KEY=None)
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(self.server.requests, [])

    def test_a_piped_prompt(self):
        reader, writer = os.pipe()
        os.write(writer, b"From a pipe.")
        os.close(writer)
        done = self.user.pi("-p", "Note this.", "--provider", "aiaggies", "--model", "flash", stdin=reader)
        os.close(reader)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("From a pipe.", json.dumps(self.server.requests.pop()[2]["messages"][-1]))

    def test_the_terminal_interface(self):
        controller, terminal = os.openpty()
        options = self.user.options(TERM="xterm-256color")
        run = ["pi", "--provider", "aiaggies", "--model", "flash", "Note this."]
        process = subprocess.Popen(run, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, **options)
        os.close(terminal)
        self.addCleanup(os.close, controller)
        shown = b""

        def until(condition):
            nonlocal shown
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not condition():
                left = deadline - time.monotonic()
                self.assertGreater(left, 0, shown[-2000:])
                if not select.select([controller], [], [], min(left, 0.5))[0]:
                    continue
                try:
                    shown += os.read(controller, 65536)
                except OSError:  # The other side is closed: the program has ended.
                    return

        try:
            until(lambda: b"Noted." in shown)
            os.write(controller, b"\x04")
            until(lambda: process.poll() is not None)
            self.assertEqual(process.wait(timeout=PATIENCE_SECONDS), 0)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
        self.assertEqual(len(self.server.requests), 1)


if __name__ == "__main__":
    unittest.main()
