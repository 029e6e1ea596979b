"""TLS on the proxy listener: the same SDK, the same answers."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl

import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.walks.harness import installation


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for this machine's loopback address, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tollkeeper")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = directory / "cert.pem", directory / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate, private


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
