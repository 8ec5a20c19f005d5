"""Exercises that say by themselves whether an answer is right.

checks_1.py … checks_6.py hold the checks of each lesson:

    @exercise
    def mirror(answer):
        "The ball, left to right."
        require(..., "the ball comes to 0.61, wanted 0.39")
"""
import functools


class NotYet(Exception):
    """An answer that is not right, and what shows it."""


def require(fact, hint):
    if not fact:
        raise NotYet(hint)


class Verdict:
    """Whether an answer is right. A notebook does not show it: the line above says more."""

    def __init__(self, is_right):
        self.is_right = is_right

    def __bool__(self):
        return self.is_right

    def _ipython_display_(self):
        pass


def exercise(check):
    """A check as the learner calls it: prints one line, and returns a `Verdict`, which is true if the answer is right.

    An answer of None, or a function that returns None or `...`, is not answered yet. Whatever the answer raises is told
    by its last line.
    """
    name = check.__name__

    @functools.wraps(check)
    def told(answer):
        result, line = False, "not answered yet"
        if answer is not None and answer is not ...:
            try:
                check(answered(answer) if callable(answer) else answer)
                result, line = True, "right"
            except NotAnswered:
                pass
            except NotYet as hint:
                line = f"not yet: {hint}"
            except Exception as error:
                line = f"not yet: it raises {type(error).__name__}: {error}"
        print(f"{name}: {line}")
        return Verdict(result)
    return told


class NotAnswered(Exception):
    pass


def answered(answer):
    def call(*args, **kwargs):
        given = answer(*args, **kwargs)
        if given is None or given is ...:
            raise NotAnswered
        return given
    return call
