"""A FastAPI app on asyncio: a task for each request.

    python fastapi_app.py [PORT]
    curl -N localhost:8000/chats/mine/messages -d '{"text": "Tell me a long story"}' -H 'Content-Type: application/json'
    curl localhost:8000/chats/mine/stop -X POST

Disconnecting is stopping here: the server cancels the task at once when its reader has gone, nobody else reads this
answer, and every further word of it would be paid for. What was said is kept. Where the answer shall go on without a
reader, leave out the `async with run` in `events`.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from types import FrameType

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from which_model import which_model

from aiwrapper import AsyncChatAgent, AsyncRunHandle, Busy, CancelReason, CancelToken, Lang, dump_entry


class Message(BaseModel):
    """What a user says."""

    text: str


def create_app(lang: Lang, token: CancelToken) -> FastAPI:
    """The app. Its chats live in this process; with several processes, keep them in the store instead.

    Args:
        lang: the model.
        token: stops all answers.
    """
    app = FastAPI()
    agents: dict[str, AsyncChatAgent] = {}
    runs: dict[str, AsyncRunHandle] = {}

    @app.post("/chats/{chat}/messages")
    async def say(chat: str, message: Message) -> StreamingResponse:
        agent = agents.setdefault(chat, AsyncChatAgent(lang))
        try:
            runs[chat] = run = agent.start(message.text, token=token)
        except Busy:
            raise HTTPException(409, "the last message is still being answered: stop it first") from None
        except ValueError as error:  # nothing but white space
            raise HTTPException(422, str(error)) from None
        return StreamingResponse(events(run), media_type="text/event-stream")

    @app.post("/chats/{chat}/stop")
    async def stop(chat: str) -> dict[str, str]:
        return {"receipt": last_run(chat).stop("the user pressed Stop")}

    @app.get("/chats/{chat}/result")
    async def result(chat: str) -> dict[str, str]:
        found = await last_run(chat).wait()
        return {"status": found.status, "reason": found.stop.reason if found.stop else "", "text": found.text}

    def last_run(chat: str) -> AsyncRunHandle:
        if chat not in runs:
            raise HTTPException(404, "nothing has been said in this chat")
        return runs[chat]

    return app


async def events(run: AsyncRunHandle) -> AsyncIterator[bytes]:
    """The run's log as server-sent events. Leaving the block, for whatever reason, stops the run."""
    async with run:
        async for entry in run:
            yield b"event: %b\ndata: %b\n\n" % (entry.kind.encode(), dump_entry(entry))


class Server(uvicorn.Server):
    """Stops all answers before it shuts down, or it would wait for them; their readers see the end."""

    def __init__(self, config: uvicorn.Config, token: CancelToken) -> None:
        super().__init__(config)
        self._token = token

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come."""
        self._token.cancel_soon(CancelReason("signal", "the server shuts down"))
        super().handle_exit(sig, frame)


async def main(port: int = 8000) -> None:
    """Serve on loopback until Ctrl-C."""
    token = CancelToken()
    with which_model() as lang, socket.create_server(("127.0.0.1", port)) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        config = uvicorn.Config(create_app(lang, token), log_level="warning")
        await Server(config, token).serve(sockets=[listener])


if __name__ == "__main__":
    try:
        asyncio.run(main(*map(int, sys.argv[1:])))
    except KeyboardInterrupt:  # uvicorn has shut down and passes it on
        print("bye")
