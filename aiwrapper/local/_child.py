"""The child process that hosts the model: llama.cpp's own HTTP server, and nothing of ours but its start and its end.

Run by path, not with `-m`: it imports nothing of this package, so it starts in a few milliseconds. It is a process of
its own because Ctrl-C is swallowed by the binding while it generates, because leaving Python during a generation
aborts the process, and because a crash in native code would be ours.

The protocol, one JSON object a line: on stdin the settings, on stdout one answer, `{"url": ...}` or `{"error": ...}`,
where an empty error means that the reason is on stderr, or will be in a moment. Then the child stays, and perhaps
serves, until the end of its stdin, which comes even if the parent was killed outright. The key comes
this way because `ps` shows arguments to everyone, and an environment is inherited on and on.
"""

import json
import os
import sys
from typing import Any


def main() -> None:
    """Serve the model named on stdin until stdin ends."""
    # The library may print. The answer gets a descriptor of its own and everything else goes to stderr.
    answer = os.dup(1)
    os.dup2(2, 1)
    settings = json.loads(sys.stdin.buffer.readline())
    try:
        server = _serve(settings)  # held: the server ends with its object
        reply = {"url": server.listening_address}
    except _CannotServe as error:
        reply = {"error": str(error)}
    if "url" in reply:  # nobody listens any more
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)
    os.write(answer, json.dumps(reply).encode() + b"\n")
    os.close(answer)
    # Also when it can't serve: the library writes its errors in a thread, and they would be lost with us.
    sys.stdin.buffer.read()
    # The only way out that does not abort while the library's threads generate.
    os._exit(0 if "url" in reply else 1)


class _CannotServe(Exception):
    pass


def _serve(settings: dict[str, Any]) -> Any:  # Any: the library ships no types
    try:
        import xllamacpp  # not at the top: its absence is an answer, too
    except ImportError as error:
        if "libgomp" in str(error):
            raise _CannotServe(
                "the model's runtime needs the system library libgomp.so.1; install it with the system's package "
                "manager (Debian and Ubuntu: apt install libgomp1, Fedora: dnf install libgomp)"
            ) from error
        if isinstance(error, ModuleNotFoundError) and error.name == "xllamacpp":
            raise _CannotServe(
                "the model's runtime is not installed; install it with: pip install 'aiwrapper[local]'"
            ) from error
        raise _CannotServe(f"the model's runtime can't be loaded: {error}") from error

    params = xllamacpp.CommonParams()
    params.model.path = settings["model"]
    params.hostnames = ["127.0.0.1"]
    params.api_keys = [settings["api_key"]]
    params.ui = False
    params.n_ctx = settings["context_tokens"]
    params.n_parallel = 1
    # While it evaluates a prompt it obeys a closed connection only between batches; with 2048 it took 14 seconds.
    params.n_batch = params.n_ubatch = 64
    params.cache_ram_mib = 0
    params.fit_params = False  # would load the model twice, to fit it to a graphics card's memory
    params.cpuparams.n_threads = settings["threads"]
    params.verbosity = 1  # errors only: they are the reason in the parent's message
    ports = (
        [settings["port"], 0] if settings["port"] else [0]
    )  # the port of before the restart, if still free
    for port in ports:
        params.port = port
        try:
            return xllamacpp.Server(params)
        except RuntimeError:
            continue  # it says nothing; the library has written the reason to stderr
    raise _CannotServe("")


if __name__ == "__main__":
    main()
