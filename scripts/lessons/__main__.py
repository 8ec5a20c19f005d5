"""Copies the lessons as notebooks into a folder, to be opened in Jupyter or VS Code. Files that are there already are
left alone: they may hold answers.

    python -m p2p_min.lessons [FOLDER]
"""
import sys
from pathlib import Path

from p2p_min.cli.options import Parser
from p2p_min.files import write


def main(argv=None):
    """Exit status: 0; 2 with one line on standard error."""
    parser = Parser(prog="python -m p2p_min.lessons", description=__doc__.partition("\n\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default="p2p_min_lessons", metavar="FOLDER",
                        help="by default %(default)s")
    try:
        folder = parser.parse_args(argv).folder
        folder.mkdir(parents=True, exist_ok=True)
        for notebook in sorted(Path(__file__).parent.glob("*.ipynb")):
            path = folder / notebook.name
            if path.exists():
                print(f"{path} is there already")
            else:
                write(path, notebook.read_bytes())
                print(path)
    except (OSError, ValueError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print("p2p_min.lessons: error:", reason, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
