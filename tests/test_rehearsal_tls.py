"""The load over TLS, with the certificate of a temporary authority."""

import time

import pytest

from tests.rehearsal.fakes import REQUESTS, TAG, FaultyServer, create_certificate, create_context, send_load
from tests.rehearsal.server import wait_for
from tests.rehearsal.traffic import Summary, Traffic


def serve_tls(server, ca, host):
    """Make the server one with a certificate of this authority for this host."""
    server.socket = create_context(ca, host).wrap_socket(server.socket, server_side=True)
    return f"https://localhost:{server.server_port}"


def test_requests_are_sent_over_tls(tmp_path):
    ca, server = create_certificate(tmp_path, "ca"), FaultyServer()
    url = serve_tls(server, ca, "localhost")
    with server:
        summary = send_load(server, tmp_path, rate=200, url=url, ca=ca)
        assert server.connections <= 16
    assert summary.failed == 0, summary.failures_between(0, time.time())
    assert {record["tag"] for record in summary.records} == {TAG}
    assert {headers["Host"] for headers, _ in server.sent} == {f"localhost:{server.server_port}"}


@pytest.mark.parametrize(
    ("signed_by", "host", "message"),
    [("other", "localhost", "unable to get local issuer"), ("ca", "example.org", "Hostname mismatch")],
)
def test_certificate_is_checked(signed_by, host, message, tmp_path):
    authorities, server = {name: create_certificate(tmp_path, name) for name in ("ca", "other")}, FaultyServer()
    url = serve_tls(server, authorities[signed_by], host)
    with server:
        traffic = Traffic([url], REQUESTS, 100, tmp_path / "requests.jsonl", ca=authorities["ca"])
        traffic.start()
        wait_for("requests", lambda: Summary.read(traffic.records).requests)
        records = traffic.stop().records
    assert all("certificate verify failed" in record["error"] for record in records)
    assert message in records[0]["error"]
    assert server.received == []
