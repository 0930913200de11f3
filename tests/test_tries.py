"""Wrong tokens, counted by address."""

import pytest

from raytrail import tries
from raytrail.tries import Tries


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_a_few_wrong_tries_a_minute_are_answered_and_others_told_when_to_come_back():
    clock = Clock()
    counted = Tries(4, clock)
    assert [counted.wrong("192.0.2.1") for _ in range(6)] == [0, 0, 0, 0, 15, 15]
    clock.now += 10
    assert counted.wrong("192.0.2.1") == 5
    clock.now += 5
    assert [counted.wrong("192.0.2.1") for _ in range(2)] == [0, 15]
    clock.now += 60
    assert [counted.wrong("192.0.2.1") for _ in range(5)] == [0, 0, 0, 0, 15]


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1:2:3", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("x" * 60_000, "y" * 60_000, True),  # which a proxy may pass on as an address
    ],
)
def test_an_address_is_that_of_one_user(one, other, shared):
    counted = Tries(1, Clock())
    counted.wrong(one)
    assert bool(counted.wrong(other)) is shared


def test_so_many_addresses_are_remembered_and_no_more():
    counted = Tries(1, Clock())
    for number in range(tries.ADDRESSES + 100):
        counted.wrong(f"10.0.{number >> 8}.{number & 255}")
    assert len(counted._used) == tries.ADDRESSES
    assert counted.wrong("10.0.0.200") == 60
    assert counted.wrong("10.0.0.0") == 0


@pytest.mark.parametrize(
    ("header", "token"),
    [
        ("", ""),
        ("Bearer secret", "secret"),
        ("basic bWU6c2VjcmV0", "secret"),
        ("Basic bWU=", ""),
        ("Basic !", ""),
        ("Basic é", ""),
        ("Basic bWU6/w==", ""),
        ("Basic", ""),
    ],
)
def test_the_token_is_what_a_header_says_or_the_password_in_it(header, token):
    assert tries.said_token(header) == token
