"""How a tenant's applications are reached, and which of what a provider knows is a tenant's own. Pure."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import msgspec

URL_CHARACTERS_MAX = 2000
"""Providers take no longer ones either."""

ITEMS_MAX = 1000
"""Of numbers, services, subusers: a tenant with more has a subaccount."""

ANYBODY = "*"


class SubaccountSecret(msgspec.Struct, frozen=True):
    """What an account of a tenant's within the platform's signs with."""

    account: str
    sealed: str


class Integration(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a tenant's integration says; everything is optional. Raises NotAllowed from :func:`checked`."""

    sms_url: str | None = None
    """Where messages that come in are delivered to."""
    voice_url: str | None = None
    """What answers calls that come in, with TwiML."""
    voice_fallback_url: str | None = None
    """What answers them where `voice_url` does not."""
    status_url: str | None = None
    """Where status callbacks are delivered to that no call of the application's asked for."""
    events_url: str | None = None
    """Where SendGrid's events are delivered to."""
    inbound_url: str | None = None
    """Where mails that come in are delivered to."""
    phone_numbers: tuple[str, ...] = ()
    """The tenant's own, in E.164 form: what comes in at them, or goes out from them, is its use. No two tenants' alike."""
    twilio_messaging_services: tuple[str, ...] = ()
    twilio_subaccount: str | None = None
    """Its account within the platform's: its calls go there, and all that is in it is its use."""
    sendgrid_subuser: str | None = None
    sendgrid_categories: tuple[str, ...] = ()
    sendgrid_verification_key: str | None = None
    """The public key of the event webhook, base64 as SendGrid shows it."""
    openai_project: str | None = None
    on_behalf_of: tuple[str, ...] = ()
    """The subusers that its calls may speak for; `*` for any."""
    connected: str | None = None
    """What its numbers were before they were led here, sealed: URLs may hold secrets. Nobody sets it, and nobody is shown it."""
    subaccount_secret: SubaccountSecret | None = None
    """The gateway asks the provider for it. Nobody sets it, and nobody is shown it."""


OURS = frozenset({"connected", "subaccount_secret"})
"""The fields that the gateway keeps for itself."""


class NotAllowed(ValueError):
    """A value that an integration can not have: which, and why."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


_URLS = ("sms_url", "voice_url", "voice_fallback_url", "status_url", "events_url", "inbound_url")

_NUMBER = (re.compile(r"\+[1-9][0-9]{6,14}|[0-9]{3,8}"), "must be a number such as +12025550143, or a short code")
_NAME = (re.compile(r"[\x21-\x7e]{1,200}"), "must be 1 to 200 printable ASCII characters without spaces")
_FORMS = {
    "phone_numbers": _NUMBER,
    "twilio_messaging_services": (re.compile(r"MG[0-9a-f]{32}"), "must be MG and 32 hexadecimal digits"),
    "twilio_subaccount": (re.compile(r"AC[0-9a-f]{32}"), "must be AC and 32 hexadecimal digits"),
    "sendgrid_subuser": _NAME,
    "sendgrid_categories": (re.compile(r"[^\x00-\x1f\x7f]{1,255}"), "must be 1 to 255 characters of a line"),
    "sendgrid_verification_key": (
        re.compile(r"[A-Za-z0-9+/]{80,400}={0,2}"),
        "must be base64, as the provider shows it",
    ),
    "openai_project": _NAME,
    "on_behalf_of": _NAME,
}

EXCLUSIVE = (
    "phone_numbers",
    "twilio_messaging_services",
    "twilio_subaccount",
    "sendgrid_subuser",
    "sendgrid_categories",
    "sendgrid_verification_key",
    "openai_project",
)
"""What tells whose use something is: never two tenants' at once."""


def checked(integration: Integration) -> Integration:
    """The same, or NotAllowed for the first value that it can not have."""
    for field in _URLS:
        url = getattr(integration, field)
        if url is not None:
            _check_url(field, url)
    for field, (form, problem) in _FORMS.items():
        values = values_of(integration, field)
        if len(values) > ITEMS_MAX:
            raise NotAllowed(field, f"holds more than {ITEMS_MAX}")
        if not all(form.fullmatch(value) for value in values):
            raise NotAllowed(field, problem)
        if len(set(values)) != len(values):
            raise NotAllowed(field, "holds one twice")
    return integration


def values_of(integration: Integration, field: str) -> tuple[str, ...]:
    """What a field holds, whether it may hold one or many."""
    value = getattr(integration, field)
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _check_url(field: str, url: str) -> None:
    if len(url) > URL_CHARACTERS_MAX or not re.fullmatch(r"[\x21-\x7e]+", url) or "\\" in url:
        raise NotAllowed(field, f"must be a URL of up to {URL_CHARACTERS_MAX} characters without spaces")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - reading it is what checks it
    except ValueError:
        raise NotAllowed(field, "is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NotAllowed(field, "must begin with https:// or http:// and name a host")
    if "@" in parts.netloc or parts.fragment:
        raise NotAllowed(field, "must hold no user name, password or fragment")
