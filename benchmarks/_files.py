"""The limit of open files, for benchmarks that hold thousands of connections."""

import resource


def raise_file_limit() -> int:
    """Raise the soft limit to the hard one; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard
