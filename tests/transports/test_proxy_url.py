"""The URL of a proxy: what it comes to, what is refused, and that no password shows anywhere."""

from __future__ import annotations

import pickle
import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wraith_transports import FailureKind, ProxySchemeUnknown, ProxyUrlInvalid
from wraith_transports.proxy import ProxyScheme, ProxyUrl

SECRET = "s3cr3t"

schemes = st.sampled_from(ProxyScheme)
labels = st.text(string.ascii_lowercase + string.digits + "-_", min_size=1, max_size=12)
hosts = st.one_of(
    st.lists(labels, min_size=1, max_size=4).map(".".join),
    st.ip_addresses().map(str),
)
ports = st.integers(1, 65535)
ascii_fields = st.text(st.characters(min_codepoint=1, max_codepoint=126), min_size=1, max_size=80)
fields = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=60)


def written(scheme: str, host: str, port: int | None, user: str | None, password: str) -> str:
    at = "" if user is None else f"{quote(user, safe='')}:{quote(password, safe='')}@"
    where = f"[{host}]" if ":" in host else host
    return f"{scheme}://{at}{where}" + ("" if port is None else f":{port}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("socks5://proxy", ProxyUrl(ProxyScheme.SOCKS5, "proxy", 1080)),
        ("socks5h://proxy:9050", ProxyUrl(ProxyScheme.SOCKS5H, "proxy", 9050)),
        ("http://proxy", ProxyUrl(ProxyScheme.HTTP, "proxy", 1080)),
        ("http://proxy:3128/", ProxyUrl(ProxyScheme.HTTP, "proxy", 3128)),
        ("HTTP://10.0.0.1:8080", ProxyUrl(ProxyScheme.HTTP, "10.0.0.1", 8080)),
        ("socks5://[2001:db8::1]:1", ProxyUrl(ProxyScheme.SOCKS5, "2001:db8::1", 1)),
        ("socks5://[::1]", ProxyUrl(ProxyScheme.SOCKS5, "::1", 1080)),
        ("socks5://[fe80::1%25eth0]:9", ProxyUrl(ProxyScheme.SOCKS5, "fe80::1%eth0", 9)),
        ("socks5://me:pw@proxy", ProxyUrl(ProxyScheme.SOCKS5, "proxy", 1080, "me", "pw")),
        ("socks5://me:p%3Aw%40%25@proxy", ProxyUrl(ProxyScheme.SOCKS5, "proxy", 1080, "me", "p:w@%")),
        ("http://me:a:b@c@proxy", ProxyUrl(ProxyScheme.HTTP, "proxy", 1080, "me", "a:b@c")),
        ("http://me@proxy", ProxyUrl(ProxyScheme.HTTP, "proxy", 1080, "me", "")),
        ("http://z%C3%BC:%E2%82%AC@proxy", ProxyUrl(ProxyScheme.HTTP, "proxy", 1080, "zü", "€")),
    ],
)
def test_a_url_is_read_as_curl_reads_it(text: str, expected: ProxyUrl) -> None:
    assert ProxyUrl.parse(text) == expected


@given(schemes, hosts, st.none() | ports, st.none() | st.tuples(ascii_fields, ascii_fields))
def test_what_is_written_by_the_rules_is_read_back(
    scheme: ProxyScheme, host: str, port: int | None, credentials: tuple[str, str] | None
) -> None:
    user, password = credentials or (None, "")
    if scheme is ProxyScheme.HTTP and user is not None:
        clean = "".join(each for each in user + password if each.isprintable() and each != ":") or "x"
        user = password = clean
    url = ProxyUrl.parse(written(scheme.value, host, port, user, password))
    assert url == ProxyUrl(scheme, host, port or 1080, user, password)


@given(fields.filter(lambda each: ":" not in each), fields)
def test_an_http_proxys_user_and_password_may_be_in_any_script(user: str, password: str) -> None:
    text = written("http", "proxy", 8080, user, password)
    try:
        url = ProxyUrl.parse(text)
    except ProxyUrlInvalid:
        assert max(len(user.encode()), len(password.encode())) > 255 or len(text) > 2048
    else:
        assert (url.user, url.password) == (user, password)


