"""Runs one hand-in in a process of its own, for grade.py, which starts it and says on standard input what to run.

Its cells run one after another, going on after an error; then the checks of its lesson look at what they left. What is
found goes to standard output, a line of JSON each: {"begin": step}, {"error": text}, and at the end {"result": ...}.

From the first cell on there is no network and no other process, and no file outside of python's own folders (to read)
and the folder that the hand-in was copied to. That stops accidents and curiosity. It is no prison: whoever wants to
get out of a Python process will, so hand-ins of people whom nobody knows belong in a container.
"""
import ast
import contextlib
import importlib
import json
import os
import re
import sys
import traceback
from pathlib import Path

import p2p_min.lessons

MEMORY, FILE = 4 << 30, 100 << 20                          # bytes that a hand-in may take, and may write into one file
LONGEST = 200                                              # characters of an error


# ---- cells -----------------------------------------------------------------------------------------------------------

def cells_of(path):
    """The code of a hand-in, one text a cell. Raises ValueError for what is no notebook."""
    content = path.read_bytes()
    if not content.strip():
        raise ValueError("the file is empty")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("the file is not text in UTF-8") from None
    if path.suffix == ".py":
        return re.split(r"(?m)^# %%.*$|^# In ?\[.*\]:$", text)
    try:
        cells = [cell["source"] for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        return ["".join(source) for source in cells]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("the file is no notebook: its JSON is broken or cut off") from None


def as_python(text):
    """A cell without what only Jupyter reads: %magic, !command."""
    with contextlib.suppress(SyntaxError):
        compile(text, "cell", "exec")
        return text
    return re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", text)


def lesson_of(name, cells, lessons):
    """The lesson that a hand-in belongs to: that whose exercises it defines, else the one that its name begins with."""
    defined = set(re.findall(r"(?m)^\s*(?:def|class) +(\w+)", "\n".join(cells)))
    best = max(lessons, key=lambda lesson: len(defined & set(lessons[lesson]["exercises"])))
    if defined & set(lessons[best]["exercises"]):
        return best
    number = re.match(r"\D{0,8}(\d)\D", name)
    return number[1] if number and number[1] in lessons else None


def defined_in(cell):
    """The names that a cell defines, also one that Python cannot read."""
    try:
        nodes = list(ast.walk(ast.parse(as_python(cell))))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set(re.findall(r"(?m)^(?:(?:def|class) +|(?=\w+ *=[^=]))(\w+)", cell))
    found = {node.name for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    found |= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    imported = [each for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom)) for each in node.names]
    return found | {(each.asname or each.name).partition(".")[0] for each in imported}


# ---- what it may do --------------------------------------------------------------------------------------------------

REFUSED = {"socket": "use the network", "subprocess": "start a program", "os.system": "start a program",
           "os.exec": "start a program", "os.posix_spawn": "start a program", "os.spawn": "start a program",
           "os.startfile": "start a program", "os.fork": "start a process", "os.forkpty": "start a process",
           "os.kill": "end a process", "os.killpg": "end a process", "ctypes.dlopen": "load a library",
           "ctypes.dlsym": "load a library"}
PATHS = {"open": 1, "os.listdir": 1, "os.scandir": 1, "os.chdir": 1, "os.remove": 1, "os.mkdir": 1, "os.rmdir": 1,
         "os.rename": 2, "os.link": 2, "os.symlink": 2, "os.truncate": 1, "os.chmod": 1, "os.chown": 1, "os.utime": 1}
READS = {"os.listdir", "os.scandir", "os.chdir"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FONTS = ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", "/System/Library/Fonts",
         os.path.join(os.environ.get("SYSTEMROOT", "/"), "Fonts"))               # Pillow looks there for its captions
HARMLESS = {os.path.realpath(path) for path in (os.devnull, "/dev/urandom", "/dev/random", __file__)}


def refusal(event, args, own, pythons, closed):
    """What a hand-in may not do, such as "read /etc/passwd", or None where it may.

    event, args  as `sys.addaudithook` has them
    own      the folder that may be read and written
    pythons  folders that may be read
    closed   folders in those that may not
    """
    if event in REFUSED or event.partition(".")[0] in REFUSED:
        return REFUSED.get(event) or REFUSED[event.partition(".")[0]]
    for path in args[:PATHS.get(event, 0)]:
        if path is None or isinstance(path, int):          # the folder one is in, or a file that is open already
            continue
        real = os.path.realpath(os.fsdecode(path))
        reads = event in READS or event == "open" and not writes(*args[1:3])
        if inside(real, own) or reads and real in HARMLESS or real == os.path.realpath(os.devnull):
            continue
        if not reads or any(inside(real, each) for each in closed) or not any(inside(real, each) for each in pythons):
            return f"{'read' if reads else 'write'} {os.fsdecode(path)}"
    return None


def writes(mode, flags):
    return bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool((flags or 0) & WRITING)


