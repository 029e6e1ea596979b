"""Stopping, reloading and replacing under way: no call that was taken is lost, and none fails for it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack, closing, contextmanager, suppress
from urllib.parse import urlsplit

import psutil
import pytest

from gateway.simulator.truth import read_truth
from tests.walks.harness import (
    PATIENCE_S,
    PROVIDER_KEY,
    eventually,
    gateway_process,
    installation,
    simulated,
    simulator_process,
)
from tests.walks.load import Load

STREAMS = 60


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request):
    """The settings of one process on SQLite, and of several on Postgres."""
    return {} if request.param == "sqlite" else request.getfixturevalue("on_postgres")


class Clients:
    """Connections to gateways, each closed at the end."""

    def __init__(self):
        self.stack = ExitStack()

    def connected(self, gateway):
        url = urlsplit(gateway.openai)
        return self.stack.enter_context(closing(http.client.HTTPConnection(url.hostname, url.port, timeout=PATIENCE_S)))

    def ask(self, gateway, key, connection=None, *, stream=False, **controls):
        """Send one chat; returns the answer, of which the head has come."""
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        headers |= {f"x-simulator-{name.replace('_', '-')}": value for name, value in controls.items()}
        body = json.dumps({"model": "gpt-4o", "stream": stream, "messages": [{"role": "user", "content": "Hi"}]})
        connection = connection or self.connected(gateway)
        connection.request("POST", f"{urlsplit(gateway.openai).path}/chat/completions", body, headers)
        return self.stack.enter_context(closing(connection.getresponse()))

    def call(self, gateway, key, connection=None):
        """One chat, read to its end."""
        answer = self.ask(gateway, key, connection)
        answer.read()
        return answer

    def streams(self, gateway, key, count, **controls):
        """So many streams that have begun."""
        return [self.ask(gateway, key, stream=True, **controls) for _ in range(count)]


@pytest.fixture
def clients():
    made = Clients()
    with made.stack:
        yield made


def readiness(gateway):
    try:
        with urllib.request.urlopen(gateway.control_url + "/readyz", timeout=PATIENCE_S) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def tell(gateway, number):
    gateway.gateway.popen.send_signal(number)


def reload(gateway, event="reloaded", patience_s=PATIENCE_S * 2):
    """Tell the gateway to reload; returns what it says became of it."""
    before = len(gateway.gateway.lines)
    tell(gateway, signal.SIGHUP)
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        for line in gateway.gateway.lines[before:]:
            if f'"event":"{event}"' in line:
                return json.loads(line)
        time.sleep(0.02)
    raise AssertionError(gateway.gateway.lines[before:])


def reload_whole(gateway):
    """The same, until those are gone that were replaced: they answer once more on a connection that came to them."""
    processes = len(psutil.Process(gateway.gateway.popen.pid).children())
    reload(gateway)
    settled(gateway, processes)


def settled(gateway, processes):
    """Wait until all that were replaced are gone."""
    eventually(
        lambda: len(psutil.Process(gateway.gateway.popen.pid).children()) == processes, "the end of the replaced"
    )


def assert_booked_once(gateway, tenant_id, answered):
    def booked():
        return Counter(event["external_id"] for event in gateway.events(tenant_id))

    eventually(lambda: set(booked()) >= set(answered), "every call in the ledger")
    assert booked() == Counter(answered)


# ---------------------------------------------------------------------------------------------------------------------
# Stopping


def test_told_to_stop_it_says_so_and_every_stream_under_way_ends_whole_and_is_booked(tmp_path, engine, clients):
    """Guards the grace and the order: sabotaged (no grace), the streams break off; sabotaged (the back office is not told
    before the workers are gone), it calls itself ready all the while."""
    with installation(tmp_path, **engine) as gateway:
        key = gateway.tenant("acme")
        under_way = clients.streams(gateway, key, STREAMS, words="80", chunk_ms="100")

        tell(gateway, signal.SIGTERM)
        _, said = eventually(lambda: (r := readiness(gateway))[0] == 503 and r, "unready")
        received = [answer.read() for answer in under_way]

        assert "stopping" in said["reasons"]
        assert all(b"[DONE]" in one for one in received)
        assert gateway.gateway.wait() == 0
        gateway.start_gateway()
        events = gateway.events_of("acme", STREAMS)
        assert {event["completeness"] for event in events} == {"reported"}
        assert len({event["external_id"] for event in events}) == STREAMS


def test_before_it_stops_it_takes_calls_for_a_while_and_each_answer_ends_its_connection(tmp_path, engine, clients):
    """Guards the delay: sabotaged (none), a load balancer that has not noticed yet sends calls to nobody."""
    with installation(tmp_path, drain__delay_s="10", **engine) as gateway:
        key = gateway.tenant("acme")
        kept = clients.connected(gateway)
        before = clients.call(gateway, key, kept)

        tell(gateway, signal.SIGTERM)
        eventually(lambda: readiness(gateway)[0] == 503, "unready")
        on_kept = clients.call(gateway, key, kept)
        on_new = clients.call(gateway, key)

        assert before.getheader("Connection") is None
        assert [one.status for one in (on_kept, on_new)] == [200, 200]
        assert [one.getheader("Connection") for one in (on_kept, on_new)] == ["close", "close"]
        assert gateway.gateway.wait() == 0


def test_what_has_not_ended_in_time_is_cut_and_recorded(tmp_path, engine, clients):
    """Guards the bound, and the record of what is cut: sabotaged (nothing waits for the cut calls), an intent is all
    that is left of them."""
    with installation(tmp_path, drain__timeout_s="1", **engine) as gateway:
        key = gateway.tenant("acme")
        under_way = clients.streams(gateway, key, 5, words="2000", chunk_ms="100")

        assert gateway.gateway.stop() == 0

        for answer in under_way:
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                answer.read()
        gateway.start_gateway()
        events = gateway.events_of("acme", 5)
        # Estimated, where the process for that has begun before the end; none is waited for longer.
        assert {event["completeness"] for event in events} <= {"estimated", "unknown"}
        # Recorded by whoever was cut off, and not found open in a dead worker's spool.
        assert {event["status"] for event in events} == {200}


def test_told_twice_it_ends_at_once_and_the_next_start_books_what_was_under_way(tmp_path, engine, clients):
    """Guards the second signal: without it, whoever can not wait has to kill."""
    with installation(tmp_path, drain__timeout_s="3600", **engine) as gateway:
        key = gateway.tenant("acme")
        clients.streams(gateway, key, 3, words="2000", chunk_ms="100")

        tell(gateway, signal.SIGTERM)
        gateway.gateway.said("stopping")
        tell(gateway, signal.SIGTERM)

        assert gateway.gateway.wait() != 0
        gateway.start_gateway()
        assert {event["completeness"] for event in gateway.events_of("acme", 3)} == {"unknown"}


# ---------------------------------------------------------------------------------------------------------------------
# Replacing


@pytest.mark.timeout(300)
def test_workers_are_replaced_under_load_and_no_call_fails(tmp_path, on_postgres):
    """Guards what a rolling restart promises. Sabotaged in turn: a worker that is replaced closes its idle connections at
    once; it says nothing of its end in its answers, and closes them later."""
    with installation(tmp_path, **on_postgres | {"workers": "4"}) as gateway:
        key = gateway.tenant("acme")
        with Load(gateway, key, clients=16, pause_s=0.1) as busy, Load(gateway, key, clients=8, pause_s=1.5) as slow:
            for _ in range(5):
                reload(gateway)
                busy.goes_on()
            settled(gateway, 5)
            busy.goes_on()
            status, told = readiness(gateway)
            assert (status, told["status"], told["workers"]) == (200, "ready", {"alive": 4})

        assert busy.failures + slow.failures == []
        assert min(busy.connections.values()) > 1
        assert_booked_once(gateway, "acme", busy.answered + slow.answered)


@pytest.mark.timeout(300)
def test_each_worker_has_about_as_many_connections(tmp_path, on_postgres):
    """Guards the balance between processes: sabotaged (each has a memory of its own), one has up to all of them. Those
    that a dead worker had are its successor's, and after a reload the new ones share alike."""
    with installation(tmp_path, **on_postgres | {"workers": "4", "proxy__head_timeout_s": "600"}) as gateway:
        with connected(gateway, 64) as first:
            assert min(first) >= 12
            victim = next(iter(workers(gateway)))
            lost = workers(gateway)[victim]
            victim.kill()
            eventually(lambda: readiness(gateway)[1].get("workers") == {"alive": 3}, "the death")
            eventually(lambda: readiness(gateway)[1].get("workers") == {"alive": 4}, "the successor")
            with connected(gateway, 64, there=64 - lost) as then:
                assert min(then) >= 22
        reload(gateway)
        settled(gateway, 5)
        with connected(gateway, 64) as anew:
            assert min(anew) >= 12


