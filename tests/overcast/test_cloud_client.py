"""What the cloud client says when there is nobody, or somebody else, at its URL."""

import http.server
import json
import threading

import pytest

from coordinator.errors import InputError, JobError, JobMissingError, StorageError
from overcast import CloudClient


@pytest.fixture
def answering(s3_settings):
    """A client of a server that gives one answer to everything; what it was asked."""
    asked = []
    answer = {"status": 200, "body": b"{}"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.command, self.path, dict(self.headers)))
            self.send_response(answer["status"])
            self.send_header("Content-Length", str(len(answer["body"])))
            self.end_headers()
            self.wfile.write(answer["body"])

        def log_message(self, *words):
            pass

    Handler.do_POST = Handler.do_GET
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))  # looks for its end that often
    thread.start()
    client = CloudClient(f"http://127.0.0.1:{server.server_port}/")

    def say(status, body):
        answer.update(status=status, body=body if isinstance(body, bytes) else json.dumps(body).encode())
        return client

    yield say, asked
    client._http.close()
    server.shutdown()
    server.server_close()
    thread.join()


def test_requests_are_signed_and_say_the_version(answering):
    say, asked = answering
    assert say(200, {"version": "1"}).versions() == {"version": "1"}
    [(method, path, headers)] = asked
    assert (method, path) == ("GET", "/versions")
    assert headers["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=test/")
    assert headers["x-overcast-version"]


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("InputError", InputError),
        ("UnknownNameError", InputError),
        ("JobMissingError", JobMissingError),
        ("StorageError", StorageError),
        ("JobError", JobError),
        ("VersionError", JobError),
    ],
)
def test_errors_come_back_as_they_were(answering, kind, error):
    say, _ = answering
    with pytest.raises(error, match=r"^so it is$"):
        say(400, {"error": {"type": kind, "message": "so it is"}}).job("job-one")


def test_somebody_else_answers(answering):
    say, _ = answering
    with pytest.raises(StorageError, match="these AWS credentials may not call the function's URL"):
        say(403, {"Message": "Forbidden"}).versions()
    with pytest.raises(StorageError, match="answered HTTP 404: is it the URL that `overcast deploy` printed"):
        say(404, b"<html>").versions()


def test_nobody_answers(s3_settings):
    with pytest.raises(StorageError, match=r"cannot reach http://127\.0\.0\.1:9: .*; check the URL and the network"):
        CloudClient("http://127.0.0.1:9").versions()


def test_no_credentials_and_no_region(s3_settings, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(StorageError, match="no AWS region is set"):
        CloudClient("http://127.0.0.1:9")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(StorageError, match="no usable AWS credentials"):
        CloudClient("http://127.0.0.1:9")
