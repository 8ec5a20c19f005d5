"""A class of hand-ins is graded: a line of a CSV each, whatever a student's file does."""
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import make_notebooks
from p2p_min.lessons.__main__ import main
from p2p_min.teaching import grade, hand_in

SOURCE = '''# %% [markdown]
# # 1. Tiny

# %%
import torch

from p2p_min.lessons import checks_1 as check

# %% predict what_sums
what_sums = ""

# %% exercise attention_map 2
def attention_map(Q, K):
    ...


# %% check attention_map
if check.attention_map(attention_map):
    print(attention_map)

# %% exercise word_picture 3
def word_picture(M, tokens, height, width):
    ...


# %% check word_picture
check.word_picture(word_picture)
'''
SOLUTIONS = make_notebooks.SOURCES / "solutions" / "lesson_1.py"
RIGHT = make_notebooks.definitions(SOLUTIONS.read_text(encoding="utf-8")) | {"what_sums": "what_sums = 'rows'"}
HEADER = ["student", "points (of 6)", "exercises (of 5)", "predictions (of 1)", "1 attention_map (2)",
          "1 word_picture (3)", "1 what_sums (1)", "not answered", "hints used", "as in solutions", "errors"]


@pytest.fixture
def tiny(tmp_path):
    """The students' notebook of a lesson with two exercises and a prediction."""
    path = tmp_path / "source" / "1_tiny.py"
    path.parent.mkdir()
    path.write_text(SOURCE)
    return make_notebooks.students(path)


@pytest.fixture
def lessons(tiny, tmp_path, monkeypatch):
    """What the grader takes for the lessons that there are."""
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "1_tiny.ipynb").write_text(json.dumps(tiny))
    lessons = grade.lessons_in(shipped)
    monkeypatch.setattr(grade, "lessons_in", lambda folder: lessons)
    return lessons


def filled(notebook, **answers):
    """A hand-in, as text."""
    made = json.loads(json.dumps(notebook))
    for cell in made["cells"]:
        name = cell["metadata"].get("nbgrader", {}).get("grade_id")
        cell["source"] = answers.get(name, cell["source"])
    return json.dumps(made)


def test_what_is_graded_is_in_the_students_notebooks(lessons):
    assert lessons == {"1": dict(exercises=dict(attention_map=2, word_picture=3), predictions=dict(what_sums=1))}


# ---- a hand-in -------------------------------------------------------------------------------------------------------

@pytest.fixture
def came_of(lessons, tmp_path, monkeypatch):
    """What a hand-in tells, run here, without the guard, which could not be taken away again."""
    monkeypatch.setattr(hand_in, "guard", lambda *_: None)
    monkeypatch.setattr(hand_in, "limit", lambda: None)

    def run(content, name="1_tiny.ipynb", left_out=()):
        path, told = tmp_path / name, []
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        hand_in.run(path, lessons, tmp_path, [], left_out, lambda **what: told.append(what))
        return told[-1].get("result"), [each["error"] for each in told if "error" in each]
    return run


def test_a_perfect_hand_in(came_of, tiny):
    result, errors = came_of(filled(tiny, **RIGHT))
    assert result == dict(lesson="1", right=["attention_map", "word_picture", "what_sums"], not_answered=[], hints={})
    assert not errors


def test_an_empty_hand_in(came_of, tiny):
    result, errors = came_of(filled(tiny))
    assert result["right"] == [] and result["not_answered"] == ["attention_map", "word_picture", "what_sums"]
    assert not errors


def test_a_wrong_hand_in(came_of, tiny):
    """A prediction gives its point for being there."""
    result, errors = came_of(filled(
        tiny, what_sums="what_sums = 'columns'", attention_map="def attention_map(Q, K):\n    return Q @ K.mT",
        word_picture="def word_picture(M, tokens, height, width):\n    M.mean(0)"))
    assert result["right"] == ["what_sums"] and not result["not_answered"]
    assert errors[0].startswith("attention_map: not yet: ") and "`return` missing" in errors[1]


@pytest.mark.parametrize("cell, error", [
    ("import sys; sys.exit()", "cell 5: SystemExit: it ends Python"),
    ("raise MemoryError", "cell 5: MemoryError: it takes"),
    ("raise KeyboardInterrupt", "cell 5: KeyboardInterrupt"), ("1 / 0", "cell 5: ZeroDivisionError"),
    ("raise ValueError('long ' * 10**5)", "cell 5: ValueError: long"), ("input()", "cell 5: ")], ids=str)
