"""The lessons as notebooks: scripts/lessons/*.ipynb, made from the .py files beside them, and executed.

    python scripts/make_notebooks.py [NUMBER ...]

It needs nbclient and ipykernel (pip install -e ".[lessons]"). A notebook runs in an empty folder, as a learner's would.
A notebook that raises an error, or is larger than 1 MiB, is not written.
"""
import ctrl_c  # noqa: F401, I001 (before the others, which take seconds)

import json
import os
import re
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "lessons"
REPOSITORY = "OWNER/p2p_min"                               # on GitHub: who hosts it puts their name here
LARGEST = 1 << 20


def cells_of(lesson):
    """The cells of a .py file as a notebook has them, [(kind, text)], after one that says how to get here."""
    link = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/scripts/lessons/{lesson.stem}.ipynb"
    cells = [("markdown", f"[Open in Colab]({link}). There, and wherever p2p_min is not installed, run this first: "
                          f"`%pip install git+https://github.com/{REPOSITORY}`")]
    for cell in re.split(r"^# %%", lesson.read_text(encoding="utf-8"), flags=re.M)[1:]:
        first, _, text = cell.partition("\n")
        kind = "markdown" if first.strip() == "[markdown]" else "code"
        text = re.sub(r"(?m)^# ?", "", text) if kind == "markdown" else text
        cells.append((kind, text.strip("\n")))
    return cells


def notebook(cells):
    """A notebook of format 4.5, not run."""
    made = []
    for number, (kind, text) in enumerate(cells):
        cell = dict(cell_type=kind, id=f"cell-{number}", metadata={}, source=text)
        made.append(cell | (dict(execution_count=None, outputs=[]) if kind == "code" else {}))
    kernel = dict(display_name="Python 3", language="python", name="python3")
    return dict(cells=made, metadata=dict(kernelspec=kernel, language_info=dict(name="python")), nbformat=4,
                nbformat_minor=5)


def run(lesson):
    import nbformat
    from nbclient import NotebookClient
    made = nbformat.from_dict(notebook(cells_of(lesson)))
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(made, timeout=600, kernel_name="python3", resources=dict(metadata=dict(path=folder))).execute()
    for cell in made.cells:
        cell.metadata = {}                                 # when each cell ran would differ every time
    text = json.dumps(made, indent=1, ensure_ascii=False) + "\n"
    if len(text.encode()) > LARGEST:
        raise SystemExit(f"{lesson.stem}: the notebook has {len(text.encode()):,} bytes, more than {LARGEST:,}")
    path = lesson.with_suffix(".ipynb")
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
    print(path)


if __name__ == "__main__":
    for each in sorted(FOLDER.glob("[0-9]_*.py")):
        if len(sys.argv) == 1 or each.name[0] in sys.argv[1:]:
            run(each)
