"""The scan for secrets finds what is there, in every coding, and does not call nothing clean."""

from __future__ import annotations

import base64
import gzip
import zlib
from urllib.parse import quote

import pytest

from tests.canaries import DATA_DIR, Canaries, Watched, keys_in, leaks, leaks_of_records, rows_of

CANARY = "p@ss/word of-a:canary+1"
ENVIRONMENT = {"TOLLKEEPER_PROVIDERS__OPENAI__API_KEY": CANARY}
KEY = "tk_0123456789ab_" + "Aa0_-" * 8 + "xyz"

PLANTED = {
    "raw": CANARY.encode(),
    "hex": CANARY.encode().hex().encode(),
    "HEX": CANARY.encode().hex().upper().encode(),
    **{f"base64 behind {size} bytes": base64.b64encode(b"u" * size + CANARY.encode() + b":end") for size in range(5)},
    "base64 alone": base64.b64encode(CANARY.encode()),
    "base64 for URLs": base64.urlsafe_b64encode(CANARY.encode()),
    "in a query": quote(CANARY, safe="").encode(),
    "utf-16": CANARY.encode("utf-16"),
    "gzip": gzip.compress(b"before " * 9 + CANARY.encode()),
    "two gzips": gzip.compress(b"nothing here") + gzip.compress(CANARY.encode()),
    "gzip that was cut off": gzip.compress(CANARY.encode() + bytes(range(256)) * 40)[:-9],
    "zlib": zlib.compress(CANARY.encode()),
    "base64 in gzip": gzip.compress(base64.b64encode(b"AC:" + CANARY.encode())),
}


@pytest.mark.parametrize("how", PLANTED)
@pytest.mark.parametrize("around", [b"", b'{"event":"call","at":"'], ids=["alone", "among others"])
def test_a_planted_canary_is_found_in_every_coding(how, around):
    hits = Canaries({"the canary": CANARY}).hits(around + PLANTED[how] + around, "here")

    assert {hit.name for hit in hits} == {"the canary"}
    assert all(hit.where.startswith("here") for hit in hits)


def test_what_is_no_canary_is_not_found():
    data = b"".join(PLANTED.values())

    assert Canaries({"another": "p@ss/word of-A:canary+1"}).hits(data, "here") == []


def watched(directory, *said: str, **more: str) -> Watched:
    """A gateway of which there is that to look at."""
    return Watched(ENVIRONMENT | {DATA_DIR: str(directory)} | more, list(said))


def test_a_gateway_that_leaked_nothing_is_clean(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"rows")

    assert leaks([watched(tmp_path, '{"event":"serving"}\n')]) == []


@pytest.mark.parametrize("place", ["ledger.db-wal", "spool/1.spool", "a new file of a later release"])
def test_a_secret_in_any_file_of_a_gateway_is_reported_with_its_place(tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_bytes(bytes(5000) + CANARY.encode())

    (leak,) = leaks([watched(tmp_path, "serving\n")])

    assert leak.startswith(f"TOLLKEEPER_PROVIDERS__OPENAI__API_KEY as raw in {place}")
    assert CANARY not in leak


def test_a_secret_in_the_output_is_reported(tmp_path):
    assert "in output" in leaks([watched(tmp_path, "serving\n", f"failed with {CANARY}\n")])[0]


def test_a_key_in_the_output_is_reported_though_nobody_said_which_key(tmp_path):
    assert "a gateway key" in leaks([watched(tmp_path, f"who is {KEY}?\n")])[0]


def test_the_password_of_the_database_is_looked_for_as_it_is_and_not_as_the_url_has_it(tmp_path):
    url = f"postgresql://role:{quote(CANARY, safe='')}@127.0.0.1/ledger"
    process = watched(tmp_path, f"no such password: {CANARY}\n", TOLLKEEPER_DATABASE_URL=url)
    process.environment.pop("TOLLKEEPER_PROVIDERS__OPENAI__API_KEY")

    assert leaks([process])[0].startswith("TOLLKEEPER_DATABASE_URL as raw in output")
    assert process.database == "ledger"


def test_a_generated_secret_may_stand_in_its_own_file_and_nowhere_else(tmp_path):
    (tmp_path / "secret.key").write_text("the-secret-that-was-generated\n")
    clean = leaks([watched(tmp_path, "serving\n")])
    (tmp_path / "snapshot.json").write_text("the-secret-that-was-generated")

    assert clean == []
    assert "the generated secret as raw in snapshot.json" in leaks([watched(tmp_path, "serving\n")])[0]


def test_a_scan_of_nothing_is_not_clean(tmp_path):
    assert "said nothing" in leaks([watched(tmp_path)])[0]


@pytest.mark.parametrize("name", ["w0.spool", "ledger.db", "ledger.db-wal", "snapshot.json"])
def test_a_key_in_what_any_test_s_gateway_wrote_is_reported(tmp_path, name):
    planted = tmp_path / "some-test" / name
    planted.parent.mkdir()
    planted.write_bytes(b"\0key " + KEY.encode())

    found = leaks_of_records(tmp_path)
    planted.unlink()  # Or the scan after all tests would find it too.

    assert len(found) == 1


SEALED = "v1.YPHP0Z1atSCYiB0xVzDLHA4m9USBeXD3HvhZ_Autka_ERG4_ZvKFsAPBDdgPOE5XSiKLJnhP1O4HFU1X44bybSY3d"


def test_what_looks_like_an_admin_key_within_a_sealed_value_is_none_and_one_beside_it_is():
    key = "tka_" + "Aa0_-" * 8 + "xyz"

    assert keys_in(f'{{"sealed":"{SEALED}"}}'.encode(), "here") == []
    for text in (key, f"v1.{key[:30]} {key}", f'"{SEALED}","{key}"', f"{SEALED}\0{key}", f"in{key}"):
        assert [hit.name for hit in keys_in(text.encode(), "here")] == ["an admin key"], text


def test_every_column_of_every_table_in_postgres_is_looked_at(postgres_server):
    database = postgres_server.create()

    def ask(statement):
        return postgres_server.execute(statement, database=database)

    ask('CREATE TABLE "a table" (id bigint, said jsonb, secret text)')
    ask(f"""INSERT INTO "a table" VALUES (1, '{{"a": ["{KEY}"]}}', '{CANARY}')""")

    rows = rows_of(ask)

    assert KEY.encode() in rows
    assert CANARY.encode() in rows
