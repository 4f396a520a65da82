"""A cooperative cancel token for blocking code, trio and asyncio.

Read `_errors.py` first, then `_token.py`, `_tree.py` (parents and children) and `_cancellation.py` (one call of
`cancel()`), then `sockets.py` and `http.py`.
"""

from cancel_token._deadline import Clock as Clock
from cancel_token._errors import CancelKind as CancelKind
from cancel_token._errors import Cancelled as Cancelled
from cancel_token._errors import CancelReason as CancelReason
from cancel_token._origins import record_origins as record_origins
from cancel_token._registration import Registration as Registration
from cancel_token._scopes import move_on_cancel as move_on_cancel
from cancel_token._stats import TokenStats as TokenStats
from cancel_token._token import CancelToken as CancelToken
