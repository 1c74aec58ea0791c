"""`rediss://`: a Redis that speaks TLS, with a certificate of an authority of its own."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelyard.up.redis_server import find_server
from tests.helpers.waiting import wait_until
from tests.helpers.yards import free_port
from yard.broker import connections
from yard.errors import Unavailable
from yard.platform import pdeathsig


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    if not (openssl := shutil.which("openssl")):
        pytest.skip("there is no openssl here, to make a certificate with")
    file = tmp_path / "redis.crt"
    argv = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    argv += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    argv += ["-keyout", str(tmp_path / "redis.key"), "-out", str(file)]
    subprocess.run(argv, check=True, capture_output=True)
    return file


@pytest.fixture
def port(certificate: Path, tmp_path: Path) -> Iterator[int]:
    port = free_port()
    options = {"port": "0", "tls-port": str(port), "bind": "127.0.0.1", "save": ""}
    options |= {"tls-cert-file": str(certificate), "tls-ca-cert-file": str(certificate)}
    options |= {"tls-key-file": str(tmp_path / "redis.key"), "tls-auth-clients": "no"}
    options |= {"dir": str(tmp_path), "logfile": str(tmp_path / "redis.log")}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    server = subprocess.Popen(
        pdeathsig.command([str(find_server().path), *words], signal.SIGKILL),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        log = tmp_path / "redis.log"

        def is_up() -> bool:
            if server.poll() is not None:
                pytest.skip("the Redis here was built without TLS")
            return log.exists() and "Ready to accept connections" in log.read_text()

        wait_until(is_up, 20, "the server listens")
        yield port
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("make", [connections.fast, connections.steady])
def test_a_known_authority_is_let_in(make, port, certificate):
    with make(f"rediss://localhost:{port}/0?ssl_ca_certs={certificate}") as client:
        connections.check_server(client)


@pytest.mark.parametrize(
    "url", ["rediss://localhost:{port}/0", "redis://localhost:{port}/0"], ids=["unknown", "plain"]
)
def test_an_unknown_authority_and_plain_text_are_refused(url, port):
    with connections.fast(url.format(port=port)) as client, pytest.raises(Unavailable):
        connections.check_server(client)
