"""A trio app: a chat over TCP, a line for each message.

    python trio_app.py [PORT]
    nc localhost 8000

A line that says `/stop` stops the answer under way, and so does the next message. Disconnecting is stopping: the
nursery of a connection ends with it, and what is left of a nursery's runs has a reason of the kind `runtime`.
"""

import sys
from collections.abc import AsyncIterator
from functools import partial

import trio
from which_model import which_model

from aiwrapper import AsyncChatAgent, AsyncRunHandle, Lang, TextDelta


async def chat(lang: Lang, stream: trio.SocketStream) -> None:
    """One connection: one conversation."""
    agent = AsyncChatAgent(lang)
    writing = trio.Lock()
    run: AsyncRunHandle | None = None
    async with trio.open_nursery() as nursery:
        async for line in lines(stream):
            if run is not None:
                run.stop("the user typed /stop" if line == "/stop" else "the user said something else")
                await run.wait()
            if line != "/stop":
                run = agent.start(line)
                nursery.start_soon(show, run, stream, writing)
        nursery.cancel_scope.cancel()  # the user has left


async def show(run: AsyncRunHandle, stream: trio.SocketStream, writing: trio.Lock) -> None:
    """Write an answer as it grows. Leaving the block, for whatever reason, stops the run."""
    async with writing, run:
        async for entry in run:
            if isinstance(entry, TextDelta):
                await stream.send_all(entry.text.encode())
        result = await run.wait()
        await stream.send_all(f"\n[{result.status}]\n".encode())


async def lines(stream: trio.SocketStream) -> AsyncIterator[str]:
    """What the user types, line by line."""
    waiting = b""
    async for piece in stream:
        *whole, waiting = (waiting + piece).split(b"\n")
        for line in whole:
            if text := line.decode(errors="replace").strip():
                yield text


async def main(port: int) -> None:
    """Serve on loopback until Ctrl-C."""
    with which_model() as lang:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
            print(f"127.0.0.1:{listeners[0].socket.getsockname()[1]}", flush=True)
            nursery.start_soon(partial(trio.serve_listeners, partial(chat, lang), listeners))


if __name__ == "__main__":
    try:
        trio.run(main, int(sys.argv[1]) if sys.argv[1:] else 8000)
    except* KeyboardInterrupt:
        print("bye")
