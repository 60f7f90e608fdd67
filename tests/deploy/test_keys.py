"""The deploy scripts take the lists of keys that the gateway takes, and no other: both judge the same files."""

import hashlib
import json
import os
import random
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("AI_PROXY") or ROOT / "target/debug/ai-proxy").resolve()

KEY = "sk_live_0123456789abcdef"
DIGEST = hashlib.sha256(KEY.encode()).hexdigest()
NOTHING = hashlib.sha256(b"").hexdigest()


def entry(*fields):
    """One entry: id and key, and these fields as they are spelled."""
    return "[{" + ", ".join(['"id": "me"', f'"key": "{KEY}"', *fields]) + "}]"


def written(*entries):
    return json.dumps(list(entries))


GOOD = [
    entry(),
    entry().replace(" ", ""),
    "\n\t " + entry().replace(",", ",\r\n") + " \n",
    entry('"enabled": true', '"metrics": false'),
    entry('"expires_at": "2030-12-31T23:59:59Z"'),
    entry('"expires_at": "2028-02-29T00:00:00.123456789-11:30"'),
    entry('"expires_at": "2030-06-30T23:59:60Z"'),
    entry('"expires_at": "0000-01-01T00:00:00Z"'),
    entry('"expires_at": "9999-12-30T22:00:00Z"'),
    entry('"expires_at": "9999-12-30T22:00:00.999999999Z"'),
    entry('"expires_at": "2030-01-01T00:00:00+25:59"'),
    entry('"expires_at": "2030-01-01T00:00:00-00:00"'),
    entry('"models": ["flash"]'),
    entry('"models": ["flash", "pro-preview", "flash-lite", "gpt-4o"]'),
    entry('"rpm": 1', '"max_concurrent": 1', '"tokens_per_day": 1'),
    entry('"rpm": 100000', '"max_concurrent": 1000000', '"tokens_per_day": 1000000000000000'),
    entry('"tokens_per_day": 5', '"tokens_if_unknown": 1000000000000000'),
    written({"id": "a", "key_sha256": DIGEST}),
    written({"id": "a", "key": KEY}, {"id": "a", "key": KEY + "2", "enabled": False}),
    written({"id": "a", "key": KEY}, {"id": "b", "key_sha256": hashlib.sha256(b"another").hexdigest()}),
    written({"id": "ä" * 64, "key": "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"}),
    f'[{{"id": "\\u0041\\ud83d\\ude00", "k\\u0065y": "{KEY}"}}]',
    f'[{{"id": "a/b \\" \\\\", "key": "{KEY}"}}]',
    written({"id": "\ufffd", "key": KEY}),
]