def test_the_other_cells_count_where_one_is_broken(came_of, tiny, cell, error):
    result, errors = came_of(filled(tiny, **RIGHT | dict(word_picture=cell)))
    assert result["right"] == ["attention_map", "what_sums"] and result["not_answered"] == ["word_picture"]
    assert errors[0].startswith(error) and max(map(len, errors)) < 250
    assert errors[1].startswith("cell 6: NameError") and len(errors) == 2


@pytest.mark.parametrize("cell, left_out", [
    ("def word_picture(:", ()), ("1 / 0\n" + RIGHT["word_picture"], ()), (RIGHT["word_picture"], ("cell 5",))])
def test_what_is_missing_since_a_cell_failed_says_which(came_of, tiny, cell, left_out):
    """It was answered: so it is not under "not answered"."""
    result, errors = came_of(filled(tiny, **RIGHT | dict(word_picture=cell)), left_out=left_out)
    assert result["right"] == ["attention_map", "what_sums"] and result["not_answered"] == []
    assert errors[-2:] == ["cell 6: NameError: name 'word_picture' is not defined (follows from cell 5)",
                           "word_picture: follows from cell 5"] and len(errors) == 3 - len(left_out)


@pytest.mark.parametrize("cell, names", [
    ("import numpy as np, a.b\nfrom c import d\nx, y = 1, 2\nclass Z: pass", {"np", "a", "d", "x", "y", "Z"}),
    ("def f(x:\n    return\nz = (\nprint(z == 3)", {"f", "z"}), ("%pip install x\nq = 1", {"q"})])
def test_what_a_cell_defines(cell, names):
    assert hand_in.defined_in(cell) == names


def test_hints_are_counted(came_of, tiny, monkeypatch):
    from p2p_min.lessons import checks, checks_1
    monkeypatch.setattr(checks_1, "attention_map", checks.exercise(
        checks_1.attention_map.__wrapped__, hints=("one", "two", "three")))
    asks = "check.attention_map.hint()\ncheck.attention_map.hint()\n"
    result, _ = came_of(filled(tiny, **RIGHT | dict(attention_map=asks + RIGHT["attention_map"])))
    assert result["hints"] == dict(attention_map=2) and "attention_map" in result["right"]


@pytest.mark.parametrize("cheat", [
    "from p2p_min.lessons import checks_1\ncheck.attention_map = lambda answer: True",
    "from p2p_min.lessons import checks\nchecks.require = lambda *_: None\nimport p2p_min.lessons.checks_1 as its\n"
    "its.require = lambda *_: None\nits.tensor = lambda answer, shape: answer"])
def test_a_check_is_asked_as_it_was_before_the_hand_in(came_of, tiny, cheat):
    result, _ = came_of(filled(tiny, attention_map=f"{cheat}\ndef attention_map(Q, K):\n    return Q"))
    assert result["right"] == []


@pytest.mark.parametrize("content, words", [
    (b"", "the file is empty"), (b"{\"cells\": [", "its JSON is broken"), (b"[]", "is no notebook"),
    (b"\xff\xfe\x00", "UTF-8"), (b"{\"cells\": [{\"cell_type\": \"code\", \"source\": [1]}]}", "is no notebook")])
def test_what_is_no_notebook_is_told(came_of, content, words):
    result, (error,) = came_of(content)
    assert words in error and result["not_answered"] == ["attention_map", "word_picture", "what_sums"]
    result, (error,) = came_of(content, "anna.ipynb")
    assert words in error and result["lesson"] is None


@pytest.mark.parametrize("between", ["# %% something", "# In[3]:", "# In [ ]:"])
def test_a_script_is_cut_into_the_cells_that_its_editor_wrote(came_of, between):
    cells = "import torch; 1 / 0", RIGHT["attention_map"], "x = (", RIGHT["what_sums"]
    text = f"\n{between}\n".join(cells)
    result, errors = came_of(text, "anna.py")
    assert result["right"] == ["attention_map", "what_sums"] and len(errors) == 2


def test_what_only_jupyter_reads_is_left_out():
    assert hand_in.as_python("%pip install x\nif 1:\n  !ls\ny = 3 % 2") == "pass\nif 1:\n  pass\ny = 3 % 2"
    assert hand_in.as_python("text = '''\n%d\n'''") == "text = '''\n%d\n'''"


