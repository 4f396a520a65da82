"""Wire protocols: what is sent, what may be sent, what comes back. Pure, like the core.

Read `_wire_history.py` (what every dialect does with a conversation), then `openai_chat.py` or `anthropic.py`
with the files named after it (its stream, its rules, its raw histories), then `hosts.py`.
"""
