"""What a setting's value may be, and how a wrong one is refused."""

import pickle
from enum import StrEnum
from pathlib import Path

import pytest

from gateway import setting_values as values_of
from gateway.setting_values import Secret, Wrong


class Size(StrEnum):
    SMALL = "small"
    LARGE = "large"


@pytest.mark.parametrize(
    ("read", "value", "expected"),
    [
        (values_of.port, "8080", 8080),
        (values_of.port, 0, 0),
        (values_of.port, " 65535 ", 65535),
        (values_of.workers, "1", 1),
        (values_of.workers, "16", 16),
        (values_of.count, "1", 1),
        (values_of.count, 1_000_000, 1_000_000),
        (values_of.held_mib, "8", 8),
        (values_of.seconds, " 10 ", 10.0),
        (values_of.seconds, 0.25, 0.25),
        (values_of.seconds, "0.001", 0.001),
        (values_of.seconds, 86_400, 86_400.0),
        (values_of.delay, "0", 0.0),
        (values_of.delay, 2.5, 2.5),
        (values_of.switch, "Yes", True),
        (values_of.switch, False, False),
        (values_of.switch, "off", False),
        (values_of.switch, 1, True),
        (values_of.one_of(Size), "LARGE", Size.LARGE),
        (values_of.host, "0.0.0.0", "0.0.0.0"),
        (values_of.host, "::1", "::1"),
        (values_of.host, "::", "::"),
        (values_of.host, "gateway-1.internal", "gateway-1.internal"),
        (values_of.base_url, "https://api.example.com", "https://api.example.com"),
        (values_of.base_url, "http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
        (values_of.base_url, "https://example.com/v1/proxy//", "https://example.com/v1/proxy"),
        (values_of.base_url, "https://{product}.example.com", "https://{product}.example.com"),
        (values_of.secret(3), "a b", Secret("a b")),
        (values_of.path, "a/b", Path("a/b")),
        (values_of.path, Path("a"), Path("a")),
    ],
)
def test_what_people_write_is_understood(read, value, expected):
    assert read(value) == expected


@pytest.mark.parametrize(
    ("read", "value", "said"),
    [
        (values_of.port, "65536", "65536, which is out of its range"),
        (values_of.port, "-1", "not a whole number: '-1'"),
        (values_of.port, "http", "not a whole number"),
        (values_of.port, True, "not a whole number: True"),
        (values_of.port, "٣", "not a whole number"),
        (values_of.port, 80.0, "not a whole number"),
        (values_of.workers, "0", "out of its range"),
        (values_of.count, "0", "is 0, which is out of its range"),
        (values_of.count, "1000001", "out of its range"),
        (values_of.held_mib, "7", "is 7, which is out of its range"),
        (values_of.count, 2.0, "not a whole number"),
        (values_of.seconds, "0", "is 0, which is out of its range"),
        (values_of.seconds, "0.0", "is 0.0, which is out of its range"),
        (values_of.seconds, "86400.5", "out of its range"),
        (values_of.delay, "86401", "out of its range"),
        (values_of.delay, "-1", "not a number of seconds: '-1'"),
        (values_of.seconds, "-1", "not a number of seconds: '-1'"),
        (values_of.seconds, "10s", "not a number of seconds"),
        (values_of.seconds, "1e3", "not a number of seconds"),
        (values_of.seconds, float("nan"), "not a number of seconds: nan"),
        (values_of.seconds, float("inf"), "not a number of seconds"),
        (values_of.seconds, True, "not a number of seconds: True"),
        (values_of.seconds, "٣", "not a number of seconds"),
        (values_of.switch, "perhaps", "neither true nor false"),
        (values_of.one_of(Size), "medium", "no such value: 'medium'"),
        (values_of.host, "http://localhost", "not an address to listen on"),
        (values_of.host, "localhost:8080", "not an address to listen on"),
        (values_of.host, "", "is empty"),
        (values_of.host, 8080, "is not text"),
        (values_of.directory, __file__, "is a file"),
        (values_of.file, "no/such/file.pem", "names no file: no/such/file.pem"),
        (values_of.path, "a\0b", "NUL"),
        (values_of.path, "~no-such-user/x", "home directory that is not known"),
        (values_of.base_url, "api.example.com", "not an http or https URL"),
        (values_of.base_url, "ftp://example.com", "not an http or https URL"),
        (values_of.base_url, "https://", "not an http or https URL"),
        (values_of.base_url, "https://example.com:port", "not a URL"),
        (values_of.base_url, "https://[::1", "not a URL"),
        (values_of.base_url, "https://exam ple.com", "holds a space"),
        (values_of.base_url, "https://example.com\r\nX: y", "holds a space"),
        (values_of.base_url, "https://user:hunter2@example.com", "user name or password"),
        (values_of.base_url, "https://example.com/?key=hunter2", "a query or a fragment"),
        (values_of.base_url, "https://example.com/#hunter2", "a query or a fragment"),
        (values_of.base_url, "https://api.example.com/v1", "ends in /v1, which the paths of calls bring along"),
        (values_of.base_url, "https://api.example.com/v1beta/", "ends in /v1beta"),
        (values_of.secret(1), "", "is empty"),
        (values_of.secret(1), "hunter2\n", "line break"),
        (values_of.secret(1), " hunter2", "begins or ends with a space"),
        (values_of.secret(1), "hünter2", "outside ASCII"),
        (values_of.secret(20), "hunter2", "shorter than 20 characters"),
        (values_of.secret(1), 12345678, "is not text"),
        (values_of.database_url, "postgresql+asyncpg://u:hunter2@db/t", "names a driver"),
        (values_of.database_url, "postgresql:u:hunter2@db/t", "names a driver or lacks the two slashes"),
        (values_of.database_url, "postgresql://u:hunter2@db", "names no database"),
        (values_of.database_url, "postgresql://u:hunter2@db/", "names no database"),
        (values_of.database_url, "postgresql://u:hunter2@db/a/b", "names no database"),
        (values_of.database_url, "postgresql://u:hunter2@/t", "names no host"),
        (values_of.database_url, "postgresql:///t", "names no host"),
        (values_of.database_url, "postgresql://u:hunter2@x@db/t", "names no host"),
        (values_of.database_url, "postgresql://u:hunter2@db:port/t", "is not a URL"),
        (values_of.database_url, "postgresql://u:hunter2@[::1/t", "is not a URL"),
        (values_of.database_url, "postgresql://u:hunter2#x@db/t", "holds a space, a #"),
        (values_of.database_url, "postgresql://u:hunter2@db/t ", "holds a space"),
        (values_of.database_url, "postgresql://u:hünter2@db/t", "a character that no URL has"),
        (values_of.database_url, "postgresql://u:hunter2@db/t?password=hunter2", "not known: 'password'"),
        (values_of.database_url, "postgresql://u:hunter2@db/t?fsync=off", "not known: 'fsync'"),
        (values_of.database_url, "postgresql://u:hunter2@db/t?sslmode", "is not a URL"),
        (values_of.postgres_url, "sqlite:////tmp/ledger.db", "not the URL of a Postgres database"),
        (values_of.database_url, "mysql://u:hunter2@db/t", "of neither a Postgres database nor an SQLite file"),
        (values_of.database_url, "sqlite://", "of neither a Postgres database nor an SQLite file"),
        (values_of.database_url, "sqlite:///ledger.db", "a directory that is not there"),
        (values_of.database_url, "sqlite:////no/such/place/ledger.db", "a directory that is not there"),
    ],
)
def test_a_wrong_value_is_refused_with_the_cure_and_no_secret_is_repeated(read, value, said):
    with pytest.raises(Wrong) as refusal:
        read(value)

    assert said in refusal.value.wrong
    assert refusal.value.cure
    assert "hunter2" not in f"{refusal.value} {refusal.value.wrong} {refusal.value.cure}"


def test_a_long_wrong_value_is_not_repeated_whole():
    with pytest.raises(Wrong) as refusal:
        values_of.port("9" * 10_000)

    assert len(refusal.value.wrong) < 200


@pytest.mark.parametrize("slashes", ["sqlite:///", "sqlite:////"])
def test_the_path_of_an_sqlite_url_is_absolute_with_three_slashes_and_with_four(slashes, tmp_path):
    url = f"{slashes}{str(tmp_path).removeprefix('/')}/ledger.db"

    assert values_of.database_url(url) == Secret(url)
    assert values_of.database_file(url) == tmp_path / "ledger.db"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://tollkeeper:hunter2@db.example/ledger",
        "postgres://tollkeeper@db:6432/ledger",
        "postgresql://tollkeeper:h%40nter2@[::1]:5432/my-ledger?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "postgresql://one:hunter2@/ledger?host=/run/postgresql",
        "postgresql:///ledger?host=/run/postgresql&port=6432",
    ],
)
def test_a_postgres_database_is_named_as_libpq_names_it(url):
    assert values_of.database_url(url) == values_of.postgres_url(url) == Secret(url)


