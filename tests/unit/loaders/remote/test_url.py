"""URLs are read strictly, and what is secret in them is never shown."""

from __future__ import annotations

import pytest

from loaders.errors import UrlError
from loaders.remote.url import is_url, parse_url

SECRET = "hidden"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"https://user:{SECRET}@host:8443/a/b/?signature={SECRET}", "https://host:8443/a/b"),
        (f"http://{SECRET}@host", "http://host"),
        ("HTTP://Host/with%20blank/ü", "http://host/with%20blank/%C3%BC"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("file:///some/where/", "file:///some/where"),
        ("file://localhost/x", "file:///x"),
    ],
)
def test_text_of_a_url_has_no_user_password_or_query(text: str, shown: str) -> None:
    url = parse_url(text)
    assert str(url) == shown
    assert SECRET not in f"{url} {url!r} {url.member('x')!r} {[url]}"


def test_user_password_and_query_go_along_to_each_file() -> None:
    member = parse_url("https://a%40b:c%2Fd@host/x?signature=1").member("model/config.json")
    assert (member.user, member.password, member.target) == ("a@b", "c/d", "/x/model/config.json?signature=1")


def test_a_query_goes_along_as_it_is_but_for_what_no_request_may_hold() -> None:
    assert parse_url("https://host/x?a=%2F&b=[1]&c=ü").target == "/x?a=%2F&b=[1]&c=%C3%BC"


@pytest.mark.parametrize(
    "text",
    [
        f"ftp://{SECRET}@host/x",
        f"/path/{SECRET}",
        f"http:///{SECRET}",
        f"http://host:{SECRET}/",
        f"http://host/{SECRET}\r\nX: y",
        f"http://host/a b{SECRET}",
        f"file://elsewhere/{SECRET}",
        f"http://[::1/{SECRET}",
        f"gopher:{SECRET}",
        f"s3://bucket/models#{SECRET}",
        f"s3://bucket/models?{SECRET}",
        f"file:///c#/{SECRET}",
        f"http://a..{SECRET}/x",
        f"http://{SECRET}{'a' * 64}.example/x",
    ],
)
def test_what_cannot_be_read_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UrlError) as caught:
        parse_url(text)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("text", "expected"), [("s3://b", True), ("ftp://b", True), ("/a/b", False), ("a:b", False)])
def test_a_path_is_no_url(text: str, expected: bool) -> None:
    assert is_url(text) is expected
