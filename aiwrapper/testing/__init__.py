"""For tests of what is built on `aiwrapper`, and of `aiwrapper` itself.

`fakes` are strict providers on loopback, `scripted` is one in this process, `scripts` is what they say, `rendering`
gives the bytes alone. `oracle` judges a run that has ended.
`logs`, `histories` and `strategies` draw values for hypothesis and are imported by name, because they need it
installed.
"""

from aiwrapper.testing._holds import Hold as Hold
from aiwrapper.testing._holds import Phase as Phase
from aiwrapper.testing._holds import Place as Place
from aiwrapper.testing._provider import Asked as Asked
from aiwrapper.testing._records import FakeConnection as FakeConnection
from aiwrapper.testing._records import FakeRequest as FakeRequest
from aiwrapper.testing.fakes import FakeProvider as FakeProvider
from aiwrapper.testing.oracle import Effect as Effect
from aiwrapper.testing.oracle import Evidence as Evidence
from aiwrapper.testing.oracle import assert_rules_kept as assert_rules_kept
from aiwrapper.testing.oracle import broken_rules as broken_rules
from aiwrapper.testing.oracle import refused_next as refused_next
from aiwrapper.testing.recorded import RecordedTransport as RecordedTransport
from aiwrapper.testing.recorded import Recording as Recording
from aiwrapper.testing.rendering import DialectName as DialectName
from aiwrapper.testing.rendering import render as render
from aiwrapper.testing.rendering import render_events as render_events
from aiwrapper.testing.scripted import ScriptedTransport as ScriptedTransport
from aiwrapper.testing.scripts import DEFAULT_TURN as DEFAULT_TURN
from aiwrapper.testing.scripts import Answer as Answer
from aiwrapper.testing.scripts import Block as Block
from aiwrapper.testing.scripts import Call as Call
from aiwrapper.testing.scripts import Cut as Cut
from aiwrapper.testing.scripts import Delivery as Delivery
from aiwrapper.testing.scripts import HttpError as HttpError
from aiwrapper.testing.scripts import Raw as Raw
from aiwrapper.testing.scripts import Redacted as Redacted
from aiwrapper.testing.scripts import Say as Say
from aiwrapper.testing.scripts import Script as Script
from aiwrapper.testing.scripts import StreamError as StreamError
from aiwrapper.testing.scripts import Think as Think
from aiwrapper.testing.scripts import Turn as Turn
