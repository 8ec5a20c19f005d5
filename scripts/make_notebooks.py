"""The lessons as notebooks, two sets made of the same sources, scripts/teaching/N_*.py:

    scripts/lessons/N_*.ipynb    for students: no answers, and no output but that which is a question
    scripts/teaching/N_*.ipynb   for teachers: with the answers, executed

    python scripts/make_notebooks.py [NUMBER ...]              execute the teachers' notebooks and write both
    python scripts/make_notebooks.py --not-run [NUMBER ...]    write both; outputs stay if no code has changed
    python scripts/make_notebooks.py --script NUMBER           run a source as a script, its answers filled in

A cell of a source begins with one of these lines:

    # %% [markdown]              prose
    # %% [markdown] teacher      an answer: not in the students' notebook
    # %%                         code
    # %% shown                   code whose output is the question: the students' notebook has the output too
    # %% teacher                 code that is not in the students' notebook
    # %% predict NAME            NAME = "": where students write what they expect, before the next cell shows it
    # %% exercise NAME POINTS    the function NAME with `...` for its body
    # %% check NAME              the call check.NAME(NAME)

In the teachers' notebooks, predictions and exercises are those of scripts/teaching/solutions/lesson_N.py. It takes
nbclient and ipykernel (pip install -e ".[lessons]") to execute them, in an empty folder as a learner would. A notebook
that raises an error, or is larger than 1 MiB, is not written.
"""
import ctrl_c  # noqa: F401, I001 (before the others, which take seconds)

import argparse
import ast
import json
import os
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

SOURCES = Path(__file__).resolve().parent / "teaching"
STUDENTS = SOURCES.parent / "lessons"
REPOSITORY = "OWNER/p2p_min"                               # on GitHub: who hosts it puts their name here
LARGEST = 1 << 20
PREDICTION = 1                                             # point for writing one, right or wrong

MARKERS = (r"\[markdown\](?P<role> teacher)?", r"(?P<role>shown|teacher)?", r"(?P<role>predict|check) (?P<name>\w+)",
           r"(?P<role>exercise) (?P<name>\w+) (?P<points>\d+)")


# ---- cells of a source -----------------------------------------------------------------------------------------------

class Cell(NamedTuple):
    id: str
    kind: str                                              # "markdown", "code"
    role: str                                              # "", "shown", "teacher", "predict", "exercise", "check"
    name: str
    points: int
    text: str


def cells_of(lesson):
    """The cells of a source as they stand. A cell with an unknown first line is a ValueError."""
    text = lesson.read_text(encoding="utf-8")
    cells = []
    for number, cell in enumerate(re.split(r"^# %%", text, flags=re.M)[1:], 1):
        first, _, text = cell.partition("\n")
        found = next(filter(None, (re.fullmatch(each, first.strip()) for each in MARKERS)), None)
        if not found:
            raise ValueError(f"{lesson.name}: unknown kind of cell: # %%{first}")
        kind = "markdown" if first.strip().startswith("[markdown]") else "code"
        text = re.sub(r"(?m)^# ?", "", text) if kind == "markdown" else text
        of = found.groupdict()
        role, name = (of.get("role") or "").strip(), of.get("name") or ""
        points = PREDICTION if role == "predict" else int(of.get("points") or 0)
        cells.append(Cell(f"cell-{number}", kind, role, name, points, text.strip("\n")))

    # Points are in the exercise's line, and are given by its check.
    exercises, checks = ([cell.name for cell in cells if cell.role == role] for role in ("exercise", "check"))
    for name in {*exercises, *checks}:
        if exercises.count(name) != 1 or checks.count(name) != 1:
            raise ValueError(f"{lesson.name}: {name} needs one exercise and one check; it has {exercises.count(name)} "
                             f"and {checks.count(name)}")
    return cells


def answered(lesson, cells):
    """The cells with the answers of solutions/lesson_N.py filled in."""
    solutions = (lesson.parent / "solutions" / f"lesson_{lesson.name[0]}.py").read_text(encoding="utf-8")
    answers = definitions(solutions)
    made = []
    for cell in cells:
        if cell.role == "exercise" and cell.name not in answers:
            raise ValueError(f"{lesson.name}: solutions/lesson_{lesson.name[0]}.py has no answer {cell.name}")
        if cell.role in ("exercise", "predict") and cell.name in answers:
            asked = definitions(cell.text).get(cell.name)
            if asked is None:
                raise ValueError(f"{lesson.name}: the cell of {cell.role} {cell.name} does not define it")
            cell = cell._replace(text=cell.text.replace(asked, answers[cell.name], 1))
        made.append(cell)
    return made


def definitions(text):
    """{name: source} of the functions and the variables of a source, from the first to the last of their lines."""
    lines, found = text.splitlines(), {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef):
            names, first = [node.name], min([node.lineno, *(each.lineno for each in node.decorator_list)])
        else:
            names, first = [each.id for each in getattr(node, "targets", ()) if isinstance(each, ast.Name)], node.lineno
        found |= dict.fromkeys(names, "\n".join(lines[first - 1:node.end_lineno]))
    return found