@contextmanager
def connected(gateway, count, *, there=0):
    """So many connections, besides those that are there; gives how many each worker has of all."""
    url = urlsplit(gateway.proxy_url)
    with ExitStack() as ends:
        for _ in range(count):
            ends.enter_context(socket.create_connection((url.hostname, url.port), PATIENCE_S))
            time.sleep(0.005)  # A worker that leaves some to the others looks again after less.
        eventually(lambda: sum(workers(gateway).values()) == there + count, "every connection with a worker")
        yield list(workers(gateway).values())


def workers(gateway):
    """Those that listen for applications, and how many connections each has."""
    port, found = urlsplit(gateway.proxy_url).port, {}
    for process in psutil.Process(gateway.gateway.popen.pid).children():
        with suppress(psutil.Error):
            states = [one.status for one in process.net_connections("tcp") if one.laddr.port == port]
            if psutil.CONN_LISTEN in states:
                found[process] = states.count(psutil.CONN_ESTABLISHED)
    return found


@pytest.mark.timeout(300)
def test_twenty_reloads_leave_nothing_behind(tmp_path, on_postgres):
    """Guards files and memory of the one process that stays: sabotaged (what a process has spoken through is not
    closed), files pile up."""
    with installation(tmp_path, **on_postgres) as gateway:
        supervisor = psutil.Process(gateway.gateway.popen.pid)
        reload(gateway)
        settled(gateway, 3)
        files, memory = supervisor.num_fds(), supervisor.memory_info().rss

        for _ in range(20):
            reload(gateway)
            settled(gateway, 3)

        assert supervisor.num_fds() == files
        assert supervisor.memory_info().rss - memory < 4 << 20


