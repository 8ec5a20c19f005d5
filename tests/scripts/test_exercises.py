"""The lessons' exercises: their checks take right answers and refuse wrong ones, also nearly right ones."""
import importlib

import pytest
import torch


def cases():
    """(number of the lesson, name of the check, what is special about the answer, the answer, whether it is right)"""
    for number in range(1, 8):
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


@pytest.mark.parametrize("number", range(1, 8))
def test_each_lesson_has_two_exercises_and_each_check_four_wrong_answers(number):
    assert len(names(number)) >= 2
    for name in names(number):
        assert sum(case[:2] == (number, name) and not case[4] for case in CASES) >= 4, name


def stub(Q, K):
    "As a lesson has it."
    # Q: (heads, pixels, d)
    ...


def passes(*args):
    pass


@pytest.mark.parametrize("number", range(1, 8))
@pytest.mark.parametrize("answer", [None, ..., lambda *_, **__: None, lambda *_, **__: ..., passes],
                         ids=["none", "dots", "returns none", "returns dots", "passes"])
def test_an_exercise_left_alone_is_not_answered_yet(number, answer, capsys):
    for name in names(number):
        assert not getattr(importlib.import_module(f"p2p_min.lessons.checks_{number}"), name)(answer)
        assert capsys.readouterr().out == f"{name}: not answered yet\n"


def forgets(Q, K):
    M = torch.softmax(Q @ K.transpose(1, 2), dim=-1)       # noqa: F841


def begun(Q, K):
    M = Q                                                  # noqa: F841
    ...


def no_name(Q, K):
    Q @ K.transpose(1, 2)


def in_numpy(Q, K):
    return (Q @ K.transpose(1, 2)).numpy()


@pytest.mark.parametrize("answer, line", [
    (stub, "not answered yet"), (forgets, "not yet: it returns nothing: is its `return` missing?"),
    (begun, "not yet: it returns nothing: is its `return` missing?"),
    (no_name, "not yet: it returns nothing: is its `return` missing?"),
    (in_numpy, "not yet: it is a numpy array, wanted a tensor: torch.from_numpy(...) makes one of it")])
def test_what_comes_back_from_a_begun_answer_is_told(answer, line, capsys):
    from p2p_min.lessons.checks_1 import attention_map
    assert not attention_map(answer)
    assert capsys.readouterr().out == f"attention_map: {line}\n"


@pytest.mark.parametrize("answer", ["guidance the wrong way", "no guidance", "only eps_u", "eps_u forgotten",
                                    "w one too large", "no step"])
def test_the_other_way_of_guidance_is_named_only_where_it_is_the_fault(answer, capsys):
    from p2p_min.lessons.checks_5 import null_text_loss
    from wrong_answers_5 import WRONG, loss
    wrong = {"only eps_u": loss(lambda eps, eps_u, w: eps_u), **WRONG["null_text_loss"]}[answer]
    assert not null_text_loss(wrong)
    assert ("the other way" in capsys.readouterr().out) is (answer == "guidance the wrong way")


def test_hints_come_one_by_one_and_are_counted(capsys):
    from p2p_min.lessons.checks import exercise

    @exercise(hints=("think", "think again"))
    def hard(answer):
        "Nothing is right."

    for _ in range(3):
        hard.hint()
    assert capsys.readouterr().out == ("hard, hint 1 of 2: think\nhard, hint 2 of 2: think again\n"
                                       "hard: there is no other hint\n")
    assert hard.asked == 2 and hard.hints == ("think", "think again") and hard(1)


def test_nbgrader_takes_a_wrong_answer_for_wrong(monkeypatch, capsys):
    """It gives no points to a cell that writes to standard error, and all points to one that does not."""
    import warnings

    from p2p_min.lessons.checks_1 import attention_map

    def warns(Q, K):
        warnings.warn("deprecated", stacklevel=1)
        return torch.softmax(Q @ K.mT / Q.shape[-1] ** 0.5, dim=-1)

    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    for answer, line in (stub, "not answered yet"), (forgets, "not yet: "):
        assert not attention_map(answer)
        out, err = capsys.readouterr()
        assert not out and err.startswith(f"attention_map: {line}")
    assert attention_map(warns) and capsys.readouterr() == ("attention_map: right\n", "")


def test_the_error_of_an_answer_is_told_in_a_line(capsys):
    from p2p_min.lessons import checks
    assert not checks.exercise(lambda answer: answer(1))(lambda x: x.nothing)
    assert "raises AttributeError" in capsys.readouterr().out