def test_a_secret_shows_nowhere_but_where_it_is_asked_for():
    secret = Secret("hunter2")

    assert f"{secret} {secret!r} {[secret]}" == "*** *** [***]"
    assert secret.get_secret_value() == "hunter2"
    assert pickle.loads(pickle.dumps(secret)) == secret
    assert {secret: 1}[Secret("hunter2")] == 1
    assert secret != Secret("other")


@pytest.mark.parametrize("content", ["hunter2", "hunter2\n", "hunter2\r\n"])
def test_a_secret_in_a_file_is_read_without_the_line_end_of_its_editor(content, tmp_path):
    (tmp_path / "secret").write_bytes(content.encode())

    assert values_of.secret_in_file(str(tmp_path / "secret")) == "hunter2"


def test_only_one_line_end_is_taken_off_a_secret_in_a_file(tmp_path):
    (tmp_path / "secret").write_text("hunter2\n\n")

    assert values_of.secret_in_file(str(tmp_path / "secret")) == "hunter2\n"


@pytest.mark.parametrize(
    ("content", "said"), [(None, "cannot be read (No such file"), (b"\xff\xfe", "not text"), (b"x" * 100_000, "64 KiB")]
)
def test_a_secret_file_that_cannot_be_one_is_refused(content, said, tmp_path):
    if content is not None:
        (tmp_path / "secret").write_bytes(content)

    with pytest.raises(Wrong) as refusal:
        values_of.secret_in_file(str(tmp_path / "secret"))

    assert said in refusal.value.wrong
