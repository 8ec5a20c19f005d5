"""python -m p2p_min.lessons [FOLDER]: copies the lessons as notebooks into FOLDER (p2p_min_lessons).

Open them in Jupyter or VS Code. Files that are there already are left alone: they may hold answers.
"""
import shutil
import sys
from pathlib import Path


def main(folder="p2p_min_lessons"):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for notebook in sorted(Path(__file__).parent.glob("*.ipynb")):
        path = folder / notebook.name
        if path.exists():
            print(f"{path} is there already")
        else:
            shutil.copyfile(notebook, path)
            print(path)


if __name__ == "__main__":
    main(*sys.argv[1:2])
