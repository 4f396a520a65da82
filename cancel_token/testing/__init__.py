"""What helps to test code that obeys a token. Read `_clock.py` first."""

from cancel_token.testing._clock import ManualClock as ManualClock
