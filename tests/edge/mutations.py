"""Requests with something wrong, or nearly: each drawn from a seed and a number, and the same whenever they are the same."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.edge.between import BODY, CHAT, MARK, get, post
from tests.edge.cases import SMUGGLED, chunked
from tests.edge.wire import Request, read_requests
from tests.gateway.proxied import ACME, OTHER

FORM = b"To=%2B12025550143&From=%2B15005550006&Body=Hello"

BASES = (
    post(),
    post(body=b'{"model": "gpt-4o"}'),
    post(
        target=b"/openai/v1/embeddings", body=b'{"model": "text-embedding-3-small", "input": "' + SMUGGLED[:40] + b'"}'
    ),
    post(target=b"/openai/v1/files", body=SMUGGLED),
    post(b"Connection: keep-alive", version=b"HTTP/1.0"),
    post(b"Accept: */*", b"Accept-Encoding: gzip, deflate", b"User-Agent: x/1", b"Content-Type: application/json"),
    post(target=b"/openai/v1/nothing-of-this-name?a=b&c=%2F", body=b"0\r\n\r\n" + SMUGGLED),
    post(target=b"/twilio/messaging/v1/Services", body=FORM),
    post(target=b"/sendgrid/v3/contactdb/recipients", body=b"[]"),
    chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    chunked(b"1\r\n{\r\n1;a=b\r\n}\r\n0\r\nX-Trailer: 1\r\n\r\n", target=b"/openai/v1/nothing-of-this-name"),
    chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED), target=b"/openai/v1/files"),
    get(),
    get(target=b"/openai/v1/models/gpt-4o?x=%20y"),
    get(target=b"/twilio/lookups/v2/PhoneNumbers/%2B12025550143"),
    post(method=b"HEAD", target=b"/openai/v1/models", length=False, body=b""),
    post(method=b"DELETE", target=b"/sendgrid/v3/templates/a", length=False, body=b""),
    post(method=b"PUT", target=b"/sendgrid/v3/templates/a", body=b'{"a": 1}'),
    post(method=b"OPTIONS", length=False, body=b""),
    post(b"Expect: 100-continue"),
)

BYTES = tuple(bytes((byte,)) for byte in b"\0\x01\t\n\x0b\x0c\r \x7f\x80\xff:;,\"'#?/\\%+-_.*@=&(){}0129afAFxX")
ENDS = (b"\n", b"\r", b"\r\r\n", b"\n\r", b"\r\n\r\n", b"\r\n ", b"\r\n\t", b" \r\n", b"\0\r\n", b"\r\n\n", b"")
FIELDS = tuple(
    field.encode("latin-1")
    for field in (
        *("Content-Length: 0", "Content-Length: 1", "Content-Length: 2", "Content-Length: 71", "Content-Length: 007"),
        *("Content-Length: +2", "Content-Length: -1", "Content-Length: 0x2", "Content-Length: 2, 2", "Content-Length:"),
        *("Content-Length: 99999", "Content-Length: 18446744073709551616", "Content-Length : 2", "content-length: 2"),
        *(
            "Content-Length\t: 2",
            "Content-Length: 2 ",
            "Content_Length: 2",
            "Content-Length: 2\x0b",
            " Content-Length: 2",
        ),
        *("Transfer-Encoding: chunked", "transfer-encoding: Chunked", "Transfer-Encoding: identity"),
        *("Transfer-Encoding: xchunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: chunked, identity"),
        *("Transfer-Encoding : chunked", "Transfer-Encoding:chunked", "Transfer-Encoding: \x0bchunked"),
        *("Transfer-Encoding:\r\n chunked", "Transfer-Encoding:", "Transfer_Encoding: chunked", "TE: trailers"),
        *('Transfer-Encoding: "chunked"', "Transfer-Encoding: chunked;a=b", "X: y\r\nTransfer-Encoding: chunked"),
        *(
            "Host: evil.example",
            "Host: gateway.example",
            "Host:",
            "Host: a, b",
            "Host: a/b",
            "Host: a:99999",
            "Host: [::1]",
        ),
        *("Connection: close", "Connection: keep-alive", "Connection: Content-Length", "Connection: Host, User-Agent"),
        *("Connection: Authorization", "Connection: X-Gateway-Key", "Connection: Transfer-Encoding", "Connection:"),
        *("Connection: upgrade", "Upgrade: h2c", "Upgrade: websocket", "Connection: upgrade\r\nUpgrade: foo"),
        *("Expect: 100-continue", "Expect: 200-ok", "Expect:", "Keep-Alive: timeout=5", "Proxy-Connection: close"),
        *("Proxy-Authorization: Basic eA==", "Trailer: Content-Length", "Max-Forwards: 0", "Via: 1.1 x"),
        *(
            "X-Forwarded-Host: evil.example",
            "X-Original-URL: /v1/admin",
            "X-HTTP-Method-Override: GET",
            "Range: bytes=0-",
        ),
        *("X-Gateway-Category: rag", "X-Gateway-Category: \xff", "X-Gateway-Tags: a=b", "X-Gateway-Nonsense: 1"),
        *("X-Gateway-Metering: off", "X-Tenant-ID: own", "X-Tenant-ID: other", "X_Tenant_ID: other"),
        *(
            f"X-Gateway-Key: {OTHER}",
            f"X_Gateway_Key: {OTHER}",
            f"Authorization: Bearer {ACME}",
            "Authorization: Basic eA==",
        ),
        *(
            "Content-Encoding: gzip",
            "Content-Encoding: identity",
            "Content-Type: text/plain",
            "Cookie: a=b",
            "A: \xe4",
            "A",
        ),
        *(": a", "A:", "A: b\r", "A: \x01", "A\0: b", "A: b\nB: c", "x-tollkeeper-call-id: 1", "x-tollkeeper-error: 1"),
    )
)
METHODS = (
    b"GET",
    b"POST",
    b"HEAD",
    b"PUT",
    b"PATCH",
    b"OPTIONS",
    b"DELETE",
    b"CONNECT",
    b"TRACE",
    b"PRI",
    b"BREW",
    b"get",
    b"",
)
TARGETS = (
    *(
        b"/",
        b"*",
        b"",
        b"//evil.example/a",
        b"http://evil.example/a",
        b"evil.example:443",
        b"/healthz",
        b"/v1/tenants",
        b"/openai",
    ),
    *(
        CHAT + b"#a",
        CHAT + b"?",
        CHAT + b"?a=b?c",
        CHAT + b"/..",
        CHAT + b"%00",
        CHAT + b"\\..",
        b"/openai/../sendgrid/v3/a",
    ),
    *(b"/openai//v1/models", b"/openai/v1/%2e%2e/models", b"/OPENAI/v1/models", b"/openai/v1/models;a=b", b"/openai?x"),
    *(
        b"/twilio/evil/v1/a",
        b"/twilio/messaging",
        b"/twilio/messaging.evil.example/v1",
        b"/sendgrid",
        b"/sendgrid/?",
        b"/./openai/v1",
    ),
)
VERSIONS = (
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"HTTP/0.9",
    b"HTTP/1.2",
    b"HTTP/2.0",
    b"HTTP/2",
    b"http/1.1",
    b"HTTP/1.1 ",
    b"HTTP/01.1",
    b"",
)
CHUNKS = (
    *tuple(
        sized + b"\r\n{}\r\n0\r\n\r\n"
        for sized in (
            b"2",
            b"02",
            b"0x2",
            b"+2",
            b"-2",
            b" 2",
            b"2 ",
            b"2;a",
            b'2;a="\n"',
            b"2\n",
            b"g",
            b"",
            b"2\t;a",
            b"2_0",
            b"1",
            b"3",
        )
    ),
    *(
        b"2\r\n{}0\r\n\r\n",
        b"2\r\n{}\n0\r\n\r\n",
        b"2\r\n{}\r\n0\r\n",
        b"2\r\n{}\r\n0\r\nA: b\r\n\r\n",
        b"2\r\n{}\r\n0\r\n: b\r\n\r\n",
    ),
    *(
        b"0\r\n\r\n",
        b"0\n\n",
        b"00\r\n\r\n",
        b"0\r\nContent-Length: 9\r\n\r\n",
        b"2\n{}\n0\n\n",
        b"fffffffffffffffff\r\n{}\r\n0\r\n\r\n",
    ),
)

Draw = random.Random


def _byte_put(draw: Draw, data: bytes) -> bytes:
    place = draw.randrange(len(data) + 1)
    return data[:place] + draw.choice(BYTES) + data[place:]


def _byte_changed(draw: Draw, data: bytes) -> bytes:
    place = draw.randrange(len(data))
    return data[:place] + draw.choice(BYTES) + data[place + 1 :]


def _bytes_cut(draw: Draw, data: bytes) -> bytes:
    place = draw.randrange(len(data))
    return data[:place] + data[place + draw.randint(1, 6) :]


def _bytes_repeated(draw: Draw, data: bytes) -> bytes:
    place = draw.randrange(len(data))
    return data[:place] + data[place : place + draw.randint(1, 30)] + data[place:]


def _field_put(draw: Draw, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    lines.insert(draw.randint(1, _head(lines)), draw.choice(FIELDS))
    return b"\r\n".join(lines)


def _field_changed(draw: Draw, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    lines[draw.randint(1, _head(lines))] = draw.choice(FIELDS)
    return b"\r\n".join(lines)


def _field_repeated(draw: Draw, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    lines.insert(draw.randint(0, _head(lines)), draw.choice(lines))
    return b"\r\n".join(lines)


def _field_cut(draw: Draw, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    del lines[draw.randint(0, _head(lines))]
    return b"\r\n".join(lines)


def _line_ended(draw: Draw, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    place = draw.randint(1, min(_head(lines) + 1, len(lines) - 1))
    return b"\r\n".join(lines[:place]) + draw.choice(ENDS) + b"\r\n".join(lines[place:])


def _line_begun(draw: Draw, data: bytes) -> bytes:
    line, *lines = data.split(b"\r\n")
    words = ([*line.split(b" "), b"", b""])[:3]
    place = draw.randrange(3)
    words[place] = draw.choice((METHODS, TARGETS, VERSIONS)[place])
    return b"\r\n".join((draw.choice((b" ", b" ", b" ", b"  ", b"\t", b"")).join(words), *lines))


def _chunks_put(draw: Draw, data: bytes) -> bytes:
    head, _, _ = data.partition(b"\r\n\r\n")
    if draw.random() < 0.7:
        head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length"))
        head += b"\r\nTransfer-Encoding: chunked"
    return head + b"\r\n\r\n" + draw.choice(CHUNKS)


def _body_put(draw: Draw, data: bytes) -> bytes:
    return data + draw.choice(
        (b"\r\n", b"\0", b"{}", b"0\r\n\r\n", b"\n", SMUGGLED, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    )


def _head(lines: list[bytes]) -> int:
    """The place of the last line of a head."""
    return max(1, lines.index(b"") - 1) if b"" in lines else len(lines) - 1


WAYS: tuple[Callable[[Draw, bytes], bytes], ...] = (
    *(_byte_put, _byte_changed, _bytes_cut, _bytes_repeated),
    *(_field_put, _field_put, _field_changed, _field_repeated, _field_cut),
    *(_line_ended, _line_begun, _chunks_put, _body_put),
)


def mutation(seed: int, number: int) -> bytes:
    """A request of that seed, changed in one to four ways; its mark is never touched, and no request in it is without."""
    draw = Draw(f"{seed}:{number}")
    base = draw.choice(BASES)
    while True:
        data = base
        for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 4))):
            data = draw.choice(WAYS)(draw, data) or base
        first = data.lstrip(b"\r\n").partition(b"\r\n\r\n")[0]
        read = read_requests(data).requests
        if b"X-Mark: " + MARK + b"a" in first and all(map(_followed, read)):
            return data


def _followed(request: Request) -> bool:
    """True if a mark crosses the gateway: not where a header holds a key besides, which is cut."""
    return any(MARK in mark and b"tk_" not in mark for mark in request.all(b"x-mark"))
