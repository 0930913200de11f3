import sys

import pytest

from raytrail.errors import ConfigError
from raytrail.pubsub import connect, open_bucket
from raytrail.pubsub.file import FilePubSub
from raytrail.pubsub.memory import MemoryPubSub


def test_the_scheme_chooses_the_backend():
    assert isinstance(connect("file:///dir"), FilePubSub)
    assert isinstance(connect("memory://name"), MemoryPubSub)


def test_an_unknown_scheme_names_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        connect("kafkaa://x")
    assert str(caught.value) == (
        "no pub/sub backend for 'kafkaa://x': scheme 'kafkaa' is not among ['az', 'file', 'gs', 'http', "
        "'https', 'kafka', 'kuberay+az', 'kuberay+file', 'kuberay+gs', 'kuberay+s3', 'memory', 'nats', 'ray', 'redis', "
        "'s3', 'stdout']; install a package that brings it, or mend the URL"
    )


@pytest.mark.parametrize(
    ("open_", "url", "module", "client", "extra"),
    [
        (connect, "redis://h", "redis", "redis", "redis"),
        (connect, "https://h/x", "http", "httpx", "http"),
        (connect, "s3://b/x", "objects", "obstore", "objects"),
        (open_bucket, "gs://b/x", "bucket", "obstore", "objects"),
    ],
)
def test_a_client_that_is_not_installed_is_named_with_its_extra(open_, url, module, client, extra, monkeypatch):
    monkeypatch.delitem(sys.modules, f"raytrail.pubsub.{module}", raising=False)
    monkeypatch.delattr(f"raytrail.pubsub.{module}", raising=False)
    monkeypatch.setitem(sys.modules, client, None)
    with pytest.raises(ConfigError) as caught:
        open_(url)
    scheme = url.partition(":")[0]
    assert str(caught.value) == (
        f"{scheme}:// needs {client!r}, which is not installed; run `pip install 'raytrail[{extra}]'`"
    )
