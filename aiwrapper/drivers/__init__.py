"""The loops that obey the step machine, one file for each world: `threads.py` for code that blocks."""
