"""Run a child process under a token.

The child leads a session of its own. A stop terminates its whole group at once, gives it a grace period, kills what is
left of the group, and closes our ends of its pipes, so that a grandchild that has escaped the group and keeps a pipe
open holds nobody up (T-P1).

Nothing polls. One wait covers the pipes, the token and the child's end: the end shows on a descriptor (a pidfd on
Linux, a kqueue on macOS), and the token's hook ends a socket pair. The child is not reaped before the token has been
left: until then it is at worst a zombie, whose number can't be given to another process, so a stop never signals a
stranger.

Not for Windows, which has neither process groups nor pipes that can be waited for together with a socket.
"""

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Literal, Protocol, Self

import attrs

from cancel_token._forks import forks
from cancel_token._token import CancelToken
from cancel_token.sockets import SocketHook

if sys.platform != "win32":
    import select

Stream = Literal["stdout", "stderr"]
Command = Sequence[str | bytes | os.PathLike[str]]

GRACE_SECONDS = (
    2.0  # hand-picked: a shell and most servers end within milliseconds, few need longer than a second
)
_READ_BYTES = 65_536  # the default capacity of a pipe on Linux


class CompletedProcess(subprocess.CompletedProcess[bytes]):
    """What `run` returns: a `subprocess.CompletedProcess` that also says how much output was not kept."""

    dropped_bytes: int

    def __init__(self, args: Any, returncode: int, stdout: bytes, stderr: bytes, dropped_bytes: int) -> None:
        super().__init__(args, returncode, stdout, stderr)
        self.dropped_bytes = dropped_bytes


@attrs.frozen
class Output:
    """A piece of output, as it arrived."""

    stream: Stream
    data: bytes


