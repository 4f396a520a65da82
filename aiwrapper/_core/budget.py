"""What a conversation has used of models, and how much it may use."""

from typing import Final

from attrs import field, frozen, validators

from aiwrapper._core.messages import Usage


def _nothing_used() -> Usage:
    return Usage(complete=True)


@frozen(kw_only=True)
class Spent:
    """What a run or a conversation has used of models, however its runs ended.

    What agents have used that it called as tools, and whatever else its tools have asked of models, is in it.

    Args:
        turns: how many times a model was asked.
        usage: the sum over these turns; a lower bound where it is not complete (U1).
    """

    turns: int = 0
    usage: Usage = field(factory=_nothing_used)

    @property
    def tokens(self) -> int:
        """Input and output together, as far as the providers have told."""
        return (self.usage.input_tokens or 0) + (self.usage.output_tokens or 0)

    def plus(self, other: "Spent") -> "Spent":
        """The sum of two."""
        return Spent(turns=self.turns + other.turns, usage=self.usage.plus(other.usage))


NOTHING_SPENT: Final = Spent()


@frozen(kw_only=True)
class Budget:
    """How much a conversation may use, over all of its runs and branches.

    A model is asked as long as less has been used; an answer that has begun is never cut. So the last answer may go
    beyond the budget.

    Args:
        tokens: input and output together. A provider that was stopped before it had told its count is counted with
            what it had told, which may be nothing.
        turns: how many times a model may be asked, whatever is told.

    Raises:
        ValueError: one of them is negative.
    """

    tokens: int | None = field(default=None, validator=validators.optional(validators.ge(0)))
    turns: int | None = field(default=None, validator=validators.optional(validators.ge(0)))

    def refusal(self, spent: Spent) -> str | None:
        """Why no model may be asked any more, for people; None if one may."""
        for used, limit, what in (
            (spent.tokens, self.tokens, "tokens"),
            (spent.turns, self.turns, "turns of the model"),
        ):
            if limit is not None and used >= limit:
                return f"The budget is used up: {used:,} of {limit:,} {what}. With a larger one it can go on."
        return None
