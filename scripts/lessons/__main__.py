"""Copies the lessons as notebooks into a folder, to be opened in Jupyter or VS Code. Files that are there already are
left alone: they may hold answers. For teachers: the notebooks with answers, and the grades of a folder of hand-ins.

    python -m p2p_min.lessons [FOLDER]
    python -m p2p_min.lessons --teacher [FOLDER]
    python -m p2p_min.lessons --grade FOLDER [--out grades.csv] [--limit SECONDS] [--jobs NUMBER]
"""
import posixpath
import re
import sys
from pathlib import Path

from p2p_min import teaching
from p2p_min.cli.options import Parser
from p2p_min.files import write

STUDENTS, TEACHERS = Path(__file__).parent, Path(teaching.__file__).parent
FOR_STUDENTS = "[0-9]_*.ipynb", "README.md"
FOR_TEACHERS = "[0-9]_*.ipynb", "README.md", "nbgrader_config.py", "solutions/lesson_*.py"


def build_parser():
    parser = Parser(prog="python -m p2p_min.lessons", description=__doc__.partition("\n\n")[0])
    add = parser.add_argument
    add("folder", nargs="?", type=Path, metavar="FOLDER", help="by default p2p_min_lessons, or p2p_min_teaching")
    add("--teacher", action="store_true", help="with answers, key, rubric and exam")
    add("--grade", action="store_true", help="run the hand-ins of a folder, and write a line of a CSV a student")
    add("--out", type=Path, metavar="FILE", help="the CSV (default: grades.csv)")
    add("--limit", type=float, metavar="SECONDS", help="what a hand-in may take, and a fifth for a cell (default: 300)")
    add("--jobs", type=int, metavar="NUMBER", help="hand-ins that run at a time (default: 1); each takes 1.5 GB")
    return parser


def check(options):
    """Raises ValueError for options that do not go together."""
    if options.grade and options.teacher:
        raise ValueError("--grade and --teacher are two commands")
    if options.grade and not (options.folder and options.folder.is_dir()):
        raise ValueError(f"--grade: {options.folder or 'FOLDER'} is no folder")
    if options.teacher and options.folder:
        for path in sorted(options.folder.glob("[0-9]_*.ipynb")):
            if b'"nbgrader"' in path.read_bytes():
                raise ValueError(f"--teacher: {options.folder} holds the students' notebooks; name another folder")
    for name in ("out", "limit", "jobs"):
        value = getattr(options, name)
        if value is not None and not options.grade:
            raise ValueError(f"--{name} is of --grade")
        if name != "out" and value is not None and value <= 0:
            raise ValueError(f"--{name} must be above 0")


def alone(page, source):
    """A README whose links out of its folder are text, since it is copied without what they lead to."""
    def text(link):
        return f"{link[1]} ({posixpath.normpath(f'scripts/{source.name}/{link[2]}')} in the repository)"
    return re.sub(r"\[([^]]+)\]\((\.\./[^)#]+)[^)]*\)", text, page)


def copy(source, patterns, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for original in (path for pattern in patterns for path in sorted(source.glob(pattern))):
        path = folder / original.relative_to(source)
        path.parent.mkdir(exist_ok=True)
        if path.exists():
            print(f"{path} is there already")
        else:
            page = original.suffix == ".md"
            write(path, alone(original.read_text("utf-8"), source).encode() if page else original.read_bytes())
            print(path)


def main(argv=None):
    """Exit status: 0; 2 with one line on standard error."""
    try:
        options = build_parser().parse_args(argv)
        check(options)
        if options.grade:
            from p2p_min.teaching.grade import grade
            out = options.out or Path("grades.csv")
            grade(options.folder, out, options.limit or 300, options.jobs or 1)
            print(out)
        elif options.teacher:
            copy(TEACHERS, FOR_TEACHERS, options.folder or Path("p2p_min_teaching"))
        else:
            folder = options.folder or Path("p2p_min_lessons")
            copy(STUDENTS, FOR_STUDENTS, folder)
            print("how to hand in:", folder / "README.md")
    except (OSError, ValueError) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print("p2p_min.lessons: error:", reason, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
