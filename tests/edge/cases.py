"""Requests that are read in more than one way somewhere, and what this gateway is to do with each."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from tests.edge.between import CHAT, MARK, get, post
from tests.gateway.proxied import ACME, OTHER, OWN


class Verdict(Enum):
    REFUSED = "a refusal in fixed words, the connection closed, nothing at the provider"
    FORWARDED = "at the provider once, as it came"
    EITHER = "one of the two"
    LAST = "one of the two, and the connection closed: what follows is no request"
    ELSEWHERE = "not at the provider; the gateway says so"
    CUT = "a refusal or just the end of the connection; nothing whole at the provider"


class Case(NamedTuple):
    """Something a client sends. A marker follows it on the same connection."""

    data: bytes
    verdict: Verdict
    statuses: frozenset[int] = frozenset({400})
    """Of the refusal."""


REFUSED, FORWARDED, EITHER = Verdict.REFUSED, Verdict.FORWARDED, Verdict.EITHER
LAST, ELSEWHERE, CUT = Verdict.LAST, Verdict.ELSEWHERE, Verdict.CUT

VERSION = frozenset({400, 505})
CODING = frozenset({400, 501})
METHOD = frozenset({400, 405, 501})

SMUGGLED = post(b"X-Smuggled: yes")
"""Stands in bodies; whoever misreads their length forwards it."""


def chunked(body: bytes, *headers: bytes, coding: bytes = b"Transfer-Encoding: chunked", **more: bytes) -> bytes:
    """A request with this after its head."""
    return post(coding, *headers, length=False, body=body, **more)  # type: ignore[arg-type]


def of_length(*values: bytes, body: bytes = b"{}") -> bytes:
    return post(*(b"Content-Length:" + value for value in values), length=False, body=body)


def raw(*lines: bytes, body: bytes = b"") -> bytes:
    """These lines for a head, a key and a mark among them."""
    own = (b"X-Mark: " + MARK + b"a", b"Authorization: Bearer " + OWN.encode())
    return b"\r\n".join((lines[0], *own, *lines[1:])) + b"\r\n\r\n" + body


HOST = b"Host: gateway.example"
WHOLE = b"2\r\n{}\r\n0\r\n\r\n"
LINE = b"POST " + CHAT + b" HTTP/1.1"

LENGTHS = {
    "a length and chunks": Case(post(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED), REFUSED),
    "chunks and a length": Case(
        post(b"Content-Length: 5", b"Transfer-Encoding: chunked", length=False, body=b"0\r\n\r\n" + SMUGGLED), REFUSED
    ),
    "a length twice": Case(of_length(b" 2", b" 2"), REFUSED),
    "two lengths": Case(of_length(b" 2", b" %d" % len(b"{}" + SMUGGLED), body=b"{}" + SMUGGLED), REFUSED),
    "a list of lengths": Case(of_length(b" 2, 2"), REFUSED),
    "a signed length": Case(of_length(b" +2"), REFUSED),
    "a negative length": Case(of_length(b" -1"), REFUSED),
    "a hexadecimal length": Case(of_length(b" 0x2"), REFUSED),
    "a length with an underscore": Case(of_length(b" 1_0"), REFUSED),
    "a length with a space in it": Case(of_length(b" 1 0"), REFUSED),
    "a length with a letter": Case(of_length(b" 2a"), REFUSED),
    "an empty length": Case(of_length(b""), REFUSED),
    "a length beyond 2^64": Case(of_length(b" 18446744073709551621"), REFUSED),
    "a length of a hundred digits": Case(of_length(b" " + b"9" * 100), REFUSED),
    "a decimal length": Case(of_length(b" 2.0"), REFUSED),
    "a length with noughts before it": Case(of_length(b" 002"), EITHER),
    "a length with space around it": Case(of_length(b" \t 2 \t"), EITHER),
    "a length in other digits": Case(of_length(" \uff12".encode()), REFUSED),
    "a length of nothing, and a body": Case(of_length(b" 0"), LAST),
    "no length, and a body": Case(post(length=False), LAST),
    "a GET with a body": Case(post(method=b"GET", target=b"/openai/v1/models", body=SMUGGLED), FORWARDED),
}

CODINGS = {
    "chunks": Case(chunked(WHOLE), FORWARDED),
    "chunks in capitals": Case(chunked(WHOLE, coding=b"Transfer-Encoding: CHUNKED"), EITHER),
    "chunks that hold a request": Case(chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)), FORWARDED),
    "xchunked": Case(chunked(WHOLE, coding=b"Transfer-Encoding: xchunked"), REFUSED, CODING),
    "chunked in quotes": Case(chunked(WHOLE, coding=b'Transfer-Encoding: "chunked"'), REFUSED, CODING),
    "chunked twice": Case(chunked(WHOLE, coding=b"Transfer-Encoding: chunked, chunked"), REFUSED, CODING),
    "chunked in two lines": Case(chunked(WHOLE, b"Transfer-Encoding: chunked"), REFUSED, CODING),
    "chunked, then identity": Case(chunked(WHOLE, coding=b"Transfer-Encoding: chunked, identity"), REFUSED, CODING),
    "identity": Case(chunked(WHOLE, coding=b"Transfer-Encoding: identity"), REFUSED, CODING),
    "gzip, then chunked": Case(chunked(WHOLE, coding=b"Transfer-Encoding: gzip, chunked"), REFUSED, CODING),
    "gzip": Case(chunked(WHOLE, coding=b"Transfer-Encoding: gzip"), REFUSED, CODING),
    "chunked with a comma": Case(chunked(WHOLE, coding=b"Transfer-Encoding: chunked,"), REFUSED, CODING),
    "chunked with a parameter": Case(chunked(WHOLE, coding=b"Transfer-Encoding: chunked;q=1"), REFUSED, CODING),
    "chunked after a vertical tab": Case(chunked(WHOLE, coding=b"Transfer-Encoding: \x0bchunked"), REFUSED, CODING),
    "an empty coding and a length": Case(post(b"Transfer-Encoding:"), REFUSED, CODING),
    "an empty coding": Case(chunked(WHOLE, coding=b"Transfer-Encoding:"), REFUSED, CODING),
    "a coding on a folded line": Case(chunked(WHOLE, coding=b"Transfer-Encoding:\r\n chunked"), REFUSED, CODING),
    "a coding with a space before its colon": Case(chunked(WHOLE, coding=b"Transfer-Encoding : chunked"), REFUSED),
    "a coding in HTTP/1.0": Case(chunked(WHOLE, version=b"HTTP/1.0"), REFUSED, CODING),
    "a coding in HTTP/1.0 that is kept": Case(
        chunked(WHOLE, b"Connection: keep-alive", version=b"HTTP/1.0"), REFUSED, CODING
    ),
    "a coding with an underscore and a length": Case(post(b"Transfer_Encoding: chunked"), EITHER),
    "a coding that Connection names": Case(chunked(WHOLE, b"Connection: Transfer-Encoding"), EITHER),
}

CHUNKS = {
    "a chunk size with 0x": Case(chunked(b"0x2\r\n{}\r\n0\r\n\r\n"), CUT),
    "a signed chunk size": Case(chunked(b"+2\r\n{}\r\n0\r\n\r\n"), CUT),
    "a negative chunk size": Case(chunked(b"-2\r\n{}\r\n0\r\n\r\n"), CUT),
    "a chunk size with an underscore": Case(chunked(b"0_2\r\n{}\r\n0\r\n\r\n"), CUT),
    "a chunk size that is no number": Case(chunked(b"zz\r\n{}\r\n0\r\n\r\n"), CUT),
    "no chunk size": Case(chunked(b"\r\n{}\r\n0\r\n\r\n"), CUT),
    "a chunk size with a space before it": Case(chunked(b" 2\r\n{}\r\n0\r\n\r\n"), CUT),
    "a chunk size with a space after it": Case(chunked(b"2 \r\n{}\r\n0\r\n\r\n"), CUT),
    "a chunk size beyond 2^64": Case(chunked(b"10000000000000002\r\n{}\r\n0\r\n\r\n"), CUT),
    "a chunk size with noughts before it": Case(chunked(b"0000002\r\n{}\r\n0\r\n\r\n"), EITHER),
    "a chunk size and a bare LF": Case(chunked(b"2\n{}\r\n0\r\n\r\n"), CUT),
    "a chunk size and a bare CR": Case(chunked(b"2\r{}\r\n0\r\n\r\n"), CUT),
    "a chunk that ends in a bare LF": Case(chunked(b"2\r\n{}\n0\r\n\r\n"), CUT),
    "a chunk that ends in nothing": Case(chunked(b"2\r\n{}0\r\n\r\n"), CUT),
    "a chunk that is longer than its size": Case(chunked(b"1\r\n{}\r\n0\r\n\r\n"), CUT),
    "a chunk that is shorter than its size": Case(chunked(b"4\r\n{}\r\n0\r\n\r\n"), CUT),
    "a chunk with an extension": Case(chunked(b"2;a=b\r\n{}\r\n0\r\n\r\n"), EITHER),
    "a chunk with a quoted extension": Case(chunked(b'2;a="b;c"\r\n{}\r\n0\r\n\r\n'), EITHER),
    "a chunk with an extension of a bare LF": Case(chunked(b"2;a\nb\r\n{}\r\n0\r\n\r\n"), CUT),
    "a chunk with an extension of a bare CR": Case(chunked(b"2;a\rb\r\n{}\r\n0\r\n\r\n"), CUT),
    "a chunk with an extension of a NUL": Case(chunked(b"2;\0\r\n{}\r\n0\r\n\r\n"), CUT),
    "a chunk with an extension of 20 kB": Case(chunked(b"2;" + b"a" * 20000 + b"\r\n{}\r\n0\r\n\r\n"), EITHER),
    "a trailer": Case(chunked(b"2\r\n{}\r\n0\r\nA: b\r\n\r\n"), EITHER),
    "a trailer with a length": Case(chunked(b"2\r\n{}\r\n0\r\nContent-Length: 50\r\n\r\n"), EITHER),
    "a trailer with a key": Case(
        chunked(b"2\r\n{}\r\n0\r\nX-Gateway-Key: " + ACME.encode() + b"\r\nX-Smuggled: yes\r\n\r\n"), EITHER
    ),
    "a trailer without a colon": Case(chunked(b"2\r\n{}\r\n0\r\nA b\r\n\r\n"), CUT),
    "a trailer with a bare LF": Case(chunked(b"2\r\n{}\r\n0\r\nA: b\n\r\n"), CUT),
    "a last chunk without its last line end": Case(chunked(b"2\r\n{}\r\n0\r\n"), CUT),
    "a last chunk with a bare LF": Case(chunked(b"2\r\n{}\r\n0\n\n"), CUT),
    "a last chunk with a bare LF at its end": Case(chunked(b"2\r\n{}\r\n0\r\n\n"), CUT),
    "a last chunk of many noughts": Case(chunked(b"2\r\n{}\r\n00000\r\n\r\n"), EITHER),
}

FIELDS = {
    "a space before a colon": Case(post(b"X-A : b"), REFUSED),
    "a space before the colon of the length": Case(
        post(b"Content-Length : %d" % len(SMUGGLED), body=SMUGGLED, length=False), REFUSED
    ),
    "a tab before a colon": Case(post(b"X-A\t: b"), REFUSED),
    "a folded line": Case(post(b"X-A: b\r\n c"), REFUSED),
    "a line folded by a tab": Case(post(b"X-A: b\r\n\tc"), REFUSED),
    "a first line that is folded": Case(raw(LINE, HOST).replace(b"X-Mark", b" X-Mark"), REFUSED),
    "a bare LF after a field": Case(post(b"X-A: b\nX-B: c"), REFUSED),
    "a bare CR in a field": Case(post(b"X-A: b\rX-B: c"), REFUSED),
    "two CR after a field": Case(post(b"X-A: b\r"), REFUSED),
    "a bare LF after the request line": Case(post().replace(b"HTTP/1.1\r\n", b"HTTP/1.1\n"), REFUSED),
    "bare LF only": Case(post().replace(b"\r\n", b"\n"), REFUSED),
    "a head that ends in bare LF": Case(post(length=False, body=b"").replace(b"\r\n\r\n", b"\n\n"), REFUSED),
    "a head whose last line is a bare LF": Case(get(b"X-A: b").replace(b"\r\n\r\n", b"\r\n\n"), REFUSED),
    "a NUL in a value": Case(post(b"X-A: b\0c"), REFUSED),
    "a NUL in a name": Case(post(b"X-\0A: b"), REFUSED),
    "a control character in a value": Case(post(b"X-A: b\x01c"), REFUSED),
    "an escape character in a value": Case(post(b"X-A: \x1b[2J"), REFUSED),
    "a DEL in a value": Case(post(b"X-A: b\x7fc"), REFUSED),
    "a vertical tab in a value": Case(post(b"X-A: b\x0bc"), REFUSED),
    "a form feed in a value": Case(post(b"X-A: b\x0cc"), REFUSED),
    "a tab in a value": Case(post(b"X-A: b\tc"), EITHER),
    "obsolete text in a value": Case(post(b"X-A: \xe4\xf6\xff"), EITHER),
    "UTF-8 in a value": Case(post("X-A: ü€".encode()), EITHER),
    "obsolete text in a name": Case(post(b"X-\xe4: b"), REFUSED),
    "a field without a colon": Case(post(b"X-A"), REFUSED),
    "a field without a name": Case(post(b": b"), REFUSED),
    "a name in parentheses": Case(post(b"X-(A): b"), REFUSED),
    "a name with a quote": Case(post(b'X-"A": b'), REFUSED),
    "a name with a slash": Case(post(b"X/A: b"), REFUSED),
    "an empty value": Case(post(b"X-A:"), EITHER),
    "a thousand fields": Case(post(*(b"X-%d: b" % number for number in range(1000))), REFUSED, frozenset({400, 431})),
    "a field of 1 MB": Case(post(b"X-A: " + b"b" * (1 << 20)), REFUSED, frozenset({400, 431})),
    "a target of 1 MB": Case(get(target=b"/openai/v1/models?" + b"b" * (1 << 20)), REFUSED, frozenset({400, 414, 431})),
    "an alias of X-Gateway-Key": Case(post(b"X_Gateway_Key: " + OTHER.encode()), EITHER),
    "an alias of X-Tenant-ID": Case(post(b"x_tenant_id: other"), EITHER),
    "an alias of X-Gateway-Metering": Case(post(b"X-Gateway_Metering: off"), EITHER),
    "an alias of Content-Length": Case(post(b"Content_Length: 1"), EITHER),
}

HOSTS = {
    "no Host": Case(post(host=None), REFUSED),
    "Host twice": Case(post(HOST), REFUSED),
    "two Hosts": Case(post(b"Host: evil.example"), REFUSED),
    "an empty Host": Case(post(host=b""), EITHER),
    "a list of Hosts": Case(post(host=b"x, y"), REFUSED),
    "a Host with a path": Case(post(host=b"x/y"), REFUSED),
    "a Host with a path and a fragment": Case(post(host=b"x/#@evil.example"), REFUSED),
    "a Host with a query": Case(post(host=b"ok/health?x="), REFUSED),
    "a Host with a query alone": Case(post(host=b"ok?x="), REFUSED),
    "a Host with a fragment alone": Case(post(host=b"ok#x"), REFUSED),
    "a Host with a user": Case(post(host=b"user:pass@evil.example"), REFUSED),
    "a Host with a scheme": Case(post(host=b"http://evil.example"), REFUSED),
    "a Host with a space": Case(post(host=b"x y"), REFUSED),
    "a Host with a backslash": Case(post(host=b"x\\y"), REFUSED),
    "a Host with obsolete text": Case(post(host=b"x\xe4y"), REFUSED),
    "a Host with a port out of range": Case(post(host=b"ok:99999"), REFUSED),
    "a Host with a port that is no number": Case(post(host=b"ok:8x"), REFUSED),
    "a Host with a negative port": Case(post(host=b"ok:-1"), REFUSED),
    "a Host with two ports": Case(post(host=b"ok:80:80"), REFUSED),
    "a Host of half an IPv6 address": Case(post(host=b"[::1"), REFUSED),
    "a Host of an IPv6 address": Case(post(host=b"[::1]:8080"), FORWARDED),
    "a Host of an IPv4 address": Case(post(host=b"127.0.0.1:8080"), FORWARDED),
    "a Host in capitals": Case(post(host=b"GATEWAY.EXAMPLE"), FORWARDED),
    "a Host with a dot at its end": Case(post(host=b"gateway.example."), EITHER),
    "a Host with an empty port": Case(post(host=b"gateway.example:"), EITHER),
    "a Host of 10 kB": Case(post(host=b"x" * 10000), EITHER),
    "another Host": Case(post(host=b"evil.example"), EITHER),
}

LINES = {
    "a whole URL": Case(get(target=b"http://evil.example/openai/v1/models"), REFUSED),
    "a whole URL of https": Case(get(target=b"https://evil.example/openai/v1/models"), REFUSED),
    "a whole URL with a user": Case(get(target=b"http://user:pass@evil.example/openai/v1/models"), REFUSED),
    "a whole URL of the gateway": Case(get(target=b"http://gateway.example/openai/v1/models"), REFUSED),
    "another scheme": Case(get(target=b"file:///etc/passwd"), REFUSED),
    "a host for a path": Case(get(target=b"//evil.example/openai/v1/models"), ELSEWHERE),
    "three slashes": Case(get(target=b"///openai/v1/models"), ELSEWHERE),
    "a user for a path": Case(get(target=b"@evil.example/openai/v1/models"), REFUSED),
    "no slash": Case(get(target=b"openai/v1/models"), REFUSED),
    "a star": Case(post(target=b"*", method=b"OPTIONS", body=b""), REFUSED),
    "a star for a GET": Case(get(target=b"*"), REFUSED),
    "an authority": Case(get(target=b"evil.example:443"), REFUSED),
    "CONNECT": Case(post(method=b"CONNECT", target=b"evil.example:443", body=b"", length=False), REFUSED, METHOD),
    "CONNECT with a path": Case(post(method=b"CONNECT", body=b"", length=False), REFUSED, METHOD),
    "TRACE": Case(post(method=b"TRACE", body=b"", length=False), REFUSED, METHOD),
    "a method that nobody knows": Case(post(method=b"BREW"), EITHER, METHOD),
    "a method in lower case": Case(post(method=b"post"), EITHER, METHOD),
    "a method that is none": Case(post(method=b"P(ST"), REFUSED, METHOD),
    "a method of 20 kB": Case(post(method=b"P" * 20000), EITHER, METHOD | {414, 431}),
    "SOURCE": Case(post(method=b"SOURCE"), EITHER, METHOD),
    "HTTP/0.9": Case(b"GET /openai/v1/models?" + MARK + b"\r\n\r\n", REFUSED, VERSION),
    "HTTP/0.9 by name": Case(get(version=b"HTTP/0.9"), REFUSED, VERSION),
    "HTTP/1.0": Case(post(version=b"HTTP/1.0"), LAST),
    "HTTP/1.0 that is kept": Case(post(b"Connection: keep-alive", version=b"HTTP/1.0"), FORWARDED),
    "HTTP/1.0 that is to be kept and closed": Case(
        post(b"Connection: close", b"Connection: keep-alive", version=b"HTTP/1.0"), LAST
    ),
    "HTTP/1.0 without a Host": Case(post(version=b"HTTP/1.0", host=None), LAST),
    "HTTP/1.0 with a bad Host": Case(post(version=b"HTTP/1.0", host=b"x/#@evil.example"), REFUSED),
    "HTTP/1.2": Case(get(version=b"HTTP/1.2"), REFUSED, VERSION),
    "HTTP/1.9": Case(get(version=b"HTTP/1.9"), REFUSED, VERSION),
    "HTTP/1.10": Case(get(version=b"HTTP/1.10"), REFUSED, VERSION),
    "HTTP/2.0": Case(get(version=b"HTTP/2.0"), REFUSED, VERSION),
    "HTTP/3": Case(get(version=b"HTTP/3"), REFUSED, VERSION),
    "HTTP/1.1 in lower case": Case(get(version=b"http/1.1"), REFUSED, VERSION),
    "another protocol": Case(get(version=b"ICE/1.0"), REFUSED, VERSION),
    "RTSP": Case(get(version=b"RTSP/1.0"), REFUSED, VERSION),
    "HTTP/1.1 and more": Case(get(version=b"HTTP/1.1 x"), REFUSED, VERSION),
    "HTTP/1.1 and a space": Case(get(version=b"HTTP/1.1 "), REFUSED, VERSION),
    "the preface of HTTP/2": Case(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + MARK, REFUSED, VERSION),
    "two spaces before the target": Case(get(target=b" /openai/v1/models"), EITHER),
    "two spaces after the target": Case(get(target=b"/openai/v1/models "), EITHER),
    "a tab in the request line": Case(get().replace(b"GET ", b"GET\t"), REFUSED),
    "a space before the request line": Case(b" " + get(), REFUSED),
    "a space in the target": Case(get(target=b"/openai/v1/mod els"), REFUSED),
    "a NUL in the target": Case(get(target=b"/openai/v1/mod\0els"), REFUSED),
    "a control character in the target": Case(get(target=b"/openai/v1/mod\x01els"), REFUSED),
    "a DEL in the target": Case(get(target=b"/openai/v1/mod\x7fels"), REFUSED),
    "a CR in the target": Case(get(target=b"/openai/v1/mod\rels"), REFUSED),
    "obsolete text in the target": Case(get(target=b"/openai/v1/mod\xe4els"), REFUSED),
    "a fragment": Case(get(target=b"/openai/v1/models#frag"), REFUSED),
    "a fragment in the query": Case(get(target=b"/openai/v1/models?a=b#frag"), REFUSED),
    "an empty line before": Case(b"\r\n" + post(), EITHER),
    "empty lines before": Case(b"\r\n\r\n\r\n" + post(), EITHER),
    "a bare LF before": Case(b"\n" + post(), EITHER),
    "a bare CR before": Case(b"\r" + post(), EITHER),
    "nothing but a NUL": Case(b"\0" + get(), REFUSED),
    "a TLS hello": Case(b"\x16\x03\x01\x02\x00\x01\x00" + MARK + b"\r\n\r\n", REFUSED),
    "a PROXY line": Case(b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + get(), REFUSED),
    "an answer": Case(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Mark: " + MARK + b"\r\n\r\n", REFUSED),
}

EXPECTATIONS = {
    "an unknown expectation": Case(post(b"Expect: 200-ok"), REFUSED, frozenset({417})),
    "an expectation of nothing": Case(post(b"Expect:"), REFUSED, frozenset({400, 417})),
    "two expectations": Case(post(b"Expect: 100-continue, 200-ok"), REFUSED, frozenset({417})),
    "two expectations in two lines": Case(post(b"Expect: 100-continue", b"Expect: 200-ok"), REFUSED, frozenset({417})),
    "leave to send": Case(post(b"Expect: 100-continue"), FORWARDED),
    "leave to send, in capitals": Case(post(b"Expect: 100-CONTINUE"), FORWARDED),
    "leave to send nothing": Case(get(b"Expect: 100-continue"), FORWARDED),
    "an upgrade to what nobody knows": Case(get(b"Connection: upgrade", b"Upgrade: foo"), LAST),
    "an upgrade to HTTP/2": Case(
        get(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__"), LAST
    ),
    "an upgrade with a body": Case(post(b"Connection: upgrade", b"Upgrade: foo"), LAST),
    "an upgrade with a chunked body": Case(chunked(WHOLE, b"Connection: upgrade", b"Upgrade: foo"), LAST),
    "a WebSocket where there is none": Case(
        get(
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            b"Sec-WebSocket-Version: 13",
        ),
        LAST,
        frozenset({400, 426}),
    ),
    "an upgrade that Connection does not name": Case(get(b"Upgrade: foo"), EITHER),
    "Connection: upgrade without one": Case(get(b"Connection: upgrade"), EITHER),
}

TARGETS = {
    "a path with its dots": Case(get(target=b"/openai/v1/models/.."), EITHER, frozenset({400, 403, 404})),
    "a path with escaped dots": Case(get(target=b"/openai/v1/%2e%2e/models"), EITHER, frozenset({400, 403, 404})),
    "a path with escaped slashes": Case(get(target=b"/openai/v1%2fmodels"), EITHER, frozenset({400, 403, 404})),
    "a path with an escaped NUL": Case(get(target=b"/openai/v1/models%00"), EITHER, frozenset({400, 403, 404})),
    "a path with a backslash": Case(get(target=b"/openai/v1\\models"), EITHER, frozenset({400, 403, 404})),
    "a path to another provider": Case(
        get(target=b"/openai/../sendgrid/v3/scopes"), EITHER, frozenset({400, 403, 404})
    ),
}

CASES = LENGTHS | CODINGS | CHUNKS | FIELDS | HOSTS | LINES | EXPECTATIONS | TARGETS

assert len(CASES) == sum(map(len, (LENGTHS, CODINGS, CHUNKS, FIELDS, HOSTS, LINES, EXPECTATIONS, TARGETS)))
