"""What a request to the simulated `/v3/mail/send` asks to be sent: read, counted, and held to the API's rules. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gateway.simulator.sendgrid_asked import HELP, KINDS, ApiError, Problem, is_address, wrong_type

PERSONALIZATIONS_MAX = 1000
RECIPIENTS_MAX = 1000
REPLY_TOS_MAX = 1000
CATEGORIES_MAX, CATEGORY_CHARACTERS_MAX = 10, 255
CUSTOM_ARGS_BYTES_MAX = 10_000
SCHEDULED_S_MAX = 72 * 3600
LISTED_MAX = 1001
"""No array is read any further than this, which is one more than any may have."""
PROBLEMS_MAX = 100
"""So many errors an answer tells at most."""

TEMPLATE_ID = re.compile(r"d-[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

NO_PERSONALIZATION = "The personalizations field is required and must have at least one personalization."
TOO_MANY_PERSONALIZATIONS = (
    "The personalization block is limited to 1000 personalizations per API request. You have provided {count} "
    "personalizations. Please consider splitting this into multiple requests and resending your request."
)
NO_TO = (
    "The to array is required for all personalization objects, and must have at least one email object with a valid "
    "email address."
)
EMPTY = "The {name} array, when used, must at least have an email parameter with a valid email address."
TOO_MANY_RECIPIENTS = "There is a limit of 1000 total recipients (to + cc + bcc) per request."
DUPLICATE = (
    "Each email address in the personalization block should be unique between to, cc, and bcc. We found the first "
    "duplicate instance of [{email}] in the {field} field."
)
NO_ADDRESS = "Does not contain a valid address."
NO_FROM = (
    "The from object must be provided for every email send. It is an object that requires the email parameter, but may "
    'also contain a name parameter.  e.g. {"email" : "example@example.com"}  or {"email" : "example@example.com", '
    '"name" : "Example Recipient"}.'
)
NO_SUBJECT = (
    "The subject is required. You can get around this requirement if you use a template with a subject defined or if "
    "every personalization has a subject defined."
)
NO_CONTENT = (
    "Unless a valid template_id is provided, the content parameter is required. There must be at least one defined "
    "content block. We typically suggest both text/plain and text/html blocks are included, but only one block is "
    "required."
)
EMPTY_TEXT = "The {name} must be a string at least one character in length."
CONTENT_ORDER = "If present, text/plain must be first, followed by text/html, followed by any other content."
NO_BASE64 = "The attachment content must be base64 encoded."
TOO_LATE = "Scheduling more than 72 hours in advance is forbidden."
NO_TEMPLATE_ID = "The template_id must be a valid GUID, you provided '{given}'."
TEMPLATE_NEEDED = "The template_id is required when using dynamic templates"
NO_SUBSTITUTIONS = "Substitutions may not be used with dynamic templating"


class Part(NamedTuple):
    """A personalization: the same mail to each of these."""

    recipients: tuple[str, ...]
    """To, cc and bcc."""
    sender: str
    subject: str
    send_at: int | None
    custom_args: Mapping[str, str]


class Mail(NamedTuple):
    """A request that can be sent."""

    parts: tuple[Part, ...]
    sandbox: bool
    """True where it is only to be checked."""
    template_id: str | None
    batch_id: str | None
    categories: tuple[str, ...]
    group_id: int | None
    """The unsubscribe group."""

    @property
    def recipients(self) -> int:
        return sum(len(part.recipients) for part in self.parts)


def read_mail(body: Mapping[str, Any], now: float) -> Mail:
    """Read it. Raises ApiError with everything that is wrong with it."""
    reader = MailReader(now)
    mail = reader.mail(body)
    if reader.problems:
        raise ApiError(400, *reader.problems)
    return mail


class MailReader:
    """Reads one mail, and notes what is wrong with it. What it returns is good if it has noted nothing."""

    def __init__(self, now: float) -> None:
        self._now = now
        self.problems: list[Problem] = []

    def note(self, message: str, field: str, anchor: str | None = None) -> None:
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(message, field, HELP + (anchor or anchor_of(field))))

    def value(self, holder: Mapping[str, Any], name: str, kind: str, at: str = "") -> Any:
        """A field of this type; None where there is none, or where it is of another."""
        return self.item(holder[name], kind, at + name) if name in holder else None

    def item(self, value: object, kind: str, field: str) -> Any:
        if KINDS[type(value)] == kind:
            return value
        problem = wrong_type(value, kind, field)
        self.note(problem.message, field)
        return None

    def items(self, holder: Mapping[str, Any], name: str, kind: str, at: str = "") -> list[tuple[str, Any]]:
        """The entries of an array that are of this type, each after its path."""
        values = (self.value(holder, name, "array", at) or [])[:LISTED_MAX]
        found = [(f"{at}{name}.{index}", value) for index, value in enumerate(values)]
        return [(field, value) for field, value in found if self.item(value, kind, field) is not None]

    def mail(self, body: Mapping[str, Any]) -> Mail:
        template_id = self.template_id(body)
        dynamic = template_id is not None and template_id.startswith("d-")
        sender = self.sender(body)
        subject = self.value(body, "subject", "string")
        send_at = self.send_at(body)
        custom_args = self.texts(body, "custom_args")
        listed = self.personalizations(body)
        own = [
            self.part(part, f"{field}.", Part((), sender or "", subject or "", send_at, custom_args), dynamic=dynamic)
            for field, part in listed
        ]
        if sum(len(part.recipients) for part in own) > RECIPIENTS_MAX:
            self.note(TOO_MANY_RECIPIENTS, "personalizations", "message.recipient-errors")
        if "from" not in body and not (own and all(part.sender for part in own)):
            self.note(NO_FROM, "from.email")
        if not template_id and not subject and not (own and all(part.subject for part in own)):
            self.note(NO_SUBJECT, "subject")
        if not dynamic and any("dynamic_template_data" in part for _, part in listed):
            self.note(TEMPLATE_NEEDED, "template_id")
        self.content(body, required=template_id is None)
        self.attachments(body)
        self.reply_tos(body)
        for name in ("tracking_settings", "sections"):
            self.value(body, name, "object")
        self.texts(body, "headers")
        self.value(body, "ip_pool_name", "string")
        return Mail(
            parts=tuple(own),
            sandbox=self.sandbox(body),
            template_id=template_id,
            batch_id=self.value(body, "batch_id", "string"),
            categories=self.categories(body),
            group_id=self.group_id(body),
        )

    def personalizations(self, body: Mapping[str, Any]) -> list[tuple[str, Any]]:
        if not body.get("personalizations", ()):
            self.note(NO_PERSONALIZATION, "personalizations", "-Personalizations-Errors")
            return []
        given = body["personalizations"]
        if isinstance(given, list) and len(given) > PERSONALIZATIONS_MAX:
            message = TOO_MANY_PERSONALIZATIONS.format(count=len(given))
            self.note(message, "personalizations", "-Personalizations-Errors")
            return []
        return self.items(body, "personalizations", "object")

    def part(self, part: Mapping[str, Any], at: str, whole: Part, *, dynamic: bool) -> Part:
        """A personalization; what it does not say, it has from the whole mail."""
        recipients: list[str] = []
        seen: set[str] = set()
        duplicate = None
        for name in ("to", "cc", "bcc"):
            if name == "to" and not part.get("to", ()):
                self.note(NO_TO, f"{at}to")
                continue
            if part.get(name) == []:
                self.note(EMPTY.format(name=name), at + name)
            for field, address in self.items(part, name, "object", at):
                email = self.address(address, field)
                if email is None:
                    continue
                if email.lower() in seen and duplicate is None:
                    duplicate = DUPLICATE.format(email=email, field=at + name)
                    self.note(duplicate, at[:-1], "message.recipient-errors")
                seen.add(email.lower())
                recipients.append(email)
        if dynamic and "substitutions" in part:
            self.note(NO_SUBSTITUTIONS, f"{at}substitutions")
        self.texts(part, "substitutions", at)
        self.texts(part, "headers", at)
        self.value(part, "dynamic_template_data", "object", at)
        subject = self.value(part, "subject", "string", at)
        if subject == "":
            self.note(EMPTY_TEXT.format(name="subject"), f"{at}subject")
        send_at = self.send_at(part, at)
        return Part(
            recipients=tuple(recipients),
            sender=self.sender(part, at) or whole.sender,
            subject=subject or whole.subject,
            send_at=whole.send_at if send_at is None else send_at,
            custom_args={**whole.custom_args, **self.texts(part, "custom_args", at)},
        )

    def address(self, address: Mapping[str, Any], field: str, wrong: str = NO_ADDRESS) -> str | None:
        email: str = address.get("email", "")
        self.value(address, "name", "string", f"{field}.")
        if not is_address(email):
            self.note(wrong, f"{field}.email")
            return None
        return email

    def sender(self, holder: Mapping[str, Any], at: str = "") -> str | None:
        address = self.value(holder, "from", "object", at)
        if address is None:
            return None
        return self.address(address, f"{at}from", "The from email does not contain a valid address.")

    def reply_tos(self, body: Mapping[str, Any]) -> None:
        wrong = "The reply_to email does not contain a valid address."
        if (address := self.value(body, "reply_to", "object")) is not None:
            self.address(address, "reply_to", wrong)
        if "reply_to" in body and "reply_to_list" in body:
            self.note("You may not set both reply_to and reply_to_list.", "reply_to_list")
        listed = self.items(body, "reply_to_list", "object")
        if len(listed) > REPLY_TOS_MAX:
            self.note(f"The reply_to_list is limited to {REPLY_TOS_MAX} addresses.", "reply_to_list")
        for field, address in listed:
            self.address(address, field, wrong)

    def send_at(self, holder: Mapping[str, Any], at: str = "") -> int | None:
        moment: int | None = self.value(holder, "send_at", "integer", at)
        if moment is not None and moment > self._now + SCHEDULED_S_MAX:
            self.note(TOO_LATE, f"{at}send_at")
            return None
        return moment

    def template_id(self, body: Mapping[str, Any]) -> str | None:
        given: str | None = self.value(body, "template_id", "string")
        if given is not None and not TEMPLATE_ID.fullmatch(given):
            self.note(NO_TEMPLATE_ID.format(given=given), "template_id")
            return None
        return given

    def content(self, body: Mapping[str, Any], *, required: bool) -> None:
        if required and not body.get("content", ()):
            self.note(NO_CONTENT, "content")
            return
        kinds: list[str] = []
        for field, block in self.items(body, "content", "object"):
            for name in ("type", "value"):
                if not block.get(name, ""):
                    self.note(EMPTY_TEXT.format(name=f"content {name}"), f"{field}.{name}")
                else:
                    self.value(block, name, "string", f"{field}.")
            kinds.append(str(block.get("type")).lower())
        order = ("text/plain", "text/html")
        ranks = [order.index(kind) if kind in order else len(order) for kind in kinds]
        if ranks != sorted(ranks) or any(kinds.count(kind) > 1 for kind in order):
            self.note(CONTENT_ORDER, "content")

    def attachments(self, body: Mapping[str, Any]) -> None:
        for field, attachment in self.items(body, "attachments", "object"):
            for name in ("content", "filename"):
                if not attachment.get(name, ""):
                    self.note(EMPTY_TEXT.format(name=f"attachment {name}"), f"{field}.{name}")
            content = self.value(attachment, "content", "string", f"{field}.")
            if content and not is_base64(content):
                self.note(NO_BASE64, f"{field}.content")
            for name in ("filename", "type", "disposition", "content_id"):
                self.value(attachment, name, "string", f"{field}.")

    def categories(self, body: Mapping[str, Any]) -> tuple[str, ...]:
        categories = self.items(body, "categories", "string")
        if len(categories) > CATEGORIES_MAX:
            self.note(f"There is a limit of {CATEGORIES_MAX} categories per request.", "categories")
        for field, category in categories:
            if len(category) > CATEGORY_CHARACTERS_MAX:
                self.note(f"A category is limited to {CATEGORY_CHARACTERS_MAX} characters.", field)
        return tuple(category for _, category in categories)

    def texts(self, holder: Mapping[str, Any], name: str, at: str = "") -> dict[str, str]:
        """An object all of whose values are strings."""
        values = self.value(holder, name, "object", at) or {}
        for key, value in values.items():
            self.item(value, "string", f"{at}{name}.{key}")
        if name == "custom_args" and sum(len(key) + len(str(value)) for key, value in values.items()) > (
            CUSTOM_ARGS_BYTES_MAX
        ):
            self.note(f"The custom_args are limited to {CUSTOM_ARGS_BYTES_MAX} bytes.", at + name)
        return values

    def group_id(self, body: Mapping[str, Any]) -> int | None:
        asm = self.value(body, "asm", "object")
        if asm is None:
            return None
        if "group_id" not in asm:
            self.note("The asm group_id is required and must be an integer.", "asm.group_id")
        group_id: int | None = self.value(asm, "group_id", "integer", "asm.")
        return group_id

    def sandbox(self, body: Mapping[str, Any]) -> bool:
        settings = self.value(body, "mail_settings", "object") or {}
        mode = self.value(settings, "sandbox_mode", "object", "mail_settings.") or {}
        return self.value(mode, "enable", "boolean", "mail_settings.sandbox_mode.") is True


def anchor_of(field: str) -> str:
    """Where the API's own list of errors tells of a field."""
    names: Sequence[str] = [name for name in field.split(".") if not name.isdigit()]
    return "message." + ".".join(names[:-1] if names[-1] == "email" else names)


def is_base64(content: str) -> bool:
    try:
        base64.b64decode(content.replace("\r", "").replace("\n", ""), validate=True)
    except ValueError:
        return False
    return True
