"""The plugin, seen by programs that use it."""

import json
import re
from xml.etree import ElementTree

import pytest

pytest_plugins = "pytester"

PROGRAM = """
import pytest

class Box:
    def __init__(self):
        self.open = False

def run(box, token):
    token.check()
    box.open = True
    {first}
    {second}

def check(box, outcome):
    assert outcome.legal("returned", "cancelled")
    assert not box.open

@pytest.mark.cancel_points({marker})
def test_box(explore_cancel):
    explore_cancel(Box, run, check)
"""
CHECK, CLOSE = "token.check()", "box.open = False"
FAULTY = PROGRAM.format(first=CHECK, second=CLOSE, marker="")
MENDED = PROGRAM.format(first=CLOSE, second=CHECK, marker="")


@pytest.fixture
def run_tests(pytester: pytest.Pytester) -> "RunTests":
    return RunTests(pytester)


class RunTests:
    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def __call__(self, program: str, *args: str) -> pytest.RunResult:
        for compiled in self.pytester.path.rglob("*.pyc"):
            compiled.unlink()  # two versions within a second of the same length would be one
        self.pytester.makepyfile(test_box=program)
        # Without hypothesis's plugin, which would be imported and rewritten anew each time.
        plugins = ("cancel_token.testing.pytest_plugin", "no:randomly", "no:hypothesispytest")
        chosen = [word for plugin in plugins for word in ("-p", plugin)]
        return self.pytester.runpytest(*chosen, "--strict-markers", *args)


def test_a_good_program_passes_and_the_points_are_counted(run_tests: RunTests) -> None:
    result = run_tests(MENDED)

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["cancel points, sync: 4 attempts"])


def test_a_faulty_program_fails_with_an_id_that_replays_it(run_tests: RunTests) -> None:
    result = run_tests(FAULTY)
    (id_,) = set(re.findall(r"ct1:\S+", result.stdout.str()))
    again = run_tests(FAULTY, f"--cancel-replay={id_}")
    stale = run_tests(MENDED, f"--cancel-replay={id_}")

    assert id_.startswith("ct1:sync:0.2check~")
    result.assert_outcomes(failed=1)
    again.assert_outcomes(failed=1)
    again.stdout.fnmatch_lines(["*FAIL: 1 attempts planned, 1 run, 1 valid*"])
    stale.assert_outcomes(failed=1)
    stale.stdout.fnmatch_lines(["*StaleReplayId*explore again*"])


def test_what_failed_last_time_is_tried_first(run_tests: RunTests) -> None:
    first, second = run_tests(FAULTY), run_tests(FAULTY)
    mended, third = run_tests(MENDED), run_tests(FAULTY)

    first.stdout.fnmatch_lines(["*FAIL: 4 attempts planned*"])
    second.stdout.fnmatch_lines(["*FAIL: 1 attempts planned*"])
    mended.assert_outcomes(passed=1)
    third.stdout.fnmatch_lines(["*FAIL: 4 attempts planned*"])


def test_it_does_without_pytests_cache(run_tests: RunTests) -> None:
    for _ in range(2):
        result = run_tests(FAULTY, "-p", "no:cacheprovider")
        result.stdout.fnmatch_lines(["*FAIL: 4 attempts planned*"])


def test_the_marker_says_how_to_explore(run_tests: RunTests) -> None:
    program = PROGRAM.format(
        first=CLOSE, second=CHECK, marker='backend=["sync", "line"], at=["check"], depth=1'
    )
    result = run_tests(program)

    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["cancel points, line: 2 attempts", "cancel points, sync: 2 attempts"])


def test_the_marker_takes_keywords_only(run_tests: RunTests) -> None:
    result = run_tests(PROGRAM.format(first=CLOSE, second=CHECK, marker="'sync'"))

    result.stdout.fnmatch_lines(["*cancel_points takes keywords only*"])


def test_reports_are_written_down(run_tests: RunTests, pytester: pytest.Pytester) -> None:
    run_tests(FAULTY, "--cancel-report=reports")

    written, junit = sorted((pytester.path / "reports").iterdir())
    assert ["test-box-py--test-box-1.json", "test-box-py--test-box-1.xml"] == [written.name, junit.name]
    assert "FAIL" == json.loads(written.read_text(encoding="utf-8"))["verdict"]
    suite = ElementTree.fromstring(junit.read_text(encoding="utf-8"))
    assert ("6", "1", "0") == tuple(suite.attrib[key] for key in ("tests", "failures", "errors"))
    assert [1] == [len(case.findall("failure")) for case in suite if len(case)]


def test_the_command_line_says_how_deep_and_how_many(run_tests: RunTests) -> None:
    few = run_tests(MENDED, "--cancel-max-points=2")
    deep = run_tests(MENDED, "--cancel-depth=2")

    few.stdout.fnmatch_lines(["cancel points, sync: 2 attempts"])
    deep.stdout.fnmatch_lines(["cancel points, sync: 8 attempts"])
