"""The lessons: each runs as a script, on few steps, from any folder; and its notebook says the same and was run."""
import dis
import errno
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import full_size
import make_notebooks
from make_notebooks import LARGEST, SOURCES, STUDENTS, answered, cells_of, definitions, make, script, students, teachers
from p2p_min.lessons import figures
from p2p_min.lessons.__main__ import main as copy_lessons
from p2p_min.lessons.checks import is_left_alone
from p2p_min.teaching.grade import lessons_in

LESSONS = sorted(SOURCES.glob("[0-9]_*.py"))

each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


def run(lesson, folder, monkeypatch, text=None, changes=()):
    """Its own asserts hold, and each figure is a picture. Returns what the cells leave in their namespace."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(figures, "FOLDER", folder / "figures")
    text, names = text or script(lesson), {"__name__": "__main__"}
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    exec(compile(text, str(lesson), "exec"), names)
    pictures = sorted(folder.glob("figures/*.png"))
    assert len(pictures) >= 2
    for path in pictures:
        with Image.open(path) as picture:
            assert min(picture.size) > 64 and max(picture.size) < 2000, f"{path.name} is {picture.size}"
    return names


@pytest.mark.parametrize("lesson", [
    pytest.param(path, id=path.stem, marks=[pytest.mark.long] * (path.name[0] in "3456")) for path in LESSONS])
def test_a_lesson_runs_and_draws(lesson, tmp_path, monkeypatch):
    """In short: one seed, few steps, and another default dtype than in its notebook."""
    few = "5" if lesson.name[0] in "13" else "3"           # those two need 5 for their asserts
    monkeypatch.setenv("LESSON_STEPS", few)
    monkeypatch.setenv("LESSON_SEEDS", "1")
    torch.set_default_dtype(torch.float64)
    try:
        run(lesson, tmp_path, monkeypatch)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.long
@each_lesson
def test_a_lesson_is_right_as_a_learner_runs_it(lesson, tmp_path, monkeypatch, capsys):
    """All steps and all seeds: what the text says of them is so."""
    run(lesson, tmp_path, monkeypatch)
    assert "In this run: not so" not in capsys.readouterr().out


@pytest.mark.long
@each_lesson
def test_a_students_lesson_runs_without_an_answer(lesson, tmp_path, monkeypatch):
    monkeypatch.setenv("LESSON_STEPS", "5")
    monkeypatch.setenv("LESSON_SEEDS", "1")
    text = "\n\n".join(cell["source"] for cell in students(lesson)["cells"] if cell["cell_type"] == "code")
    run(lesson, tmp_path, monkeypatch, text)


# Other objects, colours, numbers of words; a word that is not known; no red thing; a word that is not in its prompt.
CHANGED = {
    1: [("SEED = 3", "SEED = 11"), ("a big red car in the snow", "a fluffy white lion at night")],
    2: [('SEEDS = range(int(os.environ.get("LESSON_SEEDS", 3)))', "SEEDS = [7]"),
        ('"a red cat", "a blue cat"', '"a white unicorn", "a black bicycle"')],
    3: [('SEEDS = range(int(os.environ.get("LESSON_SEEDS", 3)))', "SEEDS = (9,)"),
        ('"a green tree", "a green castle"', '"a purple unicorn", "a blue house on the grass"'),
        ('"a big red bicycle", "a big red car"', '"a small blue butterfly", "a small blue dog"'),
        ('"a cat", "a blue cat"', '"a tree", "a pink tree at night"'), ('"a fluffy red ball"', '"a purple bicycle"')],
    4: [('SEEDS = range(int(os.environ.get("LESSON_SEEDS", 2)))', "SEEDS = [11]"),
        ('"a red cat", "a blue cat"', '"a green zebra", "a fluffy white dog at night"'),
        ('"a red bicycle", "a red car"', '"a purple castle", "a big flower and a cat"'),
        ('"a red cat on the beach", "a red cat in the snow"', '"a blue castle on the grass", "a house at sunset"'),
        ('["a red ball on the grass", "a red cat on the grass"]', '["pencil sketch of a boat", "a unicorn"]'),
        ('["a red car in the snow", "a red boat in the snow"]', '["a cat", "a cat"]')],
    5: [("SEED = 0", "SEED = 9"), ('"a blue car on the beach"', '"a very blue truck at the seaside"'),
        ('"a yellow house on the grass"', '"a big yellow castle at night"'),
        ('"a red house in the snow", "a blue house in the snow"', '"a hut", "a blue castle and a tree"')],
    6: [('SEEDS = range(int(os.environ.get("LESSON_SEEDS", 3)))', "SEEDS = (8,)"), ('"a big blossom tree"', '"cat"'),
        ('"a red ball on the grass", "ball"', '"a blue dragon on the grass", "ball"'),
        ('"a red castle and a yellow flower"', '"a dog"'), ('"a red car on the beach"', '"a white zebra"'),
        ('"children drawing of a castle next to a river"', '"a castle"'),
        ('"a big ball on the grass", "a small ball on the grass"', '"a green cake", "a small dog at night"')],
    7: [("SEED = 0", "SEED = 5"),
        ('"a red car in the snow", "a red bicycle in the snow"', '"a red car", "a bicycle for a hedgehog"')],
}


@pytest.mark.long
@pytest.mark.parametrize("number", CHANGED)
def test_changed_seeds_and_prompts_break_nothing(number, tmp_path, monkeypatch, capsys):
    """And a word that the model does not know is told."""
    monkeypatch.setenv("LESSON_STEPS", "4")
    run(LESSONS[number - 1], tmp_path, monkeypatch, changes=CHANGED[number])
    assert "The model does not know: " in capsys.readouterr().out


@pytest.mark.long
@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_lesson_7_runs_with_stable_diffusions_shapes(kind, tmp_path, monkeypatch, capsys):
    full_size.write(kind, tmp_path / kind, is_narrow=True)
    for name, value in (("MODEL", tmp_path / kind), ("SIZE", 128), ("STEPS", 3)):
        monkeypatch.setenv(f"LESSON_{name}", str(value))
    names = run(LESSONS[6], tmp_path, monkeypatch)
    out = capsys.readouterr().out
    assert list(names["shares"]) == ["small", "yours"] and "a photo of a cat riding on a bicycle" in out
    for of_sizes in names["shares"].values():
        sums = [sum(of_sizes[kind][size] for kind in of_sizes) for size in of_sizes["start"]]
        assert sums == pytest.approx([1] * len(sums), abs=1e-3)


@pytest.mark.long
@pytest.mark.slow
def test_the_numbers_of_four_seeds_in_lesson_4(tmp_path, monkeypatch, capsys):
    """The means that its tables print are those of the text."""
    monkeypatch.setenv("LESSON_SEEDS", "4")
    run(LESSONS[3], tmp_path, monkeypatch)
    tables = []
    for line in capsys.readouterr().out.splitlines():
        if line.endswith("  mean"):
            tables.append([])
        elif tables and (found := re.match(r".{27} (?: +[\d.]+){4} +([\d.]+)$", line)):
            tables[-1].append(float(found[1]))
    text = LESSONS[3].read_text(encoding="utf-8").replace("\n# ", " ")
    told = re.findall(r"Four seeds(?:, in the order of the table)?: ([\d., and]+\d)", text)
    told = [[float(number) for number in re.findall(r"\d+(?:\.\d+)?", each)] for each in told]
    del tables[2]                                          # to the very end: no number in the text
    assert len(told) == len(tables) == 5
    for ours, theirs in zip(told, tables):
        assert ours == pytest.approx(theirs, abs=0.011 if max(theirs) < 1 else 1)


@pytest.mark.long
def test_the_numbers_in_lesson_7(tmp_path, monkeypatch, capsys):
    names = run(LESSONS[6], tmp_path, monkeypatch)
    text = " ".join(LESSONS[6].read_text(encoding="utf-8").replace("\n# ", " ").split())
    far = names["far"]
    assert (f"{far['neither']:.1f} levels without an edit, {far['self']:.1f} with self-attention, {far['cross']:.1f} "
            f"with cross-attention, {far['both']:.1f} with both") in text
    padding = names["shares"]["small"]["padding"].values()
    assert f"the padding, with {100 * min(padding):.0f} to {100 * max(padding):.0f} % of it" in text


@each_lesson
def test_a_lesson_fits_a_projector(lesson):
    """The first cell is prose with the title, prose is all comments, and no code has more than 100 characters."""
    text = lesson.read_text(encoding="utf-8")
    before, first, *cells = re.split(r"^# %%", text, flags=re.M)
    assert before == "" and first.startswith(f" [markdown]\n# # {lesson.name[0]}. ")
    for cell in cells:
        marker, *lines = cell.rstrip().split("\n")
        if marker.startswith(" [markdown]"):
            assert all(line.startswith("#") for line in lines), f"code among prose: {lines[0]!r}"
    code = [line for cell in cells_of(lesson) if cell.kind == "code" for line in cell.text.splitlines()]
    assert max(map(len, code)) <= 100


def without_outputs(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell | (dict(execution_count=None, outputs=[]) if cell["cell_type"] == "code" else {}) for cell in cells]


@each_lesson
def test_the_notebooks_are_made_of_the_source(lesson):
    for folder, made in (SOURCES, teachers(lesson)), (STUDENTS, students(lesson)):
        path = folder / f"{lesson.stem}.ipynb"
        assert path.stat().st_size <= LARGEST
        assert without_outputs(path) == made["cells"], "run scripts/make_notebooks.py"


@each_lesson
def test_a_teachers_notebook_was_run(lesson):
    """All cells in their order, without an error or a warning; figures are in it, and no place where it was made."""
    text = lesson.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert not re.search(r"""["'(\s]/(home|var|tmp|root|work|Users)/""", text)
    code = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    shown = [output for output in outputs if "image/jpeg" in output.get("data", {})]
    drawn = re.findall(r"(?m)^(?:show|matrix|curves)\(\"", lesson.read_text(encoding="utf-8"))
    assert len(shown) >= max(2, len(drawn))


