"""What helps to test code that obeys a token: cancel it at every point, on a clock that tests move by hand.

Read `_points.py` first (what a point is), then `_probe.py` (how it is met), `_trial.py` (one attempt), `_runtime.py`
(where it runs), `_explore.py` (all of them).
"""

from cancel_token.testing._clock import JumpingClock as JumpingClock
from cancel_token.testing._clock import ManualClock as ManualClock
from cancel_token.testing._explore import StaleReplayId as StaleReplayId
from cancel_token.testing._explore import TrialOptions as TrialOptions
from cancel_token.testing._explore import explore as explore
from cancel_token.testing._explore import replay as replay
from cancel_token.testing._outcomes import After as After
from cancel_token.testing._outcomes import Attempt as Attempt
from cancel_token.testing._outcomes import Breach as Breach
from cancel_token.testing._outcomes import Limits as Limits
from cancel_token.testing._outcomes import Outcome as Outcome
from cancel_token.testing._outcomes import OutcomeKind as OutcomeKind
from cancel_token.testing._outcomes import Raised as Raised
from cancel_token.testing._outcomes import Verdict as Verdict
from cancel_token.testing._outcomes import Violation as Violation
from cancel_token.testing._plans import Backend as Backend
from cancel_token.testing._plans import Plan as Plan
from cancel_token.testing._plans import Select as Select
from cancel_token.testing._points import Kind as Kind
from cancel_token.testing._points import Point as Point
from cancel_token.testing._report import Failure as Failure
from cancel_token.testing._report import Report as Report
from cancel_token.testing._shot import Shot as Shot
from cancel_token.testing._shot import cancel_at as cancel_at
from cancel_token.testing._trial import Second as Second
from cancel_token.testing._trial import Who as Who
