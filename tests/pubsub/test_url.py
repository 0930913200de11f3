"""What is told of a URL."""

import pytest

from raytrail.pubsub.url import is_misread, shown, shown_whole


@pytest.mark.parametrize(
    ("url", "shown_url"),
    [
        ("kafka://host:9092/topic?sasl.password=x", "kafka://host:9092/topic"),
        ("kafka://me:x@host/topic", "kafka://me:***@host/topic"),
        ("nats://x@host/stream", "nats://***@host/stream"),
        ("redis://:x@host", "redis://:***@host"),
        ("kafka://one:1,two:2/t?a=b@c", "kafka://one:1,two:2/t"),
        ("kafka://one:1,two/t?a=b@c", "kafka://one:1,two/t"),
        ("http://[::1]:8/x?a=b@c", "http://[::1]:8/x"),
        ("http://[::1]/x?a=b@c", "http://[::1]/x"),
        ("http://host/x/a@b", "http://***@b"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
        ("file:///a@b", "file:///a@b"),
        ("file://me:x@/a", "file://me:***@/a"),
        ("stdout:", "stdout://"),
    ],
)
def test_a_url_is_shown_without_what_is_secret(url, shown_url):
    assert shown(url) == shown_url
    assert not is_misread(url)


@pytest.mark.parametrize("mark", "/?#")
@pytest.mark.parametrize("user", ["me:", ":", ""])
def test_a_raw_mark_in_a_password_is_seen_and_what_is_around_it_is_not_shown(mark, user):
    url = f"kafka://{user}se{mark}cret@host:9092/topic"
    assert shown(url) == f"kafka://{user}***@host:9092/topic"
    if user or mark != "/":
        assert is_misread(url)


def test_the_query_may_be_shown_without_what_is_called_a_secret():
    assert shown_whole("file:/x?retain_bytes=1&sas_token=a&b") == "file:/x?retain_bytes=1&sas_token=***&b"
