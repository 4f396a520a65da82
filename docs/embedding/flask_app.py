"""A Flask app: code that blocks, a thread for each request.

    python flask_app.py [PORT]
    curl -N localhost:8000/chats/mine/messages -d 'text=Tell me a long story'
    curl localhost:8000/chats/mine/stop -X POST

Disconnecting is not stopping here. Flask learns that the reader has gone only when it writes to him the next time, and
while the model is silent it writes nothing; so Stop is a request of its own. The run goes on without a reader, its
answer is kept, and who comes back reads it from its beginning.
"""

import sys
import threading
from collections.abc import Iterator

from flask import Flask, Response, abort, request
from flask.typing import ResponseReturnValue
from werkzeug.serving import ThreadedWSGIServer
from which_model import which_model

from aiwrapper import Busy, CancelToken, ChatAgent, Lang, RunHandle, dump_entry
from cancel_token.signals import cancel_on_sigint


def create_app(lang: Lang, token: CancelToken) -> Flask:
    """The app. Its chats live in this process; with several processes, keep them in the store instead.

    Args:
        lang: the model.
        token: stops all answers.
    """
    app = Flask(__name__)
    agents: dict[str, ChatAgent] = {}
    runs: dict[str, RunHandle] = {}

    @app.post("/chats/<chat>/messages")
    def say(chat: str) -> ResponseReturnValue:
        agent = agents.setdefault(chat, ChatAgent(lang))
        try:
            runs[chat] = run = agent.start(request.form["text"], token=token)
        except Busy:
            abort(409, "the last message is still being answered: stop it first")
        except ValueError as error:  # nothing but white space
            abort(400, str(error))
        return Response(events(run), mimetype="text/event-stream")

    @app.get("/chats/<chat>/events")
    def read(chat: str) -> ResponseReturnValue:
        return Response(events(last_run(chat)), mimetype="text/event-stream")

    @app.post("/chats/<chat>/stop")
    def stop(chat: str) -> ResponseReturnValue:
        return {"receipt": last_run(chat).stop("the user pressed Stop")}

    def last_run(chat: str) -> RunHandle:
        return runs.get(chat) or abort(404, "nothing has been said in this chat")

    return app


def events(run: RunHandle) -> Iterator[bytes]:
    """The run's log as server-sent events; whoever closes this iterator early leaves the run alone."""
    for entry in run:
        yield b"event: %b\ndata: %b\n\n" % (entry.kind.encode(), dump_entry(entry))


def main(port: int = 8000) -> None:
    """Serve on loopback until Ctrl-C, which stops all answers first: their readers see the end."""
    token = CancelToken()
    with which_model() as lang:
        server = ThreadedWSGIServer("127.0.0.1", port, create_app(lang, token))
        server.daemon_threads = False  # so that it waits for those readers
        shut_down = threading.Thread(target=server.shutdown)
        print(f"http://127.0.0.1:{server.server_port}", flush=True)
        with cancel_on_sigint(token, watcher=True), token.on_cancel(shut_down.start):
            server.serve_forever()
    print("bye")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
