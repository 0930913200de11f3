"""Who sends the right token, and wrong ones, counted by address."""

import pytest

from raytrail import tokens
from raytrail.tokens import Guard, Tries


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
    ("first", "other", "shared"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("2001:db8::1", "2001:db8::ffff:1:2:3", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("x" * 60_000, "y" * 60_000, True),  # which a proxy may pass on as an address
    ],
)
def test_an_address_is_that_of_one_user(first, other, shared):
    counted = Tries(1, Clock())
    counted.wrong(first)
    assert bool(counted.wrong(other)) is shared


def test_so_many_addresses_are_remembered_and_no_more():
    counted = Tries(1, Clock())
    for number in range(tokens.ADDRESSES + 100):
        counted.wrong(f"10.0.{number >> 8}.{number & 255}")
    assert len(counted._used) == tokens.ADDRESSES
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
    assert tokens.said_token(header) == token


def test_any_of_the_tokens_is_right_in_its_place_alone():
    guard = Guard(Tries(2, Clock()), "token", "cookie")
    assert guard.refuse("192.0.2.1", "token") is None
    assert guard.refuse("192.0.2.1", "", "cookie") is None
    assert guard.refuse("192.0.2.1", "wrong", "cookie") is None
    assert guard.refuse("192.0.2.1", "cookie", "token") == 0
    assert guard.refuse("192.0.2.1", "wrong", "wrong") == 0
    # many wrong ones keep the right one from nobody, and who sends none has sent no wrong one
    assert guard.refuse("192.0.2.1", "wrong") == 30
    assert guard.refuse("192.0.2.1", "", "") == 0
    assert guard.refuse("192.0.2.1", "token", "wrong") is None


def test_without_a_token_everybody_is_let_in():
    assert Guard(Tries(), "").refuse("192.0.2.1", "whatever") is None
