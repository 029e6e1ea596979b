"""The candidates that are not ours: each is one recipe. None of them meters, prices, records or logs; LiteLLM alone asks
for a key, one for all, since it does not start without."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

from tests.bench.processes import PYTHON, free_port
from tests.bench.recipes import PATH, PEERS, PROVIDER_KEY, Missing, Recipe, program
from tests.bench.world import World

PEERS_INSTALL = ".tools/bin/uv pip install --python .venv/peers/bin/python"

VERSION_S_MAX = 60

LITELLM_KEY = "sk-key-of-the-bench"


def direct(directory: Path, world: World) -> Recipe:
    """No proxy at all: what the upstream itself costs, and the least latency there can be."""
    return Recipe(version=f"uvloop {version('uvloop')}", pid=world.upstream_pid, port=world.port)


def _said(*command: str) -> str:
    """The first words of a program about itself."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_S_MAX, check=False)
    return (result.stdout + result.stderr).strip()


NGINX = """\
daemon off;
{user}
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    upstream provider {{ server 127.0.0.1:{upstream}; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 600s; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_ssl_verify on;
    proxy_ssl_name localhost;
    proxy_ssl_trusted_certificate {certificate};
    server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {scheme}://provider; }} }}
    server {{ listen 127.0.0.1:{stream_port}; proxy_buffering off; location / {{ proxy_pass {scheme}://provider; }} }}
}}
"""


def nginx(directory: Path, world: World, *, tls: bool = False) -> Recipe:
    """nginx, plain `proxy_pass`, one worker, connections to the upstream kept; streams unbuffered; nothing logged."""
    found = program("nginx", "NGINX", "apt-get install nginx-light")
    port, stream_port = free_port(), free_port()
    configuration = directory / "nginx.conf"
    configuration.write_text(
        NGINX.format(
            # Its workers would otherwise be nobody, who may not enter our directory.
            user="user root root;" if os.geteuid() == 0 else "",
            directory=directory,
            upstream=world.tls_port if tls else world.port,
            scheme="https" if tls else "http",
            certificate=world.certificate,
            port=port,
            stream_port=stream_port,
        )
    )
    return Recipe(
        version=_said(found, "-v").rpartition(" ")[2],
        command=[found, "-e", "stderr", "-p", str(directory), "-c", str(configuration)],
        port=port,
        stream_port=stream_port,
    )


def _envoy_configuration(port: int, upstream: int) -> dict[str, object]:
    def at(port: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    extensions = "type.googleapis.com/envoy.extensions.filters"
    manager = {
        "@type": f"{extensions}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "provider", "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{extensions}.http.router.v3.Router"}},
        ],
    }
    provider = {
        "name": "provider",
        "type": "STATIC",
        "load_assignment": {
            "cluster_name": "provider",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(upstream)}}]}],
        },
    }
    listener = {
        "name": "bench",
        "address": at(port),
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [provider]}}