@pytest.mark.parametrize("name, cells, lesson", [
    ("anna.ipynb", ["def up(z): ..."], "5"), ("1_a.ipynb", ["x", "def up(z): ..."], "5"), ("1_a.ipynb", ["x"], "1"),
    ("Lesson 1 (2).ipynb", [], "1"), ("anna.ipynb", ["x = 1"], None), ("7_a.ipynb", [], None), ("12.ipynb", [], None)])
def test_a_hand_in_is_of_the_lesson_whose_exercises_it_has(name, cells, lesson):
    lessons = {"1": dict(exercises=dict(share=1)), "5": dict(exercises=dict(up=1, put_back=1))}
    assert hand_in.lesson_of(name, cells, lessons) == lesson


# ---- what it may do --------------------------------------------------------------------------------------------------

def refused(event, *args, tmp="/class/copy"):
    return hand_in.refusal(event, args, tmp, {"/python", "/clone"}, ["/clone/teaching", "/python/class"])


@pytest.mark.parametrize("event, args", [
    ("open", ("/class/copy/picture.png", "r", 0)), ("open", ("/class/copy/new.txt", "w", 0)),
    ("open", ("/python/torch/x.py", "rb", 0)), ("open", (3, "w", 0)), ("os.listdir", ("/python",)),
    ("open", (os.devnull, "w", 0)), ("os.scandir", (None,)), ("import", ("torch",)), ("exec", ()),
    ("open", (b"/class/copy/x", None, os.O_WRONLY)), ("open", (hand_in.__file__, "r", 0))])
def test_what_a_hand_in_may_do(event, args):
    assert refused(event, *args) is None


@pytest.mark.parametrize("event, args, what", [
    ("open", ("/etc/passwd", "r", 0), "read /etc/passwd"), ("open", ("/python/x", "w", 0), "write /python/x"),
    ("open", ("/python/x", None, os.O_RDWR), "write /python/x"), ("os.remove", ("/python/x",), "write /python/x"),
    ("open", ("/clone/teaching/solutions/lesson_1.py", "r", 0), "read /clone/teaching/solutions/lesson_1.py"),
    ("open", ("/class/bob.ipynb", "r", 0), "read /class/bob.ipynb"), ("open", ("/class/copy2", "r", 0), "/class/copy2"),
    ("open", ("/python/class/bob.ipynb", "r", 0), "read"), ("os.listdir", ("/class/copy/../",), "read"),
    ("os.rename", ("/class/copy/x", "/python/x"), "write /python/x"), ("os.symlink", ("/etc", "/class/copy/x"), "/etc"),
    ("socket.connect", (None, ("example.org", 80)), "network"), ("socket.__new__", (), "network"),
    ("subprocess.Popen", ("ls",), "program"), ("os.system", (b"ls",), "program"), ("os.fork", (), "process"),
    ("os.exec", ("ls",), "program"), ("os.kill", (1, 9), "process"), ("ctypes.dlopen", ("libc",), "library")])
def test_what_a_hand_in_may_not_do(event, args, what):
    assert what in refused(event, *args)


# ---- its process -----------------------------------------------------------------------------------------------------

@pytest.fixture
def child(monkeypatch, tmp_path):
    """In place of the process that runs a hand-in: one that reads the job and does what a text says, without torch."""
    def use(code):
        path = tmp_path / "child.py"
        path.write_text("import json, os, sys, time\njob = json.load(sys.stdin)\n"
                        "def tell(**what): print(json.dumps(what), flush=True)\n" + code)
        monkeypatch.setattr(grade, "CHILD", [sys.executable, str(path)])
        hand_in = tmp_path / "anna.ipynb"
        hand_in.write_text("")
        return grade.graded(hand_in, hand_in, tmp_path, {}, 2, grade.Processes())
    return use


@pytest.mark.parametrize("fate, why", [
    ("any(iter(int, 1))", "took more than 0.4 s (--limit / 5), left out"), ("time.sleep(1e6)", "took more than"),
    ("os._exit(3)", "exit status 3"),
    ("os.kill(os.getpid(), 9)", "exit status -9")])
