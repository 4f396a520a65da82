"""The twenty-six known faults, each as a change of the real code, and who finds it."""

from typing import Final

from tests.mutants.planting import Edit, Fault

TURN_MESSAGES: Final = "aiwrapper._core.turns:turn_messages"
FINISH_ENDING: Final = "aiwrapper._run:Run._finish_ending"
CALLED: Final = "aiwrapper.drivers._tool_calls:_InThread._called"
RAISED: Final = "aiwrapper.drivers._tool_calls:_Execution.raised"

NO_AWAIT: Final = "code that blocks awaits nothing"
IN_THE_THREAD: Final = "a run is driven, and written down, in a thread: no await of the loop comes in between"
READ_LOOKS: Final = "each piece of the answer is a read of its own there, and a read looks at the token"
NO_BYTE_NOW: Final = "it needs a stop while a tool works: no byte of an answer comes then"
NO_BYTE: Final = (
    "it needs a stop while an entry is written down, or after the answer is whole: no byte comes then"
)
NO_TOOL: Final = {"twice": "its script has no tools, so that it goes the same way after a stop, too"}
OWN_TOKEN: Final = dict.fromkeys(
    ("trio", "asyncio"), "a task's run hangs on a token of its own, and what is left there goes with it"
)
NO_RACE: Final = "the thread that comes to the point cancels by itself: nobody comes in between"

