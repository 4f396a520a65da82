"""What a person would see: bytes for a terminal, drawn on an emulated screen."""

import pyte
from rich.console import Console


class Screen:
    """An emulated terminal with a rich console that draws on it."""

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.Stream(self._screen)
        self._screen.set_mode(
            pyte.modes.LNM
        )  # a newline also returns the carriage, as a real terminal's driver does
        self.console = Console(
            file=self,
            force_terminal=True,
            width=columns,
            height=lines,
            color_system="256",
            legacy_windows=False,
            _environ={},
        )

    def write(self, text: str) -> int:
        self._stream.feed(text)
        return len(text)

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True

    @property
    def lines(self) -> list[str]:
        """The lines that are not blank, without trailing spaces."""
        return [line.rstrip() for line in self._screen.display if line.strip()]