def inside(path, folder):
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def guard(own, closed, told):
    """From here on the process may only do what `refusal` lets it; `told` hears what else it tried."""
    package = Path(p2p_min.__file__).parent
    folders = [sys.prefix, sys.base_prefix, *sys.path, package, Path(p2p_min.lessons.__file__).parent]
    folders += [package.parent / "weights", *FONTS]        # beside the package, in a clone
    pythons = {os.path.realpath(path) for path in folders if path}
    closed = [os.path.realpath(path) for path in (*closed, Path(__file__).parent)]
    own = os.path.realpath(own)

    def hook(event, args):
        what = refusal(event, args, own, pythons, closed)
        if what:
            told(what)
            raise PermissionError(f"a hand-in that is graded may not {what}")
    sys.addaudithook(hook)


def limit():
    """The memory and the files of this process, where the system can limit them."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))


# ---- the run ---------------------------------------------------------------------------------------------------------

def said(error):
    """An error as one short line."""
    words = {MemoryError: "it takes too much memory", SystemExit: "it ends Python, as exit() does"}
    text = type(error).__name__
    with contextlib.suppress(Exception):                   # of its own __str__
        text = ": ".join(filter(None, [text, words.get(type(error)) or str(error)]))
    return " ".join(text[:2 * LONGEST].split())[:LONGEST]


def run(path, lessons, own, closed, left_out, tell):
    """Runs the hand-in `path`, and tells what came of it."""
    try:
        cells = cells_of(path)
    except (ValueError, OSError) as error:
        number = lesson_of(path.name, [], lessons)
        asked = [name for kind in lessons.get(number, {}).values() for name in kind]
        tell(error=error.strerror if isinstance(error, OSError) else str(error))
        return tell(result=dict(lesson=number, right=[], not_answered=asked, hints={}))
    number = lesson_of(path.name, cells, lessons)
    if number is None:
        return tell(result=dict(lesson=None))
    exercises, predictions = lessons[number]["exercises"], lessons[number]["predictions"]

    # What is imported later finds the guard in its way: so all of the library now, and what it imports.
    import p2p_min.lessons.figures
    for name in p2p_min.__all__:
        getattr(p2p_min, name)

    # The checks are there before the hand-in is, and what it does to their modules is undone before they are asked.
    checks = importlib.import_module(f"p2p_min.lessons.checks_{number}")
    base = importlib.import_module("p2p_min.lessons.checks")
    asked = {name: getattr(checks, name) for name in exercises}
    before = [(vars(module), dict(vars(module))) for module in (checks, base)]
    refused = set()

    def told(what):
        if what not in refused and len(refused) < 5:
            refused.add(what)
            tell(error=f"refused: to {what[:LONGEST]}")

    limit()
    guard(own, closed, told)
    namespace = {"__name__": "__main__", "display": print}
    lost = {}                                              # {name: the cell for whose sake it is not there}
    for at, cell in enumerate(cells, 1):
        step = f"cell {at}"
        if step in left_out:
            lost |= dict.fromkeys(defined_in(cell), step)
        if step in left_out or not cell.strip():
            continue
        tell(begin=step)
        try:
            exec(compile(as_python(cell), f"<{step}>", "exec"), namespace)
        except BaseException as error:                     # sys.exit too
            cause = lost.get(error.name) if isinstance(error, NameError) else None
            lost |= dict.fromkeys(defined_in(cell), cause or step)
            tell(error=f"{step}: {said(error)}" + (f" (follows from {cause})" if cause else ""))

    hints = {name: check.asked for name, check in asked.items() if check.asked}
    for names, kept in before:
        names.clear()
        names.update(kept)
    right, not_answered = [], []
    for name, check in asked.items():
        if name in left_out:
            continue
        tell(begin=name)
        try:
            verdict = check(namespace.get(name))
        except BaseException as error:
            tell(error=f"{name}: {said(error)}")
            continue
        if verdict:
            right.append(name)
        elif verdict.line == "not answered yet" and name not in namespace and name in lost:
            tell(error=f"{name}: follows from {lost[name]}")
        elif verdict.line == "not answered yet":
            not_answered.append(name)
        else:
            tell(error=f"{name}: {verdict.line[:LONGEST]}")
    for name in predictions:
        text = namespace.get(name)
        (right if isinstance(text, str) and text.strip() else not_answered).append(name)
    tell(result=dict(lesson=number, right=right, not_answered=not_answered, hints=hints))


def main():
    job = json.load(sys.stdin)
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")

    def tell(**what):
        print(json.dumps(what), file=report, flush=True)

    import torch
    torch.set_num_threads(1)
    sys.path.append(os.getcwd())                           # modules beside the hand-in
    sys.dont_write_bytecode = True

    # Whatever the hand-in prints, and however much, goes nowhere. What this file itself fails with is told.
    trouble, nowhere = os.fdopen(os.dup(2), "w"), os.open(os.devnull, os.O_RDWR)
    sys.excepthook = lambda *error: print(*traceback.format_exception(*error), file=trouble, flush=True)
    for stream in range(3):
        os.dup2(nowhere, stream)
    run(Path(job["path"]), job["lessons"], job["own"], job["closed"], job["left_out"], tell)
    os._exit(0)                                            # not waiting for threads of the hand-in


if __name__ == "__main__":
    main()