def script(lesson):
    """A source with its answers filled in, as one text that runs."""
    cells = answered(lesson, cells_of(lesson))
    return "\n\n".join(cell.text for cell in cells if cell.kind == "code") + "\n"


# ---- the two sets ----------------------------------------------------------------------------------------------------

def teachers(lesson):
    """The teachers' notebook of a lesson, not run."""
    return notebook([link(lesson, "teaching"), *answered(lesson, cells_of(lesson))])


def students(lesson, outputs=()):
    """The students' notebook of a lesson; `outputs` {id: outputs} has those of the cells that are shown."""
    cells = [cell for cell in cells_of(lesson) if cell.role != "teacher"]
    made = notebook([link(lesson, "lessons"), *cells])
    for cell, of in zip(made["cells"][1:], cells):
        if of.role == "shown" and of.id in outputs:
            cell["outputs"] = outputs[of.id]
        if of.name:
            cell["metadata"] = dict(nbgrader=graded(of, cells))
    return made


def graded(cell, cells):
    """What nbgrader and the lessons' own grader read of a cell: who fills it in, what it is worth, if it tests."""
    solution, test = cell.role in ("predict", "exercise"), cell.role in ("predict", "check")
    said = dict(grade=test, grade_id=f"check_{cell.name}" if cell.role == "check" else cell.name, locked=not solution,
                schema_version=3, solution=solution, task=False)
    points = {each.name: each.points for each in cells if each.points}
    return said | (dict(points=points[cell.name]) if test else {})


def link(lesson, folder):
    """The cell that says how to get here."""
    url = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/scripts/{folder}/{lesson.stem}.ipynb"
    text = (f"[Open in Colab]({url}). There, and wherever p2p_min is not installed, run this first: "
            f"`%pip install git+https://github.com/{REPOSITORY}`")
    return Cell("cell-0", "markdown", "", "", 0, text)


def notebook(cells):
    """A notebook of format 4.5, not run."""
    made = []
    for each in cells:
        cell = dict(cell_type=each.kind, id=each.id, metadata={}, source=each.text)
        made.append(cell | (dict(execution_count=None, outputs=[]) if each.kind == "code" else {}))
    kernel = dict(display_name="Python 3", language="python", name="python3")
    return dict(cells=made, metadata=dict(kernelspec=kernel, language_info=dict(name="python")), nbformat=4,
                nbformat_minor=5)


def executed(made):
    import nbformat
    from nbclient import NotebookClient
    made = nbformat.from_dict(made)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(made, timeout=600, kernel_name="python3", resources=dict(metadata=dict(path=folder))).execute()
    for cell in made.cells:
        cell.metadata = {}                                 # when each cell ran would differ every time
    return made


def with_outputs_of(path, made):
    """The notebook with the outputs that its file has, if all its code is the same."""
    if not path.exists():
        return made
    before = json.loads(path.read_text(encoding="utf-8"))
    old, new = ([cell for cell in each["cells"] if cell["cell_type"] == "code"] for each in (before, made))
    if ["".join(cell["source"]) for cell in old] != [cell["source"] for cell in new]:
        return made
    for cell, its in zip(new, old):
        cell |= dict(execution_count=its["execution_count"], outputs=its["outputs"])
    return made | dict(metadata=before["metadata"])


def write(made, path):
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    text = text.replace(f"{SOURCES.parents[1]}{os.sep}", "")           # where it was made is nobody's business
    if len(text.encode()) > LARGEST:
        raise ValueError(f"{path.name}: the notebook has {len(text.encode()):,} bytes, more than {LARGEST:,}")
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
    print(path)


def make(lesson, run=True):
    """Both notebooks of a lesson."""
    path, made = SOURCES / f"{lesson.stem}.ipynb", teachers(lesson)
    for_teachers = executed(made) if run else with_outputs_of(path, made)
    outputs = {cell["id"]: cell["outputs"] for cell in for_teachers["cells"] if cell["cell_type"] == "code"}
    for_students = students(lesson, outputs)
    write(for_teachers, path)
    write(for_students, STUDENTS / f"{lesson.stem}.ipynb")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", metavar="NUMBER")
    parser.add_argument("--not-run", action="store_true")
    parser.add_argument("--script", action="store_true")
    options = parser.parse_args()
    for lesson in sorted(SOURCES.glob("[0-9]_*.py")):
        if options.numbers and lesson.name[0] not in options.numbers:
            continue
        try:
            if options.script:
                exec(compile(script(lesson), str(lesson), "exec"), {"__name__": "__main__"})
            else:
                make(lesson, run=not options.not_run)
        except ValueError as error:
            raise SystemExit(error) from None


if __name__ == "__main__":
    main()
