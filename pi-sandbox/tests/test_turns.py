"""pi at work through `ai-proxy dev`: it answers, runs tools, and edits files of the mounted folder."""

import pathlib
import re
import subprocess
import unittest

import support
from support import Gateway, User, network, needs_engine, owner

setUpModule = support.build_image


class Turns:
    """The same turns with each model. Gemini 3 asks for thought signatures in them, which pi does not send back."""

    @classmethod
    def setUpClass(cls):
        cls.gateway = Gateway(cls, "0.0.0.0")

    def setUp(self):
        self.user = User(self)
        self.user.environment.update(PI_SANDBOX_NETWORK=network(), AI_API_BASE=self.gateway.base)

    def asks(self, prompt, *more):
        """What pi says in the end."""
        done = self.user.pi("-p", prompt, "--provider", "aiaggies", "--model", self.model, *more)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def test_an_answer(self):
        self.assertEqual(self.asks("Say hi."), "Hi there! How can I help you today?")

    def test_a_file_is_created(self):
        self.asks('Create the file notes.txt with the content "hello from pi"')
        notes = self.user.project / "notes.txt"
        self.assertEqual(notes.read_text(), "hello from pi")
        self.assertEqual(owner(notes), (self.user.uid, self.user.gid))

    def test_a_file_is_read(self):
        self.user.write("notes.txt", "seventeen swans")
        self.assertIn("seventeen swans", self.asks("Read the file notes.txt"))

    def test_a_file_is_edited(self):
        notes = self.user.write("notes.txt", "hello from pi\n")
        self.asks('Edit the file notes.txt: replace the text "hello" with "goodbye"')
        self.assertEqual(notes.read_text(), "goodbye from pi\n")

    def test_a_command_is_run(self):
        self.user.write("notes.txt", "hello\n")
        self.asks('Run the bash command "tr a-z A-Z <notes.txt >loud.txt"')
        self.assertEqual((self.user.project / "loud.txt").read_text(), "HELLO\n")

    def test_two_calls_at_once(self):
        self.asks('Run the bash commands "echo 1 >first.txt" and "echo 2 >second.txt" [emulator:parallel-calls]')
        made = {path.name: path.read_text() for path in self.user.project.iterdir()}
        self.assertEqual(made, {"first.txt": "1\n", "second.txt": "2\n"})

    def test_several_steps(self):
        program = self.user.write("total.py", "def total(a, b):\n    return a - b\n\n\nprint(total(2, 3))\n")
        said = self.asks("total.py must print the sum of its numbers. Repair it.")
        self.assertEqual(program.read_text(), "def total(a, b):\n    return a + b\n\n\nprint(total(2, 3))\n")
        self.assertEqual(said, "total.py subtracted; now it prints: 5")

    def test_a_session_goes_on(self):
        self.user.write("notes.txt", "seventeen swans")
        self.asks("Read the file notes.txt")
        self.assertEqual(self.asks("Say hi.", "--continue"), "Hi there! How can I help you today?")


@needs_engine
class Flash(Turns, unittest.TestCase):
    model = "flash"


@needs_engine
class Recipe(unittest.TestCase):
    """docs/clients/pi.md, run as it is written."""

    def test_the_commands_of_the_page(self):
        page = (support.FOLDER.parent / "docs/clients/pi.md").read_text()
        commands = re.search(r"<!-- test: pi -->\n```bash\n(.*?)```", page, re.DOTALL)[1]
        user = User(self)
        user.environment.update(PI_SANDBOX_NETWORK=network(), AI_API_BASE=Gateway(type(self), "0.0.0.0").base)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=support.PATIENCE_SECONDS,
            **user.options(),
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        for told in ("flash", "pro-preview", "Hi there!"):
            self.assertIn(told, done.stdout)
        self.assertEqual((user.project / "notes.txt").read_text(), "hello from pi")


@needs_engine
class ProPreview(Turns, unittest.TestCase):
    model = "pro-preview"


@needs_engine
class ProPreviewWithoutItsSignatures(unittest.TestCase):
    """Why the gateway keeps them: with that turned off, the turn ends at the first result of a tool."""

    def test_a_file_is_created_and_then_the_turn_fails(self):
        gateway = Gateway(type(self), "0.0.0.0", THOUGHT_SIGNATURES="off")
        user = User(self)
        user.environment.update(PI_SANDBOX_NETWORK=network(), AI_API_BASE=gateway.base)
        prompt = 'Create the file notes.txt with the content "hello from pi"'
        done = user.pi("-p", prompt, "--provider", "aiaggies", "--model", "pro-preview")
        self.assertEqual(done.returncode, 1)
        self.assertIn("missing a `thought_signature`", done.stderr)
        self.assertEqual((user.project / "notes.txt").read_text(), "hello from pi")
        self.assertEqual(gateway.statuses(2), [200, 400])


@needs_engine
@unittest.skipUnless(pathlib.Path("/sys/class/net/docker0").exists(), "no bridge docker0 here")
class OnLoopback(unittest.TestCase):
    """On Linux, a gateway as `ai-proxy dev` starts it by default."""

    @classmethod
    def setUpClass(cls):
        cls.gateway = Gateway(cls, "127.0.0.1")

    def setUp(self):
        self.user = User(self)
        self.user.environment["AI_API_BASE"] = self.gateway.base

    def test_is_reached_by_the_network_of_the_host(self):
        prompt = ["-p", "Say hi.", "--provider", "aiaggies", "--model", "flash"]
        done = self.user.pi(*prompt, PI_SANDBOX_NETWORK="host")
        self.assertEqual((done.returncode, done.stdout), (0, "Hi there! How can I help you today?\n"), done.stderr)
        self.assertEqual(done.stderr, "")

    def test_is_told_to_be_out_of_reach_otherwise(self):
        done = self.user.pi("--version", PI_SANDBOX_NETWORK=None)
        self.assertIn("PI_SANDBOX_NETWORK=host", done.stderr)
        self.assertEqual(done.returncode, 0)

    def test_nothing_is_told_where_it_listens_to_all(self):
        everywhere = Gateway(type(self), "0.0.0.0")
        self.assertEqual(self.user.pi("--version", AI_API_BASE=everywhere.base).stderr, "")


if __name__ == "__main__":
    unittest.main()
