"""A session that is deleted while a server has it open: 404, and never a fault of the server's."""

import os

import httpx
from tests.damage import CONFIG
from tests.keeping import MIDDLE, NEW, OLD, files_of, filled, in_one_round, root

from raytrail.config import ServerConfig
from raytrail.server import app
from raytrail.store import Request, Store

__all__ = ["filled", "in_one_round", "root"]

PAGES = ("about", "api/v0/tasks?detail=1", "functions", "failures", "timeline")


def client(store):
    transport = httpx.ASGITransport(app(store, ServerConfig(dashboard="off")))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


def delete(root, *sessions, now_ms=0):
    with Store.open(root, CONFIG, write=True) as store:
        for session in sessions:
            store.retention.do(Request(verb="delete", session=session, reason="a test"), now_ms)
        store.tidy(1)


async def test_what_was_answered_before_is_answered_no_more(root):
    with Store.open(root, CONFIG) as reader:
        async with client(reader) as asked:
            for page in PAGES:
                assert (await asked.get(f"/clusters/{OLD}/{page}")).status_code == 200
            delete(root, OLD)
            for page in PAGES:
                answer = await asked.get(f"/clusters/{OLD}/{page}")
                assert answer.status_code == 404
                assert f"session '{OLD}' was deleted at 1970-01-01 00:00:00 UTC: a test" in answer.text.replace(
                    "&#39;", "'"
                )
            assert (await asked.get(f"/api/clusters/{OLD}")).status_code == 404
            assert (await asked.get(f"/clusters/{NEW}/about")).status_code == 200
            landing = await asked.get("/?fold=no")
            assert landing.status_code == 200
            assert OLD not in landing.text
            assert NEW in landing.text


async def test_one_whose_files_go_in_the_middle_of_an_answer(root, monkeypatch):
    with Store.open(root, CONFIG) as reader:
        real = reader.snapshot

        def then_delete(session, at_ms=None):
            snapshot = real(session, at_ms)
            with Store.open(root, CONFIG, write=True) as store:
                if session in {cluster.session for cluster in store.clusters()}:
                    store.retention.do(Request(verb="delete", session=session, reason="a test"), 0)
            for path in files_of(root, session):
                os.unlink(path)
            return snapshot

        monkeypatch.setattr(reader, "snapshot", then_delete)
        async with client(reader) as asked:
            answer = await asked.get(f"/clusters/{MIDDLE}/api/v0/tasks?detail=1")
        assert answer.status_code == 404
        assert "was deleted at" in answer.text


async def test_a_hold_is_shown(root):
    with Store.open(root, CONFIG, write=True) as store:
        store.retention.do(Request(verb="hold", session=OLD, reason=""), 0)
        async with client(store) as asked:
            assert ">held</span>" in (await asked.get(f"/clusters/{OLD}/about")).text
            assert ">held</span>" not in (await asked.get(f"/clusters/{NEW}/about")).text
            landing = (await asked.get("/?fold=no")).text
            assert landing.count(">held</span>") == 1
            listed = (await asked.get("/api/clusters")).json()["clusters"]
            assert {cluster["session"] for cluster in listed if cluster["held"]} == {OLD}
