"""`ai-proxy dev` as a child process, for clients to be tested against."""

import json
import os
import re
import subprocess
import threading
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROGRAM = Path(os.environ.get("AI_PROXY") or ROOT / "target/debug/ai-proxy").resolve()

# Long enough for a debug build on a busy machine; a test that works never waits for it.
PATIENCE = 30

# What the emulator answers to "Say hi."
GREETING = "Hi there! How can I help you today?"


def assert_one_by_one(arrivals):
    """Events of a stream came as they were made. Had something on the way held them back, many would have come at once."""
    moments = 1 + sum(later - earlier > 0.005 for earlier, later in zip(arrivals, arrivals[1:]))
    assert moments > len(arrivals) / 4, f"{len(arrivals)} events came in {moments} moments"


class Gateway:
    """A running gateway: `base` and `key` as its banner tells them, and its log."""

    def __init__(self, *arguments, **settings):
        # Nothing of the caller's environment can change what is tested.
        environment = {"PATH": os.environ["PATH"], "PORT": "0", "SHUTDOWN_GRACE_SECONDS": "1", **settings}
        self.process = subprocess.Popen(
            [HERE / "dev.sh", PROGRAM, *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        # What its log never tells: every key that it is given, its own of the banner, and any bearer.
        self.secrets = ["ya29.", *re.findall(r"sk_live_[\w-]{8,}", " ".join(settings.values()))]
        self.banner = ""
        # What is no line of the log although the log has begun; there must be none.
        self.stray = []
        self._log = []
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.wait_for_log(lambda line: line["message"].startswith("listening"))
            found = re.search(r"export AI_API_BASE='(.+?)' API_KEY='(.+?)'", self.banner)
            assert found, f"the banner has no export line:\n{self.banner}"
            self.base, self.key = found.groups()
            self.secrets.append(self.key)
        except BaseException:
            self.stop()
            raise

    def _read(self):
        for line in self.process.stdout:
            with self._news:
                if line.startswith("{"):
                    self._log.append(json.loads(line))
                elif self._log:
                    self.stray.append(line)
                else:
                    self.banner += line
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def log_length(self):
        """How many lines there are, for `wait_for_log` to begin after."""
        with self._news:
            return len(self._log)

    def log_lines(self, after=0):
        """The lines so far."""
        with self._news:
            return self._log[after:]

    def wait_for_log(self, fits, after=0):
        """The first line that fits, as soon as there is one."""

        def find():
            return next((line for line in self._log[after:] if fits(line)), None)

        with self._news:
            self._news.wait_for(lambda: self._ended or find(), PATIENCE)
            line = find()
            assert line, f"no such line in the log of {PROGRAM}: {self._log[after:]}"
            return line

    def outcome_of(self, request_id):
        """How the request ended, says the log."""
        return self.wait_for_log(lambda line: line.get("request_id") == request_id)["outcome"]

    def stop(self):
        """Ends it, waits for its last line, and tells its exit code."""
        self.process.stdin.close()
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        # The banner alone tells a key, for people to copy.
        told = json.dumps(self._log) + "".join(self.stray)
        assert not any(secret in told for secret in self.secrets), "the log tells a key or a bearer"
        return code