FAULTS: Final = (
    Fault(
        name="M01",
        change="a stop leaves calls without a result",
        edits=(
            Edit(
                TURN_MESSAGES,
                "results.append(tool_result(turn, call.id, slot.index))",
                "if (ToolFinished.kind, slot.index) in turn.entries:\n"
                "    results.append(tool_result(turn, call.id, slot.index))",
            ),
        ),
        killers=("sync", "bytes", "trio", "asyncio"),
        equivalent=NO_TOOL,
    ),
    Fault(
        name="M02",
        change="a message is called whole from its beginning",
        edits=(Edit(TURN_MESSAGES, "stopped=not turn.is_whole,", "stopped=False,"),),
        killers=("sync", "twice", "bytes", "trio", "asyncio"),
    ),
    Fault(
        name="M03",
        change="the run is settled after its end was told",
        edits=(
            Edit(
                FINISH_ENDING,
                "if not self._is_settled:\n"
                "    self._settled(self)\n"
                "    self.account.close()\n"
                "    self._is_settled = True\n"
                "self._audience.tell_subscribers()",
                "self._audience.tell_subscribers()\n"
                "if not self._is_settled:\n"
                "    self._settled(self)\n"
                "    self.account.close()\n"
                "    self._is_settled = True",
            ),
        ),
        killers=("sync", "twice", "bytes", "trio", "asyncio"),
    ),
    Fault(
        name="M04",
        change="deltas are gathered, and a stop loses what was gathered",
        edits=(
            Edit(
                "aiwrapper.drivers.threads:drive",
                "for entry in run.token.iter(entries):\n"
                "    if isinstance(entry, Pause):\n"
                "        yield entry\n"
                "    else:\n"
                "        run.append(entry)\n"
                "        yield None",
                "held = []\n"
                "for entry in run.token.iter(entries):\n"
                "    held.append(entry)\n"
                '    if entry.kind != "text_delta":\n'
                "        for each in held:\n"
                "            run.append(each)\n"
                "            yield\n"
                "        held.clear()",
            ),
        ),
        killers=("sync", "twice", "bytes", "trio", "asyncio"),
    ),
    Fault(
        name="M05",
        change="a stop appends a copy of the partial message",
        edits=(
            Edit(
                "aiwrapper._core.conversation:_turn_closed",
                "conversation = appended(conversation, assistant)",
                "conversation = appended(conversation, assistant)\n"
                "if assistant.stopped:\n"
                "    conversation = appended(conversation, assistant)",
            ),
        ),
        killers=("sync", "twice", "bytes", "trio", "asyncio"),
    ),
    Fault(
        name="M06",
        change="the connection is closed only after a whole answer",
        edits=(
            Edit(
                "aiwrapper._model_call:ModelCall._attempt",
                "with (\n"
                "    # A child, so that the linger can end the request without ending the run.\n"
                '    token.child(name="request") as request_token,\n'
                "    self.transport.open(request, request_token) as pieces,\n"
                "):\n"
                '    doing("streaming")\n'
                "    del request\n"
                "    arriving = waiting.read(pieces) if isinstance(self.host, RemoteHost) else pieces\n"
                "    yield from self._read(arriving, reply, token, request_token)",
                'with token.child(name="request") as request_token:\n'
                "    opened = self.transport.open(request, request_token)\n"
                "    pieces = opened.__enter__()\n"
                '    doing("streaming")\n'
                "    del request\n"
                "    arriving = waiting.read(pieces) if isinstance(self.host, RemoteHost) else pieces\n"
                "    yield from self._read(arriving, reply, token, request_token)\n"
                "    opened.__exit__(None, None, None)",
            ),
        ),
        killers=("sync", "twice", "bytes", "trio", "asyncio"),
    ),
    Fault(
        name="M07",
        change="the run's token is taken off its parent only if the run completes",
        edits=(
            Edit(
                FINISH_ENDING,
                "self._registration.close()\nself.token.close()",
                "if isinstance(ending, RunFinished):\n    self._registration.close()\n    self.token.close()",
            ),
        ),
        killers=("sync", "twice", "bytes"),
        equivalent=OWN_TOKEN,
    ),
    Fault(
        name="M08",
        change="a tool's stop is told as its error",
        edits=(
            Edit(
                RAISED,
                "if self.run.token.cancelled:\n"
                "    return None  # the stop, or what came of it: it may have partly executed",
                "pass",
            ),
        ),
        killers=("sync", "trio", "asyncio"),
        equivalent=NO_TOOL | {"bytes": NO_BYTE_NOW},
    ),
    Fault(
        name="M09",
        change="no look at the token between the deltas",
        edits=(
            Edit(
                "aiwrapper.drivers.threads:drive",
                "for entry in run.token.iter(entries):",
                "for entry in entries:",
            ),
            Edit(
                "aiwrapper._run:Run._accept",
                "accepted = also_when_stopped or not self.token.cancelled",
                "accepted = True",
            ),
        ),
        killers=("sync", "twice", "trio", "asyncio"),
        equivalent=NO_TOOL | {"bytes": READ_LOOKS},
    ),
    Fault(
        name="M10",
        change="a tool that was interrupted has the result `ok`",
        edits=(
            Edit(
                RAISED,
                "return None  # the stop, or what came of it: it may have partly executed",
                'return self.finished("returned", "ok")',
            ),
        ),
        killers=("sync", "trio", "asyncio"),
        equivalent=NO_TOOL | {"bytes": NO_BYTE_NOW},
    ),
    Fault(
        name="M11",
        change="a look at the token between the two halves of writing an entry down",
        edits=(
            Edit(
                "aiwrapper._run:Run._tell",
                "try:\n    self._audience.tell_sink()\nexcept SinkFailed:",
                "try:\n    self._audience.tell_sink()\n    self.token.check()\nexcept SinkFailed:",
            ),
        ),
        killers=("sync", "twice", "trio", "asyncio"),
        equivalent={"bytes": NO_BYTE},
    ),
    Fault(
        name="M12",
        change="the clean-up asks the cancelled token before it writes the end down",
        edits=(
            Edit(
                FINISH_ENDING,
                "try:\n    self._audience.tell_sink()",
                "self.token.check()\ntry:\n    self._audience.tell_sink()",
            ),
        ),
        killers=("sync", "twice", "bytes", "trio", "asyncio"),
    ),
    Fault(
        name="M13",
        change="a look at the token between a tool's effect and its result",
        edits=(
            Edit(
                CALLED,
                "with self.token():\n    value = self.tool.handler(**self.arguments)",
                "with self.token() as token:\n"
                "    value = self.tool.handler(**self.arguments)\n"
                "    token.check()",
            ),
        ),
        killers=("sync", "trio", "asyncio"),
        equivalent=NO_TOOL | {"bytes": NO_BYTE_NOW},
    ),
    Fault(
        name="M14",
        change="the agent is free again only if the run completes",
        edits=(
            Edit(
                "aiwrapper._agent:Agent._settled",
                "self._claim.pop(0)",
                'if self._last is not None and self._last[0].status == "completed":\n    self._claim.pop(0)',
            ),
        ),
        killers=("sync", "twice", "bytes", "trio", "asyncio"),
    ),
    Fault(
        name="M15",
        change="`stopped` is told besides `finished`",
        edits=(
            Edit(
                FINISH_ENDING,
                "self._audience.tell_subscribers()",
                "self._audience.tell_subscribers()\n"
                "if self.token.cancelled and isinstance(ending, RunFinished):\n"
                '    self._audience.announce(RunStopped(self.run_id, reason="user"))\n'
                "    self._audience.tell_subscribers()",
            ),
        ),
        killers=("sync", "twice", "trio", "asyncio"),
        equivalent={"bytes": NO_BYTE},
    ),
    Fault(
        name="M16",
        change="what became of the run is decided by the token alone",
        edits=(
            Edit(
                "aiwrapper._run:Run._stopped",
                "if _is_answered(self.state):",
                "if _is_answered(self.state) and not self.token.cancelled:",
            ),
        ),
        killers=("sync", "twice", "trio", "asyncio"),
        equivalent={"bytes": NO_BYTE},
    ),
    Fault(
        name="M17",
        change="the wait for the end of a stream's run is not shielded",
        edits=(
            Edit(
                "aiwrapper.drivers.aio:_wait_through",
                "await outlast(over)",
                "await anyio.lowlevel.checkpoint()\nawait wait_cancelled(over)",
            ),
        ),
        killers=("reading",),
        equivalent={"sync": NO_AWAIT, "twice": NO_AWAIT, "bytes": NO_AWAIT, "line": NO_AWAIT}
        | dict.fromkeys(("trio", "asyncio"), "nobody waits for a stream here: see `reading`"),
    ),
    Fault(
        name="M18",
        change="the agent keeps its first token for all runs",
        edits=(
            Edit(
                "aiwrapper._agent:Agent._begin",
                "token=CancelToken.never() if beginning.token is None else beginning.token,",
                'token=self.__dict__.setdefault("kept", beginning.token)\n'
                "if beginning.token is not None else CancelToken.never(),",
            ),
        ),
        killers=("sync", "twice", "bytes", "trio", "asyncio"),
    ),
    Fault(
        name="M19",
        change="the reason is dropped",
        edits=(Edit("aiwrapper._run:Run._stopped", "message=well_formed(reason.message),", 'message="",'),),
        killers=("sync", "twice", "bytes", "trio", "asyncio"),
    ),
    Fault(
        name="M20",
        change="a callback stays armed after the end",
        edits=(Edit(FINISH_ENDING, "self._registration.close()\nself.token.close()", "pass"),),
        killers=("sync", "twice", "bytes"),
        equivalent=OWN_TOKEN,
    ),
    Fault(
        name="M21",
        change="a tool's result is written down before its effect",
        edits=(
            Edit(
                "aiwrapper.drivers._tool_calls:ToolCalls._begin",
                "run.append(ToolStarted(step.run_id, step.turn, pending.index))",
                "run.append(ToolStarted(step.run_id, step.turn, pending.index))\n"
                'run.append(_finished(step, pending, "returned", "done"))',
            ),
        ),
        killers=("sync", "bytes", "trio", "asyncio"),
        equivalent=NO_TOOL,
    ),
    Fault(
        name="M22",
        change="a call that was cut is kept on the stopped message",
        edits=(
            Edit(
                TURN_MESSAGES,
                'cut_calls.append(CutCall(slot.name, "".join(slot.pieces)))\ncontinue',
                'call_id = f"{run_id}.{turn.number}.{slot.index}"\n'
                'parts.append(ToolCall(call_id, slot.name, arguments="".join(slot.pieces)))\n'
                "continue",
            ),
        ),
        killers=("sync", "bytes", "trio", "asyncio"),
        equivalent=NO_TOOL,
    ),
    Fault(
        name="M23",
        change="a stop throws the partial message away",
        edits=(Edit(TURN_MESSAGES, "if not parts:", "if not parts or not turn.is_whole:"),),
        killers=("sync", "twice", "bytes", "trio", "asyncio"),
    ),
    Fault(
        name="M24",
        change="a look at the token between the end and what is told of it",
        edits=(
            Edit(
                "aiwrapper._run:Run._end",
                "self._ending = entry",
                "self._ending = entry\nself.token.check()",
            ),
        ),
        killers=("sync", "twice", "bytes", "trio", "asyncio"),
        equivalent={"bytes": NO_BYTE},
    ),
    Fault(
        name="M25",
        change="a callback is armed by looking first and publishing then",
        edits=(
            Edit(
                "cancel_token._token:CancelToken.on_cancel",
                "held = self._held\nheld[registration] = partial(fn, *args) if args else fn",
                "held = self._held\n"
                "if self.cancelled:\n"
                "    fn(*args)\n"
                "    return registration\n"
                "held[registration] = partial(fn, *args) if args else fn",
            ),
            Edit(
                "cancel_token._token:CancelToken.on_cancel",
                "if self.cancelled:  # published, so look again, and take back: whoever takes it runs it (T-S4)",
                "if False:",
            ),
        ),
        killers=("arming",),
        equivalent=dict.fromkeys(("sync", "twice", "bytes", "trio", "asyncio", "reading"), NO_RACE),
    ),
    Fault(
        name="M26",
        change="an await between taking an entry and giving it to its reader",
        edits=(
            Edit(
                "aiwrapper.drivers.aio:_Entries.__anext__",
                "if entry is not None:\n    self._in_a_row += 1\n    return entry",
                "if entry is not None:\n    await anyio.lowlevel.checkpoint()\n    return entry",
            ),
        ),
        killers=("reading",),
        equivalent={"sync": NO_AWAIT, "twice": NO_AWAIT, "bytes": NO_AWAIT, "line": NO_AWAIT}
        | dict.fromkeys(("trio", "asyncio"), IN_THE_THREAD),
    ),
)
