"""T-S18, in processes of their own: pytest's has threads, and a fork should not copy what it cannot run."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.cancel_token.cases import count

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
        capture_output=True, text=True, check=False, timeout=60,
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