@pytest.mark.timeout(300)
def test_a_successor_that_can_not_start_leaves_its_predecessor_in_place(
    tmp_path, on_postgres, postgres_server, clients
):
    """Guards the reload that fails: sabotaged (the predecessor goes first), there is no back office any more."""
    with installation(tmp_path, **on_postgres) as gateway:
        key = gateway.tenant("acme")
        before = {one.pid for one in psutil.Process(gateway.gateway.popen.pid).children()}
        postgres_server.stop()
        try:
            failed = reload(gateway, "reload_failed")
            gateway.gateway.said("reload_undone")
            answer = clients.call(gateway, key)
        finally:
            postgres_server.start()

        assert failed["process"] == "backoffice"
        assert answer.status == 200
        settled(gateway, 3)
        assert {one.pid for one in psutil.Process(gateway.gateway.popen.pid).children()} == before
        assert len(gateway.events_of("acme", 1)) == 1
        reload(gateway)
        assert clients.call(gateway, key).status == 200


def test_a_port_of_the_control_api_that_is_taken_refuses_the_start(tmp_path, on_postgres):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        simulator = simulator_process(tmp_path / "truth.jsonl")
        simulator.start()
        try:
            process = gateway_process(tmp_path / "data", simulated(simulator), **on_postgres, control__port=port)
            process.start()
            assert process.wait() == 1
        finally:
            simulator.stop()
    eventually(lambda: "TOLLKEEPER_CONTROL__PORT" in "".join(process.lines), "the reason")


# ---------------------------------------------------------------------------------------------------------------------
# New settings


@pytest.fixture
def configured(tmp_path, engine):
    """Starts an installation that reads a settings file, and writes that."""
    with ExitStack() as stack:
        file = tmp_path / "tollkeeper.toml"

        def start(text, **settings):
            file.write_text(text)
            return stack.enter_context(installation(tmp_path, config=str(file), **engine | settings))

        start.write = file.write_text
        yield start