@each_lesson
def test_the_students_notebook_holds_no_answer(lesson):
    """No cell of the teachers', no solution, no prediction, no output but what is a question."""
    text = (STUDENTS / f"{lesson.stem}.ipynb").read_text(encoding="utf-8")
    its = {cell["id"]: cell for cell in json.loads(text)["cells"]}
    whole = "\n\n".join("".join(cell["source"]) for cell in its.values())
    solutions = definitions((SOURCES / "solutions" / f"lesson_{lesson.name[0]}.py").read_text(encoding="utf-8"))
    cells = cells_of(lesson)
    for cell in cells:
        if cell.role == "teacher":
            assert cell.id not in its and cell.text not in whole
        elif cell.kind == "code" and cell.role != "shown":
            assert not its[cell.id]["outputs"] and its[cell.id]["execution_count"] is None
        if cell.role == "exercise":
            body = solutions[cell.name].partition("\n")[2]
            assert body.strip() and body not in whole, f"{cell.name}: its solution is in another cell"
            exec(compile(definitions(cell.text)[cell.name], cell.id, "exec"), made := {})
            assert is_left_alone(made[cell.name]), f"{cell.name} is not left to the student"
        if cell.role == "predict":
            assert cell.text == f'{cell.name} = ""'
    assert sum(cell.role == "exercise" for cell in cells) >= 2 and any(cell.role == "predict" for cell in cells)


