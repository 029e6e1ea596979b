"""The gateway as several processes: what dies is started again, what waits says so, and nothing of it is lost."""

from __future__ import annotations

import os
import signal
import urllib.request

import openai
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.walks.harness import (
    Installation,
    Simulated,
    eventually,
    gateway_process,
    installation,
    simulated,
    simulator_process,
)


def children(gateway):
    return psutil.Process(gateway.gateway.popen.pid).children()


def call(gateway, key):
    with openai.OpenAI(base_url=gateway.openai, api_key=key, max_retries=0) as client:
        return client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "Hi"}])


def test_every_process_that_is_killed_is_started_again_and_no_call_that_was_answered_is_lost(tmp_path, on_postgres):
    with installation(tmp_path, control__port="18974", **on_postgres) as gateway:
        key = gateway.tenant("acme")
        answered = {call(gateway, key).id for _ in range(10)}
        office, *workers = children(gateway)

        for victim in (*workers, office):
            before = {process.pid for process in children(gateway)}
            os.kill(victim.pid, signal.SIGKILL)
            eventually(lambda b=before: len({one.pid for one in children(gateway)} - b) == 1, "its successor")

        def another() -> str | None:
            try:
                return call(gateway, key).id
            except openai.APIError:
                return None

        answered |= {eventually(another, "a call that is answered again") for _ in range(10)}

        def booked() -> bool:
            try:
                return {event["external_id"] for event in gateway.events("acme")} >= answered
            except OSError:
                return False

        eventually(booked, "every call in the ledger")
        assert len(gateway.events("acme")) == len(answered)


def test_told_to_stop_with_all_its_processes_at_once_it_stops_in_its_own_order(tmp_path, on_postgres):
    """As service managers do. Guards the leash: processes that obeyed the signal themselves would end in any order."""
    with installation(tmp_path, **on_postgres) as gateway:
        key = gateway.tenant("acme")
        call(gateway, key)
        for process in children(gateway):
            process.send_signal(signal.SIGTERM)

        # They go on until the supervisor is told.
        call(gateway, key)
        assert gateway.gateway.popen.poll() is None


def test_what_a_worker_has_imported_was_there_before_it(tmp_path, on_postgres):
    """Guards the import before the fork: each worker had the driver of the database to itself, and one that is started after
    an upgrade would have had another version of it than its own code is of."""
    with installation(tmp_path, **on_postgres) as gateway:
        call(gateway, gateway.tenant("acme"))

        def extensions(process):
            return {one.path for one in process.memory_maps() if ".cpython-" in one.path}

        _, *workers = children(gateway)
        there = extensions(psutil.Process(gateway.gateway.popen.pid))
        assert there
        for worker in workers:
            assert extensions(worker) <= there


def test_workers_without_a_back_office_wait_for_what_it_publishes(tmp_path, on_postgres):
    """Guards keys that are right: a worker that began with none published would tell them that they are unknown."""
    simulator = simulator_process(tmp_path / "truth.jsonl")
    simulator.start()
    providers = simulated(simulator)
    secret = {"secret_key": "a secret that both roles share, long enough"}
    proxy = gateway_process(tmp_path / "data", providers, **on_postgres, **secret)
    proxy.command += ["--role", "proxy"]
    office = gateway_process(tmp_path / "data", providers, **on_postgres, **secret)
    office.command += ["--role", "backoffice"]
    try:
        proxy.start()
        proxy.said("waiting_for_snapshot")
        office.start()
        gateway = Installation(tmp_path, simulator, proxy, providers)
        gateway.control_url = "http://" + office.said("serving")["control"]
        gateway.proxy_url = "http://" + proxy.said("serving")["proxy"]
        key = gateway.tenant("acme")

        call(gateway, key)

        assert len(gateway.events_of("acme", 1)) == 1
    finally:
        codes = [process.stop() for process in (proxy, office) if process.popen is not None]
        simulator.stop()
    assert codes == [0, 0]


def scraped(gateway, name):
    """The values of one metric's series, by labels; nothing while nobody answers."""
    try:
        with urllib.request.urlopen(gateway.control_url + "/metrics", timeout=30) as answer:
            text = answer.read().decode()
    except OSError:
        return {}
    return {
        tuple(sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def test_a_worker_that_is_killed_is_missed_and_what_it_counted_is_not(tmp_path, on_postgres):
    """Guards the slots of counters: the successor goes on from what the one before it has shown."""
    with installation(tmp_path, **on_postgres) as gateway:
        key = gateway.tenant("acme")
        for _ in range(20):
            call(gateway, key)

        def counted():
            return sum(scraped(gateway, "tollkeeper_outcomes_total").values())

        eventually(lambda: counted() == 20, "that all calls are counted")
        workers = {process.pid for process in children(gateway)[1:]}
        for pid in workers:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len({one.pid for one in children(gateway)[1:]} - workers) == 2, "their successors")
        eventually(lambda: scraped(gateway, "tollkeeper_workers_alive") == {(): 2}, "two workers that live")

        assert counted() == 20
        assert {dict(labels)["worker"] for labels in scraped(gateway, "tollkeeper_intents_total")} == {"0", "1"}


def test_a_back_office_without_a_worker_is_ready(tmp_path, on_postgres):
    """Guards readiness before the first worker has made the spools' directory: that it is not there is no fault."""
    office = gateway_process(tmp_path / "data", Simulated({}, {}), **on_postgres)
    office.command += ["--role", "backoffice"]
    office.start()
    try:
        alone = Installation(tmp_path, office, office, Simulated({}, {}))
        alone.control_url = "http://" + office.said("serving")["control"]

        told = alone.ask("GET", "/readyz")

        assert told == {"status": "ready", "backlog": {"bytes": 0, "age_s": 0.0}, "workers": {"alive": 0}}
        assert scraped(alone, "tollkeeper_workers_alive") == {(): 0}
    finally:
        code = office.stop()
    assert code == 0