def test_new_settings_are_in_force_and_wrong_ones_are_refused_with_all_that_is_wrong(configured, clients):
    """Guards reading again: sabotaged (the settings of the start are kept), nothing changes; and guards what runs:
    sabotaged (wrong settings are taken), nothing goes on."""
    gateway = configured("shared_reads = false\n")
    key = gateway.tenant("acme")

    def models():
        url = urlsplit(gateway.openai)
        connection = clients.connected(gateway)
        connection.request("GET", f"{url.path}/models", headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        answer.read()
        return answer.getheader("x-tollkeeper-error")

    assert models() == "not_on_shared_account"
    configured.write('unlisted = "perhaps"\nsecret_key = "canary-short"\n[proxy]\nhead_timeout_s = 0\n')
    refused = reload(gateway, "reload_refused")
    assert len(refused["reasons"]) == 3
    assert all(name in str(refused["reasons"]) for name in ("unlisted", "secret_key", "proxy.head_timeout_s"))
    assert "canary-short" not in "".join(gateway.gateway.lines)
    assert models() == "not_on_shared_account"
    configured.write("shared_reads = true\n")
    reload(gateway)
    # A connection that is just being accepted may still get an answer of a worker that leaves.
    eventually(lambda: models() is None, "that the account is open to all")
    assert clients.call(gateway, key).status == 200


def test_a_new_limit_and_a_new_credential_are_in_force(configured, clients):
    """Guards what the proxy is made of in one process: sabotaged (limits, or credentials, stay), one of both is old."""
    credential = '[providers.openai]\napi_key = "{}"\n'
    configured_so = {"workers": "1", "providers__openai__api_key": ""}
    gateway = configured("[proxy]\ncalls_max = 1\n" + credential.format("a-key-that-was-revoked"), **configured_so)
    key = gateway.tenant("acme")
    assert clients.call(gateway, key).getheader("x-tollkeeper-error") == "upstream_unauthorized"

    configured.write("[proxy]\ncalls_max = 1\n" + credential.format(PROVIDER_KEY))
    reload_whole(gateway)
    (under_way,) = clients.streams(gateway, key, 1, words="80", chunk_ms="100")
    refused = clients.call(gateway, key)
    configured.write(credential.format(PROVIDER_KEY))
    reload(gateway)

    assert refused.status == 503
    # A worker that is replaced may have taken the connection just before.
    eventually(lambda: clients.call(gateway, key).status == 200, "a call beside the one under way")
    # What began before goes on as it began.
    assert b"[DONE]" in under_way.read()
    assert {event["completeness"] for event in gateway.events_of("acme", 2)} == {"reported"}


def test_what_can_not_change_in_a_gateway_that_runs_is_refused_by_name(configured, clients):
    """Guards each of them: sabotaged (any one is taken), calls would be sealed, kept or booked elsewhere."""
    gateway = configured("")
    key = gateway.tenant("acme")
    configured.write('secret_key = "another secret, and it is long enough"\n')

    refused = reload(gateway, "reload_refused")

    assert len(refused["reasons"]) == 1
    assert "TOLLKEEPER_SECRET_KEY" in refused["reasons"][0]
    assert "restart" in refused["reasons"][0]
    assert clients.call(gateway, key).status == 200


def test_in_one_process_two_hundred_reloads_under_load_fail_no_call_and_close_no_connection(tmp_path):
    """Guards the gap between reloads, and the swap: sabotaged (connections are closed with each), calls fail."""
    with installation(tmp_path) as gateway:
        key = gateway.tenant("acme")
        with Load(gateway, key, clients=16, pause_s=0.1) as load:
            for _ in range(200):
                tell(gateway, signal.SIGHUP)
                time.sleep(0.02)
            load.goes_on()

        assert load.failures == []
        assert set(load.connections.values()) == {1}
        assert_booked_once(gateway, "acme", load.answered)
        reloads = "".join(gateway.gateway.lines).count('"event":"reloaded"')
        assert 3 < reloads < 100


def test_each_call_is_made_with_the_old_settings_or_the_new_and_never_a_mix(configured, tmp_path):
    """Guards the swap: each of two providers takes a key of its own, so that a call made of both would be refused.
    Sabotaged (credentials are changed a moment before the rest), some are."""
    other = simulator_process(tmp_path / "other.jsonl", "--key", "key-of-the-other")
    other.start()
    try:
        there = simulated(other).base_urls["openai"]
        empty = {"providers__openai__api_key": "", "providers__openai__base_url": ""}
        gateway = configured(f'[providers.openai]\nbase_url = "{there}"\napi_key = "key-of-the-other"\n', **empty)
        here = gateway.providers.base_urls["openai"]
        key = gateway.tenant("acme")
        with Load(gateway, key, clients=12, pause_s=0.05) as load:
            for number in range(6):
                url, credential = (here, PROVIDER_KEY) if number % 2 == 0 else (there, "key-of-the-other")
                configured.write(f'[providers.openai]\nbase_url = "{url}"\napi_key = "{credential}"\n')
                reload(gateway)
                load.goes_on()

        assert load.failures == []
        asked = {path: len(read_truth(tmp_path / path)) for path in ("truth.jsonl", "other.jsonl")}
        assert min(asked.values()) > 12
        assert sum(asked.values()) == len(load.answered)
        assert_booked_once(gateway, "acme", load.answered)
    finally:
        other.stop()
