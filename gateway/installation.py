"""What an installation keeps in its data directory besides the ledger: the secret that everything is sealed with."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from gateway.keys import Secrets, new_secret
from gateway.settings import Settings

SECRET_FILE = "secret.key"  # noqa: S105  A file's name.


class SecretMissing(Exception):
    """There is a ledger, and the secret it was made with is gone; the message says what to do."""


def installation_secret(settings: Settings) -> str:
    """The secret of the settings, or the generated one in the data directory, made now if there is no ledger yet.

    Raises SecretMissing if there is one: with another secret no key in it would be recognised. A ledger in Postgres is
    not looked at here; it knows its secret's fingerprint, and whoever comes with another is refused there.
    """
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value()
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = settings.data_dir / SECRET_FILE
    if not path.exists():
        if settings.database_file is not None and settings.database_file.exists():
            raise SecretMissing(
                f"{path} is missing, and the ledger beside it was made with what it held: "
                "put it back, or give the secret as TOLLKEEPER_SECRET_KEY."
            )
        _make_secret(path)
    return path.read_text().strip()


def _make_secret(path: Path) -> None:
    """Put a new secret there, whole, unless another process was faster: a file that is there can be read at any moment."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent) as draft:
        draft.write(new_secret() + "\n")
        draft.flush()
        os.fsync(draft.fileno())
        with suppress(FileExistsError):
            os.link(draft.name, path)


def installation_secrets(settings: Settings) -> Secrets:
    """The keys derived from the installation's secret."""
    return Secrets.derived(installation_secret(settings))


def operator_key(settings: Settings) -> str:
    """The admin key of whoever can read the data directory."""
    return installation_secrets(settings).operator_key


def paths(settings: Settings) -> tuple[Path, Path]:
    """Where the spool and the snapshot are."""
    return settings.data_dir / "spool", settings.data_dir / "snapshot.json"


def inbox_directory(settings: Settings) -> Path:
    """Where what providers delivered waits for the applications."""
    return settings.data_dir / "inbox"


def doubts_directory(settings: Settings) -> Path:
    """Where workers say whose deliveries they could not verify."""
    return settings.data_dir / "doubts"


def counters_directory(settings: Settings) -> Path:
    """Where workers show what they have counted."""
    return settings.data_dir / "counters"