def test_a_cell_that_hangs_or_ends_python_is_left_out_and_the_rest_counts(child, fate, why):
    result = child("tell(begin='cell 1'); tell(begin='cell 2')\n"
                   f"if 'cell 2' not in job['left_out']: {fate}\n"
                   "tell(error='cell 3: x'); tell(result=dict(lesson='1', right=['share'], hints={}))")
    assert result["right"] == ["share"] and len(result["errors"]) == 2
    assert result["errors"][0].startswith("cell 2: ") and why in result["errors"][0]


def test_cells_that_fail_alike_are_told_together(child):
    errors = ["cell 3: NameError: x", "refused: to read /", "cell 5: NameError: y", "cell 12: NameError: x"]
    assert child(f"for each in {errors}: tell(error=each)\ntell(result=dict(lesson='1'))")["errors"] == [
        "cells 3, 12: NameError: x", "refused: to read /", "cell 5: NameError: y"]


def test_a_hand_in_that_never_comes_to_its_end_has_no_points(child):
    result = child("tell(begin=f'cell {len(job[\"left_out\"])}'); os._exit(1)")
    assert result["right"] == [] and "no points" in result["errors"][-1]


def test_a_hand_in_whose_cells_take_too_long_together_says_so(child):
    """Each in its time; and imports before the first cell are not counted."""
    result = child("time.sleep(0.5)\nif job['left_out']: tell(result=dict(lesson='1'))\nelse:\n"
                   "  for n in range(1, 9):\n    tell(begin=f'cell {n}'); time.sleep(0.3)")
    assert "the hand-in had taken 2 s (--limit), left out" in result["errors"][0]


def test_a_broken_notebook_is_told_as_one_however_small_the_limit(tmp_path):
    path = tmp_path / "1_a.ipynb"
    path.write_text('{"cells": [')
    lessons = {"1": dict(exercises=dict(share=1), predictions={})}
    result = grade.graded(path, path, tmp_path, lessons, 0.05, grade.Processes())
    assert result["errors"] == ["the file is no notebook: its JSON is broken or cut off"] and result["lesson"] == "1"


def test_links_are_told_without_a_path(tmp_path):
    for name, to in ("nowhere.ipynb", "gone.ipynb"), ("link.ipynb", __file__):
        (tmp_path / name).symlink_to(to)
        told, = grade.graded(tmp_path / name, tmp_path, tmp_path, {}, 2, None)["errors"]
        assert told.startswith("a link") and "/" not in told


def test_a_process_that_cannot_start_says_why(child):
    assert child("raise ImportError('no torch')")["errors"][0] == "it could not be started: ImportError: no torch"


def test_a_hand_in_has_a_folder_of_its_own_and_nothing_of_the_teachers(tmp_path, monkeypatch):
    """No links, no large files; of a lone file only itself."""
    monkeypatch.setattr(grade, "LARGEST", 100)
    monkeypatch.setenv("SECRET", "1")
    anna = tmp_path / "anna"
    (anna / "sub").mkdir(parents=True)
    for name, size in (("1.ipynb", 3), ("sub/picture.png", 50), ("large.bin", 101)):
        (anna / name).write_bytes(b"x" * size)
    (anna / "link").symlink_to("/etc/passwd")
    for student, wanted in (anna, ["1.ipynb", "sub", "sub/picture.png"]), (anna / "1.ipynb", ["1.ipynb"]):
        folder = tmp_path / f"copy {student.name}"
        folder.mkdir()
        copy = grade.copied(anna / "1.ipynb", student, folder)
        assert copy == folder / "1.ipynb" and copy.read_bytes() == b"xxx"
        assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) == wanted
        assert grade.environment(str(folder))["HOME"] == str(folder)
    assert "SECRET" not in grade.environment("x")


# ---- a class ---------------------------------------------------------------------------------------------------------

def result(lesson="1", right=(), not_answered=(), hints=(), errors=()):
    return dict(lesson=lesson, right=list(right), not_answered=list(not_answered), hints=dict(hints),
                errors=list(errors))


@pytest.fixture
def graded(monkeypatch, lessons, tmp_path):
    """The CSV of a folder whose hand-ins came to these results, {path: result}."""
    def run(results, **files):
        folder = tmp_path / "class"
        for path in results:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text("x")
        monkeypatch.setattr(grade, "graded", lambda path, *_: results[str(path.relative_to(folder))])
        assert main(["--grade", str(folder), "--out", str(tmp_path / "grades.csv")]) == 0
        with open(tmp_path / "grades.csv", encoding="utf-8-sig", newline="") as file:
            return list(csv.reader(file))
    return run


