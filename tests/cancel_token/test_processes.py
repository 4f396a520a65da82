"""Child processes under a token: real shells, real signals (T-P1)."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

import attrs
import pytest

from cancel_token import processes
from cancel_token._errors import Cancelled
from cancel_token._token import CancelToken
from cancel_token.processes import Command, Process, run
from tests.cancel_token.stalling import Call, no_descriptor_left

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="needs process groups"),
    pytest.mark.usefixtures("without_gc"),
]

HOUR = "3600"
# A shell runs its traps only between commands. The sleeper holds none of our pipes: a signal that meets it between
# fork and exec may be lost on it.
WAIT = "while :; do sleep 3600 >/dev/null 2>&1 & wait $!; done"
IMPATIENT = 0.05  # a grace period that is meant to pass
PATIENT = 3600.0  # one that is not


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


@attrs.frozen
class Stopped:
    """A child that was stopped after its first words."""

    returncode: int | None
    words: bytes
    token: CancelToken


def stop_after_first_words(args: Command, grace_seconds: float) -> Stopped:
    """Cancel at the first output and go on reading, in a thread of its own; check that the stop has come through."""
    token = CancelToken()
    words: list[bytes] = []
    children: list[Process] = []

    def work() -> None:
        with Process(args, token=token, grace_seconds=grace_seconds) as process:
            children.append(process)
            for output in process:
                words.append(output.data)
                token.cancel("enough")

    with no_descriptor_left():
        call = Call(work).join()

    assert isinstance(call.error, Cancelled)
    assert 0 == token.stats().registrations
    return Stopped(children[0].returncode, words[0], token)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_gone(pid: int) -> None:
    """Block until a process that is not our child has ended."""
    with contextlib.suppress(ProcessLookupError), contextlib.closing(processes._watch_exit(pid)) as watch:
        select.select([watch], [], [])


class TestRun:
    def test_output_and_status_of_a_command_that_ends_by_itself(self) -> None:
        token = CancelToken()
        with no_descriptor_left():
            done = run(shell("cat; echo problem >&2; exit 3"), token=token, input=b"question")

        assert isinstance(done, subprocess.CompletedProcess)
        assert (3, b"question", b"problem\n", 0) == (
            done.returncode,
            done.stdout,
            done.stderr,
            done.dropped_bytes,
        )
        assert 0 == token.stats().registrations
        with pytest.raises(subprocess.CalledProcessError):
            done.check_returncode()

    def test_much_goes_in_and_out(self) -> None:
        """Both pipes fill up several times; neither side may wait for the other."""
        much = bytes(range(256)) * 4096
        done = run(["cat"], token=CancelToken(), input=much)

        assert much == done.stdout

    def test_a_child_that_does_not_want_its_input_is_no_error(self) -> None:
        done = run(["true"], token=CancelToken(), input=bytes(1024 * 1024))

        assert 0 == done.returncode

    def test_without_input_it_reads_an_empty_one(self) -> None:
        assert b"" == run(["cat"], token=CancelToken()).stdout

    def test_output_beyond_the_limit_is_dropped_and_counted(self) -> None:
        done = run(shell("printf 0123456789; printf abc >&2"), token=CancelToken(), max_output_bytes=4)

        assert (b"0123", b"abc", 6) == (done.stdout, done.stderr, done.dropped_bytes)

    def test_directory_and_environment_are_passed_on(self, tmp_path: Path) -> None:
        done = run(shell("pwd; echo $WORD"), token=CancelToken(), cwd=tmp_path, env={"WORD": "said"})

        assert f"{tmp_path.resolve()}\nsaid\n".encode() == done.stdout

    @pytest.mark.parametrize("seconds", [0.0, 0.05])
    def test_a_timeout_stops_and_hands_over_what_was_said(self, seconds: float) -> None:
        with no_descriptor_left(), pytest.raises(subprocess.TimeoutExpired) as caught:
            run(shell("echo begun; exec sleep 3600"), token=CancelToken(), timeout=seconds)

        assert caught.value.stdout in (b"", b"begun\n")
        assert seconds == caught.value.timeout

    def test_a_cancelled_token_starts_nothing(self, tmp_path: Path) -> None:
        token = CancelToken()
        token.cancel()
        with pytest.raises(Cancelled):
            run(["touch", str(tmp_path / "made")], token=token)

        assert not (tmp_path / "made").exists()

    def test_an_unknown_program_is_an_error_and_leaves_nothing(self) -> None:
        token = CancelToken()
        with no_descriptor_left(), pytest.raises(FileNotFoundError):
            run(["/no/such/program"], token=token)

        assert 0 == token.stats().registrations


class TestStop:
    def test_a_stop_from_another_thread_frees_a_waiting_call(self) -> None:
        token = CancelToken()
        started = threading.Event()
        pids = []

        def work() -> None:
            with Process(shell("echo ready; sleep 3600"), token=token, grace_seconds=PATIENT) as process:
                for _ in process:
                    pids.append(process.pid)
                    started.set()

        with no_descriptor_left():
            call = Call(work)
            started.wait()
            token.cancel("enough")
            call.join()

        assert isinstance(call.error, Cancelled)
        assert not is_alive(pids[0])
        assert 0 == token.stats().registrations

    def test_the_child_is_asked_first_and_may_tidy_up(self, tmp_path: Path) -> None:
        script = f"trap 'echo bye > {tmp_path}/note; exit 0' TERM; echo ready; {WAIT}"
        stopped = stop_after_first_words(shell(script), PATIENT)

        assert "bye\n" == (tmp_path / "note").read_text()
        assert 0 == stopped.returncode

    def test_last_words_do_not_block_the_child(self) -> None:
        """It writes more than a pipe holds while it tidies up; nobody reads it any more, but it is taken away."""
        script = f"trap 'head -c 1000000 /dev/zero; exit 7' TERM; echo ready; {WAIT}"
        stopped = stop_after_first_words(shell(script), PATIENT)

        assert 7 == stopped.returncode

    def test_one_that_does_not_listen_is_killed_with_its_group(self) -> None:
        script = "trap '' TERM; sleep 3600 & echo $!; while :; do sleep 3600; done"
        stopped = stop_after_first_words(shell(script), IMPATIENT)
        wait_until_gone(int(stopped.words))

        assert -signal.SIGKILL == stopped.returncode

    def test_those_who_outlive_their_shell_get_the_grace_period_too(self, tmp_path: Path) -> None:
        """The shell is gone at the first signal; its worker is still tidying up, and holds our pipe."""
        worker = f"trap 'echo bye > {tmp_path}/note; exit 0' TERM; echo ready; {WAIT}"
        stopped = stop_after_first_words(shell(f"({worker}) & wait"), PATIENT)

        assert "bye\n" == (tmp_path / "note").read_text()
        assert -signal.SIGTERM == stopped.returncode

    def test_a_grandchild_that_has_left_the_group_holds_nobody_up(self) -> None:
        """It keeps our pipes open for an hour; our ends of them are closed."""
        script = (
            "import subprocess;"
            "child = subprocess.Popen(['sleep', '3600'], start_new_session=True);"
            "print(child.pid, flush=True);"
            "child.wait()"
        )
        stopped = stop_after_first_words([sys.executable, "-c", script], IMPATIENT)
        grandchild = int(stopped.words)
        alive = is_alive(grandchild)
        os.kill(grandchild, signal.SIGKILL)

        assert alive

    def test_the_stop_reaches_the_child_while_the_caller_is_elsewhere(self) -> None:
        """Also the reason why it is asked once only: the callback and the caller both want to."""
        script = f"trap 'echo asked' TERM; echo ready; {WAIT}"
        token = CancelToken()
        said = []
        with Process(shell(script), token=token, grace_seconds=IMPATIENT) as process:
            outputs = iter(process)
            said.append(next(outputs).data)
            pipe = process._popen.stdout
            assert pipe is not None
            token.cancel()
            said.append(pipe.read(6))

        assert [b"ready\n", b"asked\n"] == said

    def test_leaving_the_block_early_stops_the_child(self) -> None:
        token = CancelToken()
        with (
            no_descriptor_left(),
            Process(shell("echo ready; exec sleep 3600"), token=token, grace_seconds=PATIENT) as process,
        ):
            for _ in process:
                break

        assert -signal.SIGTERM == process.returncode
        assert not token.cancelled
        assert 0 == token.stats().registrations

    def test_stopping_by_hand_and_twice(self) -> None:
        with Process(
            shell("echo ready; exec sleep 3600"), token=CancelToken(), grace_seconds=PATIENT
        ) as process:
            said = [(output.stream, output.data, process.stop()) for output in process]

        assert [("stdout", b"ready\n", -signal.SIGTERM)] == said
        assert -signal.SIGTERM == process.stop()
        assert [] == list(process)
        assert -signal.SIGTERM == process.wait()

    def test_wait_drops_what_the_child_says_and_tells_its_status(self) -> None:
        with Process(["sh", "-c", "echo much; exit 3"], token=CancelToken()) as process:
            assert 3 == process.wait()

    def test_a_result_that_is_complete_is_kept(self) -> None:
        """T-S15: the child has ended by itself; the stop comes in the same moment."""
        token = CancelToken()
        with Process(["true"], token=token) as process:
            status = process.wait()
            token.cancel()

        assert 0 == status

    def test_an_end_that_our_own_request_brought_about_is_the_stop(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The child dies of the token's request, and is seen dead before the token's hook has told of the stop."""
        token = CancelToken()
        seen = threading.Event()
        kill, finish = os.killpg, Process._finish

        def kill_and_wait(group: int, number: int) -> None:
            kill(group, number)
            if number == signal.SIGTERM:
                seen.wait()

        def finish_seen(process: Process) -> None:
            seen.set()
            finish(process)

        monkeypatch.setattr(os, "killpg", kill_and_wait)
        monkeypatch.setattr(Process, "_finish", finish_seen)
        with no_descriptor_left(), Process(shell("echo ready; exec sleep 3600"), token=token) as process:
            output = iter(process)
            assert b"ready\n" == next(output).data
            stop = Call(token.cancel)
            with pytest.raises(Cancelled):
                list(output)
            stop.join()

        assert -signal.SIGTERM == process.returncode

    def test_a_stop_that_meets_the_creation_is_not_missed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The token is cancelled after the child has been started and before anything is registered."""
        token = CancelToken()
        real = subprocess.Popen

        def sudden(*args: object, **kwargs: object) -> object:
            child = real(*args, **kwargs)  # type: ignore[call-overload]
            token.cancel()
            return child

        monkeypatch.setattr(subprocess, "Popen", sudden)
        with no_descriptor_left(), pytest.raises(Cancelled):
            run(["sleep", HOUR], token=token, grace_seconds=PATIENT)

    def test_a_failure_after_the_start_leaves_no_child(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise OSError("no descriptor to be had")

        monkeypatch.setattr(processes.socket, "socketpair", refuse)  # type: ignore[attr-defined]
        with no_descriptor_left(), pytest.raises(OSError, match="no descriptor"):
            run(["sleep", HOUR], token=CancelToken())

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_a_forked_copy_does_not_stop_the_child(self) -> None:
        """T-S18."""
        token = CancelToken()
        with Process(shell(f"trap 'exit 5' USR1; echo ready; {WAIT}"), token=token) as process:
            assert b"ready\n" == next(iter(process)).data
            copy = os.fork()
            if copy == 0:
                token.cancel()
                os._exit(0)
            os.waitpid(copy, 0)
            os.kill(process.pid, signal.SIGUSR1)

            assert 5 == process.wait()


class TestWithoutPidDescriptors:
    """Older kernels, sandboxes that forbid them, and systems that have none."""

    @pytest.fixture(autouse=True)
    def no_pid_descriptors(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if not hasattr(os, "waitid"):
            pytest.skip("this system has no waitid")

        def refuse(_: int) -> int:
            raise OSError("not here")

        monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)

    def test_a_thread_waits_instead(self) -> None:
        with no_descriptor_left():
            done = run(shell("echo said"), token=CancelToken())

        assert (0, b"said\n") == (done.returncode, done.stdout)

    def test_and_is_gone_after_a_stop(self) -> None:
        stopped = stop_after_first_words(shell("echo ready; exec sleep 3600"), PATIENT)

        assert -signal.SIGTERM == stopped.returncode
