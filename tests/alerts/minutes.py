"""
Prometheus' minutes, in a second each: processes whose clock one sets, and all that they answer at each minute.

What was scraped is what promtool's rule tests read, so that Prometheus' own code says which alerts fire.
"""

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yaml"
DEADLINE_SECONDS = 60
FIRING = 'group by (alertname) (ALERTS{alertstate="firing"})'
_URL = re.compile(r"(?:metrics (?:of the history )?on|serving on) (http://[\d.:]+)")
_CLOCK = """
import time
from pathlib import Path

now, now_ns, ahead = time.time, time.time_ns, Path({ahead!r})
time.time = lambda: now() + 60 * int(ahead.read_bytes() or b"0")
time.time_ns = lambda: now_ns() + 60 * 10**9 * int(ahead.read_bytes() or b"0")
"""


@dataclass
class Process:
    """One that is scraped."""

    job: str
    running: subprocess.Popen
    log: Path

    @property
    def url(self):
        """Where it answers; waits until it does."""
        wait_for(lambda: self.running.poll() is not None or _URL.search(self.log.read_text()), "an address")
        match = _URL.search(self.log.read_text())
        assert match, self.log.read_text()
        return match[1]

    def kill(self):
        """End it as a power loss does."""
        self.running.kill()
        self.running.wait()


@dataclass
class Minutes:
    """Processes and what they answered, minute by minute."""

    root: Path
    processes: list[Process] = field(default_factory=list)
    scraped: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self):
        self._ahead = self.root / "ahead"
        self._set(0)
        (self.root / "clock").mkdir()
        (self.root / "clock" / "sitecustomize.py").write_text(_CLOCK.format(ahead=str(self._ahead)))
        self._began = time.time()

    def _set(self, minutes):
        written = self._ahead.with_suffix(".new")
        written.write_text(str(minutes))
        written.replace(self._ahead)

    @property
    def now(self):
        """The time by the processes' clock, in seconds."""
        return time.time() + 60 * int(self._ahead.read_text())

    def start(self, job, *arguments):
        """Start a command of ours that Prometheus knows as that job."""
        log = self.root / f"{job}-{len(self.processes)}.log"
        with log.open("wb") as file:
            running = subprocess.Popen(
                [sys.executable, "-m", "raytrail", *map(str, arguments)],
                stdout=file,
                stderr=file,
                env=os.environ | {"PYTHONPATH": str(self.root / "clock")},
            )
        process = Process(job, running, log)
        self.processes = [other for other in self.processes if other.job != job] + [process]
        return process

    def end(self):
        """Kill what is left."""
        for process in self.processes:
            process.kill()

    def pass_minutes(self, count, meanwhile=lambda: None):
        """Let minutes pass, do something within each, and scrape all at its end."""
        for _ in range(count):
            self._set(len(self.scraped) + 1)
            meanwhile()
            self.scraped.append(dict(sample for process in self.processes for sample in scrape(process)))

    def pass_until(self, condition, meanwhile=lambda: None):
        """Let minutes pass until the last one's answers are as they should be."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        self.pass_minutes(1, meanwhile)
        while not condition(self.scraped[-1]):
            assert time.monotonic() < deadline, self.scraped[-1]
            time.sleep(0.2)
            self.pass_minutes(1, meanwhile)

    def check_firing(self, *alerts):
        """Check which alerts Prometheus has fire now, and no others."""
        names = sorted({name for scrape in self.scraped for name in scrape})
        series = [{"series": name, "values": " ".join(self._values(name))} for name in names]
        expected = [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(alerts)]
        now = f"{len(self.scraped) - 1}m"
        test = {
            "interval": "1m",
            "input_series": series,
            "promql_expr_test": [{"expr": FIRING, "eval_time": now, "exp_samples": expected}],
        }
        rules = self.root / "test.yaml"
        rules.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "tests": [test]}))
        done = subprocess.run(["promtool", "test", "rules", rules], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def _values(self, name):
        # promtool's time begins at 0
        shift = self._began if name.partition("{")[0].endswith("_timestamp_seconds") else 0
        # as Prometheus notes of a series that an answer does not have any more
        return [f"{scrape[name] - shift:.17g}" if name in scrape else "stale" for scrape in self.scraped]


def scrape(process):
    target = f'instance="{process.job}:1", job="{process.job}"'
    text = ""
    with suppress(httpx.TransportError):
        text = httpx.get(f"{process.url}/metrics", timeout=DEADLINE_SECONDS).text
    yield f"up{{{target}}}", float(bool(text))
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("raytrail_"):
                labels = "".join(f', {name}="{value}"' for name, value in sorted(sample.labels.items()))
                yield f"{sample.name}{{{target}{labels}}}", sample.value


def value(scrape, name, **labels):
    """Return the sum of all samples of that name and of these labels; None where there is none."""
    wanted = [f'{label}="{text}"' for label, text in labels.items()]
    values = [
        number
        for series, number in scrape.items()
        if series.partition("{")[0] == name and all(label in series for label in wanted)
    ]
    return sum(values) if values else None


@contextmanager
def minutes_in(root):
    """Begin Prometheus' time; the processes are ended after it."""
    minutes = Minutes(root)
    try:
        yield minutes
    finally:
        minutes.end()


def wait_for(condition, what):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS} s: {what}"
        time.sleep(0.05)
