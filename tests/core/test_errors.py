"""The errors: what they carry survives being sent to another process."""

import pickle

import pytest

from aiwrapper._core.errors import BadLog, Busy, InvalidArguments, ModelCallError, StoreError, ToolDenied


def test_a_model_that_could_not_be_asked_pickles_with_all_that_a_caller_distinguishes() -> None:
    error = ModelCallError("slow down", kind="rate_limit", status=429, retry_after_seconds=1.5)
    again = pickle.loads(pickle.dumps(error))

    assert isinstance(again, ModelCallError)
    assert "slow down" == str(again)
    assert ("rate_limit", 429, 1.5) == (again.kind, again.status, again.retry_after_seconds)


@pytest.mark.parametrize("kind", [BadLog, Busy, InvalidArguments, StoreError, ToolDenied])
def test_every_other_error_is_its_text(kind: type[Exception]) -> None:
    again = pickle.loads(pickle.dumps(kind("the text")))

    assert (kind, "the text") == (type(again), str(again))