@given(st.text(max_size=200) | st.text(max_size=60).map(lambda rest: "socks5://" + rest))
def test_any_other_text_is_refused_with_one_kind_of_error(text: str) -> None:
    complaint: ProxyUrlInvalid | None = None
    try:
        ProxyUrl.parse(text)
    except ProxyUrlInvalid as error:
        complaint = error
    if complaint is not None:
        assert complaint.permanent
        assert complaint.kind is FailureKind.CONFIGURATION
        assert str(complaint).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "proxy",
        "proxy:1080",
        f"me:{SECRET}@proxy:1080",
        "://proxy",
        "https://proxy",
        "socks4://proxy",
        "socks://me@proxy",
        "socks5:/proxy",
        f"{SECRET}:x://proxy",
    ],
)
def test_a_scheme_that_is_missing_or_unknown_is_an_error_of_its_own(text: str) -> None:
    with pytest.raises(ProxySchemeUnknown, match="socks5://HOST:PORT, socks5h://HOST:PORT, http://HOST:PORT") as caught:
        ProxyUrl.parse(text)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("rest", "complaint"),
    [
        ("", "host"),
        (":1080", "host"),
        ("pro xy", "host"),
        ("pröxy", "host"),
        ("a..b", "host"),
        ("[::1", "brackets"),
        ("[proxy]:1", "brackets"),
        ("[10.0.0.1]:1", "brackets"),
        ("[::1]1", "brackets"),
        ("::1", "brackets"),
        ("proxy:", "port"),
        ("proxy:0", "port"),
        ("proxy:65536", "port"),
        ("proxy:٣", "port"),
        ("proxy:+1", "port"),
        ("proxy/path", "behind its port"),
        ("proxy?x", "behind its port"),
        ("proxy#x", "behind its port"),
        (f"me:{SECRET}@pro xy", "host"),
        (f"me:{SECRET}/x@proxy", "%2F"),
        (f"me:{SECRET}#x@proxy", "%23"),
        (f"me:{SECRET}?x@proxy", "%3F"),
        (f"me:{SECRET}%zz@proxy", "%25"),
        (f"me:{SECRET}%@proxy", "%25"),
        (f"me:{SECRET}%ff@proxy", "UTF-8"),
        (f"me:{SECRET}@proxy:1x", "port"),
        (f"{SECRET}@proxy", "1 to 255 ASCII"),  # RFC 1929: a password has at least one byte
        (f":{SECRET}@proxy", "1 to 255 ASCII"),
        (f"me:{SECRET}ü@proxy", "1 to 255 ASCII"),
        (f"me:{SECRET * 50}@proxy", "1 to 255 ASCII"),
        (f"me:{SECRET * 500}@proxy", "2048"),
    ],
)
def test_a_malformed_url_says_which_part_and_repeats_no_password(rest: str, complaint: str) -> None:
    with pytest.raises(ProxyUrlInvalid, match=complaint) as caught:
        ProxyUrl.parse(f"socks5://{rest}")
    assert not isinstance(caught.value, ProxySchemeUnknown)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None  # whose text would show it with -vv


@pytest.mark.parametrize(
    ("user", "password"), [("a%3Ab", "x"), ("a%0Ab", "x"), ("a", "x%00"), ("a" * 256, "x"), ("a", "%C3%BC" * 128)]
)
def test_http_credentials_that_basic_cannot_carry_are_refused(user: str, password: str) -> None:
    with pytest.raises(ProxyUrlInvalid, match=r"http proxy|up to 255 bytes"):
        ProxyUrl.parse(f"http://{user}:{password}@proxy")


def test_user_and_password_show_in_no_text_of_it() -> None:
    url = ProxyUrl.parse(f"socks5h://{SECRET}user:{SECRET}@[::1]:9050")
    assert str(url) == f"{url}" == "socks5h://[::1]:9050"
    for text in (repr(url), str(url), f"{url!r:>200}", "%s %r" % (url, url), str([url]), str({"proxy": url})):  # noqa: UP031
        assert SECRET not in text
    assert pickle.loads(pickle.dumps(url)) == url
