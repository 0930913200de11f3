"""The description of our own API, made of the declarations of pages."""

import re

import pytest

from raytrail.server.pages.declared import PAGES

pytestmark = pytest.mark.anyio


async def test_every_page_is_described_and_every_reference_leads_somewhere(client):
    described = (await client.get("/openapi.json")).json()
    paths = described["paths"]
    for page in PAGES:
        path = page.json_path if page.over_store else f"/clusters/{{id}}{page.json_path}"
        operation = paths[path]["get"]
        assert operation["description"]
        assert {parameter["name"] for parameter in operation["parameters"]} == {
            *re.findall(r"{(\w+)}", path),
            *page.parameters,
        }
        [answer] = operation["responses"]["200"]["content"].values()
        assert answer["schema"]["$ref"].removeprefix("#/components/schemas/") == page.schema().__name__
    references = re.findall(r'"#/components/schemas/(\w+)"', str(described).replace("'", '"'))
    assert set(references) <= described["components"]["schemas"].keys()
    ids = [operation["get"]["operationId"] for operation in paths.values()]
    assert len(ids) == len(set(ids))


async def test_an_answer_has_the_fields_that_are_described(client):
    described = (await client.get("/openapi.json")).json()["components"]["schemas"]
    answer = (await client.get("/clusters/varied/about.json")).json()
    assert answer.keys() == described["Overview"]["properties"].keys()
    assert answer["run"].keys() == described["Run"]["properties"].keys()
    assert answer["run"]["why"]["status"] == "FAILED"
