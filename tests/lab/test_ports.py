"""Free ports: each another one, and none that a connection may take."""

import random
import socket
import subprocess
import sys

from lab.ports import HOST, free_port, free_ports

from lab import ports


def test_no_port_is_given_twice_though_nobody_listens_yet():
    given = [*free_ports(100), *(free_port() for _ in range(100))]

    assert len(set(given)) == len(given)


def test_what_another_process_was_given_is_left_to_it_until_it_ends(monkeypatch):
    few = range((lowest := free_port()), lowest + 40)
    program = f"""
import sys
from lab import ports
ports._below_connections = lambda: range({few.start}, {few.stop})
print(ports.free_port(), flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        of_other = int(other.stdout.readline())
        monkeypatch.setattr(ports, "_below_connections", lambda: few)
        tried = [of_other, *few]
        monkeypatch.setattr(random, "choice", lambda _: tried.pop(0))
        assert free_port() not in (of_other, lowest)
        other.kill()
    tried.insert(0, of_other)
    assert free_port() == of_other


def test_no_port_that_is_taken_at_another_address_of_the_machine_is_given(monkeypatch):
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.2", taken := free_port()))
        if kept := ports._given.pop(taken):
            kept.close()
        tried = [taken, *range(20_000, 32_768)]
        monkeypatch.setattr(random, "choice", lambda _: tried.pop(0))
        assert free_port() != taken


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
