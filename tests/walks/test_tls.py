"""TLS on the proxy listener: the same SDK, the same answers."""

from __future__ import annotations

import json
import signal
import ssl

import openai
import pytest

from tests.certificates import made_certificate
from tests.nodes import SCRIPTS, needs_node, run_script
from tests.walks.harness import installation


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for this machine's loopback address, and its key."""
    return made_certificate(tmp_path_factory.mktemp("tls"))


def test_the_sdk_talks_to_the_gateway_over_tls(tmp_path, certificate):
    cert, private = certificate
    with installation(tmp_path, proxy__tls_cert=str(cert), proxy__tls_key=str(private)) as gateway:
        key = gateway.tenant("acme")
        context = ssl.create_default_context(cafile=str(cert))

        with (
            openai.DefaultHttpxClient(verify=context) as http,
            openai.OpenAI(
                base_url=gateway.openai.replace("http:", "https:"), api_key=key, http_client=http, max_retries=0
            ) as client,
        ):
            chunks = list(
                client.chat.completions.create(
                    model="gpt-4o", messages=[{"role": "user", "content": "Hi"}], stream=True
                )
            )

        (event,) = gateway.events_of("acme", 1)
        assert chunks[-1].choices[0].finish_reason == "stop"
        assert event["completeness"] == "reported"


@needs_node
def test_nodes_sdk_has_a_realtime_session_which_it_has_over_tls_alone(tmp_path, certificate, monkeypatch):
    """Node's SDK makes `wss` of any base URL, and without the package `ws` sends its key among the subprotocols."""
    cert, private = certificate
    monkeypatch.setenv("NODE_EXTRA_CA_CERTS", str(cert))
    monkeypatch.setenv("NODE_OPTIONS", "--experimental-websocket --no-warnings")
    with installation(tmp_path, proxy__tls_cert=str(cert), proxy__tls_key=str(private)) as gateway:
        side = {"baseUrl": gateway.openai.replace("http:", "https:"), "key": gateway.tenant("acme")}

        told = json.loads(run_script(SCRIPTS / "realtime.cjs", json.dumps(side)))["conversation"]

        events = [event for event in gateway.events_of("acme", 4) if event["event_type"] == "realtime"]
        assert [event["external_id"] for event in events] == [response["id"] for response in told]
        assert [event["units"] for event in events] == [response["usage"]["total_tokens"] for response in told]


def test_a_certificate_that_was_renewed_is_in_force_after_a_reload_and_a_wrong_one_is_refused(tmp_path):
    """Guards what is read besides the settings: sabotaged (the certificate is read at the start alone), it expires."""
    cert, private = made_certificate(tmp_path)
    with installation(tmp_path, proxy__tls_cert=str(cert), proxy__tls_key=str(private)) as gateway:
        port = int(gateway.proxy_url.rpartition(":")[2])
        before = ssl.get_server_certificate(("127.0.0.1", port))

        renewed, _ = made_certificate(tmp_path)
        gateway.gateway.popen.send_signal(signal.SIGHUP)
        gateway.gateway.said("reloaded")
        after = ssl.get_server_certificate(("127.0.0.1", port))
        renewed.write_text("no certificate")
        gateway.gateway.popen.send_signal(signal.SIGHUP)
        gateway.gateway.said("reload_refused")

        assert after != before
        assert ssl.get_server_certificate(("127.0.0.1", port)) == after
