"""No secret leaves the machine: not to an engine, not to Cloud Build, not into git."""

import fnmatch
import os
import shutil
import subprocess
import tarfile
import tempfile
import unittest

from support import ROOT, SECRET_FILES, Tree, docker, needs_engine


def git(*arguments, cwd):
    # Without the lists of the caller's own.
    nowhere = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "XDG_CONFIG_HOME": "/nonexistent"}
    environment = {**os.environ, **nowhere}
    run = subprocess.run(["git", *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    if run.returncode != 0:
        raise AssertionError(f"git {' '.join(arguments)}: {run.stderr}")
    return {name for name in run.stdout.split("\0") if name}


class Uploads(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tree = Tree()
        cls.addClassCleanup(cls.tree.remove)
        cls.wanted = cls.tree.source() | {"Dockerfile", ".dockerignore"}

    def test_an_upload_to_cloud_build_is_what_the_image_is_built_of(self):
        # git reads such a list as gcloud does.
        with tempfile.TemporaryDirectory() as empty:
            git("init", "--quiet", cwd=empty)
            of = [f"--git-dir={empty}/.git", f"--work-tree={self.tree.root}"]
            listed = git(*of, "ls-files", "-z", "--others", "--exclude-from=.gcloudignore", cwd=self.tree.root)
        self.assertEqual(listed, self.wanted)

    if shutil.which("gcloud"):

        def test_gcloud_itself_lists_the_same(self):
            with tempfile.TemporaryDirectory() as settings:
                environment = {**os.environ, "CLOUDSDK_CONFIG": settings, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
                command = ["gcloud", "meta", "list-files-for-upload", self.tree.root]
                run = subprocess.run(command, env=environment, capture_output=True, text=True)
            self.assertEqual(run.returncode, 0, run.stderr)
            self.assertEqual(set(run.stdout.splitlines()), self.wanted)

    def test_git_adds_no_secret(self):
        with tempfile.TemporaryDirectory() as empty:
            git("init", "--quiet", cwd=empty)
            of = [f"--git-dir={empty}/.git", f"--work-tree={self.tree.root}"]
            listed = git(*of, "ls-files", "-z", "--others", "--exclude-per-directory=.gitignore", cwd=self.tree.root)
        self.assertIn("src/main.rs", listed)
        self.assertIn(".env.example", listed)
        # What no list of names can know.
        self.assertEqual(listed & set(self.tree.secrets), {"notes.txt", "keys/new.txt"})

    @needs_engine
    def test_the_build_gets_what_it_copies(self):
        # All of the context as an image, by the engine that the Dockerfile is built with. Nothing is in it to start.
        everything = self.tree.root / "everything.Dockerfile"
        everything.write_text("FROM scratch\nCOPY . /\n")
        self.addCleanup(everything.unlink)
        with tempfile.TemporaryDirectory() as folder:
            note = os.path.join(folder, "image")
            docker("build", "--quiet", "--file", str(everything), "--iidfile", note, str(self.tree.root))
            with open(note, encoding="ascii") as file:
                image = file.read().strip()
            self.addCleanup(docker, "image", "rm", image)
            container = docker("create", image, "none").strip()
            try:
                exported = os.path.join(folder, "exported.tar")
                docker("export", "--output", exported, container)
            finally:
                docker("rm", container)
            with tarfile.open(exported) as archive:
                files = {member.name for member in archive if member.isfile()}
        # Without what the engine adds to a container.
        files = {name for name in files if not name.startswith((".dockerenv", "dev/", "etc/", "proc/", "sys/"))}
        # The two that steer a build may come along.
        self.assertEqual(files - {".dockerignore", everything.name}, self.tree.source())


def listed_secrets(name):
    """The names of secrets in one of the lists, in their order."""
    lines = (ROOT / name).read_text(encoding="utf-8").split("# Secrets", 1)[1].splitlines()[1:]
    # What is built comes behind them.
    built = (".git", ".venv", "__pycache__", "node_modules", "target")
    patterns = [line.removeprefix("**/") for line in lines]
    return [pattern for pattern in patterns if pattern not in built and pattern != "!.env.example"]


class Lists(unittest.TestCase):
    def test_the_lists_are_equal(self):
        words = ["bash", "-euc", '. deploy/upload.sh; printf "%s\\n" "${SECRET_NAMES[@]}"']
        of_script = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        self.assertGreater(len(of_script), 20)
        for name in (".gitignore", ".dockerignore", ".gcloudignore"):
            with self.subTest(name):
                self.assertEqual(listed_secrets(name), of_script)

    def test_a_list_that_lacks_a_name_is_noticed(self):
        patterns = listed_secrets(".gitignore")
        for pattern in patterns:
            # One of the files is covered by this one alone.
            others = [other for other in patterns if other != pattern]
            alone = [
                file
                for file in SECRET_FILES
                if fnmatch.fnmatchcase(file, pattern) and not any(fnmatch.fnmatchcase(file, other) for other in others)
            ]
            self.assertTrue(alone, pattern)


class ThisTree(unittest.TestCase):
    @unittest.skipUnless((ROOT / ".git").exists(), "no git repository here")
    def test_nothing_is_ignored_that_is_tracked(self):
        tracked = git("ls-files", "-z", "--cached", "--ignored", "--exclude-per-directory=.gitignore", cwd=ROOT)
        self.assertEqual(tracked, set())


if __name__ == "__main__":
    unittest.main()
