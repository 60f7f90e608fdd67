"""`/metrics` as Prometheus' own parser reads it."""

import json
import math
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway import Gateway

KEY = "sk_live_metrics-0123456789abcdef"
KEYS = json.dumps([{"id": 'a "team"\\', "key": KEY, "metrics": True}])


@pytest.fixture(scope="module")
def metered():
    gateway = Gateway(METRICS_PORT="0", API_KEYS_JSON=KEYS)
    try:
        yield gateway
    finally:
        gateway.stop()


def get(url, **headers):
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return answer.headers["content-type"], answer.read().decode()


def chat(gateway, stream, text="Say hi."):
    body = {"model": "flash", "stream": stream, "messages": [{"role": "user", "content": text}]}
    headers = {"content-type": "application/json", "x-api-key": KEY}
    request = urllib.request.Request(f"{gateway.base}/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request) as answer:
            answer.read()
            request_id = answer.headers["x-request-id"]
    except urllib.error.HTTPError as error:
        request_id = error.headers["x-request-id"]
    return gateway.wait_for_log(lambda line: line.get("request_id") == request_id)


def test_a_real_parser_reads_all_of_it(metered):
    lines = [chat(metered, False), chat(metered, True), chat(metered, True, "[emulator:rate-limited]")]
    told = metered.wait_for_log(lambda line: line["message"].startswith("metrics at "))["message"]
    content_type, page = get(told.removeprefix("metrics at "))
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    families = {family.name: family for family in text_string_to_metric_families(page)}
    assert len(families) == page.count("# TYPE ")
    for family in families.values():
        assert family.type in ("counter", "gauge", "histogram") and family.documentation, family
        assert family.samples, f"{family.name} is empty"

    for name in (
        "gen_ai_server_request_duration_seconds",
        "gen_ai_server_time_to_first_token_seconds",
        "gen_ai_client_token_usage",
    ):
        assert families[name].type == "histogram"
        assert_whole_histograms(families[name])

    tokens = {
        sample.labels["type"]: sample.value
        for sample in families["ai_proxy_tokens"].samples
        if sample.labels["key"] == 'a "team"\\'
    }
    for kind in ("prompt", "cached", "completion", "reasoning"):
        assert tokens[kind] == sum(line[f"{kind}_tokens"] or 0 for line in lines)
    chats = {(s.labels["status"], s.labels["outcome"]): s.value for s in families["ai_proxy_chats"].samples}
    assert chats == {("2xx", "completed"): 2, ("4xx", "completed"): 1}


def assert_whole_histograms(family):
    """Buckets rise to the count, for every set of labels."""
    series = {}
    for sample in family.samples:
        labels = {name: value for name, value in sample.labels.items() if name != "le"}
        of_labels = series.setdefault(tuple(sorted(labels.items())), {"buckets": []})
        if sample.name.endswith("_bucket"):
            of_labels["buckets"].append((float(sample.labels["le"]), sample.value))
        else:
            of_labels[sample.name.rpartition("_")[2]] = sample.value
    for of_labels in series.values():
        buckets = of_labels["buckets"]
        assert buckets == sorted(buckets) and buckets[-1] == (math.inf, of_labels["count"])
        assert of_labels["count"] > 0 and of_labels["sum"] > 0


def test_the_main_port_wants_a_key(metered):
    url = metered.base.removesuffix("/v1") + "/metrics"
    assert get(url, **{"x-api-key": KEY})[1].startswith("# HELP ")
    with pytest.raises(urllib.error.HTTPError) as refused:
        get(url)
    assert refused.value.code == 404
