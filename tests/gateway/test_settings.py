"""The settings: where they come from, and what is said when they are wrong."""

import re
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path

import pytest

from gateway.limits import ClientLimits, UpstreamLimits
from gateway.providers import PROVIDERS
from gateway.settings import (
    Durability,
    LogLevel,
    Secret,
    Settings,
    SettingsError,
    StreamUsage,
    Unlisted,
    described,
    environment_name,
    load_settings,
    restart_needed,
)

ADMIN_KEY = "an-admin-key-of-enough-characters"
SECRET_KEY = "a-secret-key-of-enough-characters-too"
SERVICE_URL = "postgresql://service:hunter2@db/ledger"
OWNER_URL = "postgresql://owner:hunter2@db/ledger"

FIRST = PROVIDERS[0]
TWO_FIELDS = replace(FIRST, name="twofold", base_url="https://twofold.test", credential_fields=("account", "token"))


@pytest.fixture(autouse=True)
def empty_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def problems_of(environment=None, flags=None, config_file=None, providers=PROVIDERS):
    with pytest.raises(SettingsError) as refusal:
        load_settings(environment or {}, flags or {}, config_file, providers)
    assert str(refusal.value) == "\n".join(str(problem) for problem in refusal.value.problems)
    return [str(problem) for problem in refusal.value.problems]


def origin_of(settings, name):
    return next(str(row.origin) for row in settings.resolved if row.name == name)


# ---------------------------------------------------------------------------------------------------------------------
# Defaults


def test_nothing_has_to_be_set():
    settings = load_settings({}, {}, None)

    assert settings.data_dir == Path("tollkeeper-data")
    assert settings.database_url is None
    assert settings.database_file == Path("tollkeeper-data/ledger.db")
    assert (settings.proxy.host, settings.proxy.port) == ("127.0.0.1", 8080)
    assert (settings.control.host, settings.control.port) == ("127.0.0.1", 8081)
    assert settings.admin_key is None
    assert settings.config_file is None
    assert {provider.name: provider.base_url for provider in PROVIDERS} == {
        name: provider.base_url for name, provider in settings.providers.items()
    }
    assert all(provider.credential is None for provider in settings.providers.values())
    assert {row.origin for row in settings.resolved} == {"default"}


def test_the_settings_cannot_be_changed():
    settings = load_settings({}, {}, None)

    with pytest.raises(FrozenInstanceError):
        settings.workers = 2


# ---------------------------------------------------------------------------------------------------------------------
# Layers


