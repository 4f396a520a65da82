"""A trio app that has to stop somebody else's blocking code.

    python trio_blocking.py

SQLite blocks, and knows no token. It runs in a thread by `run_sync`, which hands the query a token, and SQLite asks it
every now and then whether to go on. Both a stop (Ctrl-C here) and the runtime's own cancellation (a timeout here) then
end the query, and nothing is left running behind an `await` that has returned.
"""

import sqlite3
from contextlib import closing

import trio

from cancel_token import CancelToken
from cancel_token.aio import move_on_cancel, run_sync
from cancel_token.signals import cancel_on_sigint

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"


def search(database: sqlite3.Connection, query: str, *, token: CancelToken) -> list[tuple[object, ...]]:
    """Run a query until it has ended or the token is cancelled. Blocks."""
    # Not `interrupt()` in a hook: it ends only a query that is running, and a stop may come just before.
    database.set_progress_handler(lambda: token.cancelled, 1_000)  # SQLite's own instructions
    try:
        return database.execute(query).fetchall()
    except sqlite3.OperationalError:
        token.check()  # an error that our own stop has caused is the stop
        raise
    finally:
        database.set_progress_handler(None, 0)


async def main() -> None:
    """Stop it in both ways, and go on with the same database."""
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as database:
        with trio.move_on_after(0.1) as timeout:
            await run_sync(search, database, ENDLESS, token=CancelToken.never())
        assert timeout.cancelled_caught
        print("the timeout has ended the query", flush=True)

        token = CancelToken()
        with cancel_on_sigint(token), move_on_cancel(token) as stopped:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(clock)
                print("searching; press Ctrl-C", flush=True)
                await run_sync(search, database, ENDLESS, token=token)
        assert stopped.cancelled_caught
        print("Ctrl-C has ended the query", flush=True)

        print(await run_sync(search, database, "SELECT 'and it still works'", token=CancelToken.never()))


async def clock() -> None:
    """Something that goes on while the thread is blocked."""
    while True:
        await trio.sleep(1)
        print("tick", flush=True)


if __name__ == "__main__":
    trio.run(main)