def test_a_line_a_student(graded):
    lines = graded({"anna.ipynb": result(right=["attention_map", "what_sums"], not_answered=["word_picture"],
                                         hints={"attention_map": 2}, errors=["cell 3: NameError: x", "second"]),
                    "Björk/1_tiny.ipynb": result(right=["word_picture"]), "Björk/helper.py": result(None),
                    "carol/notes.txt": None, "dan.docx": None, "eve.zip": None, "fay/all.zip": None,
                    "=1+1.py": result(None, errors=["the file is empty"]),
                    ".hidden.ipynb": None, "__MACOSX/anna.ipynb": None, "old.csv": None})
    assert lines == [HEADER,
                     ["'=1+1", "0", "0", "0", "0", "0", "0", "lesson 1", "", "", "the file is empty"],
                     ["Björk", "3", "3", "0", "0", "3", "0", "", "", "", ""],
                     ["anna", "3", "2", "1", "2", "0", "1", "word_picture", "attention_map 2", "",
                      "cell 3: NameError: x; second"],
                     ["carol", "0", "0", "0", "0", "0", "0", "lesson 1", "", "", "no .ipynb and no .py in it"],
                     ["dan", "0", "0", "0", "0", "0", "0", "lesson 1", "", "", "neither .ipynb nor .py"],
                     ["eve", "0", "0", "0", "0", "0", "0", "lesson 1", "", "", "a zip: unpack it"],
                     ["fay", "0", "0", "0", "0", "0", "0", "lesson 1", "", "", "a zip: unpack it"]]


def test_an_answer_that_is_the_teachers_is_remarked(tmp_path):
    """But for comments and spaces; not one that only gives the same."""
    path = tmp_path / "anna.py"
    path.write_text("def shared(a, b):\n    # mine\n    return (a&b).sum() / (a | b).sum()\n# %%\ndef broken(:\n# %%\n"
                    "def guided(eps, eps_empty, w):\n    return w * eps + (1 - w) * eps_empty\n")
    assert grade.as_in_solutions(path, "2") == ["shared"]
    path.write_text("x" * 10)
    assert grade.as_in_solutions(path, "2") == []


def test_of_two_files_for_one_lesson_the_better_counts(graded):
    lines = graded({"anna/1.ipynb": result(right=["attention_map"]), "anna/2.ipynb": result(right=["word_picture"]),
                    "anna/3.ipynb": result()})
    assert lines[1][:3] == ["anna", "3", "3"] and "several files of lesson 1: the best counts" in lines[1][-1]


def test_many_errors_are_cut(graded):
    lines = graded({"anna.ipynb": result(errors=[f"error {n}" for n in range(13)])})
    assert lines[1][-1].endswith("error 9; and 3 more")


def test_what_breaks_the_grader_itself_is_the_line_of_that_student(graded):
    lines = graded({"anna.ipynb": {}, "bob.ipynb": result(right=["what_sums"])})
    assert "cannot be graded" in lines[1][-1] and lines[2][:2] == ["bob", "1"]


@pytest.mark.parametrize("arguments, words", [
    (["--grade"], "FOLDER"), (["--grade", "nowhere"], "nowhere is no folder"), (["--grade", "empty"], "no hand-ins"),
    (["--grade", "class", "--out", "nowhere/x.csv"], "cannot be written"), (["--out", "x.csv"], "--out is of --grade"),
    (["--grade", "--teacher", "class"], "two commands"), (["--grade", "class", "--jobs", "0"], "above 0"),
    (["--grade", "class", "--limit", "soon"], "invalid float")], ids=str)
def test_what_cannot_be_graded_is_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    for folder in ("class", "empty"):
        Path(folder).mkdir()
    Path("class", "anna.ipynb").write_text("")
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and words in err


