"""The secret that everything is sealed with: made once, whole, and for its owner alone."""

import stat
import threading
from dataclasses import replace

import pytest

from gateway import installation
from gateway.setting_values import Secret
from gateway.settings import Settings


@pytest.fixture
def settings(tmp_path):
    return Settings(data_dir=tmp_path / "data")


def test_a_secret_is_made_at_the_first_start_and_found_at_the_next(settings):
    made = installation.installation_secret(settings)

    assert len(made) >= 43
    assert installation.installation_secret(settings) == made


def test_the_secret_of_the_settings_comes_first_and_nothing_is_written(tmp_path):
    settings = Settings(data_dir=tmp_path / "data", secret_key=Secret("s" * 40))

    assert installation.installation_secret(settings) == "s" * 40
    assert not (tmp_path / "data").exists()


def test_only_its_owner_may_read_the_secret(settings):
    installation.installation_secret(settings)

    assert stat.S_IMODE((settings.data_dir / installation.SECRET_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(settings.data_dir.stat().st_mode) == 0o700


def test_processes_that_start_together_agree_on_one_secret(settings):
    """Guards linking a whole file into place: a file made empty and then filled is read empty by one of these."""
    for turn in range(20):
        chosen = replace(settings, data_dir=settings.data_dir / str(turn))
        together, found = threading.Barrier(4), []

        def start(chosen=chosen, together=together, found=found):
            together.wait()
            found.append(installation.installation_secret(chosen))

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(found) == 4
        assert len(set(found)) == 1
        assert found[0]


def test_a_secret_that_is_gone_is_not_made_anew_beside_the_ledger_it_belongs_to(settings):
    """Guards the look at the SQLite file: with another secret, no key in it would be recognised."""
    settings.data_dir.mkdir()
    (settings.data_dir / "ledger.db").touch()

    with pytest.raises(installation.SecretMissing, match="put it back"):
        installation.installation_secret(settings)


def test_beside_a_ledger_in_postgres_a_secret_is_made_whatever_lies_in_the_directory(settings):
    """What guards that ledger is the fingerprint in it, and a file of SQLite's has nothing to do with it."""
    settings = replace(settings, database_url=Secret("postgresql://role:password@db/ledger"))
    settings.data_dir.mkdir()
    (settings.data_dir / "ledger.db").touch()

    assert installation.installation_secret(settings)


def test_nothing_but_the_secret_is_left_behind(settings):
    installation.installation_secret(settings)

    assert [path.name for path in settings.data_dir.iterdir()] == [installation.SECRET_FILE]


def test_whoever_can_read_the_directory_has_the_operator_s_key(settings):
    assert installation.operator_key(settings) == installation.installation_secrets(settings).operator_key


def test_spool_and_snapshot_lie_in_the_data_directory(settings):
    assert all(path.parent == settings.data_dir for path in installation.paths(settings))