@each_lesson
def test_what_is_graded_stays_as_the_student_wrote_it(lesson):
    """No other cell gives its name to something else. And every exercise and prediction is answered for teachers."""
    cells = [cell for cell in cells_of(lesson) if cell.kind == "code"]
    graded = {cell.name for cell in cells if cell.role in ("exercise", "predict")}
    assert len(graded) == sum(cell.role in ("exercise", "predict") for cell in cells)
    for cell in cells:
        stored = {each.argval for each in dis.get_instructions(compile(cell.text, cell.id, "exec"))
                  if each.opname in ("STORE_NAME", "STORE_GLOBAL", "DELETE_NAME")}
        assert not stored & graded - {cell.name}
    for cell, filled in zip(cells_of(lesson), answered(lesson, cells_of(lesson))):
        assert (cell.text != filled.text) is (cell.role in ("exercise", "predict")), cell.name


@each_lesson
def test_exercises_have_points_and_hints(lesson):
    checks = importlib.import_module(f"p2p_min.lessons.checks_{lesson.name[0]}")
    for cell in cells_of(lesson):
        if cell.role == "exercise":
            assert cell.points and len(getattr(checks, cell.name).hints) >= 2, cell.name


# ---- the markers -----------------------------------------------------------------------------------------------------

@pytest.fixture
def source(tmp_path):
    """Writes a source of lesson 9 and its solutions."""
    (tmp_path / "solutions").mkdir()

    def made(text, solutions="def share(a):\n    return a / 2\n\n\nexpected = 'a half'\n"):
        (tmp_path / "solutions" / "lesson_9.py").write_text(solutions)
        (tmp_path / "9_share.py").write_text(text)
        return tmp_path / "9_share.py"
    return made


