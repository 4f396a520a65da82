"""A language-model wrapper whose conversations survive every stop.

Read `_core/messages.py` and `_core/log.py` first: the log is the truth, everything else follows from it.
Then `_core/agent.py` (what comes next), `_run.py` (one run), `drivers/threads.py` (the loop), `agents.py` (the face).
"""

from aiwrapper._core.conversation import CallReport as CallReport
from aiwrapper._core.conversation import Conversation as Conversation
from aiwrapper._core.errors import AiwrapperError as AiwrapperError
from aiwrapper._core.errors import BadLog as BadLog
from aiwrapper._core.errors import Busy as Busy
from aiwrapper._core.errors import ModelCallError as ModelCallError
from aiwrapper._core.errors import StoreError as StoreError
from aiwrapper._core.errors import ToolDenied as ToolDenied
from aiwrapper._core.log import Entry as Entry
from aiwrapper._core.log import ReasoningDelta as ReasoningDelta
from aiwrapper._core.log import ReasoningFinished as ReasoningFinished
from aiwrapper._core.log import RetryWaiting as RetryWaiting
from aiwrapper._core.log import RunFailed as RunFailed
from aiwrapper._core.log import RunFinished as RunFinished
from aiwrapper._core.log import RunStarted as RunStarted
from aiwrapper._core.log import RunStopped as RunStopped
from aiwrapper._core.log import Sink as Sink
from aiwrapper._core.log import TextDelta as TextDelta
from aiwrapper._core.log import ToolCallArguments as ToolCallArguments
from aiwrapper._core.log import ToolCallReady as ToolCallReady
from aiwrapper._core.log import ToolCallStarted as ToolCallStarted
from aiwrapper._core.log import ToolFinished as ToolFinished
from aiwrapper._core.log import ToolStarted as ToolStarted
from aiwrapper._core.log import TurnFinished as TurnFinished
from aiwrapper._core.log import TurnStarted as TurnStarted
from aiwrapper._core.log import UsageReported as UsageReported
from aiwrapper._core.log import UserMessageAdded as UserMessageAdded
from aiwrapper._core.messages import AssistantMessage as AssistantMessage
from aiwrapper._core.messages import CutCall as CutCall
from aiwrapper._core.messages import Image as Image
from aiwrapper._core.messages import Message as Message
from aiwrapper._core.messages import Reasoning as Reasoning
from aiwrapper._core.messages import Text as Text
from aiwrapper._core.messages import ToolCall as ToolCall
from aiwrapper._core.messages import ToolMessage as ToolMessage
from aiwrapper._core.messages import ToolResult as ToolResult
from aiwrapper._core.messages import Usage as Usage
from aiwrapper._core.messages import UserMessage as UserMessage
from aiwrapper._core.tools import Tool as Tool
from aiwrapper._core.tools import tool as tool
from aiwrapper._core.validity import repair as repair
from aiwrapper._core.validity import validate as validate
from aiwrapper._model_call import RetryPolicy as RetryPolicy
from aiwrapper._run import RunResult as RunResult
from aiwrapper._run import StopReport as StopReport
from aiwrapper.agents import ChatAgent as ChatAgent
from aiwrapper.lang import Lang as Lang
from aiwrapper.lang import ObjectResult as ObjectResult
from cancel_token import Cancelled as Cancelled
from cancel_token import CancelReason as CancelReason
from cancel_token import CancelToken as CancelToken