BAD = [
    "",
    " \n",
    "[]",
    "{}",
    "null",
    "[1]",
    "[null]",
    "[[]]",
    entry()[:-1],
    entry() + "]",
    entry() + entry(),
    entry() + " x",
    entry().replace("}]", "},]"),
    entry().replace("}]", ",}]"),
    "\ufeff" + entry(),
    entry() + "\0",
    entry() + "\f",
    "// a comment\n" + entry(),
    entry().replace('"me"', "'me'"),
    json.dumps({"id": "me", "key": KEY}),
    json.dumps({"keys": [{"id": "me", "key": KEY}]}),
    entry('"x": 1'),
    entry('"Enabled": true'),
    entry('"key\\u005f": 1'),
    entry('"\\ud800": 1'),
    entry('"id": "you"'),
    entry('"models": ["flash"]', '"models": ["flash"]'),
    entry('"models": ["flash"]', '"models": "flash"'),
    entry('"enabled": true', '"enabled": true'),
    entry('"enabled": false'),
    entry('"enabled": "true"'),
    entry('"enabled": 1'),
    entry('"enabled": null'),
    entry('"metrics": "yes"'),
    entry('"metrics": null'),
    written({"key": KEY}),
    written({"id": "me"}),
    written({"id": "", "key": KEY}),
    written({"id": 5, "key": KEY}),
    written({"id": None, "key": KEY}),
    written({"id": "a\nb", "key": KEY}),
    written({"id": "a\u0085", "key": KEY}),
    written({"id": "a\x7f", "key": KEY}),
    written({"id": "x" * 129, "key": KEY}),
    written({"id": "ä" * 65, "key": KEY}),
    f'[{{"id": "a\tb", "key": "{KEY}"}}]',
    f'[{{"id": "\\ud800", "key": "{KEY}"}}]',
    f'[{{"id": "\\udc00\\ud800", "key": "{KEY}"}}]',
    f'[{{"id": "\\x", "key": "{KEY}"}}]',
    written({"id": "me", "key": ""}),
    written({"id": "me", "key": "sk_live_short"}),
    written({"id": "me", "key": KEY + " "}),
    written({"id": "me", "key": KEY[:12] + " " + KEY[12:]}),
    written({"id": "me", "key": KEY + "\n"}),
    written({"id": "me", "key": KEY + "ä"}),
    written({"id": "me", "key": KEY + "\0"}),
    written({"id": "me", "key": ["x" * 20]}),
    written({"id": "me", "key": KEY, "key_sha256": hashlib.sha256(b"x").hexdigest()}),
    written({"id": "me", "key_sha256": DIGEST.upper()}),
    written({"id": "me", "key_sha256": DIGEST[:-1]}),
    written({"id": "me", "key_sha256": DIGEST + "\n"}),
    written({"id": "me", "key_sha256": NOTHING}),
    written({"id": "me", "key_sha256": None}),
    entry('"tokens_if_unknown": 5'),
    entry('"tokens_per_day": 5', '"tokens_if_unknown": 0'),
    written({"id": KEY, "key": KEY}),
    written({"id": "a", "key": KEY}, {"id": KEY, "key": KEY + "2"}),
    written({"id": KEY, "key_sha256": DIGEST}),
    written({"id": "a", "key": KEY}, {"id": "b", "key": KEY}),
    written({"id": "a", "key": KEY}, {"id": "b", "key_sha256": DIGEST}),
    written({"id": "a", "key_sha256": DIGEST}, {"id": "b", "key_sha256": DIGEST}),
    written({"id": "a", "key": KEY}, {"id": "b"}),
    *(
        entry(f'"expires_at": {time}')
        for time in (
            "null", "5", '""', '"tomorrow"', '"2030-01-01"', '"2030-01-01T00:00:00"', '"2030-01-01 00:00:00Z"',
            '"2030-01-01T00:00Z"', '"2030-01-01T00:00:00.Z"', '"2030-01-01T00:00:00.1234567890Z"',
            '"2030-01-01T00:00:00z"', '"2030-01-01t00:00:00Z"', '"2030-01-01T00:00:00+0100"', '"2030-01-01T00:00:00+01"',
            '"2030-13-01T00:00:00Z"', '"2030-00-01T00:00:00Z"', '"2030-01-00T00:00:00Z"', '"2030-02-29T00:00:00Z"',
            '"1900-02-29T00:00:00Z"', '"2030-04-31T00:00:00Z"', '"2030-01-01T24:00:00Z"', '"2030-01-01T00:60:00Z"',
            '"2030-01-01T00:00:61Z"', '"2030-01-01T00:00:00+26:00"', '"2030-01-01T00:00:00+01:60"',
            '"9999-12-31T23:59:59Z"', '"9999-12-30T22:00:01Z"', '"+02030-01-01T00:00:00Z"', '"2030-01-01T00:00:00Z\\n"',
        )
    ),
    *(
        entry(f'"models": {models}')
        for models in (
            "[]", "null", '"flash"', "[1]", '["flash", "flash"]', '["unknown"]', '[""]', '["-"]', "[[]]", '["flash\\n"]',
            '["FLASH"]', '[null]',
        )
    ),
    *(
        entry(f'"{name}": {number}')
        for name, most in (("rpm", 100_000), ("max_concurrent", 1_000_000), ("tokens_per_day", 10**15))
        for number in (
            "0", "-1", "1.0", "1.5", "1e3", "1E0", "01", "+1", ".5", "5.", "0x10", "nan", "NaN", "Infinity", "null", "true",
            '"60"', "[]", "{}", most + 1, 10**30, "-0",
        )
    ),
]  # fmt: skip
NOT_TEXT = [entry().replace("me", "\xff").encode("latin-1"), entry().replace("me", "a\xe4").encode("latin-1"), b"\xed\xa0\x80"]

SETTINGS = {"MODEL_FLASH_LITE_ID": "google/gemini-2.5-flash-lite", "MODEL_ALIASES_JSON": '{"gpt-4o": "google/gemini-2.5-flash"}'}