WHOLE = """# %% [markdown]
# # 9. Share

# %% predict expected
expected = ""

# %% exercise share 3
HALF = 2


def share(a):
    # a: a number
    ...

# %% check share
right = check.share(share)

# %% [markdown] teacher
# **Answer.** A half.

# %% teacher
print("for teachers")

# %% shown
print("a question")

# %%
print("an answer")
"""


def test_two_sets_are_made_of_a_source(source):
    path = source(WHOLE)
    outputs = {f"cell-{n}": [dict(output_type="stream", name="stdout", text=[str(n)])] for n in range(1, 9)}
    student, teacher = students(path, outputs)["cells"][1:], teachers(path)["cells"][1:]
    assert [cell["source"] for cell in student] == [
        "# 9. Share", 'expected = ""', "HALF = 2\n\n\ndef share(a):\n    # a: a number\n    ...",
        "right = check.share(share)", 'print("a question")', 'print("an answer")']
    assert [cell["source"] for cell in teacher] == [
        "# 9. Share", "expected = 'a half'", "HALF = 2\n\n\ndef share(a):\n    return a / 2",
        "right = check.share(share)", "**Answer.** A half.", 'print("for teachers")', 'print("a question")',
        'print("an answer")']
    assert [cell.get("outputs") for cell in student] == [None, [], [], [], outputs["cell-7"], []]
    assert "def share(a):\n    return a / 2" in script(path) and "for teachers" in script(path)


def test_nbgrader_finds_what_is_graded(source):
    """Exercises are solutions, checks are tests with the points, predictions are both and graded by hand."""
    cells = students(source(WHOLE))["cells"]
    graded = {its["grade_id"]: its for cell in cells if (its := cell["metadata"].get("nbgrader"))}
    assert graded == {
        "expected": dict(grade=True, grade_id="expected", locked=False, schema_version=3, solution=True, task=False,
                         points=1),
        "share": dict(grade=False, grade_id="share", locked=False, schema_version=3, solution=True, task=False),
        "check_share": dict(grade=True, grade_id="check_share", locked=True, schema_version=3, solution=False,
                            task=False, points=3)}
    assert not any(cell["metadata"] for cell in teachers(source(WHOLE))["cells"])


@pytest.mark.parametrize("old, new, words", [
    ("# %% teacher", "# %% teachers", "unknown kind of cell: # %% teachers"),
    ("# %% [markdown] teacher", "# %% [markdown] shown", "unknown kind of cell"),
    ("# %% exercise share 3", "# %% exercise share", "unknown kind of cell"),
    ("# %% check share", "# %%", "share needs one exercise and one check; it has 1 and 0"),
    ("# %% check share", "# %% check shares", "needs one exercise and one check"),
    ("def share", "def shares", "the cell of exercise share does not define it")])
def test_a_source_with_another_marker_is_refused(source, old, new, words):
    with pytest.raises(ValueError, match=words):
        teachers(source(WHOLE.replace(old, new)))


def test_an_exercise_without_a_solution_is_refused(source):
    with pytest.raises(ValueError, match="has no answer share"):
        teachers(source(WHOLE, solutions=""))


def test_outputs_stay_where_only_prose_has_changed(source, monkeypatch, tmp_path):
    monkeypatch.setattr(make_notebooks, "SOURCES", tmp_path)
    monkeypatch.setattr(make_notebooks, "STUDENTS", tmp_path / "students")
    (tmp_path / "students").mkdir()

    def outputs(folder):
        cells = json.loads((folder / "9_share.ipynb").read_text(encoding="utf-8"))["cells"]
        return [cell["outputs"] for cell in cells if cell["cell_type"] == "code" and cell["outputs"]]

    def run(made):
        for cell in made["cells"]:
            cell |= dict(outputs=["seen"], execution_count=1) if cell["cell_type"] == "code" else {}
        return made
    monkeypatch.setattr(make_notebooks, "executed", run)
    make(source(WHOLE))
    assert (outputs(tmp_path), outputs(tmp_path / "students")) == (6 * [["seen"]], [["seen"]])
    make(source(WHOLE.replace("A half.", "The half.")), run=False)
    assert (outputs(tmp_path), outputs(tmp_path / "students")) == (6 * [["seen"]], [["seen"]])
    make(source(WHOLE.replace("a question", "a riddle")), run=False)
    assert (outputs(tmp_path), outputs(tmp_path / "students")) == ([], [])


