"""Free ports: each another one, and none that a connection may take."""

import socket

import pytest

from raytrail.testing import ports
from raytrail.testing.ports import HOST, free_port, free_ports


def test_no_port_is_given_twice_though_nobody_listens_yet():
    given = [*free_ports(100), *(free_port() for _ in range(100))]

    assert len(set(given)) == len(given)


def test_a_server_can_listen_on_each():
    for port in free_ports(20):
        with socket.socket() as server:
            server.bind((HOST, port))


@pytest.mark.skipif(not ports._below_connections(), reason="this machine gives nearly all ports to connections")
def test_none_is_of_those_that_connections_get():
    with socket.socket() as server, socket.socket() as client:
        server.bind((HOST, free_port()))
        server.listen()
        client.connect(server.getsockname())

        assert client.getsockname()[1] > max(free_ports(100))
