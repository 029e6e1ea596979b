"""What an installation keeps in its data directory besides the ledger: the secret that everything is sealed with."""

from __future__ import annotations

import os
from pathlib import Path

from gateway.keys import Secrets, new_secret
from gateway.settings import Settings

SECRET_FILE = "secret.key"  # noqa: S105  A file's name.


def installation_secret(settings: Settings) -> str:
    """The secret of the settings, or the generated one in the data directory, made now if there is none."""
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value()
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = settings.data_dir / SECRET_FILE
    if not path.exists():
        _make_secret(path)
    return path.read_text().strip()


def _make_secret(path: Path) -> None:
    """Put a new secret there, whole, unless another process was faster: a file that is there can be read at any moment."""
    draft = path.with_suffix(f".{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        file.write(new_secret() + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        return
    finally:
        draft.unlink()


def installation_secrets(settings: Settings) -> Secrets:
    """The keys derived from the installation's secret."""
    return Secrets.derived(installation_secret(settings))


def operator_key(settings: Settings) -> str:
    """The admin key of whoever can read the data directory."""
    return installation_secrets(settings).operator_key


def paths(settings: Settings) -> tuple[Path, Path]:
    """Where the spool and the snapshot are."""
    return settings.data_dir / "spool", settings.data_dir / "snapshot.json"
