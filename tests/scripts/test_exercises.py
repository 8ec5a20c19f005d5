"""The lessons' exercises: their checks take right answers and refuse wrong ones, also nearly right ones."""
import importlib

import pytest


def cases():
    """(number of the lesson, name of the check, what is special about the answer, the answer, whether it is right)"""
    for number in range(1, 7):
        solutions = importlib.import_module(f"lesson_{number}")
        answers = importlib.import_module(f"wrong_answers_{number}")
        for name in names(number):
            yield number, name, "solution", getattr(solutions, name), True
            for how, answer in getattr(answers, "RIGHT", {}).get(name, {}).items():
                yield number, name, how, answer, True
            for how, answer in answers.WRONG[name].items():
                yield number, name, how, answer, False


def names(number):
    """Of the checks of a lesson."""
    checks = importlib.import_module(f"p2p_min.lessons.checks_{number}")
    return [name for name, check in vars(checks).items() if hasattr(check, "__wrapped__")
            and check.__module__ == checks.__name__]


CASES = list(cases())


@pytest.mark.parametrize("number, name, how, answer, right", CASES, ids=[f"{c[0]}-{c[1]}-{c[2]}" for c in CASES])
def test_a_check_knows_right_from_wrong(number, name, how, answer, right, capsys):
    check = getattr(importlib.import_module(f"p2p_min.lessons.checks_{number}"), name)
    assert bool(check(answer)) is right, capsys.readouterr().out
    assert capsys.readouterr().out.startswith(f"{name}: right\n" if right else f"{name}: not yet: ")


@pytest.mark.parametrize("number", range(1, 7))
def test_each_lesson_has_two_exercises_and_each_check_four_wrong_answers(number):
    assert len(names(number)) >= 2
    for name in names(number):
        assert sum(case[:2] == (number, name) and not case[4] for case in CASES) >= 4, name


@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize("answer", [None, ..., lambda *_, **__: None, lambda *_, **__: ...],
                         ids=["none", "dots", "returns none", "returns dots"])
def test_an_exercise_left_alone_is_not_answered_yet(number, answer, capsys):
    for name in names(number):
        assert not getattr(importlib.import_module(f"p2p_min.lessons.checks_{number}"), name)(answer)
        assert capsys.readouterr().out == f"{name}: not answered yet\n"


def test_the_error_of_an_answer_is_told_in_a_line(capsys):
    from p2p_min.lessons import checks
    assert not checks.exercise(lambda answer: answer(1))(lambda x: x.nothing)
    assert "raises AttributeError" in capsys.readouterr().out