def envoy(directory: Path, world: World) -> Recipe:
    """Envoy, one route without a time limit, one worker thread, defaults otherwise; nothing logged."""
    found = program("envoy", "ENVOY", "make bench-peers")
    port = free_port()
    configuration = directory / "envoy.json"
    configuration.write_text(json.dumps(_envoy_configuration(port, world.port)))
    command = [found, "-c", str(configuration), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return Recipe(version=_said(found, "--version").split("/")[-4], command=command, port=port)


def plain_aiohttp(directory: Path, world: World) -> Recipe:
    """A proxy as aiohttp's manual has it."""
    return Recipe(
        version=f"aiohttp {version('aiohttp')}, uvloop {version('uvloop')}",
        command=[*PYTHON, "tests.bench.plain_proxy", "--upstream", f"http://127.0.0.1:{world.port}"],
    )


def litellm(directory: Path, world: World) -> Recipe:
    """LiteLLM's proxy, one worker, one model, no database; one key for all, since it does not start without."""
    found = program("litellm", "LITELLM", f"make bench-peers && {PEERS_INSTALL} 'litellm[proxy]'")
    port = free_port()
    configuration = directory / "litellm.json"  # JSON is YAML.
    parameters = {"model": "openai/gpt-4o", "api_base": f"http://127.0.0.1:{world.port}/v1", "api_key": PROVIDER_KEY}
    configuration.write_text(json.dumps({"model_list": [{"model_name": "gpt-4o", "litellm_params": parameters}]}))
    return Recipe(
        version=_said(str(Path(found).with_name("python")), "-c", VERSION_OF % "litellm"),
        command=[found, "--config", str(configuration), "--host", "127.0.0.1", "--port", str(port)],
        environment={
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_TELEMETRY": "False",
            "LITELLM_MASTER_KEY": LITELLM_KEY,
            "PYTHONPATH": "",
        },
        port=port,
        key=LITELLM_KEY,
        verbatim=False,
    )


VERSION_OF = "from importlib.metadata import version; print(version('%s'))"

LOOPBACK_ONLY = "data:text/javascript," + quote(
    "import net from 'node:net';const listen=net.Server.prototype.listen;"
    "net.Server.prototype.listen=function(port,host,...rest){return listen.call(this,port,host??'127.0.0.1',...rest)}"
)
"""Portkey listens on every address of the machine, and has no setting for it."""


def portkey(directory: Path, world: World) -> Recipe:
    """Portkey's gateway: told by headers where to; it keeps nothing."""
    script = Path(os.environ.get("PORTKEY") or PEERS / "node/node_modules/@portkey-ai/gateway/build/start-server.js")
    if not script.exists():
        install = "npm install --ignore-scripts --prefix .venv/peers/node @portkey-ai/gateway"
        raise Missing(f"{install} (or the path of its build/start-server.js in PORTKEY)")
    node = program("node", "NODE", "apt-get install nodejs")
    port = free_port()
    return Recipe(
        version=f"{json.loads((script.parents[1] / 'package.json').read_text())['version']}, node {_said(node, '--version')}",
        command=[node, "--import", LOOPBACK_ONLY, str(script), "--headless", f"--port={port}"],
        port=port,
        headers=["x-portkey-provider: openai", f"x-portkey-custom-host: http://127.0.0.1:{world.port}/v1"],
        verbatim=False,
    )


TENSORZERO = """\
[gateway]
observability.enabled = false
[models."gpt-4o"]
routing = ["bench"]
[models."gpt-4o".providers.bench]
type = "openai"
model_name = "gpt-4o"
api_base = "http://127.0.0.1:{upstream}/v1"
api_key_location = "none"
"""

START_TENSORZERO = """\
import json, signal, sys
from tensorzero import tensorzero
stores = dict.fromkeys(("clickhouse_url", "postgres_url", "valkey_url"))
gateway = tensorzero._start_http_gateway(config_file=sys.argv[1], async_setup=False, **stores)
print(json.dumps({"port": int(gateway.base_url.split(":")[2].split("/")[0])}), flush=True)
signal.pause()
"""


def tensorzero(directory: Path, world: World) -> Recipe:
    """TensorZero's gateway, in Rust, as its Python package starts it; observability off."""
    python = os.environ.get("TENSORZERO") or str(PEERS / "bin" / "python")
    if not Path(python).exists() or not (installed := _said(python, "-c", VERSION_OF % "tensorzero"))[0].isdigit():
        raise Missing(
            f"make bench-peers && {PEERS_INSTALL} tensorzero (or the path of a Python that has it in TENSORZERO)"
        )
    configuration = directory / "tensorzero.toml"
    configuration.write_text(TENSORZERO.format(upstream=world.port))
    return Recipe(
        version=installed,
        command=[python, "-c", START_TENSORZERO, str(configuration)],
        environment={"PYTHONPATH": ""},
        path="/openai" + PATH,
        model="tensorzero::model_name::gpt-4o",
        verbatim=False,
    )
