"""The terminal: `aiwrapper chat` and `aiwrapper ask`.

Read `choose.py` (which model), `render.py` (entries to text on a screen), then `chat.py` and `ask.py`.
Needs the `[chat]` extra: rich and prompt_toolkit.
"""
