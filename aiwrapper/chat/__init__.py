"""A chat on a web page, with a Stop button that keeps its promise.

`ChatAppData` holds the chats of a store, `WrapChatAgent` answers in them, `ChatApp` is the web application. Read
`data.py` first: what holds is said there. Then `wrap.py`, `_view.py` (what a page is told) and `app.py`.
"""

from aiwrapper.chat._answering import Asked as Asked
from aiwrapper.chat._answering import Leaving as Leaving
from aiwrapper.chat._answering import Running as Running
from aiwrapper.chat._answering import StopReceipt as StopReceipt
from aiwrapper.chat._answering import UnknownMessage as UnknownMessage
from aiwrapper.chat._attachments import Attachment as Attachment
from aiwrapper.chat._attachments import BadAttachment as BadAttachment
from aiwrapper.chat._attachments import TooLarge as TooLarge
from aiwrapper.chat._attachments import UnknownAttachment as UnknownAttachment
from aiwrapper.chat._state import ChatState as ChatState
from aiwrapper.chat._state import Configuration as Configuration
from aiwrapper.chat.app import ChatApp as ChatApp
from aiwrapper.chat.data import ChatAppData as ChatAppData
from aiwrapper.chat.wrap import WrapChatAgent as WrapChatAgent
