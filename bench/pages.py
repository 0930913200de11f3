"""Our own pages of a sealed session, as a browser asks for them: the first time of a server that has just started."""

import json
import urllib.request

from lab.generate import SESSION

from bench.polling import quantiles, serving
from bench.timeline import ask, peak

AGAIN = 10
"""How often each page is asked for again, each time by an address that is not kept."""


def measure(root):
    """Ask for each page, the first of them of a server that has just started; return the figures."""
    figures = {}
    with serving(root) as (_, url):
        jobs = json.load(urllib.request.urlopen(f"{url}/clusters/{SESSION}/about.json", timeout=600))["run"]["jobs"]
    paths = {
        "a job's page": f"/clusters/{SESSION}/jobs/{jobs[-1]['id']}",
        "the cluster's page": f"/clusters/{SESSION}/about",
        "failures": f"/clusters/{SESSION}/failures",
        "functions": f"/clusters/{SESSION}/functions",
        "nodes": f"/clusters/{SESSION}/nodes",
        "diff of two jobs": f"/diff?a={SESSION}/{jobs[0]['id']}&b={SESSION}/{jobs[-1]['id']}",
    }
    for name, path in paths.items():
        with serving(root) as (server, url):
            took, size, _ = ask(f"{url}{path}", html=True)
            between = "&" if "?" in path else "?"
            again = [ask(f"{url}{path}{between}n={n}", html=True)[0] for n in range(AGAIN)]
            figures[f"{name}, first, ms"] = took * 1000
            figures[f"{name}, again, ms"] = quantiles(again)
            figures[f"{name}, kB"] = size / 1000
            figures[f"{name}, server peak MB"] = peak(server.pid)
    return figures
