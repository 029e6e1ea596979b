"""What providers send by themselves: when, to whom, how often, and that the truth log knows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.simulator import deliveries
from gateway.simulator.api import Delivery
from gateway.simulator.deliveries import Deliveries, is_near, without_credentials
from gateway.simulator.truth import Delivered, TruthLog, fingerprint, read_deliveries, read_truth
from tests.gateway.simulator.receiver import LIVENESS_S_MAX, receiver

FORM = (("Content-Type", "application/x-www-form-urlencoded"), ("X-Signed", "so"))


def delivery(
    url: str, body: bytes = b"a=b", after_ms: int = 0, still_so: Callable[[], bool] = lambda: True
) -> Delivery:
    return Delivery(after_ms=after_ms, url=url, body=body, headers=FORM, object_id="SM1", still_so=still_so)


@asynccontextmanager
async def sending(path: Path) -> AsyncIterator[Deliveries]:
    with TruthLog(path) as truth:
        sending = Deliveries(truth)
        try:
            yield sending
        finally:
            await sending.close()


async def logged(path: Path, count: int) -> list[Delivered]:
    async with asyncio.timeout(LIVENESS_S_MAX):
        while len(found := read_deliveries(path)) < count:  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.01)
    return found


async def test_what_is_sent_is_in_the_truth_log_beside_the_exchanges(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    async with receiver() as application, sending(path) as sender:
        url = f"{application.base_url}/told?x=%7E~&To%3E=1"
        sender.take(7, [delivery(url)])
        (arrived,) = await application.until(1)
        (told,) = await logged(path, 1)
    assert (arrived.method, arrived.url, arrived.body) == ("POST", url, b"a=b")
    assert (arrived.headers["X-Signed"], arrived.headers["Content-Type"]) == ("so", FORM[0][1])
    assert (told.n, told.object_id, told.method, told.url, told.body) == (7, "SM1", "POST", url, "a=b")
    assert (told.status, told.error) == (204, None)
    assert read_truth(path) == []


async def test_those_of_one_object_keep_their_order_whatever_their_delays(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    async with receiver() as application, sending(path) as sender:
        sender.take(1, [delivery(application.base_url, b"first", 100), delivery(application.base_url, b"second", 0)])
        sender.take(2, [delivery(application.base_url, b"third", 0)])
        await application.until(3)
        told = await logged(path, 3)
    assert [arrived.body for arrived in application.arrived] == [b"first", b"second", b"third"]
    assert [one.n for one in told] == [1, 1, 2]


async def test_a_delay_is_kept(tmp_path: Path) -> None:
    async with receiver() as application, sending(tmp_path / "truth.jsonl") as sender:
        begun = asyncio.get_running_loop().time()
        sender.take(1, [delivery(application.base_url, after_ms=200)])
        await application.until(1)
    assert asyncio.get_running_loop().time() - begun >= 0.2


@pytest.mark.parametrize("status", [302, 500])
async def test_nothing_is_sent_twice_nor_anywhere_else(tmp_path: Path, status: int) -> None:
    path = tmp_path / "truth.jsonl"
    async with receiver() as application, sending(path) as sender:
        application.status = status
        sender.take(1, [delivery(application.base_url), delivery(application.base_url, b"last")])
        told = await logged(path, 2)
    assert [arrived.body for arrived in application.arrived] == [b"a=b", b"last"]
    assert [one.status for one in told] == [status] * 2


async def test_what_was_called_off_is_not_sent(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    async with receiver() as application, sending(path) as sender:
        sender.take(1, [delivery(application.base_url, still_so=lambda: False), delivery(application.base_url, b"so")])
        await logged(path, 1)
    assert [arrived.body for arrived in application.arrived] == [b"so"]


@pytest.mark.parametrize(
    "url",
    [
        "http://93.184.215.14/told",
        "https://example.com/told",
        "http://169.254.169.254/latest",
        "http://[2606:2800::1]/",
        "http://127.1.example.com/",
    ],
)
async def test_nobody_far_away_is_called(tmp_path: Path, url: str) -> None:
    path = tmp_path / "truth.jsonl"
    async with sending(path) as sender:
        sender.take(1, [delivery(url)])
        (told,) = await logged(path, 1)
    assert told.status is None
    assert told.error is not None
    assert told.error.startswith("not sent: only loopback and private addresses")


@pytest.mark.parametrize("url", ["no url", "http://", "http://[::1", "http://127.0.0.1:99999/", "ftp://localhost/"])
async def test_a_url_that_is_none_is_an_error_in_the_truth_log(tmp_path: Path, url: str) -> None:
    path = tmp_path / "truth.jsonl"
    async with sending(path) as sender:
        sender.take(1, [delivery(url)])
        (told,) = await logged(path, 1)
    assert told.status is None
    assert told.error


async def test_an_application_that_is_not_there_is_an_error_in_the_truth_log(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    async with receiver() as application:
        url = application.base_url
    async with sending(path) as sender:
        sender.take(1, [delivery(url)])
        (told,) = await logged(path, 1)
    assert (told.status, told.error) == (None, "ClientConnectorError")


async def test_a_password_in_a_url_reaches_the_application_and_not_the_truth_log(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    async with receiver() as application, sending(path) as sender:
        sender.take(1, [delivery(application.base_url.replace("//", "//me:secret@"))])
        (arrived,) = await application.until(1)
        await logged(path, 1)
    assert arrived.headers["Authorization"].startswith("Basic ")
    assert "secret" not in path.read_text()


def test_a_password_is_named_without_being_told() -> None:
    assert without_credentials("http://a:b@host/?x=a:b@host") == f"http://{fingerprint('a:b')}@host/?x=a:b@host"
    assert without_credentials("http://host/@") == "http://host/@"


async def test_what_is_too_much_is_not_sent_and_the_truth_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "truth.jsonl"
    monkeypatch.setattr(deliveries, "WAITING_MAX", 1)
    async with receiver() as application, sending(path) as sender:
        sender.take(1, [delivery(application.base_url, b"1"), delivery(application.base_url, b"2")])
        await logged(path, 2)
        sender.take(2, [delivery(application.base_url, b"3")])
        told = await logged(path, 3)
    assert [(one.body, one.status) for one in told] == [("2", None), ("1", 204), ("3", 204)]
    assert told[0].error == "not sent: too much is waiting to be sent"


async def test_what_waits_when_it_stops_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    async with receiver() as application, sending(path) as sender:
        sender.take(1, [delivery(application.base_url, after_ms=60_000)])
        await asyncio.sleep(0.01)
    assert (application.arrived, read_deliveries(path)) == ([], [])


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("localhost", True),
        ("app", True),
        ("app.internal", True),
        ("10.1.2.3", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:8.8.8.8", False),
        ("0.0.0.0", False),
        ("172.32.0.1", False),
        ("example.com", False),
        ("", False),
    ],
)
def test_near_is_what_is_on_this_machine_or_its_network(host: str, *, near: bool) -> None:
    assert is_near(host) == near
