"""What the wrapper does before a container runs: settings, first run, arguments. Needs no Docker engine."""

import json
import os
import subprocess
import unittest

from support import FOLDER, IMAGE, KEY, User, mode, owner


class Wrapper(unittest.TestCase):
    def setUp(self):
        self.user = User(self)
        self.user.fake_engine()

    def run_options(self):
        """The options of the only `docker run`, and what is run."""
        (call,) = self.user.calls("run")
        at = call.index("--entrypoint")
        self.assertEqual(call[at + 2], IMAGE)
        return call[1:at], [call[at + 1], *call[at + 3 : -1]]

    def succeeds(self, *arguments, **environment):
        done = self.user.pi(*arguments, **environment)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def refuses(self, told, *arguments, **environment):
        done = self.user.pi(*arguments, **environment)
        self.assertEqual(done.returncode, 1)
        self.assertIn(told, done.stderr)
        self.assertEqual(self.user.calls("run"), [])

    def test_everything_else_goes_to_pi(self):
        self.succeeds("-p", "a prompt with 'quotes', $HOME and\na line", "--provider", "aiaggies", "--model", "flash")
        _, run = self.run_options()
        prompt = "a prompt with 'quotes', $HOME and\na line"
        self.assertEqual(run, ["pi", "-p", prompt, "--provider", "aiaggies", "--model", "flash"])

    def test_no_arguments_start_pi(self):
        self.succeeds()
        self.assertEqual(self.run_options()[1], ["pi"])

    def test_shell(self):
        self.succeeds("shell", "-c", "true")
        self.assertEqual(self.run_options()[1], ["bash", "-c", "true"])

    def test_two_mounts(self):
        self.succeeds()
        options, _ = self.run_options()
        mounts = [options[at + 1] for at, option in enumerate(options) if option == "--mount"]
        self.assertEqual(
            mounts,
            [
                f'type=bind,"source={self.user.project}",target=/workspace',
                f'type=bind,"source={self.user.home}/.pi-sandbox",target=/home/pi/.pi',
            ],
        )
        self.assertFalse({"-v", "--volume", "--volumes-from", "--device", "--privileged", "--pid"} & set(options))

    def test_the_key_is_in_no_argument(self):
        self.succeeds(AI_API_BASE="http://127.0.0.1:1/v1")
        (call,) = self.user.calls("run")
        self.assertNotIn(KEY, " ".join(call[:-1]))
        self.assertEqual(call[-1], f"API_KEY={KEY} AI_API_BASE=http://host.docker.internal:1/v1")

    def test_variables_by_name(self):
        self.succeeds(TERM="xterm-256color", COLORTERM="truecolor", SECRET="s", AWS_PROFILE="p")
        options, _ = self.run_options()
        names = [options[at + 1] for at, option in enumerate(options) if option == "--env"]
        self.assertEqual(names, ["AI_API_BASE", "API_KEY", "TERM", "COLORTERM"])
        self.assertNotIn("--env-file", options)

    def test_only_what_installs_may_use_the_network_by_itself(self):
        self.succeeds("install", "npm:something")
        options, _ = self.run_options()
        self.assertIn("PI_OFFLINE=", options)

    def test_a_terminal_only_where_there_are_two(self):
        controller, terminal = os.openpty()
        self.addCleanup(os.close, controller)
        self.addCleanup(os.close, terminal)
        pipe = subprocess.DEVNULL
        for stdin, stdout, expected in [
            (terminal, terminal, {"--interactive", "--tty"}),
            (terminal, pipe, set()),
            (pipe, terminal, {"--interactive"}),
            (pipe, pipe, {"--interactive"}),
        ]:
            with self.subTest(stdin=stdin, stdout=stdout):
                self.user.notes.unlink(missing_ok=True)
                self.assertEqual(self.user.pi(stdin=stdin, stdout=stdout).returncode, 0)
                options, _ = self.run_options()
                self.assertEqual({"--interactive", "--tty"} & set(options), expected)

    def test_builds_on_first_use(self):
        self.user.fake_engine(image_is_there=False)
        self.succeeds("--list-models")
        (build,) = self.user.calls("build")
        self.assertEqual(build[1:-1], ["--tag", IMAGE, str(self.user.installed)])
        self.assertEqual(len(self.user.calls("run")), 1)

    def test_does_not_build_again(self):
        self.succeeds("--list-models")
        self.assertEqual(self.user.calls("build"), [])

    def test_rebuild(self):
        self.succeeds("rebuild", "--no-cache", PI_SANDBOX_NETWORK="host")
        (build,) = self.user.calls("build")
        self.assertEqual(
            build[1:-1], ["--network", "host", "--tag", IMAGE, "--no-cache", str(self.user.installed)]
        )
        self.assertEqual(self.user.calls("run"), [])
        self.assertFalse((self.user.home / ".pi-sandbox").exists())

    def test_networks(self):
        for network, expected in [
            ("", ["--add-host", "host.docker.internal:host-gateway"]),
            ("lab", ["--network", "lab", "--add-host", "host.docker.internal:host-gateway"]),
            ("host", ["--network", "host", "--add-host", "host.docker.internal:127.0.0.1"]),
        ]:
            with self.subTest(network):
                self.user.notes.unlink(missing_ok=True)
                self.succeeds(PI_SANDBOX_NETWORK=network)
                options, _ = self.run_options()
                self.assertEqual(options[-len(expected) :], expected)
                self.assertEqual("--network" in options, "--network" in expected)

    def test_first_run_writes_models_json(self):
        self.succeeds(AI_API_BASE="https://gateway.example/v1/")
        expected = json.loads((FOLDER / "models.json").read_text())
        expected["providers"]["aiaggies"]["baseUrl"] = "https://gateway.example/v1"
        self.assertEqual(json.loads(self.user.models.read_text()), expected)
        self.assertEqual(owner(self.user.models), (self.user.uid, self.user.gid))
        self.assertEqual([mode(self.user.models), mode(self.user.home / ".pi-sandbox")], [0o600, 0o700])
        self.assertEqual(list(self.user.models.parent.iterdir()), [self.user.models])
        self.assertNotIn(KEY, self.user.models.read_text())

    def test_models_json_is_never_overwritten(self):
        self.succeeds()
        self.user.models.write_text("mine")
        self.succeeds(AI_API_BASE="https://another.example/v1")
        self.succeeds(AI_API_BASE=None)
        self.assertEqual(self.user.models.read_text(), "mine")

    def test_not_even_a_link_to_nowhere(self):
        self.user.models.parent.mkdir(parents=True)
        self.user.models.symlink_to("nowhere")
        self.user.own(self.user.home)
        self.succeeds()
        self.assertEqual(os.readlink(self.user.models), "nowhere")
        self.assertFalse(self.user.models.exists())

    def test_the_first_run_needs_a_base_url(self):
        self.refuses("AI_API_BASE", AI_API_BASE=None)
        self.assertFalse(self.user.models.exists())

    def test_how_a_base_url_is_spelled_in_the_container(self):
        for given, expected in [
            ("http://127.0.0.1:8080/v1", "http://host.docker.internal:8080/v1"),
            ("http://localhost:8080/v1", "http://host.docker.internal:8080/v1"),
            ("http://[::1]:8080/v1", "http://host.docker.internal:8080/v1"),
            ("http://0.0.0.0:8080/v1/", "http://host.docker.internal:8080/v1"),
            ("http://localhost/v1", "http://host.docker.internal/v1"),
            ("http://localhost.example:8080/v1", "http://localhost.example:8080/v1"),
            ("http://192.0.2.1/v1", "http://192.0.2.1/v1"),
            ("https://gateway.example", "https://gateway.example"),
            ("https://gateway.example/a&b/v1", "https://gateway.example/a&b/v1"),
        ]:
            with self.subTest(given):
                self.user.models.unlink(missing_ok=True)
                self.user.notes.unlink(missing_ok=True)
                self.succeeds(AI_API_BASE=given)
                written = json.loads(self.user.models.read_text())["providers"]["aiaggies"]["baseUrl"]
                self.assertEqual(written, expected)
                (call,) = self.user.calls("run")
                self.assertTrue(call[-1].endswith(f"AI_API_BASE={expected}"), call[-1])

    def test_what_is_no_base_url(self):
        for given in ("gateway.example/v1", "ftp://a/v1", "http://", "http://a b/v1", 'http://a/"', "http://a/v1\n"):
            with self.subTest(given):
                self.refuses("AI_API_BASE", AI_API_BASE=given)
                self.assertFalse(self.user.models.exists())

    def test_a_missing_key_is_told(self):
        self.assertIn("API_KEY", self.succeeds(API_KEY=None).stderr)

    def test_never_as_root(self):
        self.user.fake("id", "echo 0")
        self.refuses("root")

    def test_never_the_whole_home_directory(self):
        for folder in (self.user.home, self.user.home.parent, "/"):
            with self.subTest(str(folder)):
                self.refuses("home", cwd=folder)

    def test_without_docker(self):
        (self.user.bin / "docker").unlink()
        for tool in ("bash", "env"):
            (self.user.bin / tool).symlink_to(f"/bin/{tool}" if tool == "bash" else f"/usr/bin/{tool}")
        self.refuses("no docker", PATH=str(self.user.bin))


if __name__ == "__main__":
    unittest.main()
