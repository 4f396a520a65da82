"""T-S18, in processes of their own: pytest's has threads, and a fork should not copy what it cannot run."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.cancel_token.cases import count
from tests.cancel_token.transports import TRANSPORTS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")


def run(program: str) -> str:
    # Python 3.12 warns of any fork beside threads; that it works is what is shown here.
    prelude = textwrap.dedent(
        """
        import os, sys, threading, warnings
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*multi-threaded.*")
        from cancel_token import CancelToken

        def in_child(fn):
            process = os.fork()
            if process == 0:
                try:
                    fn()
                    status = 0
                except BaseException:
                    import traceback
                    traceback.print_exc()
                    status = 1
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
            assert os.waitpid(process, 0)[1] == 0
        """
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", prelude + textwrap.dedent(program)],
        capture_output=True, text=True, check=False, timeout=60, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert "" == done.stderr
    assert 0 == done.returncode
    return done.stdout


def test_t_s18_tokens_keep_their_state_and_each_process_cancels_its_own() -> None:
    assert "child root child True\nparent False\n" == run(
        """
        token = CancelToken()
        stopped = CancelToken()
        stopped.cancel()
        token.on_cancel(lambda: print("root", end=" "))

        def child():
            assert stopped.cancelled
            print("child", end=" ")
            token.cancel()
            print("child", token.child().cancelled)

        in_child(child)
        print("parent", token.cancelled)
        """
    )


def test_t_s18_a_deadline_from_before_the_fork_runs_out_in_both_processes() -> None:
    assert "child time is up (deadline)\nparent time is up (deadline)\n" == run(
        """
        token = CancelToken(timeout=0.05)
        far = CancelToken(timeout=1000)

        def child():
            assert token.wait()
            assert not far.cancelled
            print("child", token.reason)
            assert CancelToken(timeout=0.001).wait()

        in_child(child)
        token.wait()
        print("parent", token.reason)
        """
    )


def test_t_s18_a_fork_beside_any_bytecode_of_the_service_thread_loses_nothing(
    request: pytest.FixtureRequest,
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.cancel_token.fork_places"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip

    assert ("", 0) == (done.stderr, done.returncode)
    count(request.config, "token, fork beside every bytecode of the service thread", int(done.stdout))


def test_t_s18_without_deadlines_the_child_starts_no_thread_until_it_needs_one() -> None:
    assert "1\nTrue\n" == run(
        """
        assert CancelToken(timeout=0.001).wait()

        def child():
            print(len(threading.enumerate()))
            print(CancelToken(timeout=0.001).wait())

        in_child(child)
        """
    )


def test_t_s5_in_a_forked_child_close_does_not_wait_for_a_callback_of_another_thread() -> None:
    assert "closed\nended\n" == run(
        """
        token = CancelToken()
        begun, may_end = threading.Event(), threading.Event()

        def slow():
            begun.set()
            may_end.wait()
            print("ended")

        registration = token.on_cancel(slow)
        canceller = threading.Thread(target=token.cancel)
        canceller.start()
        begun.wait()

        def child():
            registration.close()
            print("closed")

        in_child(child)
        may_end.set()
        canceller.join()
        """
    )


def test_t_s6_cancel_in_the_child_of_a_fork_inside_a_callback() -> None:
    assert "child older\nparent older\n" == run(
        """
        token = CancelToken()
        who = ["parent"]
        token.on_cancel(lambda: print(who[0], "older"))

        def fork():
            process = os.fork()
            if process == 0:
                who[0] = "child"
            else:
                assert os.waitpid(process, 0)[1] == 0

        token.on_cancel(fork)
        token.cancel()
        sys.stdout.flush()
        if who[0] == "child":
            os._exit(0)
        """
    )


@pytest.mark.parametrize("transport", [transport.name for transport in TRANSPORTS])
def test_t_s18_a_child_leaves_its_parents_connections_alone_and_can_stop_its_own(transport: str) -> None:
    """On the parent's, which rests in the pool that both have, a stop would free nobody before the server speaks."""
    assert "".join(
        f"{wire}: b'ok'\nchild: stopped\nparent: b'ok'\n2 connections\n"
        for wire in ("plain", "TLS", "CONNECT")
    ) == run(
        f"""
        import signal
        from pathlib import Path
        import trustme
        from cancel_token import Cancelled
        from tests.cancel_token.transports import TRANSPORTS, WIRES

        def child(client, url, told):
            signal.alarm(20)  # for who is not freed
            token = CancelToken()

            def stop():
                os.read(told, 1)
                token.cancel()

            stopping = threading.Thread(target=stop)
            stopping.start()
            try:
                client.post(url, b"", token)
            except Cancelled:
                print("child: stopped")
            stopping.join()

        def tell(server, teller):
            server.stalled.get()
            os.write(teller, b"!")

        def try_wire(server, client):
            print(client.post(server.url, b"", CancelToken.never()), flush=True)  # or the child prints it, too
            server.phase = "headers"
            told, teller = os.pipe()
            telling = threading.Thread(target=tell, args=(server, teller))
            telling.start()
            in_child(lambda: child(client, server.url, told))
            telling.join()
            os.close(told)
            os.close(teller)
            server.phase = None
            print("parent:", client.post(server.url, b"", CancelToken.never()))
            print(server.connections, "connections")

        [transport] = [transport for transport in TRANSPORTS if transport.name == {transport!r}]
        authority = trustme.CA()
        certificate = authority.issue_cert("127.0.0.1")
        with authority.cert_pem.tempfile() as authority_file:
            for wire in WIRES:
                if wire.name in ("plain", "TLS", "CONNECT"):  # our proxy keeps no connection but those of CONNECT
                    print(wire.name, end=": ")
                    with wire.open(transport, certificate, Path(authority_file)) as way:
                        try_wire(way.server, way.client)
        """
    )