# Every file of a folder: its name, and whether the scripts have a word against it.
JUDGE = """
work=$1 alias_settings=$2
. deploy/keys.sh
for file in "$3"/*; do
  problems=$(keys_problems "$file")
  printf '%s\\t%s\\n' "${file##*/}" "$(head -n 1 <<<"$problems")"
  [ -z "$problems" ] || printf '%s\\n' "$problems" >>"$work/said"
done
"""


def verdicts(folder, lists):
    """What the scripts say of each list; nothing where they take it."""
    files, work = folder / "lists", folder / "work"
    files.mkdir()
    work.mkdir()
    for number, content in enumerate(lists):
        (files / f"{number:04}").write_bytes(content)
    words = ["bash", "-euo", "pipefail", "-c", JUDGE, "judge", work, json.dumps(SETTINGS), files]
    run = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert KEY[8:] not in run.stdout + run.stderr
    said = dict(line.split("\t") for line in run.stdout.splitlines())
    return [said[f"{number:04}"] for number in range(len(lists))]


def gateway_takes(path):
    environment = {"PATH": os.environ["PATH"], "API_KEYS_FILE": str(path), "GOOGLE_CLOUD_PROJECT": "my-project", **SETTINGS}
    run = subprocess.run([PROGRAM, "check"], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode in (0, 64), run.stderr
    assert run.returncode == 0 or run.stderr.startswith("API_KEYS_FILE: "), run.stderr
    return run.returncode == 0


def test_the_table(tmp_path):
    lists = [text.encode() for text in GOOD + BAD] + NOT_TEXT
    said = verdicts(tmp_path, lists)
    wrong = []
    for number, (content, verdict) in enumerate(zip(lists, said)):
        takes = gateway_takes(tmp_path / "lists" / f"{number:04}")
        assert takes == (number < len(GOOD)), f"the table is wrong about {content}"
        if takes != (verdict == ""):
            wrong.append((content, verdict))
    assert not wrong


VALUES = [
    "true", "false", "null", "0", "1", "60", "1.5", "-1", "1e2", '""', '"x"', '"flash"', f'"{KEY}"', f'"{KEY}2"', f'"{DIGEST}"',
    '["flash"]', '["flash","pro-preview"]', '["x"]', "[]", "{}", '"2030-12-31T23:59:59Z"', '"2030-02-30T00:00:00Z"',
]  # fmt: skip
LIKELY = {
    "id": ['"a"', '"b"', '"ä"'],
    "key": [f'"{KEY}"', f'"{KEY}{{}}"'],
    "key_sha256": [f'"{DIGEST}"'],
    "enabled": ["true", "false"],
    "expires_at": ['"2030-12-31T23:59:59Z"', '"2030-12-31T23:59:60.5+02:00"'],
    "models": ['["flash"]'],
    "metrics": ["true", "false"],
    "rpm": ["60"],
    "max_concurrent": ["4"],
    "tokens_per_day": ["2000000"],
    "tokens_if_unknown": ["500"],
}


def any_list(chance):
    """A list that is nearly right."""
    entries = []
    for number in range(chance.randint(1, 3)):
        names = ["id", chance.choice(["key", "key", "key_sha256"])]
        names += chance.sample([name for name in LIKELY if name not in ("id", "key", "key_sha256")], chance.randint(0, 4))
        if chance.random() < 0.2:
            names.append(chance.choice([*LIKELY, "x"]))
        fields = []
        for name in names:
            value = chance.choice(VALUES) if chance.random() < 0.1 else chance.choice(LIKELY.get(name, ["1"]))
            fields.append(f'"{name}"{chance.choice(["", " "])}:{value.replace("{}", str(number))}')
        chance.shuffle(fields)
        entries.append("{" + chance.choice([",", ", ", ",\n"]).join(fields) + "}")
    text = "[" + ",".join(entries) + "]"
    if chance.random() < 0.15:
        at = chance.randrange(len(text))
        text = text[:at] + chance.choice(["", ",", "\\", '"', "}", " ", "0", "\x01"]) + text[at + 1 :]
    return text.encode()


def test_lists_that_are_nearly_right(tmp_path):
    chance = random.Random(1)
    lists = [any_list(chance) for _ in range(120)]
    said = verdicts(tmp_path, lists)
    taken = [gateway_takes(tmp_path / "lists" / f"{number:04}") for number in range(len(lists))]
    assert 20 < sum(taken) < 100
    wrong = [(content, verdict) for content, verdict, takes in zip(lists, said, taken) if takes != (verdict == "")]
    assert not wrong
