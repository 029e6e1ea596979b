"""The truth log: whole records, joined, whatever happened to who wrote them."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from gateway.simulator.truth import Closed, Opened, TruthLog, fingerprint, read_truth


def opened(run: str, n: int) -> Opened:
    return Opened(
        run=run,
        n=n,
        at_ms=1,
        provider="openai",
        credential=None,
        method="GET",
        target="/é?%20",
        headers=[("X-Odd", "été")],
        body_bytes=0,
        body_sha256="0" * 64,
        status=200,
        stream=False,
        object_id=None,
        model=None,
        usage=msgspec.Raw(b'{"total_tokens": 7}'),
        fault=None,
    )


def test_both_records_of_an_exchange_are_joined_in_the_order_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    with TruthLog(path) as log:
        log.write(opened(log.run, 1))
        log.write(opened(log.run, 2))
        log.write(Closed(run=log.run, n=2, completed=True, bytes_sent=5))
        log.write(Closed(run=log.run, n=1, completed=False, bytes_sent=3))
        log.write(opened(log.run, 3))
    exchanges = read_truth(path)
    assert [(x.n, x.completed, x.bytes_sent) for x in exchanges] == [(1, False, 3), (2, True, 5), (3, None, None)]
    assert exchanges[0].usage == {"total_tokens": 7}
    assert exchanges[0].target == "/é?%20"
    assert exchanges[0].header("x-odd") == "été"


def test_a_second_run_does_not_disturb_the_first(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    for completed in (True, False):
        with TruthLog(path) as log:
            log.write(opened(log.run, 1))
            log.write(Closed(run=log.run, n=1, completed=completed, bytes_sent=0))
    assert [exchange.completed for exchange in read_truth(path)] == [True, False]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    with TruthLog(path) as log:
        log.write(opened(log.run, 1))
        log.write(opened(log.run, 2))
    whole = path.read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole)):
        path.write_bytes(whole[:cut])
        assert [exchange.n for exchange in read_truth(path)] == [1]


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "truth.jsonl"
    with TruthLog(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_record_that_does_not_fit_is_an_error_and_not_a_gap(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with TruthLog(full) as log, pytest.raises(OSError, match="No space left"):
        log.write(opened(log.run, 1))


def test_a_credential_is_named_without_being_told() -> None:
    assert fingerprint("secret") == fingerprint(b"secret") == "2bb80d537b1d"
