"""What the tests of runs share."""

import pytest

from tests.aiwrapper.worlds import WORLDS, World


@pytest.fixture(params=WORLDS)
def world(request: pytest.FixtureRequest) -> World:
    """Each of the worlds in which a run may be waited for."""
    return World(request.param)
