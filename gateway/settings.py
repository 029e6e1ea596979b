"""The settings: one frozen value, read at the start and at each reload, every problem with it reported together.

Layers, each over the one before: defaults, `tollkeeper.toml`, environment `TOLLKEEPER_…`, flags. A setting is declared
in one place, its field below; help, `config show` and the README's table follow from that.

Why not pydantic-settings: it ignores unknown environment names and missing files, and forgets which layer a value came
from, so the layering would be ours anyway. Why not plain pydantic for the values: it does not look at rules between two
fields while one field is wrong, so a report could not hold all problems; its messages would have to be reworded one by
one to name the cure; and it costs `--help` a tenth of a second. What is left is a handful of readers
(:mod:`gateway.setting_values`).
"""

# ruff: noqa: RUF009 - `setting` makes a dataclass field, as `field` does.

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from enum import Enum, StrEnum, auto
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeGuard, TypeVar

from gateway import setting_values as values_of
from gateway.limits import ClientLimits, UpstreamLimits
from gateway.setting_values import MASK, Secret, Wrong

if TYPE_CHECKING:
    from gateway.providers.api import Provider

T = TypeVar("T")

PREFIX: Final = "TOLLKEEPER_"

CONFIG_NAME: Final = "TOLLKEEPER_CONFIG"
"""Names the settings file. Not a setting: a file cannot name itself."""

CONFIG_FILE: Final = Path("tollkeeper.toml")
"""Read from the working directory if no other file is named, and if it is there."""

FLAGS: Final[Mapping[str, str]] = {
    "proxy.host": "--host",
    "proxy.port": "--port",
    "control.host": "--control-host",
    "control.port": "--control-port",
    "data_dir": "--data-dir",
    "durability": "--durability",
    "log_format": "--log-format",
    "workers": "--workers",
}
"""The settings that `serve` and `sandbox` take as flags as well."""

ADMIN_KEY_CHARACTERS_MIN: Final = 20
SECRET_KEY_CHARACTERS_MIN: Final = 32


class Problem(NamedTuple):
    """One thing that is wrong with the settings as they were given."""

    name: str
    """Of the setting, as its source spells it: an environment name, a key and its file, a flag."""
    wrong: str
    cure: str

    def __str__(self) -> str:
        return f"{self.name} {self.wrong}; {self.cure}."


class SettingsError(Exception):
    """The settings cannot be used. Holds all their problems, and no secret."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class Origin(StrEnum):
    """The layer that decided a setting."""

    DEFAULT = "default"
    FILE = "file"
    ENVIRONMENT = "environment"
    FLAG = "flag"


class Resolved(NamedTuple):
    """One setting as it is in force, for people to see."""

    name: str
    environment_name: str
    value: str | float | None
    """A secret is masked."""
    origin: Origin


class Described(NamedTuple):
    """One setting as the documentation shows it."""

    environment_name: str
    default: str
    description: str


# ---------------------------------------------------------------------------------------------------------------------
# The settings


class Reload(Enum):
    """What it takes for a change of a setting to be in force."""

    CALL = auto()
    """A new call."""
    PROCESS = auto()
    """A new process: reloading makes one, where there are several."""
    RESTART = auto()
    """A new gateway."""


def setting(
    read: Callable[[object], T],
    default: T,
    describes: str,
    *,
    unset: str = "",
    secret: bool = False,
    takes: Reload = Reload.CALL,
) -> T:
    """Declare one setting; `unset` says what no value leads to, `takes` what a change of it does."""
    told = {"read": read, "describes": describes, "unset": unset, "secret": secret, "takes": takes}
    return field(default=default, metadata=told)


class Durability(StrEnum):
    """What the record of a call survives once its client has the answer."""

    FLUSH = "flush"
    """The death of the process."""
    FSYNC = "fsync"
    """The death of the machine."""


class Unlisted(StrEnum):
    """What becomes of a call to a path that no endpoint lists."""

    FORWARD = "forward"
    DENY = "deny"


class OnDisconnect(StrEnum):
    """What becomes of an answer whose client has left."""

    DRAIN = "drain"
    """It is read to its end, without the client."""
    CANCEL = "cancel"


class StreamUsage(StrEnum):
    """Whether a stream whose client did not ask for its usage is asked for it."""

    INJECT = "inject"
    OFF = "off"
    """The provider refuses to be asked, or says it anyway."""


class Collect(StrEnum):
    """Whose lists are read at providers without being asked for."""

    OFF = "off"
    OWN = "own"
    """Of tenants that have a credential, a subaccount, a subuser or a project of their own."""
    ALL = "all"
    """Also what is on the platform's own accounts, told apart by tenants' integrations."""


class Reconcile(StrEnum):
    """When the ledger is held against providers' own figures without being asked for."""

    OFF = "off"
    NIGHTLY = "nightly"


