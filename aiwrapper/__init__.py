"""A language-model wrapper whose conversations survive every stop.

Read `_core/messages.py` and `_core/log.py` first: the log is the truth, everything else follows from it.
"""