READS = """import os, socket, subprocess
for read in (lambda: open("/etc/passwd").read(), lambda: os.listdir("/"), lambda: os.fork(),
             lambda: subprocess.run("ls"), lambda: socket.create_connection(("127.0.0.1", 9), 1)):
    try:
        read()
    except PermissionError:
        continue
    raise SystemError("it was let")
open("notes.txt", "w").write("in my own folder")
assert os.listdir() and "SECRET" not in os.environ
"""
HAND_INS = dict(
    perfect=RIGHT, empty={}, wrong={name: f"def {name}(*args):\n    return args[0]" for name in RIGHT},
    endless_loop=RIGHT | dict(word_picture="while True: pass"),
    endless_function=RIGHT | dict(word_picture="def word_picture(*args):\n    while True: pass"),
    syntax_error=RIGHT | dict(word_picture="def word_picture(:"),
    reads_the_file_system=RIGHT | dict(word_picture=READS + RIGHT["word_picture"]),
    takes_all_memory=RIGHT | dict(word_picture="import torch\nx = torch.ones(10 ** 11)\n"),
    prints_a_lot=RIGHT | dict(word_picture="for n in range(10 ** 5): print('x' * 1000)\n" + RIGHT["word_picture"]),
    ends=RIGHT | dict(word_picture="import os\nos._exit(0)"))


def a_class(tiny, folder, names):
    folder.mkdir()
    for name in names:
        (folder / f"{name}.ipynb").write_text(filled(tiny, **HAND_INS[name]))
    assert main(["--grade", str(folder), "--out", str(folder / "grades.csv"), "--limit", "15", "--jobs", "2"]) == 0
    with open(folder / "grades.csv", encoding="utf-8-sig", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == HEADER
    return {line[0]: dict(zip(header[1:], line[1:])) for line in lines}


REFUSED = ["read /etc/passwd", "read /", "start a process", "start a program", "use the network"]


def test_the_guard_holds_in_a_process(tmp_path):
    """What it refuses is told, also where the code catches the error; the rest of the process goes on."""
    code = ("import sys; from p2p_min.teaching.hand_in import guard\n"
            "told = []; guard(sys.argv[1], [], told.append)\n" + READS + "print(*told, sep='\\n')")
    done = subprocess.run([sys.executable, "-c", code, tmp_path], cwd=tmp_path, capture_output=True, text=True,
                          env=grade.environment(str(tmp_path)), timeout=60)
    assert done.stdout.splitlines() == REFUSED, done.stderr
    assert (tmp_path / "notes.txt").read_text() == "in my own folder"


@pytest.mark.long
def test_a_class_of_ten(tiny, lessons, tmp_path):
    lines = a_class(tiny, tmp_path / "class", HAND_INS)
    assert {name: line["points (of 6)"] for name, line in lines.items()} == dict(
        perfect="6", empty="0", wrong="0", endless_loop="3", endless_function="3", syntax_error="3",
        reads_the_file_system="6", takes_all_memory="3", prints_a_lot="6", ends="3")
    assert lines["reads_the_file_system"]["errors"] == "; ".join(f"refused: to {what}" for what in REFUSED)
    assert lines["perfect"]["errors"] == lines["empty"]["errors"] == lines["prints_a_lot"]["errors"] == ""
    assert lines["empty"]["not answered"] == "attention_map, word_picture, what_sums"
    for name, error in dict(endless_loop="cell 5: took more than 3 s (--limit / 5), left out",
                            ends="cell 5: it ends Python (exit status 0)",
                            endless_function="word_picture: took more than 3 s",
                            syntax_error="cell 5: SyntaxError",
                            takes_all_memory="cell 5: RuntimeError", wrong="attention_map: not yet").items():
        assert error in lines[name]["errors"], name


@pytest.mark.long
@pytest.mark.parametrize("lesson", [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.name[0] != "2"))
    for path in sorted(make_notebooks.SOURCES.glob("[0-9]_*.py"))])
def test_the_teachers_notebook_has_all_points_and_the_students_none(lesson, tmp_path):
    """The shipped ones, in the few steps that a hand-in runs; without an error."""
    folder = tmp_path / "class"
    folder.mkdir()
    for name, source in ("perfect", make_notebooks.SOURCES), ("empty", make_notebooks.STUDENTS):
        shutil.copy(source / f"{lesson.stem}.ipynb", folder / f"{name}.ipynb")
    assert main(["--grade", str(folder), "--out", str(tmp_path / "grades.csv"), "--jobs", "2"]) == 0
    with open(tmp_path / "grades.csv", encoding="utf-8-sig", newline="") as file:
        header, empty, perfect = csv.reader(file)
    most = re.search(r"\d+", header[1])[0]
    assert (empty[1], perfect[1]) == ("0", most) and int(most) > 0 and not empty[-1] and not perfect[-1]
