"""What a person would see: what is written to a terminal, drawn on an emulated screen."""

import io

import pyte
from rich.console import Console


class Screen:
    """An emulated terminal with a rich console that draws on it."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self._screen = pyte.Screen(columns, lines)
        # A newline also returns the carriage, as a real terminal's driver has it.
        self._screen.set_mode(pyte.modes.LNM)
        self.console = Console(
            file=_Tty(pyte.Stream(self._screen)),
            force_terminal=True,
            width=columns,
            height=lines,
            color_system="256",
            legacy_windows=False,
            _environ={},
        )

    @property
    def lines(self) -> list[str]:
        """The lines that are not blank, without trailing spaces."""
        return [line.rstrip() for line in self._screen.display if line.strip()]


class _Tty(io.StringIO):
    def __init__(self, stream: pyte.Stream) -> None:
        super().__init__(newline="")
        self._stream = stream

    def write(self, text: str, /) -> int:
        self._stream.feed(text)
        return len(text)

    def isatty(self) -> bool:
        return True
