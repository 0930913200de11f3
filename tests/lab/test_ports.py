"""Free ports: each another one, and none that a connection may take."""

import socket

from lab.ports import HOST, free_port, free_ports

from lab import ports


def test_no_port_is_given_twice_though_nobody_listens_yet():
    given = [*free_ports(100), *(free_port() for _ in range(100))]

    assert len(set(given)) == len(given)


def test_a_server_can_listen_on_each():
    for port in free_ports(20):
        with socket.socket() as server:
            server.bind((HOST, port))


def test_none_is_of_those_that_connections_get(tmp_path, monkeypatch):
    of_connections = tmp_path / "ip_local_port_range"
    monkeypatch.setattr(ports, "_RANGE", of_connections)
    of_connections.write_text("32768\t60999\n")
    assert all(port < 32768 for port in free_ports(100))
    of_connections.write_text("1024\t65535\n")  # all of them
    assert len(set(free_ports(100))) == 100