# ---- python -m p2p_min.lessons -------------------------------------------------------------------------------------

NOTEBOOKS = [lesson.with_suffix(".ipynb").name for lesson in LESSONS]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_notebooks_can_be_copied_and_answers_are_left_alone(tmp_path, capsys):
    """From any folder; without a name into p2p_min_lessons. The page beside them says how to hand in."""
    copy = [sys.executable, "-m", "p2p_min.lessons"]
    done = subprocess.run(copy, check=True, capture_output=True, cwd=tmp_path, timeout=300, text=True)
    page = Path("p2p_min_lessons", "README.md")
    assert done.stdout.splitlines()[-1] == f"how to hand in: {page}"
    assert "## To hand in" in (tmp_path / page).read_text(encoding="utf-8")
    folder = tmp_path / "p2p_min_lessons"
    assert names(tmp_path) == ["p2p_min_lessons"] and names(folder) == [*NOTEBOOKS, "README.md"]
    for name in NOTEBOOKS:
        assert (folder / name).read_bytes() == (STUDENTS / name).read_bytes()
    (folder / NOTEBOOKS[0]).write_text("my answers")
    (folder / NOTEBOOKS[1]).unlink()
    assert copy_lessons([str(folder)]) == 0 and names(folder) == [*NOTEBOOKS, "README.md"]
    assert (folder / NOTEBOOKS[0]).read_text() == "my answers"
    capsys.readouterr()
    assert copy_lessons(["--teacher", str(folder)]) == 2                # not among the students' notebooks
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "the students' notebooks" in err
    assert names(folder) == [*NOTEBOOKS, "README.md"]


def test_the_links_of_a_copied_page_are_there(tmp_path):
    for folder, options in ("students", []), ("teachers", ["--teacher"]):
        assert copy_lessons([*options, str(tmp_path / folder)]) == 0
        text = (tmp_path / folder / "README.md").read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if not link.startswith("http")]
        assert links and all((tmp_path / folder / link).exists() for link in links)
        assert "README.md in the repository)" in text


