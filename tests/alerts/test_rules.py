"""Alerts and dashboard speak of what our processes really answer, and each alert has its runbook."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "raytrail.json"
RUNBOOKS = "docs/how-to/runbooks.md"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
_URL = re.compile(r"(?:metrics (?:of the history )?on|serving on) (http://[\d.:]+)")


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """Every name of a sample that an agent, a history or a server answers."""
    root = tmp_path_factory.mktemp("up")
    flags = ["--store", root / "store", "--metrics", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--port", "0"]
    flags += ["--temp-dir", root, "--state-dir", root / "state"]
    names: set[str] = set()
    command = [sys.executable, "-m", "raytrail", "up", *map(str, flags)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr
            for _ in range(3):
                while not (url := _URL.search(line := process.stderr.readline())):
                    assert line, process.wait()
                for family in text_string_to_metric_families(httpx.get(f"{url[1]}/metrics", timeout=60).text):
                    names |= {f"{family.name}{suffix}" for suffix in SUFFIXES.get(family.type, [""])}
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    return names


def named(expression):
    return set(re.findall(r"\b(?:raytrail|process|python)_\w+", expression))


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_there_are(rule, answered):
    assert named(rule["expr"]) - answered == set()
    assert named(rule["expr"]) or rule["alert"] == "RaytrailDown"  # which Prometheus itself counts


@pytest.mark.slow
def test_the_dashboard_shows_metrics_that_there_are_and_all_of_ours(answered):
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = set().union(*(named(target["expr"]) for panel in panels for target in panel.get("targets", [])))
    assert shown - answered == set()
    ours = {name for name in answered if name.startswith("raytrail_")}
    assert {name for name in ours - shown if not name.endswith(("_bucket", "_sum", "_count", "_created"))} == set()


def test_the_dashboard_has_rows_for_agent_history_and_server_and_no_two_panels_in_one_place():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == ["Agent", "History", "Server", "Processes"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [(panel["gridPos"]["y"], panel["gridPos"]["x"]) for panel in panels]
    assert places == sorted(set(places))


def test_each_alert_has_its_runbook_and_each_runbook_its_alert():
    pages = re.split(r"^## (.+)\n", (ROOT / RUNBOOKS).read_text(), flags=re.M)[1:]
    sections = dict(zip(pages[::2], pages[1::2], strict=True))
    del sections["See also"]
    assert list(sections) == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"{RUNBOOKS}#{rule['alert'].lower()}"
        assert re.findall(r"^\*\*(.+?)\*\*", sections[rule["alert"]], re.M) == [
            "What it means.",
            "What to look at.",
            "What to do.",
        ]


def test_promtools_tests_have_each_alert_fire():
    tests = yaml.safe_load((ALERTS.parent / "alerts_test.yaml").read_text())["tests"]
    assert [test["name"] for test in tests] == [rule["alert"] for rule in RULES]
    for test in tests:
        before, firing = test["promql_expr_test"]
        assert "exp_samples" not in before
        assert firing["exp_samples"] == [{"labels": f'{{alertname="{test["name"]}"}}', "value": 1}]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_says_how_severe_it_is_and_what_is_wrong(rule):
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"].endswith(".")
    assert "$labels.instance" in rule["annotations"]["summary"]
