"""A cooperative cancel token for blocking code, trio and asyncio.

Read `_errors.py` first, then `_token.py` (the tree and all its logic), then `sockets.py` and `http.py`.
"""
