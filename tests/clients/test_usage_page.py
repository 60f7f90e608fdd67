"""The commands of docs/usage.md for Cloud Monitoring, against a gcloud that talks to nobody."""

import json
import os
import re
import subprocess

import pytest
import yaml

from gateway import ROOT

PAGE = (ROOT / "docs/usage.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^<!-- test: gcloud -->\n```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)

# Notes its arguments and the file that it is given, one JSON object for each call.
GCLOUD = """#!/usr/bin/env python3
import json, os, sys
files = [word.partition("=")[2] for word in sys.argv if "-from-file=" in word]
call = {"words": sys.argv[1:], "files": [open(file, encoding="utf-8").read() for file in files]}
with open(os.environ["CALLS"], "a", encoding="utf-8") as calls:
    calls.write(json.dumps(call) + "\\n")
if "channels" in sys.argv:
    print("projects/your-project/notificationChannels/42")
"""


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gcloud")
    (folder / "gcloud").write_text(GCLOUD, encoding="utf-8")
    (folder / "gcloud").chmod(0o755)
    environment = {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "CALLS": str(folder / "calls"),
        "TMPDIR": str(folder),
    }
    subprocess.run(["bash", "-euc", "\n".join(BLOCKS)], env=environment, check=True)
    return [json.loads(line) for line in (folder / "calls").read_text(encoding="utf-8").splitlines()]


def created(calls, *words):
    return [call for call in calls if call["words"][: len(words)] == list(words)]


def log_fields():
    """The fields of a log line, from the contract."""
    section = re.search(r"^## 11\. Log$(.*?)^## ", (ROOT / "SPEC.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return set(re.findall(r"`(\w+)`", section.group(1)))


def test_there_are_metrics_a_channel_and_alarms():
    assert len(BLOCKS) == 3


def test_metrics_are_of_fields_that_exist(calls):
    metrics = created(calls, "logging", "metrics", "create")
    assert [call["words"][3] for call in metrics] == [
        "ai_proxy_chats",
        "ai_proxy_prompt_tokens",
        "ai_proxy_completion_tokens",
        "ai_proxy_reasoning_tokens",
    ]
    for call in metrics:
        assert "--project=your-project" in call["words"]
        (text,) = call["files"]
        metric = yaml.safe_load(text)
        named = re.findall(r"jsonPayload\.(\w+)", text)
        assert named and set(named) - {"message"} <= log_fields(), named
        labels = {label["key"] for label in metric["metricDescriptor"]["labels"]}
        assert labels == set(metric["labelExtractors"])
        distribution = metric["metricDescriptor"]["valueType"] == "DISTRIBUTION"
        assert distribution == ("valueExtractor" in metric) == ("bucketOptions" in metric)
        assert 'service_name="ai-proxy"' in metric["filter"]


def test_alarms_ask_for_metrics_and_labels_that_exist(calls):
    labels = {}
    for call in created(calls, "logging", "metrics", "create"):
        metric = yaml.safe_load(call["files"][0])
        distribution = metric["metricDescriptor"]["valueType"] == "DISTRIBUTION"
        name = f"logging_googleapis_com:user_{call['words'][3]}" + ("_sum" if distribution else "")
        labels[name] = {"monitored_resource", *metric["labelExtractors"]}
    alarms = created(calls, "monitoring", "policies", "create")
    assert len(alarms) == 4
    for call in alarms:
        assert "--notification-channels=projects/your-project/notificationChannels/42" in call["words"]
        policy = yaml.safe_load(call["files"][0])
        assert policy["displayName"].startswith("ai-proxy: ") and policy["combiner"] == "OR"
        (condition,) = policy["conditions"]
        query = condition["conditionPrometheusQueryLanguage"]["query"]
        selectors = re.findall(r"([\w:]+)\{(.*?)\}", query)
        assert selectors and query.count("(") == query.count(")")
        for name, matchers in selectors:
            assert set(re.findall(r"(\w+)=", matchers.replace("=~", "="))) <= labels[name], query


def test_the_page_names_families_that_exist():
    spec = (ROOT / "SPEC.md").read_text(encoding="utf-8")
    families = set(re.findall(r"\b((?:gen_ai|ai_proxy)_[a-z_]+?)(?:_bucket)?[{\[ `]", PAGE.partition("## Prometheus")[2]))
    assert families and all(f"`{family}`" in spec for family in families), families
