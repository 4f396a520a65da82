"""The hook, connecting and looking up names, on real sockets."""

import os
import signal
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVarTuple

import pytest
import trustme

from cancel_token._errors import Cancelled
from cancel_token._registration import Registration
from cancel_token._token import CancelToken
from cancel_token.sockets import SocketHook, connect_hooked, create_connection, shutdown_on_cancel
from tests.cancel_token.stalling import Call, FullListener, no_descriptor_left, wait_for_hang_up
from tests.cancel_token.threads import run_in_thread

Ts = TypeVarTuple("Ts")

linux_only = pytest.mark.skipif(
    sys.platform != "linux", reason="fills a listener's queue the way Linux counts it"
)

LARGE = bytes(64 * 1024 * 1024)  # more than a loopback connection buffers


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends of a TCP connection."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as near,
    ):
        far, _ = listener.accept()
        with far:
            yield near, far


class TestShutdownOnCancel:
    def test_a_blocked_recv_is_freed_and_the_peer_sees_the_end(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """T-N1."""
        near, far = pair
        token = CancelToken()
        ready = threading.Event()

        def receive() -> None:
            with shutdown_on_cancel(near, token):
                ready.set()
                near.recv(1)

        call = Call(receive)
        ready.wait()
        token.cancel("enough")
        call.join()

        assert isinstance(call.error, Cancelled)
        assert b"" == far.recv(1)
        assert 0 == token.stats().registrations

    def test_a_blocked_accept_is_freed(self) -> None:
        token = CancelToken()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ready = threading.Event()

            def accept() -> None:
                with shutdown_on_cancel(listener, token):
                    ready.set()
                    listener.accept()

            call = Call(accept)
            ready.wait()
            token.cancel()

            assert isinstance(call.join().error, Cancelled)

    def test_the_phantom_end_is_no_result(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """T-N5: `b""` would pass for the peer's clean end; and what had arrived before is still handed out."""
        near, far = pair
        token = CancelToken()
        read = []
        far.sendall(b"part")

        def receive() -> str:
            with shutdown_on_cancel(near, token) as hook:
                token.cancel()
                read.extend([near.recv(4), near.recv(4), hook.stopped])
                return "done"

        call = Call(receive).join()

        assert isinstance(call.error, Cancelled)
        assert [b"part", b"", True] == read

    def test_an_error_after_the_stop_is_the_stop_and_one_before_is_not(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """T-N5."""
        near, _ = pair
        token = CancelToken()
        with pytest.raises(ZeroDivisionError), shutdown_on_cancel(near, token):
            raise ZeroDivisionError

        def send() -> None:
            with shutdown_on_cancel(near, token):
                token.cancel()
                near.sendall(b"late")

        call = Call(send).join()

        assert isinstance(call.error, Cancelled)
        assert isinstance(call.error.__cause__, BrokenPipeError)

    def test_a_block_that_is_done_is_not_undone_by_a_late_stop(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """T-S15, T-N7."""
        near, far = pair
        token = CancelToken()
        with shutdown_on_cancel(near, token):
            pass
        token.cancel()
        near.sendall(b"alive")

        assert b"alive" == far.recv(5)

    def test_an_upload_that_nobody_reads_ends_with_a_reset(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """T-N6: a FIN would queue behind the unsent rest, and the peer, which doesn't read, would never learn."""
        near, far = pair
        token = CancelToken()
        ready = threading.Event()

        def send() -> None:
            with near, shutdown_on_cancel(near, token):
                ready.set()
                near.sendall(LARGE)

        call = Call(send)
        ready.wait()
        far.recv(1)
        token.cancel()
        call.join()
        wait_for_hang_up(far)

        assert isinstance(call.error, Cancelled)
        assert isinstance(
            Call(lambda: list(iter(lambda: far.recv(65_536), b""))).join().error, ConnectionResetError
        )

    def test_nothing_unsent_ends_with_a_fin(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """T-N6: a lost FIN is sent again, a lost reset is not; so the reset is kept for where it is needed."""
        near, far = pair
        token = CancelToken()
        near.sendall(b"question")
        with pytest.raises(Cancelled), near, shutdown_on_cancel(near, token):
            token.cancel()

        assert b"question" == far.recv(100)
        assert b"" == far.recv(1)

    def test_tls_is_freed_without_ciphertext_passing_for_data(
        self, pair: tuple[socket.socket, socket.socket], certificate: trustme.LeafCert, authority: trustme.CA
    ) -> None:
        """T-N2: `SSLSocket.shutdown` drops the TLS state; a `recv` after it returned what was still encrypted."""
        near, far = pair
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(server_context)
        client_context = ssl.create_default_context()
        authority.configure_trust(client_context)
        accepting = Call(lambda: server_context.wrap_socket(far, server_side=True))
        token = CancelToken()
        read: list[bytes] = []
        with client_context.wrap_socket(near, server_hostname="localhost") as client:
            server = accepting.join().result
            assert server is not None

            def receive() -> None:
                with server, shutdown_on_cancel(client, token):
                    server.sendall(b"secret")
                    token.cancel()
                    while data := client.recv(100):
                        read.append(data)

            call = Call(receive).join()

        assert isinstance(call.error, Cancelled)
        assert read in ([], [b"secret"])

    def test_a_handshake_that_stalls_is_freed(
        self, pair: tuple[socket.socket, socket.socket], authority: trustme.CA
    ) -> None:
        """T-N1: `wrap_socket` detaches the socket that was hooked; the duplicate still reaches the connection."""
        near, far = pair
        context = ssl.create_default_context()
        authority.configure_trust(context)
        token = CancelToken()

        def shake_hands() -> None:
            with shutdown_on_cancel(near, token):
                context.wrap_socket(near, server_hostname="localhost")

        call = Call(shake_hands)
        greeting = far.recv(1)
        token.cancel()
        call.join()
        wait_for_hang_up(far)

        assert greeting
        assert isinstance(call.error, Cancelled)

    def test_a_cancelled_token_stops_at_once(self, pair: tuple[socket.socket, socket.socket]) -> None:
        near, far = pair
        token = CancelToken()
        token.cancel()
        with pytest.raises(Cancelled), shutdown_on_cancel(near, token) as hook:
            assert hook.stopped

        assert b"" == far.recv(1)


class TestSocketHook:
    def test_the_owner_may_close_first_and_reuse_harms_nobody(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """T-N1: the hook has a descriptor of its own; the owner's number belongs to another connection by now."""
        near, far = pair
        token = CancelToken()
        with SocketHook(near) as hook:
            hook.bind(token)
            number = near.fileno()
            near.close()
            other, peer = socket.socketpair()
            with other, peer:
                assert number in (other.fileno(), peer.fileno())
                token.cancel()
                other.sendall(b"alive")
                assert b"alive" == peer.recv(5)
        assert b"" == far.recv(1)

    def test_the_peer_sees_no_end_before_the_hook_is_closed_too(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """T-N1, the other side of the coin."""
        near, far = pair
        hook = SocketHook(near)
        near.close()
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            far.recv(1)
        hook.close()
        far.setblocking(True)

        assert b"" == far.recv(1)

    def test_it_obeys_the_token_it_is_bound_to_and_no_other(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """T-N7: a late stop of the first run must not kill the second one on the same connection."""
        near, _ = pair
        first, second = CancelToken(), CancelToken()
        with SocketHook(near) as hook:
            hook.bind(first)
            reusable = hook.release()
            hook.bind(second)
            first.cancel()
            untouched = not hook.stopped
            second.cancel()

            assert reusable
            assert untouched
            assert hook.stopped
            assert not hook.release()

    def test_binding_anew_leaves_the_token_before(self, pair: tuple[socket.socket, socket.socket]) -> None:
        near, _ = pair
        first, second = CancelToken(), CancelToken()
        with SocketHook(near) as hook:
            hook.bind(first)
            hook.bind(second)

            assert (0, 1) == (first.stats().registrations, second.stats().registrations)
        assert 0 == second.stats().registrations

    def test_a_release_before_the_hooks_turn_keeps_the_connection(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """T-N7: the token is cancelled, but a callback that runs before the hook's has ended the request."""
        near, far = pair
        token = CancelToken()
        answers = []
        with SocketHook(near) as hook:
            hook.bind(token)
            token.on_cancel(lambda: answers.append(hook.release()))  # newest first
            token.cancel()
            near.sendall(b"alive")

            assert [True] == answers
            assert b"alive" == far.recv(5)

    def test_a_release_in_the_middle_of_a_stop_calls_the_connection_dead(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """T-N7: nobody waits for the shutdown, which may be yet to come."""
        answers = []

        class Releasing(SocketHook):
            def shut_down(self) -> None:
                answers.append(self.release())
                super().shut_down()

        near, _ = pair
        token = CancelToken()
        with Releasing(near) as hook:
            hook.bind(token)
            token.cancel()

            assert [False] == answers

    @pytest.mark.parametrize(
        "state", ["fresh", "closed", "reset", "shut down", "listening", "datagram", "peer gone"]
    )
    def test_a_stop_never_raises_whatever_the_state(
        self, state: str, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """T-N9."""
        near, far = pair
        with (
            socket.socket() as fresh,
            socket.socket(type=socket.SOCK_DGRAM) as datagram,
            socket.socket() as listening,
        ):
            listening.bind(("127.0.0.1", 0))
            sock = {"fresh": fresh, "listening": listening, "datagram": datagram}.get(state, near)
            hook = SocketHook(sock)
            token = CancelToken()
            hook.bind(token)
            match state:
                case "closed":
                    near.close()
                case "reset":
                    far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    far.close()
                case "shut down":
                    near.shutdown(socket.SHUT_RDWR)
                case "listening":
                    listening.listen()
                case "peer gone":
                    far.close()
                case _:
                    pass
            token.cancel()
            hook.shut_down()
            hook.close()
            hook.shut_down()
            hook.close()

            assert hook.stopped

    @pytest.mark.usefixtures("without_gc")
    def test_a_dropped_hook_leaves_nothing_behind(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """T-N8: the token holds it weakly; no gc run is needed."""
        near, _ = pair
        token = CancelToken()
        with no_descriptor_left():
            hook = SocketHook(near)
            hook.bind(token)
            registered = token.stats().registrations
            del hook

        assert 1 == registered
        assert 0 == token.stats().registrations

    def test_closing_while_it_shuts_down_closes_the_duplicate_once(self) -> None:
        """The two pop the duplicate from a list of one; a finalizer may close in the middle of the shutdown."""

        class Closing(socket.socket):
            hook: SocketHook

            def shutdown(self, how: int) -> None:
                self.hook.close()
                super().shutdown(how)

        near, far = socket.socketpair()
        with near, far, no_descriptor_left():
            hook = SocketHook(near)
            plain = hook._twin.pop()
            twin = Closing(plain.family, plain.type, plain.proto, fileno=plain.detach())
            twin.hook = hook
            hook._twin.append(twin)
            hook.shut_down()

        assert -1 == twin.fileno()

    def test_an_owner_waits_for_no_shutdown_and_its_duplicate_is_closed_all_the_same(self) -> None:
        """Thousands are woken by their shutdowns; each that waited for the end of its own would hold up the others."""
        under_way, owner_has_left = threading.Event(), threading.Event()

        class Slow(socket.socket):
            def shutdown(self, how: int) -> None:
                super().shutdown(how)
                under_way.set()
                owner_has_left.wait()

        near, far = socket.socketpair()
        with near, far, no_descriptor_left():
            token = CancelToken()
            hook = SocketHook(near)
            hook.bind(token)
            plain = hook._twin.pop()
            hook._twin.append(Slow(plain.family, plain.type, plain.proto, fileno=plain.detach()))
            canceller = run_in_thread(token.cancel)
            under_way.wait()
            reusable = hook.release()
            hook.close()
            owner_has_left.set()
            canceller.join()

        assert not reusable

    def test_an_owner_who_closes_before_the_shutdown_makes_it_for_the_sake_of_what_is_unsent(self) -> None:
        """T-N6: the stop has the connection, but has not come to the shutdown yet; a plain close would send a FIN."""

        class Late(SocketHook):
            def shut_down(self) -> None:
                if not self.stopped:  # the stop's own call
                    self.close()
                super().shut_down()

        token = CancelToken()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname())
            far, _ = listener.accept()
        with far:
            hook = Late(near)
            hook.bind(token)
            near.setblocking(False)
            near.send(LARGE)  # as much as there is room for
            token.cancel()
            near.close()

            assert isinstance(
                Call(lambda: list(iter(lambda: far.recv(65_536), b""))).join().error, ConnectionResetError
            )

    def test_the_duplicate_leaves_the_blocking_mode_alone(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """Both descriptors share it, and a default timeout would set it on the duplicate's creation."""
        near, far = pair
        socket.setdefaulttimeout(100)
        try:
            near.settimeout(None)
            with SocketHook(near):
                reading = Call(lambda: near.recv(1))
                far.sendall(b"x")

                assert b"x" == reading.join().result
        finally:
            socket.setdefaulttimeout(None)

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_a_forked_child_cannot_end_its_parents_connection(
        self, pair: tuple[socket.socket, socket.socket]
    ) -> None:
        """T-S18."""
        near, far = pair
        token = CancelToken()
        with SocketHook(near) as hook:
            hook.bind(token)
            child = os.fork()
            if child == 0:
                token.cancel()
                os._exit(0 if hook.stopped else 1)
            _, status = os.waitpid(child, 0)
            near.sendall(b"alive")

            assert 0 == status
            assert b"alive" == far.recv(5)

    def test_a_signal_handler_frees_the_main_thread(self, pair: tuple[socket.socket, socket.socket]) -> None:
        """The interrupted `recv` is started again by Python, and returns."""
        near, _ = pair
        token = CancelToken()
        before = signal.signal(signal.SIGUSR1, lambda *_: token.cancel())
        main = threading.main_thread().ident
        assert main is not None
        try:
            killer = Call(lambda: signal.pthread_kill(main, signal.SIGUSR1))
            with pytest.raises(Cancelled), shutdown_on_cancel(near, token):
                near.recv(1)
        finally:
            killer.join()
            signal.signal(signal.SIGUSR1, before)


class TestCreateConnection:
    def test_it_connects_like_the_standard_library(self) -> None:
        token = CancelToken()
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            create_connection(
                listener.getsockname(),
                token,
                timeout=100,
                source_address=("127.0.0.1", 0),
                socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            ) as sock,
        ):
            accepted, _ = listener.accept()
            accepted.close()

            assert 100 == sock.gettimeout()
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert b"" == sock.recv(1)
        assert 0 == token.stats().registrations

    @linux_only
    def test_a_stop_frees_a_connect_that_gets_no_answer(self) -> None:
        """T-N3: whenever it comes: before the registration, between it and the look again, or in the wait."""
        with FullListener() as full:
            for _ in range(50):
                token = CancelToken()
                started = threading.Barrier(2)

                def connect(token: CancelToken = token, started: threading.Barrier = started) -> None:
                    started.wait()
                    create_connection(("127.0.0.1", full.port), token)

                with no_descriptor_left():
                    call = Call(connect)
                    started.wait()
                    token.cancel()
                    call.join()

                assert isinstance(call.error, Cancelled)
                assert 0 == token.stats().registrations

    def test_a_stop_between_beginning_and_registration_is_seen(self) -> None:
        """T-N3: the window that a stop could fall into unheard, forced open."""

        class Sudden(CancelToken):
            def on_cancel(self, fn: Callable[[*Ts], object], *args: *Ts) -> Registration:
                self.cancel()
                return super().on_cancel(fn, *args)

        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            no_descriptor_left(),
            pytest.raises(Cancelled),
        ):
            create_connection(listener.getsockname(), Sudden())

    @linux_only
    def test_a_timeout_is_kept(self) -> None:
        with (
            FullListener() as full,
            no_descriptor_left(),
            pytest.raises(TimeoutError, match="no connection to"),
        ):
            create_connection(("127.0.0.1", full.port), CancelToken(), timeout=0.01)

    def test_a_refusal_is_reported_as_such(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
        with no_descriptor_left(), pytest.raises(ConnectionRefusedError):
            create_connection(address, CancelToken())

    def test_the_next_address_is_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            with socket.create_server(("127.0.0.1", 0)) as closed:
                refusing = closed.getsockname()
            answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", where) for where in (refusing, address)]
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_: answers)
            with create_connection(address, CancelToken()) as sock:
                assert address == sock.getpeername()

    def test_no_address_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [])
        with pytest.raises(OSError, match="has no address"):
            create_connection(("127.0.0.1", 1), CancelToken())

    def test_a_cancelled_token_opens_nothing(self) -> None:
        token = CancelToken()
        token.cancel()
        with no_descriptor_left(), pytest.raises(Cancelled):
            create_connection(("127.0.0.1", 1), token)

    def test_the_hook_handed_out_is_bound_still(self) -> None:
        token = CancelToken()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            sock, hook = connect_hooked(listener.getsockname(), token)
            with sock, hook:
                token.cancel()
                assert hook.stopped

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows counts differently")
    def test_descriptors_above_1023_work(self, tmp_path: Path) -> None:
        """T-N3: `select` would fail."""
        resource = pytest.importorskip("resource")
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if hard != resource.RLIM_INFINITY and hard < 2048:
            pytest.skip("this machine allows too few descriptors")
        resource.setrlimit(resource.RLIMIT_NOFILE, (2048, hard))
        files: list[int] = []
        try:
            with socket.create_server(("127.0.0.1", 0)) as listener:
                while not files or files[-1] < 1100:
                    files.append(os.open(os.devnull, os.O_RDONLY))
                with create_connection(listener.getsockname(), CancelToken(), timeout=100) as sock:
                    assert sock.fileno() > 1023
        finally:
            for descriptor in files:
                os.close(descriptor)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
