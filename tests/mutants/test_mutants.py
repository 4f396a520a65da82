"""Each of the known faults is found, by one explorer at least; `python -m tests.mutants` shows by which others."""

import pytest

from tests.mutants.explorers import EXPLORERS, ROTTEN, alarm
from tests.mutants.faults import FAULTS
from tests.mutants.planting import Edit, Fault, Stale, planted


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_found(fault: Fault) -> None:
    with planted(fault):
        found = alarm(fault.killers[0])

    assert found is not None
    assert found not in {error.__name__ for error in ROTTEN}, "the fault itself is broken"


@pytest.mark.parametrize("explorer", ["sync", "trio", "asyncio", "reading", "arming"])
def test_there_is_no_alarm_in_the_unharmed_code(explorer: str) -> None:
    assert alarm(explorer) is None


def test_the_faults_are_the_twenty_six() -> None:
    assert [f"M{number:02}" for number in range(1, 27)] == [fault.name for fault in FAULTS]
    assert {name for fault in FAULTS for name in (*fault.killers, *fault.equivalent)} <= set(EXPLORERS)


@pytest.mark.parametrize(
    "target", ["aiwrapper._run:Run._vanished", "aiwrapper._run:Vanished.end", "aiwrapper._run:_FORCE"]
)
def test_a_fault_of_a_function_that_is_gone_is_an_error(target: str) -> None:
    fault = Fault(name="M00", change="none", edits=(Edit(target, "old", "new"),), killers=())
    with pytest.raises(Stale), planted(fault):
        pass


def test_a_fault_that_fits_no_more_is_an_error() -> None:
    edit = Edit("aiwrapper._run:Run._end", "self._ending = another", "pass")
    fault = Fault(name="M00", change="none", edits=(edit,), killers=())
    with pytest.raises(Stale, match="0 times"), planted(fault):
        pass
