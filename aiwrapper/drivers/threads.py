"""The loop that obeys the step machine, for code that blocks. All that is decided is decided elsewhere.

The loop is a generator that gives way after every entry, so that one loop serves a caller who waits for the end
and a caller who watches the log grow. No thread of its own is needed for either.
"""

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from typing import assert_never

from aiwrapper._core.agent import CallModel, Finished, RunTools
from aiwrapper._model_call import ModelCall
from aiwrapper._run import Run, RunResult
from aiwrapper.drivers._tool_threads import ToolThreads


def drive(run: Run, model: ModelCall, tools: ToolThreads) -> Generator[None, None, None]:
    """Drive a run to its end, giving way after each entry. Exhaust the iterator, or close it: that stops the run.

    Whatever ends it, the terminal entry has been appended and nothing of the run is left when the iterator has ended.

    Raises:
        BaseException: what is nobody's failure here, such as KeyboardInterrupt, after the run has been settled.
    """
    try:
        run.begin()
        yield
        while not isinstance(step := run.next_step(), Finished):
            run.token.check()
            match step:
                case CallModel():
                    with closing(model.entries(step, run.token, run.doing)) as entries:
                        for entry in run.token.iter(entries):
                            run.append(entry)
                            yield
                case RunTools():
                    run.doing("running_tools")
                    yield from tools.execute(step, run)
                case _:
                    assert_never(step)
            run.doing("between_steps")
        run.finish(step)
    except BaseException as error:
        if not run.end(error):
            raise


def complete(run: Run, model: ModelCall, tools: ToolThreads) -> RunResult:
    """Drive a run to its end.

    Raises:
        BaseException: as for `drive`.
    """
    with driving(run, model, tools) as steps:
        for _ in steps:
            pass
    return run.result()


@contextmanager
def driving(run: Run, model: ModelCall, tools: ToolThreads) -> Iterator[Iterator[None]]:
    """`drive`, to be exhausted inside the block; leaving that early ends the run, whatever the reason."""
    steps = drive(run, model, tools)
    try:
        yield steps
    except BaseException as error:  # Ctrl-C may come between two steps, too, and before the first
        run.interrupt(error)
        steps.close()
        run.close(error)
        raise
