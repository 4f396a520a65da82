"""`python -m tests.mutants` shows which explorer finds which fault, and why the others do not.

python -m tests.mutants [M01 ...] [sync ...]     # some of the faults, by some of the explorers
"""

import sys
from typing import Final

from tests.mutants.explorers import EXPLORERS, alarm
from tests.mutants.faults import FAULTS
from tests.mutants.planting import planted

ELSEWHERE: Final = {
    "arming": "it explores how a callback is armed, and runs no agent",
    "reading": "it explores how a run that is over is read, and a stream that is left: no stop meets a run otherwise",
    "line": "its targets are the agent's modules: the token's own lines are explored by `arming`",
}
UNARGUED: Final = "not found there, and nobody has said why"


def main(wanted: list[str]) -> int:
    faults = [fault for fault in FAULTS if fault.name in wanted] or list(FAULTS)
    explorers = [name for name in EXPLORERS if name in wanted] or list(EXPLORERS)
    print("     " + "".join(f"{name:>12}" for name in explorers), flush=True)
    found = {name: alarm(name) for name in explorers}
    print("none " + "".join(f"{found[name] or '-':>12}" for name in explorers), flush=True)
    alarms = sum(each is not None for each in found.values())
    killed = 0
    survivors: list[str] = []
    for fault in faults:
        found = {}
        with planted(fault):
            for name in explorers:
                found[name] = alarm(name)
        killed += any(found.values())
        print(
            f"{fault.name:5}" + "".join(f"{found[name] or '-':>12}" for name in explorers),
            f"  {fault.change}",
            flush=True,
        )
        survivors += [
            f"{fault.name} survives {name}: {fault.equivalent.get(name) or ELSEWHERE.get(name, UNARGUED)}"
            for name in explorers
            if found[name] is None
        ]
    print("\n" + "\n".join(survivors))
    print(f"\n{killed} of {len(faults)} faults killed; {alarms} alarms in the unharmed code")
    return int(killed < len(faults) or alarms > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
