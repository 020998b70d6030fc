import json

import pytest

from coordinator.errors import StorageError
from overcast import CloudClient
from overcast import cloud as module


@pytest.fixture
def client(monkeypatch):
    """A client, and a function that scripts the statuses of its deployment's answers; what it slept is in `slept`."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    found = CloudClient("http://127.0.0.1:9/", bucket="some-bucket")
    found.slept = []
    monkeypatch.setattr(module.time, "sleep", found.slept.append)

    def script(*statuses):
        left = iter(statuses)

        def answer(method, path, data, headers):
            status = next(left)
            return status, json.dumps({"asked": path}).encode() if status == 200 else b"", {}

        monkeypatch.setattr(found, "_http", answer)

    found.script = script
    return found


def test_an_answer_that_died_is_asked_for_again(client):
    client.script(502, 504, 200)
    assert client.ask("GET", "/jobs") == {"asked": "/jobs"}
    assert client.slept == [0.2, 1.0]


def test_not_for_ever_and_not_where_asking_twice_does_more(client):
    client.script(502, 502, 502)
    with pytest.raises(StorageError, match="answered HTTP 502"):
        client.ask("GET", "/jobs")
    client.slept.clear()
    client.script(502)
    with pytest.raises(StorageError, match="answered HTTP 502"):
        client.ask("POST", "/jobs", {})
    assert client.slept == []