def a_value_for(name, tmp_path):
    """For each setting, one that is not its default: (as the environment holds it, as it then is)."""
    pem = tmp_path / "some.pem"
    pem.touch()
    return {
        "TOLLKEEPER_PROVIDERS__VLLM__KIND": ("openai", "openai"),
        "TOLLKEEPER_PROVIDERS__VLLM__STREAM_USAGE": ("off", StreamUsage.OFF),
        "TOLLKEEPER_PROVIDERS__VLLM__LIST_PRICES": ("groq", "groq"),
        "TOLLKEEPER_PROVIDERS__VLLM__PRICES": (str(pem), pem),
        "TOLLKEEPER_DATA_DIR": ("elsewhere", Path("elsewhere")),
        "TOLLKEEPER_DATABASE_URL": (SERVICE_URL, Secret(SERVICE_URL)),
        "TOLLKEEPER_DATABASE_MIGRATE_URL": (OWNER_URL, Secret(OWNER_URL)),
        "TOLLKEEPER_PROXY__HOST": ("0.0.0.0", "0.0.0.0"),
        "TOLLKEEPER_PROXY__PORT": ("9000", 9000),
        "TOLLKEEPER_PROXY__TLS_CERT": (str(pem), pem),
        "TOLLKEEPER_PROXY__TLS_KEY": (str(pem), pem),
        "TOLLKEEPER_PROXY__CONNECTIONS_MAX": ("2000", 2000),
        "TOLLKEEPER_PROXY__CALLS_MAX": ("1000", 1000),
        "TOLLKEEPER_PROXY__LAG_MAX_S": ("0.5", 0.5),
        "TOLLKEEPER_PROXY__HEAD_TIMEOUT_S": ("5", 5.0),
        "TOLLKEEPER_PROXY__KEEPALIVE_TIMEOUT_S": ("60", 60.0),
        "TOLLKEEPER_PROXY__BODY_IDLE_TIMEOUT_S": ("7.5", 7.5),
        "TOLLKEEPER_PROXY__BODY_RATE_MIN": ("1024", 1024),
        "TOLLKEEPER_PROXY__WRITE_IDLE_TIMEOUT_S": ("20", 20.0),
        "TOLLKEEPER_PROXY__HELD_MIB_MAX": ("64", 64),
        "TOLLKEEPER_PROXY__LINGER_S": ("0.5", 0.5),
        "TOLLKEEPER_UPSTREAM__CONNECT_TIMEOUT_S": ("3", 3.0),
        "TOLLKEEPER_UPSTREAM__FIRST_BYTE_TIMEOUT_S": ("120", 120.0),
        "TOLLKEEPER_UPSTREAM__IDLE_TIMEOUT_S": ("60", 60.0),
        "TOLLKEEPER_UPSTREAM__KEEPALIVE_TIMEOUT_S": ("4.5", 4.5),
        "TOLLKEEPER_UPSTREAM__IDLE_CONNECTIONS_MAX": ("64", 64),
        "TOLLKEEPER_CONTROL__HOST": ("::1", "::1"),
        "TOLLKEEPER_CONTROL__PORT": ("9001", 9001),
        "TOLLKEEPER_DRAIN__DELAY_S": ("5", 5.0),
        "TOLLKEEPER_DRAIN__TIMEOUT_S": ("20", 20.0),
        "TOLLKEEPER_WORKERS": ("4", 4),
        "TOLLKEEPER_ADMIN_KEY": (ADMIN_KEY, Secret(ADMIN_KEY)),
        "TOLLKEEPER_SECRET_KEY": (SECRET_KEY, Secret(SECRET_KEY)),
        "TOLLKEEPER_DURABILITY": ("fsync", "fsync"),
        "TOLLKEEPER_UNLISTED": ("deny", "deny"),
        "TOLLKEEPER_ON_DISCONNECT": ("cancel", "cancel"),
        "TOLLKEEPER_AUTO_CREATE_TENANTS": ("true", True),
        "TOLLKEEPER_PUBLIC_URL": ("https://toll.test/", "https://toll.test"),
        "TOLLKEEPER_CALLBACK_HOSTS": (
            "app.internal, App.test:8000,[::1]:80",
            ("app.internal", "app.test:8000", "[::1]:80"),
        ),
        "TOLLKEEPER_SHARED_READS": ("true", True),
        "TOLLKEEPER_RECONCILE": ("off", "off"),
        "TOLLKEEPER_RECONCILE_TOLERANCE": ("1.25%", "1.25%"),
        "TOLLKEEPER_COLLECT": ("all", "all"),
        "TOLLKEEPER_LOG_FORMAT": ("json", "json"),
        "TOLLKEEPER_LOG_LEVEL": ("debug", "debug"),
    }.get(name) or (
        ("https://other.test/", "https://other.test")
        if name.endswith("__BASE_URL")
        else ("a-provider-key", Secret("a-provider-key"))
    )


def value_in(settings, name):
    """The value of a setting by its dotted name."""
    first, *rest = name.split(".")
    if first != "providers":
        return getattr(getattr(settings, first), rest[0]) if rest else getattr(settings, first)
    provider = settings.providers[rest[0]]
    return getattr(provider, rest[1]) if hasattr(provider, rest[1]) else provider.credential[rest[1]]


def documented_rows():
    """Every row of the documentation, with a further provider called `vllm` in it."""
    return described(further=["vllm"])


def test_every_documented_environment_name_works(tmp_path):
    documented = [row.environment_name for row in documented_rows()]
    given = {name: a_value_for(name, tmp_path) for name in documented[1:]}

    settings = load_settings({name: text for name, (text, _) in given.items()}, {}, None)
    names = {environment_name(row.name): row.name for row in settings.resolved}

    assert documented[0] == "TOLLKEEPER_CONFIG"
    assert documented[1:] == list(names)
    for name, (_, expected) in given.items():
        assert value_in(settings, names[name]) == expected, name
        assert origin_of(settings, names[name]) == "environment", name


def test_every_setting_is_described_with_its_default():
    rows = {row.environment_name: row for row in described()}

    assert all(row.description and row.default for row in rows.values())
    assert rows["TOLLKEEPER_PROXY__PORT"].default == "8080"
    assert rows["TOLLKEEPER_PROXY__HEAD_TIMEOUT_S"].default == "10"
    assert rows["TOLLKEEPER_PROXY__LAG_MAX_S"].default == "0.25"
    assert rows["TOLLKEEPER_SHARED_READS"].default == "false"
    assert rows["TOLLKEEPER_ADMIN_KEY"].default == "generated, and printed once"
    assert f"TOLLKEEPER_PROVIDERS__{FIRST.name.upper()}__BASE_URL" in rows


