"""The pure core: no I/O, no threads, no clock, no token.

Read `messages.py` (what a conversation is made of), then `log.py` (what a run says), then
`conversation.py` (how the one follows from the other), then `dialect.py` and `reply.py` (how a
provider's bytes become entries).
"""
