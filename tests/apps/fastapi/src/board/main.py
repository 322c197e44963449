import asyncio
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from board.store import Board, Message, NewMessage

STREAM_CHUNKS = 3
STREAM_PAUSE_SECONDS = 0.2

app = FastAPI(title="Board")
board = Board()


@app.get("/")
async def index() -> dict[str, str]:
    return {"name": "board", "docs": "/docs"}


@app.get("/messages")
async def list_messages() -> list[Message]:
    return board.latest()


@app.post("/messages", status_code=201)
async def post_message(new: NewMessage) -> Message:
    return board.post(new)


@app.post("/upload")
async def upload(request: Request) -> dict[str, int]:
    """Count the bytes of the body without keeping them."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
    return {"size": size}


@app.get("/stream")
async def stream() -> StreamingResponse:
    return StreamingResponse(events(), media_type="text/event-stream")


async def events() -> AsyncIterator[str]:
    for number in range(1, STREAM_CHUNKS + 1):
        if number > 1:
            await asyncio.sleep(STREAM_PAUSE_SECONDS)
        yield f"data: {number}\n\n"


@app.websocket("/ws")
async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(f"echo: {await websocket.receive_text()}")
    except WebSocketDisconnect:
        pass