def test_flags_win_over_the_environment_which_wins_over_the_file_which_wins_over_defaults(tmp_path):
    Path("tollkeeper.toml").write_text('durability = "fsync"\nlog_level = "error"\n[proxy]\nport = 1\nhost = "::1"\n')
    environment = {"TOLLKEEPER_PROXY__PORT": "2", "TOLLKEEPER_LOG_LEVEL": "debug"}

    settings = load_settings(environment, {"proxy.port": 3, "proxy.host": None}, None)

    assert settings.durability is Durability.FSYNC
    assert settings.log_level is LogLevel.DEBUG
    assert (settings.proxy.host, settings.proxy.port) == ("::1", 3)
    assert settings.unlisted is Unlisted.FORWARD
    assert [origin_of(settings, name) for name in ("durability", "log_level", "proxy.port", "unlisted")] == [
        "file",
        "environment",
        "flag",
        "default",
    ]
    assert settings.config_file == Path("tollkeeper.toml")


def test_the_file_speaks_toml(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text(
        f'workers = 1\nshared_reads = true\nproxy.port = 0\n[providers.{FIRST.name}]\nbase_url = "http://127.0.0.1:1/"\n'
    )

    for settings in (load_settings({}, {}, file), load_settings({"TOLLKEEPER_CONFIG": str(file)}, {}, None)):
        assert settings.shared_reads is True
        assert settings.proxy.port == 0
        assert settings.providers[FIRST.name].base_url == "http://127.0.0.1:1"


def test_a_file_named_by_flag_wins_over_one_named_by_the_environment(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text("proxy.port = 7")

    settings = load_settings({"TOLLKEEPER_CONFIG": "no-such-file"}, {}, file)

    assert settings.proxy.port == 7


def test_an_empty_environment_value_is_one_not_given():
    settings = load_settings(
        {"TOLLKEEPER_ADMIN_KEY": "", "TOLLKEEPER_PROXY__PORT": "", "TOLLKEEPER_CONFIG": ""}, {}, None
    )

    assert settings.admin_key is None
    assert settings.proxy.port == 8080


def test_what_kubernetes_says_of_services_is_not_taken_for_settings():
    environment = {
        "TOLLKEEPER_PORT": "tcp://10.0.0.1:8080",
        "TOLLKEEPER_PORT_8080_TCP_ADDR": "10.0.0.1",
        "TOLLKEEPER_SERVICE_HOST": "10.0.0.1",
        "TOLLKEEPER_SERVICE_PORT_HTTP": "8080",
        "TOLLKEEPER_CONTROL_SERVICE_HOST": "10.0.0.2",
        "TOLLKEEPER_CONTROL_SERVICE_PORT": "8081",
        "TOLLKEEPER_CONTROL_PORT": "tcp://10.0.0.2:8081",
        "TOLLKEEPER_CONTROL_PORT_8081_TCP": "tcp://10.0.0.2:8081",
        "TOLLKEEPER_CONTROL_PORT_8081_TCP_PROTO": "tcp",
        "OTHER": "of no interest",
    }

    assert load_settings(environment, {}, None).control.port == 8081


# ---------------------------------------------------------------------------------------------------------------------
# Limits


def test_every_limit_is_a_setting_whose_default_is_the_limits_own():
    settings = load_settings({}, {}, None)
    names = {row.name for row in settings.resolved}

    assert (settings.client_limits, settings.upstream_limits) == (ClientLimits(), UpstreamLimits())
    assert {f"proxy.{one.name}" for one in fields(ClientLimits)} <= names
    assert {f"upstream.{one.name}" for one in fields(UpstreamLimits)} <= names


def test_limits_are_set_in_the_environment_and_in_the_file(tmp_path):
    Path("tollkeeper.toml").write_text(
        "[proxy]\ncalls_max = 10\nlinger_s = 1\n[upstream]\nidle_timeout_s = 90.5\nconnect_timeout_s = 4\n"
    )
    environment = {"TOLLKEEPER_PROXY__HEAD_TIMEOUT_S": "2.5", "TOLLKEEPER_UPSTREAM__CONNECT_TIMEOUT_S": "3"}

    settings = load_settings(environment, {}, None)

    assert settings.client_limits == ClientLimits(calls_max=10, linger_s=1.0, head_timeout_s=2.5)
    assert settings.upstream_limits == UpstreamLimits(idle_timeout_s=90.5, connect_timeout_s=3.0)
    shown = {row.environment_name: (row.value, str(row.origin)) for row in settings.resolved}
    assert shown["TOLLKEEPER_PROXY__HEAD_TIMEOUT_S"] == (2.5, "environment")
    assert shown["TOLLKEEPER_PROXY__LINGER_S"] == (1.0, "file")
    assert shown["TOLLKEEPER_UPSTREAM__IDLE_CONNECTIONS_MAX"] == (512, "default")


@pytest.mark.parametrize("section", [ClientLimits, UpstreamLimits])
@pytest.mark.parametrize("given", ["0", "-1", "never", "10s"])
def test_no_limit_can_be_turned_off(section, given):
    prefix = "TOLLKEEPER_PROXY__" if section is ClientLimits else "TOLLKEEPER_UPSTREAM__"
    names = [prefix + one.name.upper() for one in fields(section)]

    problems = problems_of(dict.fromkeys(names, given))

    assert [problem.partition(" ")[0] for problem in problems] == names
    for problem in problems:
        assert any(
            cure in problem
            for cure in (
                "; give a number from 1 to",
                "; give a number of MiB, from 8",
                "; give seconds, more than 0 and up to",
            )
        )


# ---------------------------------------------------------------------------------------------------------------------
# Secrets


def test_a_secret_may_be_in_a_file_named_in_the_environment_or_in_the_settings_file(tmp_path):
    (tmp_path / "admin").write_text(ADMIN_KEY + "\n")
    (tmp_path / "secret").write_text(SECRET_KEY + "\n")
    Path("tollkeeper.toml").write_text(f'secret_key_file = "{tmp_path}/secret"\nadmin_key = "{"x" * 30}"\n')

    settings = load_settings({"TOLLKEEPER_ADMIN_KEY_FILE": str(tmp_path / "admin")}, {}, None)

    assert settings.admin_key == Secret(ADMIN_KEY)
    assert settings.secret_key == Secret(SECRET_KEY)
    assert (origin_of(settings, "admin_key"), origin_of(settings, "secret_key")) == ("environment", "file")


def test_every_secret_may_be_in_a_file(tmp_path):
    secrets = [
        row
        for row in load_settings({}, {}, None, [TWO_FIELDS]).resolved
        if row.name.endswith(("_key", "_url", "t", "n"))
    ]
    names = ["database_url", "database_migrate_url", "admin_key", "secret_key"]
    names += ["providers.twofold.account", "providers.twofold.token"]
    contents = [SERVICE_URL, OWNER_URL, ADMIN_KEY, SECRET_KEY, "AC1", "t1"]
    environment = {}
    for name, content in zip(names, contents, strict=True):
        (tmp_path / name).write_text(content)
        environment[environment_name(name) + "_FILE"] = str(tmp_path / name)

    settings = load_settings(environment, {}, None, [TWO_FIELDS])

    assert secrets
    assert [value_in(settings, name).get_secret_value() for name in names] == contents


def test_a_secret_given_twice_in_one_place_is_refused(tmp_path):
    (tmp_path / "admin").write_text(ADMIN_KEY)

    assert problems_of({"TOLLKEEPER_ADMIN_KEY": ADMIN_KEY, "TOLLKEEPER_ADMIN_KEY_FILE": str(tmp_path / "admin")}) == [
        "TOLLKEEPER_ADMIN_KEY_FILE is given, and so is TOLLKEEPER_ADMIN_KEY; keep one of the two."
    ]


def test_a_problem_with_a_secret_in_a_file_names_the_name_it_was_given_under(tmp_path):
    (tmp_path / "admin").write_text("short")

    assert problems_of(
        {"TOLLKEEPER_ADMIN_KEY_FILE": str(tmp_path / "admin"), "TOLLKEEPER_SECRET_KEY_FILE": "/no/such"}
    ) == [
        (
            "TOLLKEEPER_SECRET_KEY_FILE names a file that cannot be read (No such file or directory): /no/such; "
            "give the path of a readable file."
        ),
        "TOLLKEEPER_ADMIN_KEY_FILE is shorter than 20 characters; make one with: openssl rand -hex 32.",
    ]


def test_no_secret_shows_in_what_the_settings_print(tmp_path):
    secrets = {
        "TOLLKEEPER_ADMIN_KEY": "hunter2-admin-key-of-enough-characters",
        "TOLLKEEPER_SECRET_KEY": "hunter2-secret-key-of-enough-characters",
        "TOLLKEEPER_DATABASE_URL": SERVICE_URL,
        "TOLLKEEPER_DATABASE_MIGRATE_URL": OWNER_URL,
        f"TOLLKEEPER_PROVIDERS__{FIRST.name.upper()}__{FIRST.credential_fields[0].upper()}": "hunter2-provider-key",
    }

    settings = load_settings(secrets, {}, None, [FIRST])

    assert "hunter2" not in f"{settings} {settings!r} {settings.resolved} {settings.providers}"
    assert [row.value for row in settings.resolved if row.environment_name in secrets] == ["***"] * len(secrets)


def test_no_secret_shows_in_what_is_said_of_wrong_settings(tmp_path):
    (tmp_path / "bad.toml").write_text('admin_key = "hunter2"\nsecret_keys = "hunter2"\n')
    provider = f"TOLLKEEPER_PROVIDERS__{FIRST.name.upper()}__"

    problems = problems_of(
        {
            "TOLLKEEPER_SECRET_KEY": "hunter2",
            "TOLLKEEPER_DATABASE_URL": "postgresql://tollkeeper:hunter2@db",
            "TOLLKEEPER_ADMIN_KEYS": "hunter2",
            provider + "BASE_URL": "https://user:hunter2@example.com",
            provider + FIRST.credential_fields[0].upper(): "hunter2\n",
        },
        config_file=tmp_path / "bad.toml",
    )

    assert len(problems) == 7
    assert "hunter2" not in " ".join(problems)


# ---------------------------------------------------------------------------------------------------------------------
# What is refused


def test_all_problems_are_in_one_report_each_under_the_name_it_was_given_by(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text('durability = "never"\nprxy.port = 1\n[proxy]\ntls_cert = "no.pem"\n')

    problems = problems_of(
        {
            "TOLLKEEPER_CONTROL__PORT": "http",
            "TOLLKEEPER_DATABASE_URL": "postgres:ledger",
            "TOLLKEEPER_LOG_LEVLE": "debug",
        },
        {"proxy.port": "99999", "workers": "0"},
        file,
    )

    assert problems == [
        f"prxy.port in {file} is no setting; perhaps proxy.port was meant.",
        "TOLLKEEPER_LOG_LEVLE is no setting; perhaps TOLLKEEPER_LOG_LEVEL was meant.",
        (
            "TOLLKEEPER_DATABASE_URL names a driver or lacks the two slashes; "
            "give postgresql://ROLE:PASSWORD@HOST/DATABASE, or sqlite:///ABSOLUTE/PATH/ledger.db, or leave it out."
        ),
        "--port is 99999, which is out of its range; give a port from 0 to 65535, where 0 lets the system choose.",
        f"proxy.tls_cert in {file} names no file: no.pem; give the path of a file that is there.",
        (
            "TOLLKEEPER_CONTROL__PORT is not a whole number: 'http'; "
            "give a port from 0 to 65535, where 0 lets the system choose."
        ),
        "--workers is 0, which is out of its range; give how many processes share the proxy's port.",
        f"durability in {file} has no such value: 'never'; give flush or fsync.",
        f"proxy.tls_cert in {file} cannot be used without TOLLKEEPER_PROXY__TLS_KEY; give them together, or not at all.",
    ]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("TOLLKEEPER_PROXY_PORT", "TOLLKEEPER_PROXY__PORT"),
        ("TOLLKEEPER_ADMINKEY", "TOLLKEEPER_ADMIN_KEY"),
        ("TOLLKEEPER_data_dir", "TOLLKEEPER_DATA_DIR"),
        ("TOLLKEEPER_SECRET_KEY_FILES", "TOLLKEEPER_SECRET_KEY_FILE"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(name, meant):
    assert problems_of({name: "1"}) == [f"{name} is no setting; perhaps {meant} was meant."]


def test_an_unknown_name_that_is_near_to_none_is_refused_with_where_to_look():
    assert problems_of({"TOLLKEEPER_NATS_URL": "nats://x"}) == [
        "TOLLKEEPER_NATS_URL is no setting; remove it; `tollkeeper config show` lists the names there are."
    ]


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (
            "proxy = 1",
            "proxy in tollkeeper.toml is a section and has no value itself; set what is in it, such as proxy.host.",
        ),
        ("[prixy]", "prixy in tollkeeper.toml is no setting"),
        ("[data_dir]\nx = 1", "data_dir.x in tollkeeper.toml is no setting; perhaps data_dir was meant."),
        ("data_dir = 5", "data_dir in tollkeeper.toml is not text; put the value in quotes."),
        ("proxy.port =", "tollkeeper.toml is not TOML: Invalid value (at end of document); correct it there."),
        (b"\xff", "tollkeeper.toml is not text in UTF-8; save it as UTF-8."),
    ],
)
def test_a_settings_file_that_cannot_be_meant_is_refused(toml, said):
    Path("tollkeeper.toml").write_bytes(toml if isinstance(toml, bytes) else toml.encode())

    (problem,) = problems_of()

    assert problem.startswith(said)


def test_an_empty_section_of_the_settings_file_is_no_problem():
    Path("tollkeeper.toml").write_text(f"[proxy]\n[providers]\n[providers.{FIRST.name}]\n")

    assert load_settings({}, {}, None).proxy.port == 8080


def test_a_named_settings_file_that_is_missing_is_refused(tmp_path):
    by_environment = problems_of({"TOLLKEEPER_CONFIG": "gone.toml"})
    by_flag = problems_of(config_file=tmp_path)

    assert by_environment == [
        "TOLLKEEPER_CONFIG names a file that is not there: gone.toml; correct the path, or leave it out."
    ]
    assert by_flag == [f"--config cannot be read (Is a directory): {tmp_path}; make it a file that can be read."]


def test_a_path_that_cannot_be_looked_at_is_a_problem_and_not_a_crash():
    (problem,) = problems_of({"TOLLKEEPER_DATA_DIR": "x" * 5000})

    assert problem.startswith("TOLLKEEPER_DATA_DIR cannot be looked at (File name too long)")


def test_a_certificate_and_its_key_come_together(tmp_path):
    (tmp_path / "some.pem").touch()

    assert problems_of({"TOLLKEEPER_PROXY__TLS_KEY": str(tmp_path / "some.pem")}) == [
        "TOLLKEEPER_PROXY__TLS_KEY cannot be used without TOLLKEEPER_PROXY__TLS_CERT; give them together, or not at all."
    ]


LISTED = replace(FIRST, name="listed", base_url="https://listed.test", credential_fields=("key",), lists_field="admin")


def test_a_key_that_opens_lists_alone_need_not_be_there_and_is_not_there_alone():
    key, admin = "TOLLKEEPER_PROVIDERS__LISTED__KEY", "TOLLKEEPER_PROVIDERS__LISTED__ADMIN"

    def credential(**given):
        return load_settings(given, {}, None, [LISTED]).providers["listed"].credential

    assert credential(**{key: "k1"}) == {"key": Secret("k1")}
    assert credential(**{key: "k1", admin: "a1"}) == {"key": Secret("k1"), "admin": Secret("a1")}
    assert problems_of({admin: "a1"}, providers=[LISTED]) == [
        (f"{admin} cannot be used without {key}; give them together, or not at all.")
    ]


def test_a_credential_is_whole_or_not_there():
    whole = load_settings(
        {"TOLLKEEPER_PROVIDERS__TWOFOLD__ACCOUNT": "a1", "TOLLKEEPER_PROVIDERS__TWOFOLD__TOKEN": "t1"},
        {},
        None,
        [TWO_FIELDS],
    )

    assert whole.providers["twofold"].credential == {"account": Secret("a1"), "token": Secret("t1")}
    assert problems_of({"TOLLKEEPER_PROVIDERS__TWOFOLD__TOKEN": "t1"}, providers=[TWO_FIELDS]) == [
        (
            "TOLLKEEPER_PROVIDERS__TWOFOLD__TOKEN cannot be used without TOLLKEEPER_PROVIDERS__TWOFOLD__ACCOUNT; "
            "give them together, or not at all."
        )
    ]


GIVE_POSTGRES = "give a Postgres database in TOLLKEEPER_DATABASE_URL"


@pytest.mark.parametrize("url", [None, "sqlite:////tmp/ledger.db"])
def test_what_needs_postgres_is_refused_beside_sqlite_with_the_cure(url):
    """Watches the rule between settings: alone, each of these is right."""
    ledger = {} if url is None else {"TOLLKEEPER_DATABASE_URL": url}

    assert problems_of({**ledger, "TOLLKEEPER_WORKERS": "4", "TOLLKEEPER_DATABASE_MIGRATE_URL": OWNER_URL}) == [
        f"TOLLKEEPER_WORKERS is 4, but the ledger is SQLite, which has one process; give 1, or {GIVE_POSTGRES}.",
        (
            "TOLLKEEPER_DATABASE_MIGRATE_URL names the owner of a Postgres database, but the ledger is SQLite; "
            f"leave it out, or {GIVE_POSTGRES}."
        ),
    ]
    assert load_settings({**ledger, "TOLLKEEPER_WORKERS": "1"}, {}, None).workers == 1


def test_one_setting_puts_the_ledger_into_postgres():
    settings = load_settings({"TOLLKEEPER_DATABASE_URL": SERVICE_URL, "TOLLKEEPER_WORKERS": "4"}, {}, None)

    assert (settings.database_file, settings.postgres_url, settings.postgres_owner_url) == (
        None,
        SERVICE_URL,
        SERVICE_URL,
    )


def test_the_owner_of_the_database_may_be_another_role():
    given = {"TOLLKEEPER_DATABASE_URL": SERVICE_URL, "TOLLKEEPER_DATABASE_MIGRATE_URL": OWNER_URL}

    settings = load_settings(given, {}, None)

    assert (settings.postgres_url, settings.postgres_owner_url) == (SERVICE_URL, OWNER_URL)


@pytest.mark.parametrize("hosts", [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "::")])
def test_the_two_listeners_do_not_share_a_port(hosts):
    flags = {"proxy.host": hosts[0], "control.host": hosts[1], "proxy.port": 9000, "control.port": 9000}

    assert problems_of(flags=flags) == [
        "--control-port makes the proxy and the control API share port 9000; give each a port of its own."
    ]


def test_two_listeners_may_both_let_the_system_choose_their_port():
    settings = load_settings({}, {"proxy.port": 0, "control.port": 0}, None)

    assert isinstance(settings, Settings)


# ---------------------------------------------------------------------------------------------------------------------
# Further providers


def test_the_accounts_of_the_platforms_credentials_are_told_from_tenants():
    sid = "AC" + "5" * 32
    credential = {
        "TOLLKEEPER_PROVIDERS__TWILIO__ACCOUNT_SID": sid,
        "TOLLKEEPER_PROVIDERS__TWILIO__AUTH_TOKEN": "hunter2",
    }

    assert load_settings(credential, {}, None).platform_accounts == {"twilio_subaccount": sid}
    assert load_settings({}, {}, None).platform_accounts == {}


GROQ = {
    "TOLLKEEPER_PROVIDERS__GROQ__KIND": "openai",
    "TOLLKEEPER_PROVIDERS__GROQ__BASE_URL": "https://api.groq.test",
}


def test_a_further_provider_is_named_by_the_environment_or_by_the_file():
    Path("tollkeeper.toml").write_text(
        '[providers.resource]\nkind = "azure-openai"\nbase_url = "https://resource.azure.test"\nstream_usage = "off"\n'
    )
    settings = load_settings({**GROQ, "TOLLKEEPER_PROVIDERS__GROQ__API_KEY": "gsk-hunter2"}, {}, None)

    groq, resource = settings.providers["groq"], settings.providers["resource"]
    assert [provider.name for provider in settings.known_providers[len(PROVIDERS) :]] == ["resource", "groq"]
    assert (groq.kind, groq.base_url, groq.stream_usage) == ("openai", "https://api.groq.test", "inject")
    assert groq.credential == {"api_key": Secret("gsk-hunter2")}
    assert (resource.kind, resource.credential, resource.stream_usage) == ("azure-openai", {}, "off")
    assert "hunter2" not in f"{settings!r} {settings.resolved}"


@pytest.mark.parametrize("name", ["openai", "webhooks", "healthz", "system"])
def test_a_further_provider_has_no_name_that_means_something_already(name):
    given = {f"TOLLKEEPER_PROVIDERS__{name.upper()}__{field}": value for field, value in (("KIND", "openai"),)}

    assert (
        f"TOLLKEEPER_PROVIDERS__{name.upper()}__KIND gives a provider a name that is taken: {name}; choose another."
        in (problems_of(given))
    )


@pytest.mark.parametrize("name", ["Groq", "my-llm", "a b", "7b", "x" * 33, "a__b", "_a", "a_"])
def test_a_further_provider_has_a_name_that_can_stand_in_paths_and_environment_names(name):
    Path("tollkeeper.toml").write_text(f'[providers."{name}"]\nkind = "openai"\nbase_url = "https://llm.test"\n')

    assert problems_of() == [
        (
            f"providers.{name}.kind in tollkeeper.toml gives a provider a name that can not stand in a path; use up to 32 small "
            "letters and digits, with single underscores between them, a letter first."
        )
    ]


def test_everything_that_is_wrong_with_further_providers_is_said_at_once():
    assert problems_of(
        {
            "TOLLKEEPER_PROVIDERS__GROQ__KIND": "groq",
            "TOLLKEEPER_PROVIDERS__VLLM__KIND": "openai",
            "TOLLKEEPER_PROVIDERS__VLLM__BASE_URL": "http://vllm.test/v1",
            "TOLLKEEPER_PROVIDERS__VLLM__STREAM_USAGE": "maybe",
            "TOLLKEEPER_PROVIDERS__VLLM__PRICES": "/no/such.toml",
            "TOLLKEEPER_PROVIDERS__TOGETHER__BASE_URL": "http://together.test",
            "TOLLKEEPER_PROVIDERS__VLLM__REGIONAL_ENDPOINT": "eu",
        }
    ) == [
        (
            "TOLLKEEPER_PROVIDERS__TOGETHER__BASE_URL is no setting; if it is of a further provider, give "
            "TOLLKEEPER_PROVIDERS__TOGETHER__KIND as well."
        ),
        (
            "TOLLKEEPER_PROVIDERS__VLLM__REGIONAL_ENDPOINT is no setting; remove it; `tollkeeper config show` lists the names "
            "there are."
        ),
        "TOLLKEEPER_PROVIDERS__GROQ__KIND has no such value: 'groq'; give openai or azure-openai.",
        (
            "TOLLKEEPER_PROVIDERS__VLLM__BASE_URL ends in /v1, which the paths of calls bring along; give the URL without "
            "/v1."
        ),
        "TOLLKEEPER_PROVIDERS__VLLM__STREAM_USAGE has no such value: 'maybe'; give inject or off.",
        "TOLLKEEPER_PROVIDERS__VLLM__PRICES names no file: /no/such.toml; give the path of a file that is there.",
        (
            "TOLLKEEPER_PROVIDERS__GROQ__KIND needs to be told where that is; give TOLLKEEPER_PROVIDERS__GROQ__BASE_URL as "
            "well."
        ),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# What can change in a gateway that runs

FIXED = {
    "TOLLKEEPER_DATA_DIR",
    "TOLLKEEPER_DATABASE_URL",
    "TOLLKEEPER_DATABASE_MIGRATE_URL",
    "TOLLKEEPER_PROXY__HOST",
    "TOLLKEEPER_PROXY__PORT",
    "TOLLKEEPER_CONTROL__HOST",
    "TOLLKEEPER_CONTROL__PORT",
    "TOLLKEEPER_SECRET_KEY",
}
FIXED_IN_ONE_PROCESS = FIXED | {
    "TOLLKEEPER_ADMIN_KEY",
    "TOLLKEEPER_DURABILITY",
    "TOLLKEEPER_LOG_FORMAT",
    "TOLLKEEPER_PROVIDERS__VLLM__LIST_PRICES",
    "TOLLKEEPER_PROVIDERS__VLLM__PRICES",
}
TLS = {"TOLLKEEPER_PROXY__TLS_CERT", "TOLLKEEPER_PROXY__TLS_KEY"}


@pytest.mark.parametrize(("processes", "fixed"), [(True, FIXED), (False, FIXED_IN_ONE_PROCESS | TLS)])
def test_what_takes_a_restart_is_named_and_nothing_else(tmp_path, processes, fixed):
    """Guards each name: sabotaged (one is taken for a setting that can change), it is not in force and nobody says so."""
    given = {row.environment_name: a_value_for(row.environment_name, tmp_path)[0] for row in documented_rows()[1:]}
    running, wanted = load_settings({}, {}, None), load_settings(given, {}, None)

    assert set(restart_needed(running, wanted, processes=processes)) == fixed
    assert restart_needed(wanted, wanted, processes=processes) == []


def test_another_certificate_takes_no_restart(tmp_path):
    pem, other = tmp_path / "pem", tmp_path / "other"
    for path in (pem, other):
        path.write_text("a certificate")
    running, wanted = (
        load_settings({"TOLLKEEPER_PROXY__TLS_CERT": str(path), "TOLLKEEPER_PROXY__TLS_KEY": str(path)}, {}, None)
        for path in (pem, other)
    )

    assert restart_needed(running, wanted, processes=False) == []


def test_the_readme_names_what_takes_a_restart():
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    (told,) = [line for line in readme.splitlines() if "take a restart" in line]

    assert set(re.findall(r"`(TOLLKEEPER_\w+)`", told)) == {
        name.replace("__VLLM__", "__NAME__") for name in FIXED_IN_ONE_PROCESS
    }
