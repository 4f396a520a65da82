"""A plain script: several questions at once with `concurrent.futures`, and the first answer is enough.

    python futures_script.py

All calls share one token. Whatever cancels it, the first answer, Ctrl-C, or its timeout, ends them all within
milliseconds, so leaving the pool's block does not wait for answers that nobody wants. What they had said is there.
"""

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from which_model import which_model

from aiwrapper import ModelCallError, RunResult
from cancel_token import CancelToken
from cancel_token.signals import cancel_on_sigint

QUESTIONS = ("Tell me a long story.", "Say yes or no.", "Tell me another long story.")


def main() -> None:
    """Ask, take what comes first, and stop the rest."""
    token = CancelToken(timeout=60)
    with which_model() as lang, cancel_on_sigint(token, watcher=True):
        with ThreadPoolExecutor(max_workers=len(QUESTIONS)) as pool:
            asked: dict[Future[RunResult], str] = {
                pool.submit(lang.ask, question, token=token): question for question in QUESTIONS
            }
            wait(asked, return_when=FIRST_COMPLETED)
            token.cancel("one answer is enough")
        for answer, question in asked.items():
            try:
                result = answer.result()
            except ModelCallError as error:  # a stop is a result, and a failure is not
                print(f"{question} failed: {error}")
            else:
                print(f"{question} {result.status}: {result.text[:60]!r}")


if __name__ == "__main__":
    main()
