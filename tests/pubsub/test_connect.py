import pytest

from raytrail.errors import ConfigError
from raytrail.pubsub import connect
from raytrail.pubsub.file import FilePubSub
from raytrail.pubsub.memory import MemoryPubSub


def test_the_scheme_chooses_the_backend():
    assert isinstance(connect("file:///dir"), FilePubSub)
    assert isinstance(connect("memory://name"), MemoryPubSub)


def test_an_unknown_scheme_names_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        connect("kafkaa://x")
    assert str(caught.value) == (
        "no pub/sub backend for 'kafkaa://x': scheme 'kafkaa' is not among ['file', 'memory']; "
        "install one with `pip install 'raytrail[kafkaa]'`, or mend the URL"
    )
