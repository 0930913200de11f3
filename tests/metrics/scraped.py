"""What a process answers, as Prometheus reads it."""

import asyncio

import httpx
from prometheus_client.parser import text_string_to_metric_families


async def ask(url):
    return await asyncio.to_thread(httpx.get, url, timeout=60)


async def figures(url):
    """Return every sample by name and labels."""
    text = (await ask(f"{url}/metrics")).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