def test_the_teachers_set_has_answers_key_rubric_and_exam(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert copy_lessons(["--teacher"]) == 0
    folder = tmp_path / "p2p_min_teaching"
    solutions = [f"lesson_{name[0]}.py" for name in NOTEBOOKS]
    assert names(folder) == sorted([*NOTEBOOKS, "README.md", "nbgrader_config.py", "solutions"])
    assert names(folder / "solutions") == solutions
    for name in NOTEBOOKS:
        assert (folder / name).read_bytes() == (SOURCES / name).read_bytes()
    text = (folder / "README.md").read_text(encoding="utf-8")
    for heading in ("Plans", "Hand-ins", "Points and rubric", "Assignments, and what to expect", "Exam questions"):
        assert f"\n## {heading}" in text
    (folder / "README.md").write_text("my notes")
    assert copy_lessons(["--teacher"]) == 0 and (folder / "README.md").read_text() == "my notes"


def test_the_points_of_the_rubric_are_those_of_the_notebooks():
    text = (SOURCES / "README.md").read_text(encoding="utf-8")
    for kind in "exercises", "predictions":
        row = re.search(rf"(?m)^\| {kind} \|(.*)\|$", text)[1].split("|")
        assert list(map(int, row)) == [sum(its[kind].values()) for its in lessons_in(STUDENTS).values()]


def test_the_points_of_the_exam_have_the_sum_that_is_said():
    exam = (SOURCES / "README.md").read_text(encoding="utf-8").partition("## Exam questions")[2]
    points = dict(re.findall(r"(?m)^(\d+)\. \((\d)\) \*", exam))
    short = re.findall(r"\d+", exam.partition("take questions")[2].partition(":")[0])
    assert len(points) == 15 and sum(map(int, points.values())) == int(re.search(r"(\d+) points", exam)[1])
    assert sum(int(points[number]) for number in short) == 20


def test_the_students_page_has_no_answers():
    """Not those of the key, and not those of the exam."""
    student, teacher = (folder.joinpath("README.md").read_text(encoding="utf-8") for folder in (STUDENTS, SOURCES))
    assert "Exam" not in student and "what to expect" not in student
    key = teacher.partition("what to expect")[2].partition("## To change")[0]
    sentences = [each for each in re.split(r"[.?!*]\s", " ".join(key.split())) if len(each) > 40]
    assert len(sentences) > 30 and not [each for each in sentences if each in " ".join(student.split())]


def test_help_is_no_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        copy_lessons(["--help"])
    assert ended.value.code == 0 and "FOLDER" in capsys.readouterr().out and not names(tmp_path)


def full_disk(path, content):
    with open(path, "wb") as file:
        file.write(content[:1000])
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("arguments, words", [
    (["--hepl"], "--hepl"), (["two", "folders"], "folders"), (["file"], "file: File exists"),
    (["file/below"], "Not a directory"), (["full"], "No space left on device")], ids=str)
def test_what_cannot_be_copied_is_one_line(tmp_path, monkeypatch, capsys, arguments, words):
    """And leaves nothing, such as half a notebook that would later be taken for the learner's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    if arguments == ["full"]:
        monkeypatch.setattr(Path, "write_bytes", full_disk)
    assert copy_lessons(arguments) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and words in err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "file"]


# ---- figures.py ------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def tokenizer():
    from p2p_min.checkpoints.tokenizers import load_tokenizer
    return load_tokenizer(SOURCES.parent.parent / "weights" / "toy" / "tokenizer")


def test_equal_words_have_names_of_their_own(tokenizer):
    """As p2p names them; they have the parts that the words without a number have."""
    from p2p_min.align import tokens_of
    prompt = "a red cat, and a red dog"
    named = figures.named_tokens(tokenizer, prompt)
    assert list(named) == ["a#1", "red#1", "cat", "and", "a#2", "red#2", "dog"]
    assert all(tokens == tokens_of(tokenizer, prompt, word) for word, tokens in named.items())
    assert list(figures.named_tokens(tokenizer, prompt, marks=True).values()) == [[n] for n in range(1, 9)]
    assert list(figures.named_tokens(tokenizer, "a big cat")) == ["a", "big", "cat"]
    assert figures.roles(named) == (None, "red#1", "cat", None)
    picture = Image.new("RGB", (64, 64), "red")
    assert (figures.color_strength(picture, "red#1") == figures.color_strength(picture, "red")).all()


def test_other_numbers_of_tokens_are_told(tokenizer, capsys):
    assert figures.token_counts(tokenizer, "a green tree", "a green castle") and not capsys.readouterr().out
    assert not figures.token_counts(tokenizer, "a green tree", "a green bicycle")
    assert "“tree” 1; “a” 1, “green” 1, “bicycle” 2" in capsys.readouterr().out


def test_without_a_strong_colour_no_overlap_is_measured():
    red, black = (Image.new("RGB", (64, 64), color) for color in ("red", "black"))
    assert figures.overlap(red, red) == 1
    assert all(figures.overlap(*pair) != figures.overlap(*pair) for pair in ((red, black), (black, red)))  # nan


# ---- what the text says --------------------------------------------------------------------------------------------

FIRST = LESSONS[:3]
NUMBER = r"(?<![\w.])\d+\.\d+"
OF_SEEDS = r"\((\w+) seeds[^)]*\)"
COUNTS = dict(Four=4, Eight=8)


def answers(lesson):
    """[(answer of the teachers' notebook, what its cells have printed up to there)]"""
    printed, found = "", []
    for cell in json.loads(lesson.with_suffix(".ipynb").read_text(encoding="utf-8"))["cells"]:
        printed += "".join("".join(output.get("text", "")) for output in cell.get("outputs", ()))
        if cell["cell_type"] == "markdown" and "".join(cell["source"]).startswith("**Answer.**"):
            found.append((" ".join("".join(cell["source"]).split()), printed))
    return found


@pytest.mark.parametrize("lesson", FIRST, ids=lambda path: path.stem)
def test_the_numbers_of_an_answer_were_printed_above_it(lesson):
    """All of them but those of more seeds, which the long test below has printed."""
    assert len(answers(lesson)) >= 5
    for answer, printed in answers(lesson):
        for number in re.findall(NUMBER, re.sub(f"`.*?`|{OF_SEEDS}", "", answer)):
            assert re.search(rf"(?<![\d.]){number}(?!\d)", printed), f"{number} of {answer!r}"
    assert "In this run: the same" in printed and "In this run: not so" not in printed


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("lesson", FIRST[1:], ids=lambda path: path.stem)
def test_the_numbers_of_more_seeds_are_printed_with_as_many(lesson, tmp_path, monkeypatch, capsys):
    said = [(COUNTS[count], re.findall(NUMBER, found[0])) for answer, _ in answers(lesson)
            for found, count in [(match, match[1]) for match in re.finditer(OF_SEEDS, answer)]]
    seeds, = {seeds for seeds, _ in said}
    monkeypatch.setenv("LESSON_SEEDS", str(seeds))
    run(lesson, tmp_path, monkeypatch)
    means = re.findall(rf"{NUMBER}$", capsys.readouterr().out, flags=re.M)
    assert {number for _, numbers in said for number in numbers} <= set(means)


def block(text, name):
    """A fenced block of a page, or a block of a lesson that is indented."""
    if "```" in text:
        return re.search(rf"```\w+\n({name}.*?)\n```", text, flags=re.S)[1]
    return re.search(rf"(?m)^    {name}(?:.*\n(?:    .*\n)*)", text)[0].replace("\n    ", "\n").strip()


def test_the_diagram_is_the_same_in_lesson_1_and_on_the_page_and_its_shapes_are_the_models():
    lesson = next(cell.text for cell in cells_of(LESSONS[0]) if "prompt P   " in cell.text)
    diagram = block(lesson + "\n", "prompt P")
    assert diagram == block((STUDENTS / "README.md").read_text(encoding="utf-8"), "prompt P")
    assert all(part in diagram for part in ("z_T (4, 16, 16)", "Q = ", "K = ", "V = ", "M = ", "M̂ = "))
    unet = json.loads((SOURCES.parent.parent / "weights" / "toy" / "unet" / "config.json").read_text())
    assert (unet["in_channels"], unet["sample_size"], unet["cross_attention_dim"]) == (4, 16, 192)
    assert unet["attention_head_dim"] == 4                 # heads


PAIRS = [
    (["a red cat", "a blue cat"], dict(steps={"default_": 0.8, "blue": 0.4}), {}, {}),
    (["a big red bicycle", "a big red car"], dict(steps=(0.2, 0.7)), {"car": -2.0}, dict(steps=1.0)),
    (["a cat", "a blue cat"], dict(steps=0.8), {"blue": 0.5}, dict(steps=1.0)),
    (["a castle", "children drawing of a castle"], dict(steps=0.8), {"drawing": 2.0}, dict(steps=0.4))]


@pytest.mark.parametrize("prompts, window, weights, window_of_c", PAIRS, ids=lambda value: str(value)[:24])
def test_the_keys_formula_is_the_librarys(prompts, window, weights, window_of_c):
    """The key shows the source of the function that solves lesson 3's last exercise, and that is the library's edit."""
    import p2p_min as p2p
    from lesson_3 import one_formula
    from p2p_min.checkpoints.tokenizers import load_tokenizer
    from p2p_min.edits import inside
    shown = block((SOURCES / "README.md").read_text(encoding="utf-8"), "def one_formula")
    assert inspect.getsource(one_formula).strip() == shown
    tokenizer = load_tokenizer(SOURCES.parent.parent / "weights" / "toy" / "tokenizer")
    base = p2p.auto(tokenizer, prompts, **window)
    edit = p2p.reweight(tokenizer, prompts, weights, base, **window_of_c) if weights else base
    M, M_star = torch.rand(1, 2, 3, 4, 77).softmax(-1)[0], torch.rand(1, 2, 3, 4, 77).softmax(-1)
    for t in [n / 10 for n in range(10, 0, -1)]:
        w = inside(base.start, base.end, t).float()[0]
        c = torch.where(inside(edit.start, edit.end, t), edit.c, 1)[0] if weights else torch.ones(77)
        wanted = edit(M, M_star, t)
        assert torch.allclose(one_formula(M, M_star, base.A[0], base.own[0], w, c), wanted, atol=1e-6), t
