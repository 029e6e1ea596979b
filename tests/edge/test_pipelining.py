"""Many requests at once on one connection: each is answered, in its turn, and is its own tenant's."""

from tests.edge.between import CHAT, MARK, marker, post, problem
from tests.gateway.proxied import OTHER, OWN

COUNT = 1000


def ask(number):
    """A request; every third one is of another tenant, every seventh has no key that is known."""
    key = b"tk_unknown" if number % 7 == 6 else (OTHER if number % 3 == 2 else OWN).encode()
    body = b'{"n": %d}' % number
    return (
        b"POST " + CHAT + b" HTTP/1.1\r\nHost: gateway.example\r\nX-Mark: " + MARK + b"a\r\n"
        b"Authorization: Bearer " + key + b"\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


async def test_a_thousand_requests_at_once_are_answered_in_order_and_for_their_own_tenants(edge):
    """Guards the pause of the parser, and looking each key up again: a connection is nobody's."""
    told = await edge.tell(b"".join(map(ask, range(COUNT))) + marker())

    assert problem(edge, told) is None
    assert told.ended
    statuses = [answer.status for answer in told.answers]
    assert statuses == [401 if number % 7 == 6 else 200 for number in range(COUNT)] + [200]
    known = [number for number in range(COUNT) if number % 7 != 6]
    assert [seen.request.body for seen in told.seen[:-1]] == [b'{"n": %d}' % number for number in known]
    tenants = ["other" if number % 3 == 2 else "own" for number in known]
    assert [event.tenant_id for event in edge.proxied.events] == [*tenants, "other"]
    await edge.recorded()


async def test_one_connection_carries_one_call_at_a_time(edge):
    """Guards the order: two at once could change places, and the provider would see more of one client than it sent."""
    await edge.tell(b"".join(map(ask, range(COUNT))) + marker())

    assert edge.provider.connections <= 2
    assert edge.provider.wrong == []


async def test_where_pipelined_requests_are_cut_does_not_matter(edge):
    data = ask(0) + ask(1) + ask(2) + marker()

    for told in await edge.tell_cut(data, range(1, len(data))):
        assert problem(edge, told) is None
        assert [answer.status for answer in told.answers] == [200] * 4


async def test_after_what_is_no_request_nothing_is_one(edge):
    told = await edge.tell(post() + b"\0\r\n\r\n" + post() + marker())

    assert problem(edge, told) is None
    assert told.ended
    assert told.answers[-1].status == 400
    assert len(told.seen) <= 1
