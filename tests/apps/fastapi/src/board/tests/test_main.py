import pytest
from fastapi.testclient import TestClient

from board import main
from board.store import MAX_MESSAGES, Board


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setattr(main, "board", Board())
    monkeypatch.setattr(main, "STREAM_PAUSE_SECONDS", 0)
    return TestClient(main.app)


def test_index(client: TestClient) -> None:
    assert client.get("/").json()["name"] == "board"


def test_post_and_list(client: TestClient) -> None:
    assert client.get("/messages").json() == []
    for text in ("first", "second"):
        response = client.post("/messages", json={"author": "ada", "text": text})
        assert response.status_code == 201
    messages = client.get("/messages").json()
    assert [message["text"] for message in messages] == ["second", "first"]
    assert [message["id"] for message in messages] == [2, 1]


def test_keeps_the_latest_messages(client: TestClient) -> None:
    for number in range(MAX_MESSAGES + 1):
        client.post("/messages", json={"author": "ada", "text": str(number)})
    messages = client.get("/messages").json()
    assert len(messages) == MAX_MESSAGES
    assert messages[-1]["text"] == "1"


@pytest.mark.parametrize("body", [{}, {"author": "ada"}, {"author": "", "text": "hello"}])
def test_invalid_message(client: TestClient, body: dict[str, str]) -> None:
    assert client.post("/messages", json=body).status_code == 422


def test_upload(client: TestClient) -> None:
    assert client.post("/upload", content=b"x" * 100_000).json() == {"size": 100_000}


def test_stream(client: TestClient) -> None:
    response = client.get("/stream")
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.text == "data: 1\n\ndata: 2\n\ndata: 3\n\n"


def test_websocket(client: TestClient) -> None:
    with client.websocket_connect("/ws") as websocket:
        for text in ("hello", "again"):
            websocket.send_text(text)
            assert websocket.receive_text() == f"echo: {text}"