class LogFormat(StrEnum):
    """How log lines are written."""

    AUTO = "auto"
    """As text on a terminal, else as JSON."""
    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    """The least level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


CLIENT: Final = ClientLimits()
UPSTREAM: Final = UpstreamLimits()
"""The defaults of the limits, which are declared where their reasons are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """The listener that applications call."""

    host: str = setting(values_of.host, "127.0.0.1", "Address the proxy listens on.", takes=Reload.RESTART)
    port: int = setting(
        values_of.port, 8080, "Port the proxy listens on; 0 lets the system choose.", takes=Reload.RESTART
    )
    tls_cert: Path | None = setting(
        values_of.file, None, "Certificate chain (PEM) of the proxy; together with its key.", unset="plain HTTP"
    )
    tls_key: Path | None = setting(
        values_of.file, None, "Private key (PEM) of the proxy; together with its certificate.", unset="plain HTTP"
    )
    connections_max: int = setting(
        values_of.count, CLIENT.connections_max, "Open connections of one worker; further ones are closed at once."
    )
    calls_max: int = setting(
        values_of.count, CLIENT.calls_max, "Calls under way in one worker; further ones get a 503 with Retry-After."
    )
    lag_max_s: float = setting(
        values_of.seconds,
        CLIENT.lag_max_s,
        "So far a worker may be behind with what has arrived; further behind, it answers new calls with such a 503. What providers tell is taken all the same.",
    )
    head_timeout_s: float = setting(
        values_of.seconds,
        CLIENT.head_timeout_s,
        "For the head of a request, first byte to last; it fits into a few packets.",
    )
    keepalive_timeout_s: float = setting(
        values_of.seconds,
        CLIENT.keepalive_timeout_s,
        "A client's connection without a call is closed after this, as common servers do.",
    )
    body_idle_timeout_s: float = setting(
        values_of.seconds, CLIENT.body_idle_timeout_s, "So long a request body that is awaited may pause."
    )
    body_rate_min: int = setting(
        values_of.count,
        CLIENT.body_rate_min,
        "Bytes a second, on average over such a time, at which a client must send its body and take its answer: "
        "less than a tenth of what a telephone modem gave.",
    )
    write_idle_timeout_s: float = setting(
        values_of.seconds,
        CLIENT.write_idle_timeout_s,
        "So long an answer may wait for its reader; then the connection ends and the call goes on.",
    )
    held_mib_max: int = setting(
        values_of.held_mib,
        CLIENT.held_mib_max,
        "So many MiB of request bodies over 64 KiB, of all tenants together, one worker holds until a provider has taken "
        "them, 8 at least, and of one tenant half of them; calls that would need more get such a 503.",
    )
    linger_s: float = setting(
        values_of.seconds,
        CLIENT.linger_s,
        "A client that is refused while it sends is listened to so long, so that it hears the refusal.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlSettings:
    """The listener of the control API."""

    host: str = setting(values_of.host, "127.0.0.1", "Address the control API listens on.", takes=Reload.RESTART)
    port: int = setting(
        values_of.port, 8081, "Port the control API listens on; 0 lets the system choose.", takes=Reload.RESTART
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainSettings:
    """What is granted to calls under way when the gateway stops, or a process of it is replaced."""

    delay_s: float = setting(
        values_of.delay,
        0.0,
        "When told to stop, so long calls are taken as before while `/readyz` says 503: for a load balancer to notice.",
    )
    timeout_s: float = setting(
        values_of.seconds,
        30.0,
        "So long calls under way, streams included, have to end; then they are cut and recorded.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """What is granted to providers, all of them."""

    connect_timeout_s: float = setting(
        values_of.seconds,
        UPSTREAM.connect_timeout_s,
        "For a connection to a provider, TLS and all: time enough to send lost packets again.",
    )
    first_byte_timeout_s: float = setting(
        values_of.seconds,
        UPSTREAM.first_byte_timeout_s,
        "For the head of an answer: models think for minutes, and SDKs give up after 600 s.",
    )
    idle_timeout_s: float = setting(
        values_of.seconds,
        UPSTREAM.idle_timeout_s,
        "So long a provider may pause within an answer, or in taking a request body. The whole may take any time.",
    )
    keepalive_timeout_s: float = setting(
        values_of.seconds,
        UPSTREAM.keepalive_timeout_s,
        "A connection unused for longer is not used again: the provider may be closing it just then.",
    )
    idle_connections_max: int = setting(
        values_of.count, UPSTREAM.idle_connections_max, "Unused connections that one worker keeps to each host."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSettings:
    """One provider, as this installation reaches it."""

    base_url: str
    """Without a slash at its end."""
    credential: Mapping[str, Secret] | None = None
    """Every one of the provider's credential fields, and the one that it may have besides; none where it takes calls without;
    or None where the platform has no account of its own there."""
    kind: str | None = None
    """Of a further provider, what it is compatible with; None for those that are built in."""
    stream_usage: StreamUsage = StreamUsage.INJECT
    list_prices: str | None = None
    """Whose list in the catalogue of models says what a further provider charges."""
    prices: Path | None = None
    """The file that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that an installation can decide, decided."""

    data_dir: Path = setting(
        values_of.directory,
        Path("tollkeeper-data"),
        "Directory of the spool, the SQLite ledger, the snapshot and the generated secrets.",
        takes=Reload.RESTART,
    )
    database_url: Secret | None = setting(
        values_of.database_url,
        None,
        "The ledger: postgresql://ROLE:PASSWORD@HOST/DATABASE, or sqlite:///ABSOLUTE/PATH.",
        unset="ledger.db in the data directory",
        secret=True,
        takes=Reload.RESTART,
    )
    database_migrate_url: Secret | None = setting(
        values_of.postgres_url,
        None,
        "The same Postgres database for the role that owns it and makes its tables.",
        unset="the same URL",
        secret=True,
        takes=Reload.RESTART,
    )
    proxy: ProxySettings = field(default_factory=ProxySettings)
    upstream: UpstreamSettings = field(default_factory=UpstreamSettings)
    control: ControlSettings = field(default_factory=ControlSettings)
    drain: DrainSettings = field(default_factory=DrainSettings)
    workers: int = setting(values_of.workers, 1, "Processes that share the proxy's port; more than one with Postgres.")
    admin_key: Secret | None = setting(
        values_of.secret(ADMIN_KEY_CHARACTERS_MIN),
        None,
        f"Key of the first admin, of at least {ADMIN_KEY_CHARACTERS_MIN} characters.",
        unset="generated, and printed once",
        secret=True,
        takes=Reload.PROCESS,
    )
    secret_key: Secret | None = setting(
        values_of.secret(SECRET_KEY_CHARACTERS_MIN),
        None,
        f"What keys and credentials are sealed with, of at least {SECRET_KEY_CHARACTERS_MIN} characters.",
        unset="generated into the data directory",
        secret=True,
        takes=Reload.RESTART,
    )
    durability: Durability = setting(
        values_of.one_of(Durability),
        Durability.FLUSH,
        "What the record of a call survives: flush, the death of the process; fsync, that of the machine.",
        takes=Reload.PROCESS,
    )
    unlisted: Unlisted = setting(
        values_of.one_of(Unlisted),
        Unlisted.FORWARD,
        "What becomes of a call to a path that no endpoint lists: forward or deny.",
    )
    on_disconnect: OnDisconnect = setting(
        values_of.one_of(OnDisconnect),
        OnDisconnect.DRAIN,
        "What becomes of an answer whose client has left: drain reads it to its end, cancel stops the call, whose use is then estimated.",
    )
    auto_create_tenants: bool = setting(
        values_of.switch, False, "Whether a service key that names a tenant which does not exist creates it."
    )
    public_url: str | None = setting(
        values_of.base_url,
        None,
        "Where providers reach this gateway's proxy: https://HOST, without a path. Callbacks and webhooks come by it.",
        unset="callbacks are not asked for, and what they would tell is polled",
    )
    callback_hosts: tuple[str, ...] = setting(
        values_of.hosts,
        (),
        "Hosts of applications that may be called though their addresses are not public, with commas between: HOST or HOST:PORT.",
        unset="none",
    )
    shared_reads: bool = setting(
        values_of.switch,
        False,
        "Whether callers on the platform's own credentials may read all that is in the account.",
    )
    collect: Collect = setting(
        values_of.one_of(Collect),
        Collect.OWN,
        "Whose messages, calls and mail are looked up in the providers' own lists, today's every 15 minutes and those of the "
        "week before every day: own, of tenants with an account of their own there; all, on the platform's accounts too; or off.",
    )
    reconcile: Reconcile = setting(
        values_of.one_of(Reconcile),
        Reconcile.NIGHTLY,
        "When the ledger is held against the providers' own figures without being asked for: nightly, for the seven days before; "
        "or off.",
    )
    reconcile_tolerance: str = setting(
        values_of.share,
        "0.5%",
        "The part of what a provider says that may be open after a reconciliation; more raises an alert.",
    )
    log_format: LogFormat = setting(
        values_of.one_of(LogFormat),
        LogFormat.AUTO,
        "json, text, or auto: text on a terminal, else json.",
        takes=Reload.PROCESS,
    )
    log_level: LogLevel = setting(
        values_of.one_of(LogLevel), LogLevel.INFO, "Least level that is logged: debug, info, warning or error."
    )
    providers: Mapping[str, ProviderSettings] = field(default_factory=dict)
    """By name; after :func:`load_settings`, every known provider is there."""

    config_file: Path | None = None
    """The settings file that was read, if one was."""
    resolved: tuple[Resolved, ...] = field(default=(), repr=False)
    """Every setting by itself, with the layer it came from."""

    @property
    def known_providers(self) -> tuple[Provider, ...]:
        """Every provider that calls can go to: those built in, and the further ones."""
        from gateway.providers import PROVIDERS, Kind, compatible  # noqa: PLC0415 - as in `_or_all`

        return PROVIDERS + tuple(
            compatible(name, Kind(one.kind), asks_for_usage=one.stream_usage is StreamUsage.INJECT)
            for name, one in self.providers.items()
            if one.kind is not None
        )

    @property
    def platform_accounts(self) -> dict[str, str]:
        """The accounts that the platform's own credentials are of, by the field of an integration that could name one."""
        found = {}
        for provider in self.known_providers:
            credential = self.providers[provider.name].credential or {}
            account = credential.get(provider.account_field or "")
            if account is not None and provider.account_of is not None:
                found[provider.account_of] = account.get_secret_value()
        return found

    @property
    def client_limits(self) -> ClientLimits:
        """What one worker grants to its clients."""
        return ClientLimits(**{one.name: getattr(self.proxy, one.name) for one in fields(ClientLimits)})

    @property
    def upstream_limits(self) -> UpstreamLimits:
        """What one worker grants to providers."""
        return UpstreamLimits(**asdict(self.upstream))

    @property
    def database_file(self) -> Path | None:
        """The SQLite file of the ledger; None where Postgres keeps it."""
        if self.database_url is None:
            return self.data_dir / "ledger.db"
        return (
            None if _is_postgres(self.database_url) else values_of.database_file(self.database_url.get_secret_value())
        )

    @property
    def postgres_url(self) -> str | None:
        """The Postgres database of the ledger, for the role that uses it; None where SQLite keeps it."""
        return self.database_url.get_secret_value() if _is_postgres(self.database_url) else None

    @property
    def postgres_owner_url(self) -> str | None:
        """The same for the role that may change its schema."""
        owner = self.database_migrate_url
        return self.postgres_url if owner is None else owner.get_secret_value()


def described(providers: Sequence[Provider] | None = None, further: Sequence[str] = ("NAME",)) -> list[Described]:
    """Every setting in the order of the documentation, after the name of the settings file. `further` are the names of
    further providers; without any providers there are none of these either."""
    rows = [Described(CONFIG_NAME, str(CONFIG_FILE), "Settings file (TOML); the default is read if it is there.")]
    for known in _known(_or_all(providers), further if providers is None else ()).values():
        default = known.unset if known.default in (None, ()) else written(_plain(known.default))
        rows.append(Described(environment_name(known.name), default, known.describes))
    return rows


def restart_needed(running: Settings, wanted: Settings, *, processes: bool) -> list[str]:
    """The environment names of the settings that differ and can not change in a gateway that runs, with or without
    processes that can be replaced."""
    needing = {Reload.RESTART} if processes else {Reload.RESTART, Reload.PROCESS}
    names = [known.name for known in _declared(Settings, "") if known.takes in needing]
    names = [name for name in names if attrgetter(name)(running) != attrgetter(name)(wanted)]
    if not processes and (running.proxy.tls_cert is None) != (wanted.proxy.tls_cert is None):
        names += ["proxy.tls_cert", "proxy.tls_key"]
    if not processes:
        # Prices are compiled when the process that rates begins.
        unknown = ProviderSettings(base_url="")
        names += [
            f"providers.{provider}.{name}"
            for provider in {**running.providers, **wanted.providers}
            for name in ("list_prices", "prices")
            if getattr(running.providers.get(provider, unknown), name)
            != getattr(wanted.providers.get(provider, unknown), name)
        ]
    return [environment_name(name) for name in names]


def environment_name(name: str) -> str:
    """The environment name of a setting: `proxy.port` is `TOLLKEEPER_PROXY__PORT`."""
    return PREFIX + name.replace(".", "__").upper()


def load_settings(
    environment: Mapping[str, str],
    flags: Mapping[str, object],
    config_file: Path | None,
    providers: Sequence[Provider] | None = None,
) -> Settings:
    """Read the settings out of all their layers; raises SettingsError with every problem there is.

    Flags are keyed by the setting's name (`proxy.port`). A flag that is None is not given, and so is an empty value in
    the environment: that is what compose files make of a variable that is not set.
    """
    providers = _or_all(providers)
    problems: list[Problem] = []
    read_from, entries = _read_file(environment, config_file, _known(providers), problems)
    layers = (
        _Layer(Origin.FILE, entries, spell=str, label=f"{{}} in {read_from}"),
        _Layer(Origin.ENVIRONMENT, _of_ours(environment), spell=environment_name, label="{}"),
        _Layer(Origin.FLAG, {name: value for name, value in flags.items() if value is not None}, spell=str, label="{}"),
    )
    further = _further(layers, providers, problems)
    known = _known(providers, further)
    given: dict[str, _Given] = {}
    for layer in layers:
        given |= layer.read(known, problems)

    values: dict[str, Any] = {}
    for name, one in known.items():
        try:
            values[name] = one.read(given[name].value) if name in given else one.default
        except Wrong as error:
            problems.append(Problem(given[name].label, error.wrong, error.cure))
        except OSError as error:
            problems.append(Problem(given[name].label, f"cannot be looked at ({error.strerror})", "give another path"))
    problems.extend(_contradictions(values, given, providers, further))
    if problems:
        raise SettingsError(problems)
    return _built(
        Settings,
        values,
        providers={provider.name: _provider_settings(provider, values) for provider in providers}
        | {name: _further_settings(name, values) for name in further},
        config_file=read_from,
        resolved=tuple(
            Resolved(
                name,
                environment_name(name),
                MASK if one.secret and values[name] is not None else _plain(values[name]),
                given[name].origin if name in given else Origin.DEFAULT,
            )
            for name, one in known.items()
        ),
    )


# ---------------------------------------------------------------------------------------------------------------------
# What there is to set


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """One setting, as declared."""

    name: str
    """Dotted: `proxy.port`."""
    default: object
    read: Callable[[object], object]
    describes: str
    unset: str = ""
    secret: bool = False
    takes: Reload = Reload.CALL


def _known(providers: Iterable[Provider], further: Iterable[str] = ()) -> dict[str, _Known]:
    """Every setting by its dotted name: those declared above, and what each provider asks for."""
    found = list(_declared(Settings, ""))
    for provider in providers:
        prefix = f"providers.{provider.name}."
        found.append(
            _Known(
                name=prefix + "base_url",
                default=provider.base_url,
                read=values_of.base_url,
                describes=f"Where {provider.name} is reached; without a version such as /v1.",
            )
        )
        found.extend(
            _Known(
                name=prefix + credential_field,
                default=None,
                read=values_of.secret(1),
                describes=f"The platform's own {credential_field} at {provider.name}.",
                unset="none: tenants bring their own",
                secret=True,
            )
            for credential_field in provider.credential_fields
        )
        if provider.lists_field is not None:
            found.append(
                _Known(
                    name=prefix + provider.lists_field,
                    default=None,
                    read=values_of.secret(1),
                    describes=f"The platform's own {provider.lists_field} at {provider.name}, which reads what was used and "
                    "what that cost, and is sent for nothing else.",
                    unset="none: what was used there can not be read",
                    secret=True,
                )
            )
    for name in further:
        found.extend(_known_of_further(name))
    return {known.name: known for known in found}


def _known_of_further(name: str) -> Iterator[_Known]:
    from gateway.providers import Kind  # noqa: PLC0415 - as in `_or_all`

    prefix = f"providers.{name}."
    yield _Known(
        name=prefix + "kind",
        default=None,
        read=values_of.one_of(Kind),
        describes=f"Makes {name} a further provider, and says what it is compatible with: {' or '.join(Kind)}.",
        unset="no such provider",
    )
    yield _Known(
        name=prefix + "base_url",
        default=None,
        read=values_of.base_url,
        describes=f"Where {name} is reached; without a version such as /v1.",
        unset="needed beside its kind",
    )
    yield _Known(
        name=prefix + "api_key",
        default=None,
        read=values_of.secret(1),
        describes=f"The platform's own api_key at {name}.",
        unset="none: calls go without, or tenants bring their own",
        secret=True,
    )
    yield _Known(
        name=prefix + "stream_usage",
        default=StreamUsage.INJECT,
        read=values_of.one_of(StreamUsage),
        describes="Whether a streamed chat that does not ask for its usage is made to: inject, or off where the provider "
        "refuses that or says it anyway.",
    )
    yield _Known(
        name=prefix + "list_prices",
        default=None,
        read=values_of.text,
        describes=f"What {name} charges: the list of this provider in genai-prices, such as groq, openrouter or azure.",
        unset="none: the cost is not known",
        takes=Reload.PROCESS,
    )
    yield _Known(
        name=prefix + "prices",
        default=None,
        read=values_of.file,
        describes=f"What {name} charges: a file of prices, which go before those of the list.",
        unset="none",
        takes=Reload.PROCESS,
    )


PROVIDER_NAME: Final = re.compile(r"(?=.{1,32}$)[a-z][a-z0-9]*(?:_[a-z0-9]+)*")
"""What a further provider may be called: it stands in paths, in environment names, in scopes and in the ledger."""

NAMES_TAKEN: Final = frozenset({"webhooks", "healthz", "system"})
"""Routes and sources of the gateway's own."""


def _further(layers: Iterable[_Layer], providers: Iterable[Provider], problems: list[Problem]) -> list[str]:
    """The names of the further providers: those that any layer gives a kind."""
    taken = NAMES_TAKEN | {provider.name for provider in providers}
    found: dict[str, None] = {}
    for layer in layers:
        for entry in layer.entries:
            dotted = entry.removeprefix(PREFIX).lower().replace("__", ".") if entry.startswith(PREFIX) else entry
            named = re.fullmatch(r"providers\.(.+)\.kind", dotted, re.DOTALL)
            if named is None or layer.spell(dotted) != entry or named[1] in found:
                continue
            name = named[1]
            found[name] = None
            label = layer.label.format(entry)
            if not PROVIDER_NAME.fullmatch(name):
                cure = "use up to 32 small letters and digits, with single underscores between them, a letter first"
                problems.append(Problem(label, "gives a provider a name that can not stand in a path", cure))
            elif name in taken:
                problems.append(Problem(label, f"gives a provider a name that is taken: {name}", "choose another"))
    return list(found)


def _declared(section: type[Any], prefix: str) -> Iterator[_Known]:
    for one in fields(section):
        if "read" in one.metadata:
            yield _Known(name=prefix + one.name, default=one.default, **one.metadata)
        elif is_dataclass(one.default_factory):
            yield from _declared(one.default_factory, f"{prefix}{one.name}.")


def _built(section: type[T], values: Mapping[str, Any], prefix: str = "", **others: object) -> T:
    """A section of the settings out of values by dotted name; `others` are its fields that are no settings."""
    arguments = dict(others)
    for one in fields(section):  # type: ignore[arg-type]  # every section is a dataclass
        if "read" in one.metadata:
            arguments[one.name] = values[prefix + one.name]
        elif is_dataclass(one.default_factory):
            arguments[one.name] = _built(one.default_factory, values, f"{prefix}{one.name}.")
    return section(**arguments)


def _provider_settings(provider: Provider, values: Mapping[str, Any]) -> ProviderSettings:
    prefix = f"providers.{provider.name}."
    credential = {name: values[prefix + name] for name in provider.credential_fields}
    whole = None not in credential.values()
    if provider.lists_field is not None and values[prefix + provider.lists_field] is not None:
        credential[provider.lists_field] = values[prefix + provider.lists_field]
    return ProviderSettings(base_url=values[prefix + "base_url"], credential=credential if whole else None)


def _further_settings(name: str, values: Mapping[str, Any]) -> ProviderSettings:
    prefix = f"providers.{name}."
    key = values[prefix + "api_key"]
    return ProviderSettings(
        credential={} if key is None else {"api_key": key},
        **{field: values[prefix + field] for field in ("base_url", "kind", "stream_usage", "list_prices", "prices")},
    )


def _or_all(providers: Sequence[Provider] | None) -> Sequence[Provider]:
    if providers is not None:
        return providers
    # The providers' decoders take a while to import, and most of the command line's help does without them.
    from gateway.providers import PROVIDERS  # noqa: PLC0415

    return PROVIDERS


def written(value: str | float | None) -> str:
    """A value as one would write it in the environment: nothing for none."""
    if value is None:
        return ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: object) -> str | float | None:
    if isinstance(value, tuple):
        return ",".join(value)
    return value if isinstance(value, int | float) or value is None else str(value)


# ---------------------------------------------------------------------------------------------------------------------
# Layers


class _Given(NamedTuple):
    """A value as one layer gave it."""

    value: object
    label: str
    origin: Origin


class _Layer(NamedTuple):
    """One source of settings, and how it spells their names."""

    origin: Origin
    entries: Mapping[str, object]
    spell: Callable[[str], str]
    label: str
    """What people call an entry of it, with `{}` for the entry's name."""

    def read(self, known: Mapping[str, _Known], problems: list[Problem]) -> dict[str, _Given]:
        """What this layer says, by dotted name. Names that mean nothing are problems, and so are secrets given twice."""
        names = {self.spell(name): name for name in known}
        names_of_files = {self.spell(f"{name}_file"): name for name, one in known.items() if one.secret}
        given: dict[str, _Given] = {}
        for entry, value in self.entries.items():
            label = FLAGS.get(entry, entry) if self.origin is Origin.FLAG else self.label.format(entry)
            if entry in names:
                given[names[entry]] = _Given(value, label, self.origin)
            elif entry not in names_of_files:
                problems.append(_unknown(label, entry, [*names, *names_of_files]))
            elif (other := self.spell(names_of_files[entry])) in self.entries:
                problems.append(Problem(label, f"is given, and so is {other}", "keep one of the two"))
            else:
                try:
                    given[names_of_files[entry]] = _Given(values_of.secret_in_file(value), label, self.origin)
                except Wrong as error:
                    problems.append(Problem(label, error.wrong, error.cure))
        return given


_PROVIDER_SECTION = re.compile(r"(?:TOLLKEEPER_PROVIDERS__|providers\.)(\w+?)(?:__|\.)")


def _unknown(label: str, entry: str, names: Sequence[str]) -> Problem:
    inside = [name for name in names if name.startswith((f"{entry}.", f"{entry}__"))]
    if inside:
        return Problem(label, "is a section and has no value itself", f"set what is in it, such as {inside[0]}")
    # Imported here because most runs have no such problem.
    from difflib import get_close_matches  # noqa: PLC0415

    # Compared without the prefix that all share, which would make every name near.
    tails = {name.removeprefix(PREFIX).lower(): name for name in names}
    near = get_close_matches(entry.removeprefix(PREFIX).lower(), tails, n=1, cutoff=0.8)
    section = _PROVIDER_SECTION.match(entry)
    if section is not None:
        known = {found[1] for name in names if (found := _PROVIDER_SECTION.match(name))}
        if not get_close_matches(section[1], known, n=1):
            kind = section[0] + ("kind" if section[0].endswith(".") else "KIND")
            return Problem(label, "is no setting", f"if it is of a further provider, give {kind} as well")
    cure = (
        f"perhaps {tails[near[0]]} was meant"
        if near
        else "remove it; `tollkeeper config show` lists the names there are"
    )
    return Problem(label, "is no setting", cure)


# Kubernetes tells every pod the addresses of the services around it. Those of a service called `tollkeeper` have the
# first two forms; those of services called `tollkeeper-control`, say, the others.
SERVICE_LINK = re.compile(
    r"TOLLKEEPER_(PORT.*|SERVICE_.*|\w+_SERVICE_(HOST|PORT(_\w+)?)|\w+_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)
SERVICE_LINK_PORT = re.compile(r"(tcp|udp|sctp)://\S+")


def _of_ours(environment: Mapping[str, str]) -> dict[str, object]:
    """The environment as far as it is meant for us, without what is empty."""
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(PREFIX) and name != CONFIG_NAME and value and not _is_service_link(name, value)
    }


def _is_service_link(name: str, value: str) -> bool:
    return bool(SERVICE_LINK.fullmatch(name) or (name.endswith("_PORT") and SERVICE_LINK_PORT.fullmatch(value)))


def _read_file(
    environment: Mapping[str, str], config_file: Path | None, known: Iterable[str], problems: list[Problem]
) -> tuple[Path | None, dict[str, object]]:
    """The settings file and its entries by dotted name; (None, nothing) if there is none."""
    if config_file is not None:
        label, path = "--config", config_file
    elif environment.get(CONFIG_NAME):
        label, path = CONFIG_NAME, Path(environment[CONFIG_NAME])
    else:
        label, path = str(CONFIG_FILE), CONFIG_FILE
    sections = {"providers"} | {name.rpartition(".")[0] for name in known}
    try:
        return path, dict(_flattened(tomllib.loads(path.read_text("utf-8")), "", sections))
    except FileNotFoundError:
        if path is not CONFIG_FILE:
            problems.append(
                Problem(label, f"names a file that is not there: {path}", "correct the path, or leave it out")
            )
    except OSError as error:
        problems.append(Problem(label, f"cannot be read ({error.strerror}): {path}", "make it a file that can be read"))
    except UnicodeDecodeError:
        problems.append(Problem(str(path), "is not text in UTF-8", "save it as UTF-8"))
    except tomllib.TOMLDecodeError as error:
        problems.append(Problem(str(path), f"is not TOML: {error}", "correct it there"))
    return None, {}


def _flattened(table: Mapping[str, object], prefix: str, sections: set[str]) -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        name = prefix + key
        if isinstance(value, dict) and (value or name in sections):
            yield from _flattened(value, f"{name}.", sections)
        else:
            yield name, value


# ---------------------------------------------------------------------------------------------------------------------
# Rules between settings


def _contradictions(
    values: Mapping[str, Any], given: Mapping[str, _Given], providers: Iterable[Provider], further: Iterable[str]
) -> Iterator[Problem]:
    """What is wrong between settings that are each right by themselves; those that are not are not in `values`."""
    groups: list[tuple[str, ...]] = [("proxy.tls_cert", "proxy.tls_key")]
    groups += [
        tuple(f"providers.{provider.name}.{name}" for name in provider.credential_fields) for provider in providers
    ]
    for group in groups:
        present = [given[name].label for name in group if name in given]
        missing = [environment_name(name) for name in group if name not in given]
        if present and missing:
            yield Problem(
                " and ".join(present),
                f"cannot be used without {' and '.join(missing)}",
                "give them together, or not at all",
            )

    for provider in providers:
        name = f"providers.{provider.name}.{provider.lists_field}"
        missing = [field for field in provider.credential_fields if f"providers.{provider.name}.{field}" not in given]
        if provider.lists_field is not None and name in given and missing:
            other = environment_name(f"providers.{provider.name}.{missing[0]}")
            yield Problem(given[name].label, f"cannot be used without {other}", "give them together, or not at all")

    for name in sorted(set(further) - {provider.name for provider in providers}):
        base_url = f"providers.{name}.base_url"
        if base_url not in given:
            label = given[f"providers.{name}.kind"].label
            yield Problem(label, "needs to be told where that is", f"give {environment_name(base_url)} as well")

    host, other_host = values.get("proxy.host"), values.get("control.host")
    port, other_port = values.get("proxy.port"), values.get("control.port")
    if port and port == other_port and (host == other_host or {"0.0.0.0", "::"} & {host, other_host}):  # noqa: S104
        label = next(given[name].label for name in ("control.port", "proxy.port") if name in given)
        yield Problem(label, f"makes the proxy and the control API share port {port}", "give each a port of its own")

    if "database_url" in values and not _is_postgres(values["database_url"]):
        cure = f"give a Postgres database in {environment_name('database_url')}"
        if values.get("workers", 1) > 1:
            wrong = f"is {values['workers']}, but the ledger is SQLite, which has one process"
            yield Problem(given["workers"].label, wrong, f"give 1, or {cure}")
        if values.get("database_migrate_url") is not None:
            label = given["database_migrate_url"].label
            yield Problem(
                label, "names the owner of a Postgres database, but the ledger is SQLite", f"leave it out, or {cure}"
            )


def _is_postgres(url: Secret | None) -> TypeGuard[Secret]:
    return url is not None and values_of.POSTGRES.match(url.get_secret_value()) is not None
