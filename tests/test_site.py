"""The site of docs/ loads nothing from another host, and leads nowhere that is not there. `make site` builds it."""

import pytest
from website.build import broken, foreign, parts


@pytest.fixture
def site(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "page.html").write_text(
        '<link rel="stylesheet" href="../own.css"><a href="https://ray.io">Ray</a><a href="#here">here</a>'
    )
    (tmp_path / "own.css").write_text("body { background: url(data:image/png;base64,AA==) }")
    return tmp_path


def test_what_is_of_the_site_itself_is_right(site):
    assert [*foreign(site), *broken(site)] == []


@pytest.mark.parametrize(
    ("name", "text", "url"),
    [
        ("b.html", '<script defer src="https://cdn.example/x.js">', "https://cdn.example/x.js"),
        ("b.html", '<link href="//fonts.example/x.css" rel="stylesheet">', "//fonts.example/x.css"),
        ("b.html", '<img alt="" src="http://img.example/x.png">', "http://img.example/x.png"),
        ("b.css", "@import 'https://fonts.example/x.css';", "https://fonts.example/x.css"),
        ("b.css", 'src: url("https://fonts.example/x.woff2")', "https://fonts.example/x.woff2"),
    ],
)
def test_what_a_browser_would_load_from_another_host_is_found(site, name, text, url):
    (site / name).write_text(text)
    assert list(foreign(site)) == [f"{name} loads {url}"]


def test_what_leads_nowhere_is_found(site):
    (site / "b.html").write_text('<a href="a/page.html#there">one</a><img src="a/gone%20.png">')
    assert list(broken(site)) == ["b.html leads to a/gone%20.png, which is not there"]


def test_versions_are_sorted_by_their_numbers():
    assert sorted(["0.9.0", "0.10.0", "0.2.1"], key=parts) == ["0.2.1", "0.9.0", "0.10.0"]
