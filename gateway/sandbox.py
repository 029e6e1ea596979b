"""`tollkeeper sandbox`: the gateway in front of simulated providers, for whoever has no account with one.

A provider whose credential is in the settings is called for real; the others are simulated by a process of its own that
speaks their protocols over sockets. A tenant `demo` gets a new key at each start, and what to paste is printed.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from gateway import app
from gateway.accounts import Accounts, TenantExists
from gateway.providers import PROVIDERS
from gateway.providers.api import FirstSteps
from gateway.setting_values import Secret
from gateway.settings import Origin, ProviderSettings, Settings, environment_name
from gateway.simulator.process import SimulatorError, simulator
from gateway.supervisor import StartRefused

TENANT = "demo"
KEY_NAME = "sandbox"
ACTOR = "sandbox"
SANDBOX_DATA_DIR = Path("tollkeeper-sandbox")


async def sandbox(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises StartRefused."""
    simulated = [provider for provider in PROVIDERS if settings.providers[provider.name].credential is None]
    if simulated and settings.postgres_url is not None:
        raise StartRefused(
            "a ledger is for ever, and what is only simulated has no place in the Postgres database that the settings name: "
            f"leave {environment_name('database_url')} out, or give a credential for each provider."
        )
    async with AsyncExitStack() as stack:
        if simulated:
            try:
                # Its truth log is for tests; here nobody reads it, and it would grow.
                running = await stack.enter_async_context(simulator(Path(os.devnull)))
            except SimulatorError as error:
                raise StartRefused(f"the simulator can not be started: {error}") from error
            if settings.data_dir == Settings().data_dir:
                # A ledger is for ever: what was only simulated does not go into the one that `serve` opens.
                settings = dataclasses.replace(settings, data_dir=SANDBOX_DATA_DIR)
            providers = dict(settings.providers)
            for provider in simulated:
                credential = {name: Secret(value) for name, value in running.credentials[provider.name].items()}
                providers[provider.name] = ProviderSettings(
                    base_url=running.base_urls[provider.name], credential=credential
                )
            settings = dataclasses.replace(settings, providers=providers)
        gateway = await stack.enter_async_context(app.running(settings))
        key = await _demo_key(gateway.office.accounts)
        account_sid = (await gateway.office.accounts.tenant(TENANT)).account_sid
        sys.stdout.write(_greeting(gateway, key, account_sid, [provider.name for provider in simulated]))
        sys.stdout.flush()
        await gateway.life.stopping.wait()


async def _demo_key(accounts: Accounts) -> str:
    """A new key of the demo tenant; those of earlier starts end."""
    try:
        async with accounts.changing(ACTOR) as change:
            await change.create_tenant(TENANT, name="Demo")
    except TenantExists:
        pass
    earlier = [key for key in await accounts.keys(TENANT, 1000) if key.name == KEY_NAME and key.revoked_at is None]
    async with accounts.changing(ACTOR) as change:
        for key in earlier:
            await change.revoke_key(TENANT, key.key_id)
        made = await change.create_key(TENANT, name=KEY_NAME)
    return made.secret


def _greeting(gateway: app.Gateway, key: str, account_sid: str, simulated: list[str]) -> str:
    settings = gateway.office.settings
    proxy = f"http://{_reachable(settings.proxy.host)}:{gateway.proxy_port}"
    control = f"http://{_reachable(settings.control.host)}:{gateway.control_port}"
    blocks = [
        f"Tollkeeper is running. Proxy: {proxy}   Control API: {control}",
        f"Its ledger is in {settings.data_dir}. The key below is new; that of an earlier start is revoked.",
    ]
    for provider in PROVIDERS:
        state = "simulated, nothing is sent to it" if provider.name in simulated else "LIVE, calls cost money"
        made = {"proxy": proxy, "key": key, "account_sid": account_sid}
        blocks.append(f"{provider.name} ({state}):\n" + _first_steps(provider.first_steps, made))
    blocks.append(
        f"What it used:\n  {_command(settings)} usage --tenant {TENANT}\n  {_command(settings)} usage --tenant {TENANT} --events"
    )
    if simulated:
        names = ", ".join(
            environment_name(f"providers.{provider.name}.{field}")
            for provider in PROVIDERS
            if provider.name in simulated
            for field in provider.credential_fields
        )
        blocks.append(f"For the real thing, stop with Ctrl-C, set {names}, and start again.")
    return "\n" + "\n\n".join(blocks) + "\n"


def _first_steps(steps: FirstSteps, made: Mapping[str, str]) -> str:
    """Lines that work when pasted on a machine that has a shell and Python, and that use curl where it is there."""
    url = steps.path.format_map(made)
    if steps.user is None:
        authorization, given = f"Bearer {made['key']}", f"-H 'Authorization: Bearer {made['key']}'"
    else:
        pair = f"{steps.user.format_map(made)}:{made['key']}"
        authorization, given = f"Basic {base64.b64encode(pair.encode()).decode()}", f"-u {pair}"
    if shutil.which("curl"):
        call = f"curl -s {url} {given} \\\n    -H 'Content-Type: {steps.media_type}' -d '{steps.body}'"
    else:
        headers = f"{{'Authorization': '{authorization}', 'Content-Type': '{steps.media_type}'}}"
        body = steps.body.replace('"', '\\"')
        call = (
            f'python3 -c "from urllib.request import *; '
            f"print(urlopen(Request('{url}', b'{body}', {headers})).read().decode())\""
        )
    return (
        f"  {call}\n"
        f"  # The official SDK, once you have it (pip install {steps.sdk_package}):\n"
        f"  export {steps.exports.format_map(made)}\n"
        f'  python3 -c "{steps.sdk_call.format_map(made)}"'
    )


def _command(settings: Settings) -> str:
    """The command line as it is to be typed in this directory, with what it needs to find this installation."""
    own = Path(sys.argv[0])
    if own.name == "__main__.py":
        command = f"{shlex.quote(os.path.relpath(sys.executable))} -m gateway"
    elif (found := shutil.which("tollkeeper")) and Path(found).resolve() == own.resolve():
        command = "tollkeeper"
    else:
        command = shlex.quote(os.path.relpath(own))
    given = {one.name: one for one in settings.resolved if one.origin in (Origin.FLAG, Origin.ENVIRONMENT)}
    changed = {
        one.environment_name: str(one.value) for name, one in given.items() if name in ("control.host", "control.port")
    }
    if settings.data_dir != Settings().data_dir:
        changed[environment_name("data_dir")] = str(settings.data_dir)
    return " ".join((*(f"{name}={shlex.quote(value)}" for name, value in changed.items()), command))


def _reachable(host: str) -> str:
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104  An address to compare with, not to bind.
