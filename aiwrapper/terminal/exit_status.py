"""What the command tells its caller when it ends."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """The command's exit statuses."""

    OK = 0
    FAILED = 1
    USAGE = 2
    """What argparse exits with, too."""
    STOPPED = 130
    """What a shell reports for a program that SIGINT ended: 128 + 2."""