class Process:
    """A child process under a token: a context manager that iterates over the child's output.

        with Process(["make"], token=token) as process:
            for output in process:
                print(output.stream, output.data)

    A stop reaches the child at once, whatever the caller is doing: its group is asked to terminate. The kill after the
    grace period is the caller's, as it comes back to the iterator or leaves the block. Leaving the block before the
    child has ended stops it in the same way. Not for use from two threads at once.

    Args:
        args: Program and arguments. There is no shell.
        token: The token to obey.
        input: What the child reads from its standard input. None: an empty one.
        timeout: Seconds after which the child is stopped as by a token.
        grace_seconds: Seconds between the request to terminate and the kill.
        cwd: Where to run it.
        env: Its environment. None: ours.

    Raises:
        Cancelled: The token has been cancelled; nothing was started.
        OSError: The program could not be started.
        NotImplementedError: On Windows.
    """

    def __init__(
        self,
        args: Command,
        *,
        token: CancelToken,
        input: bytes | None = None,  # noqa: A002  # the name it has in subprocess
        timeout: float | None = None,
        grace_seconds: float = GRACE_SECONDS,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        if sys.platform == "win32":
            raise NotImplementedError("cancel_token.processes needs process groups, which Windows has not")
        token.check()
        self._token = token
        self._timeout = timeout
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._grace_seconds = grace_seconds
        self._input = memoryview(input or b"")
        self._forks = len(forks)
        self._claim: list[None] = [
            None
        ]  # popped by who asks the group to terminate: some programs count the requests
        self._exited = False
        self._finished = False  # exited, reaped, and everything of ours closed
        self._popen = subprocess.Popen(
            args,
            stdin=subprocess.PIPE if input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=cwd,
            env=env,
            start_new_session=True,
        )
        self._resources = contextlib.ExitStack()
        try:
            self._prepare()
        except BaseException:
            self._signal_group(signal.SIGKILL)
            self._finish()
            raise

    def _prepare(self) -> None:
        """Open everything a wait needs, and let the token reach it."""
        keep = self._resources.enter_context
        pipes = [
            pipe for pipe in (self._popen.stdout, self._popen.stderr, self._popen.stdin) if pipe is not None
        ]
        for pipe in pipes:
            keep(contextlib.closing(pipe))
        self._selector = keep(contextlib.closing(selectors.DefaultSelector()))
        self._open_pipes = set(pipes)
        for pipe in pipes:
            if pipe is self._popen.stdin:
                os.set_blocking(pipe.fileno(), False)
                self._selector.register(pipe, selectors.EVENT_WRITE)
            else:
                self._selector.register(pipe, selectors.EVENT_READ)
        self._exit_watch = keep(contextlib.closing(_watch_exit(self._popen.pid)))
        self._selector.register(self._exit_watch, selectors.EVENT_READ)
        near, far = socket.socketpair()
        keep(near)
        keep(far)
        self._stop_signal = near  # readable once the token's hook has shut the far end down
        self._selector.register(near, selectors.EVENT_READ)
        hook = keep(SocketHook(far))
        hook.bind(self._token)
        # Left first of all: while the token can reach us, the child must not be reaped.
        keep(self._token.on_cancel(self._ask_to_terminate))

    @property
    def pid(self) -> int:
        """The child's process id, which is also that of its group and its session."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status once the child has been waited for; negative if a signal ended it."""
        return self._popen.returncode

    def __iter__(self) -> Iterator[Output]:
        """Iterate over the output as it arrives, until the child has ended and its pipes are closed by everybody.

        Raises:
            Cancelled: The token was cancelled first. Nobody of the child's group is alive any more.
            subprocess.TimeoutExpired: The timeout passed first. The same holds.
        """
        while not self._finished:
            if self._exited and not self._open_pipes:
                ended_by_itself = self._claim_request()
                self._finish()
                if (
                    not ended_by_itself
                ):  # our request may be seen to work before the hook has told of the stop
                    self._token.check()
                return
            seconds = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
            ready = self._selector.select(seconds)
            if not ready and self._deadline is not None and time.monotonic() >= self._deadline:
                self.stop()
                assert self._timeout is not None
                raise subprocess.TimeoutExpired(self._popen.args, self._timeout)
            for key, _ in ready:
                if key.fileobj is self._stop_signal:
                    self.stop()
                    self._token.check()
                output = self._serve(key.fileobj)
                if output is not None:
                    yield output
                    if self.returncode is not None:  # stopped by the consumer
                        return

    def wait(self) -> int:
        """Wait for the child's end, dropping what output it still writes.

        Returns:
            The exit status, negative if a signal ended the child.

        Raises:
            Cancelled: As for the iterator.
            subprocess.TimeoutExpired: As for the iterator.
        """
        for _ in self:
            pass
        assert self._popen.returncode is not None
        return self._popen.returncode

    def stop(self) -> int:
        """Terminate, wait for the grace period, kill what is left of the group. Does nothing to an ended child.

        Returns:
            The exit status.
        """
        if not self._finished:
            try:
                self._ask_to_terminate()
                give_up_at = time.monotonic() + self._grace_seconds
                # The pipes count, too: a shell is gone at once, and leaves behind who is still tidying up.
                while (
                    not (self._exited and not self._open_pipes)
                    and (seconds := give_up_at - time.monotonic()) > 0
                ):
                    for key, _ in self._selector.select(seconds):
                        if key.fileobj is self._stop_signal:
                            self._selector.unregister(self._stop_signal)
                        else:
                            self._serve(key.fileobj)  # output is read and dropped: last words may be many
            finally:
                self._signal_group(signal.SIGKILL)
                self._finish()
        assert self._popen.returncode is not None
        return self._popen.returncode

    def _serve(self, source: object) -> Output | None:
        """Do what a ready descriptor asks for."""
        if source is self._exit_watch:
            self._selector.unregister(self._exit_watch)
            self._exited = True
        elif source is self._popen.stdin:
            self._feed()
        else:
            assert source is self._popen.stdout or source is self._popen.stderr
            pipe = self._popen.stdout if source is self._popen.stdout else self._popen.stderr
            assert pipe is not None
            if data := os.read(pipe.fileno(), _READ_BYTES):
                return Output("stdout" if source is self._popen.stdout else "stderr", data)
            self._leave_pipe(pipe)
        return None

    def _feed(self) -> None:
        pipe = self._popen.stdin
        assert pipe is not None
        try:
            self._input = self._input[os.write(pipe.fileno(), self._input) :]
        except BrokenPipeError:
            self._input = self._input[:0]  # the child doesn't want the rest
        if not self._input:
            self._leave_pipe(pipe)

    def _leave_pipe(self, pipe: IO[bytes]) -> None:
        self._selector.unregister(pipe)
        self._open_pipes.discard(pipe)
        pipe.close()

    def _ask_to_terminate(self) -> None:
        """Also the token's callback, in whatever thread cancels."""
        if self._claim_request():
            self._signal_group(signal.SIGTERM)

    def _claim_request(self) -> bool:
        """Whether nobody has asked the group to terminate; from now on nobody will."""
        try:
            self._claim.pop()
        except IndexError:
            return False
        return True

    def _signal_group(self, number: int) -> None:
        if len(forks) != self._forks:
            return  # a forked copy of us: the child is not its child
        try:
            os.killpg(self._popen.pid, number)
        except OSError:
            pass  # nobody is left, or (macOS) only a zombie; or they run as another user, whom we can't stop

    def _finish(self) -> None:
        """Close what is ours, then reap."""
        self._finished = True
        try:
            self._resources.close()
        finally:
            self._popen.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


class _ExitWatch(Protocol):
    """Readable, for a selector, once the child has ended."""

    def fileno(self) -> int: ...

    def close(self) -> None: ...


if sys.platform == "linux":

    class _PidDescriptor:
        """A descriptor of the process itself."""

        def __init__(self, pid: int) -> None:
            self._descriptor = os.pidfd_open(pid)

        def fileno(self) -> int:
            return self._descriptor

        def close(self) -> None:
            os.close(self._descriptor)

    class _WaitingThread:
        """Where there is none: a thread that waits without reaping, and then closes its end of a socket pair."""

        def __init__(self, pid: int) -> None:
            self._near, self._far = socket.socketpair()
            self._thread = threading.Thread(target=self._wait, args=(pid,), name=f"cancel_token child {pid}")
            self._thread.start()

        def _wait(self, pid: int) -> None:
            try:
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
            except ChildProcessError:
                pass  # somebody else has reaped it
            self._far.close()

        def fileno(self) -> int:
            return self._near.fileno()

        def close(self) -> None:
            """Called when the child has ended or has been killed, so the thread is about to end."""
            self._thread.join()
            self._near.close()

    def _watch_exit(pid: int) -> _ExitWatch:
        try:
            return _PidDescriptor(pid)
        except OSError:
            return _WaitingThread(pid)  # a kernel before 5.3, or a sandbox that forbids it

elif sys.platform != "win32":

    def _watch_exit(pid: int) -> _ExitWatch:
        watch = select.kqueue()
        event = select.kevent(pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD, select.KQ_NOTE_EXIT)
        try:
            watch.control([event], 0)
        except ProcessLookupError:  # it is a zombie already, and will not be announced any more
            watch.close()
            ended, other = socket.socketpair()
            other.close()
            return ended
        return watch


def run(
    args: Command,
    *,
    token: CancelToken,
    input: bytes | None = None,  # noqa: A002  # the name it has in subprocess
    timeout: float | None = None,
    grace_seconds: float = GRACE_SECONDS,
    max_output_bytes: int | None = None,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> CompletedProcess:
    """Run a command to its end, capturing its output, until the token is cancelled.

    It returns when the child has ended and its output pipes are closed by everybody, as `subprocess.run` does; a
    background process that keeps them open is waited for. Blocks; works from any thread.

    Args:
        args: Program and arguments. There is no shell.
        token: The token to obey.
        input: What the child reads from its standard input. None: an empty one.
        timeout: Seconds after which the child is stopped as by a token.
        grace_seconds: Seconds between the request to terminate and the kill.
        max_output_bytes: How much of each stream is kept; what comes after it is read and dropped. None keeps all.
        cwd: Where to run it.
        env: Its environment. None: ours.

    Returns:
        Exit status and output. The status is negative if a signal ended the child.

    Raises:
        Cancelled: The token was or has been cancelled. Nobody of the child's group is alive any more.
        subprocess.TimeoutExpired: `timeout` has passed. It carries the output that was kept. The same holds.
        OSError: The program could not be started.
    """
    kept: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
    dropped_bytes = 0
    with Process(
        args, token=token, input=input, timeout=timeout, grace_seconds=grace_seconds, cwd=cwd, env=env
    ) as process:
        try:
            for output in process:
                buffer = kept[output.stream]
                room = None if max_output_bytes is None else max(0, max_output_bytes - len(buffer))
                buffer += output.data[:room]
                dropped_bytes += len(output.data) - len(output.data[:room])
        except subprocess.TimeoutExpired as error:
            error.stdout, error.stderr = bytes(kept["stdout"]), bytes(kept["stderr"])
            raise
        returncode = process.wait()
    return CompletedProcess(args, returncode, bytes(kept["stdout"]), bytes(kept["stderr"]), dropped_bytes)
