"""Targets reach the provider to the byte, or not at all; and what is not the provider's is never served under its name."""

import asyncio
from urllib.parse import quote

import pytest

from tests.edge.between import get, marker, problem, sent_on
from tests.gateway.proxied import sid_of

SPELLINGS = (
    *(b"%2F", b"%2f", b"a%2Fb", b"a%2fb", b"..%2f", b"..%2F", b"%2e", b"%2E", b"%2e%2e", b"%2E%2E", b"%2e.", b".%2e"),
    *(
        b".",
        b"..",
        b"./",
        b"../",
        b"./a",
        b"../a",
        b"a/./b",
        b"a/../b",
        b"a/..",
        b"a/.",
        b"...",
        b"a/.../b",
        b"../../../a",
    ),
    *(
        b"//",
        b"a//b",
        b"a///b",
        b"/",
        b"a/",
        b";",
        b"a;b=c",
        b"%3b",
        b"%3B",
        b";/..",
        b"..;/a",
        b"%00",
        b"a%00b",
        b"%0d%0a",
    ),
    *(b"%zz", b"%", b"%a", b"%%", b"%25", b"%252f", b"%252e%252e", b"%c0%ae", b"%e4", b"%C3%A4", b"%c3%a4", b"%u002f"),
    *(
        b"+",
        b"%20",
        b"a+b",
        b"a%2Bb",
        b"a%20b",
        b"%41",
        b"%61",
        b"%7e",
        b"~",
        b"%7E",
        b"a:b",
        b"a@b",
        b"a,b",
        b"a=b",
        b"a&b",
    ),
    *(
        b"a'b",
        b"(a)",
        b"!",
        b"$",
        b"*",
        b"a|b",
        b"a^b",
        b"a`b",
        b"{a}",
        b"[a]",
        b'"',
        b"<a>",
        b"\\",
        b"..\\",
        b"a\\..\\b",
    ),
    *(
        b"?",
        b"a?",
        b"??",
        b"a??",
        b"?a",
        b"?a=b",
        b"?a=b&a=c",
        b"?&&",
        b"?=",
        b"?a?b",
        b"?a=%2F",
        b"?a=%2f",
        b"?a=/",
        b"?a=//b",
    ),
    *(
        b"?a=../b",
        b"?a=+",
        b"?a=%20",
        b"?a=b;c",
        b"?a=%zz",
        b"?a=%00",
        b"?http://evil.example",
        b"?a=[b]",
        b'?a="b"',
        b"?a=\\",
    ),
)
"""What stands at the end of a path that is otherwise plain."""

BASES = (
    b"/openai/v1/models/",
    b"/openai/v1/nothing-of-this-name",
    b"/openai/",
    b"/twilio/messaging/v1/Services/",
    b"/twilio/2010-04-01/Accounts/" + sid_of("own").encode() + b"/Messages/",
    b"/twilio/api/2010-04-01/",
    b"/sendgrid/v3/templates/",
    b"/sendgrid/v3/nothing-of-this-name",
)


@pytest.mark.parametrize("base", BASES, ids=bytes.decode)
async def test_a_target_arrives_as_it_was_spelt_or_not_at_all(edge, base):
    told = await asyncio.gather(*(edge.tell(get(target=base + spelt) + marker()) for spelt in SPELLINGS))

    for spelt, one in zip(SPELLINGS, told, strict=True):
        assert problem(edge, one) is None, spelt
        assert one.ended, spelt
        first = one.answers[0]
        if first.status == 200:
            assert one.seen[0].request.target == sent_on(base + spelt), spelt
        else:
            assert 400 <= first.status < 500, spelt
            assert [seen for seen in one.seen if seen.request.all(b"x-mark")[0].endswith(b"a")] == [], spelt
    assert sum(one.answers[0].status == 200 for one in told) >= len(SPELLINGS) // 2
    await edge.recorded()


ADMINISTRATION = (
    b"/v1/tenants",
    b"/v1/usage/summary",
    b"/metrics",
    b"/readyz",
    b"/docs",
    b"/dashboard/",
    b"/openapi.json",
)


def encodings(path):
    """Forty ways to say, or nearly to say, one path."""
    plain = path.decode()
    first, rest = plain[1:2], plain[2:]
    return [
        spelt.encode()
        for spelt in (
            *(
                plain,
                plain + "/",
                plain + "?",
                plain + "/.",
                plain + "/..",
                plain + "//",
                plain + ";a",
                plain + "%00",
                plain + "%20",
            ),
            *(
                "/" + plain,
                "//" + plain,
                "/." + plain,
                "/.." + plain,
                "/a/.." + plain,
                "/%2e" + plain,
                "/%2e%2e" + plain,
            ),
            *(
                "/%2f" + plain,
                "/;" + plain,
                "/\\" + plain,
                "/%5c" + plain,
                "/..;" + plain,
                "/..%2f" + plain[1:],
                "/%00" + plain,
            ),
            *(f"/%{ord(first):02x}{rest}", f"/%{ord(first):02X}{rest}", f"/%25{ord(first):02x}{rest}", plain.upper()),
            *(quote(plain, safe=""), "/" + quote(plain, safe=""), plain.replace("/", "//"), plain.replace("/", "/./")),
            *(
                plain.replace("/", "\\"),
                plain.replace("/", "%2f"),
                plain.replace("/", "%2F"),
                plain.replace("/", "/%2e/"),
            ),
            *("/openai/.." + plain, "/openai/../.." + plain, "/openai/%2e%2e" + plain, "/openai/..%2f" + plain[1:]),
            *("/openai%2f.." + plain, "/openai/v1/../.." + plain, "/healthz/.." + plain, "/healthz" + plain),
        )
    ]


@pytest.mark.parametrize("path", ADMINISTRATION, ids=bytes.decode)
async def test_the_proxy_serves_nothing_of_the_control_listener(edge, path):
    """Whatever it is written like: it is a provider's path, and goes there to the byte, or it is nothing."""
    spellings = encodings(path)
    told = await asyncio.gather(*(edge.tell(get(target=spelt) + marker()) for spelt in spellings))

    assert len(spellings) >= 40
    for spelt, one in zip(spellings, told, strict=True):
        assert problem(edge, one) is None, spelt
        own = [seen for seen in one.seen if seen.request.all(b"x-mark")[0].endswith(b"a")]
        if one.answers[0].status == 200:
            assert [seen.request.target for seen in own] == [sent_on(spelt)], spelt
        else:
            assert 400 <= one.answers[0].status < 500, spelt
            assert own == [], spelt


HOSTS = (
    b"127.0.0.1:8080",
    b"[::1]:8080",
    b"GATEWAY.example",
    b"evil.example",
    b"a.b.c.d.e",
    b"xn--bcher-kva.example",
    b"x" * 63,
)


async def test_whom_a_call_is_for_does_not_depend_on_the_host_it_names(edge):
    hosts = (*HOSTS, *(b"tenant-%d.example" % number for number in range(101)))
    told = await asyncio.gather(*(edge.tell(get(host=host) + marker()) for host in hosts))

    for host, one in zip(hosts, told, strict=True):
        assert problem(edge, one) is None, host
        assert [answer.status for answer in one.answers] == [200, 200], host
        assert (b"Authorization", b"Bearer sk-of-the-tenant-itself") in one.seen[0].request.headers, host
    await edge.recorded()
