"""Grades a folder of hand-ins: one line of a CSV a student.

Each file or folder in it is a student. A hand-in runs in a process of its own (hand_in.py). A cell that does not end,
or that ends the process, is left out, and the hand-in starts again without it.
"""
import ast
import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import site
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from p2p_min import lessons as students_set
from p2p_min.files import check_files, write
from p2p_min.teaching.hand_in import cells_of

KINDS = ".ipynb", ".py"
CHILD = [sys.executable, "-P", "-m", "p2p_min.teaching.hand_in"]             # -P: a torch.py of theirs is not torch
STARTS, ERRORS = 6, 10                                     # of one hand-in: how often it starts, how many are told
PART = 0.2                                                 # of a hand-in's time: what one cell may take
IMPORTS = 180                                              # seconds until its first cell begins, on a slow disk
LARGEST = 50 << 20                                         # bytes of a file that is copied beside a hand-in
QUICK = dict(LESSON_STEPS="3", LESSON_SEEDS="1", OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", MPLBACKEND="Agg")
KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "LANG", "LC_ALL", "VIRTUAL_ENV")


def lessons_in(folder):
    """{number: {"exercises": {name: points}, "predictions": {name: points}}}, as the students' notebooks say."""
    found = {}
    for path in sorted(folder.glob("[0-9]_*.ipynb")):
        exercises, predictions = {}, {}
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            graded = cell["metadata"].get("nbgrader", {})
            if graded.get("grade"):
                kind = predictions if graded["solution"] else exercises
                kind[graded["grade_id"].removeprefix("check_")] = graded["points"]
        found[path.name[0]] = dict(exercises=exercises, predictions=predictions)
    return found


# ---- one hand-in -----------------------------------------------------------------------------------------------------

class Processes:
    """Those that run at this moment, so that Ctrl-C ends them all."""

    def __init__(self):
        self.running, self.ended = set(), False

    def kill(self, process):
        if process.poll() is None:
            with contextlib.suppress(OSError):             # it has just ended
                os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()

    def end(self):
        self.ended = True
        for process in list(self.running):
            self.kill(process)


def copied(path, student, folder):
    """A copy of a hand-in, with what lies beside it if the student handed in a folder. No links, no large files."""
    if student == path:
        return Path(shutil.copy(path, folder))

    def not_copied(parent, names):
        files = {name: Path(parent, name) for name in names}
        return [name for name, each in files.items() if each.is_symlink() or not each.is_dir()
                and (not each.is_file() or each.stat().st_size > LARGEST)]
    shutil.copytree(student, folder, ignore=not_copied, dirs_exist_ok=True)
    return Path(folder, path.relative_to(student))


def environment(folder):
    """Few steps, and nothing of the teacher's own."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    if "PYTHONPATH" in kept:                               # the hand-in runs in another folder
        kept["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, kept["PYTHONPATH"].split(os.pathsep)))
    its = dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP", "MPLCONFIGDIR", "LESSON_FIGURES"), folder)
    return kept | its | QUICK | dict(PYTHONUSERBASE=site.getuserbase())


def start(path, folder, job, limit, processes):
    """Runs a hand-in once: (result or None, errors, the last step that began, why it ended there)."""
    result, errors, step, until, late, share = None, [], None, None, threading.Event(), limit * PART
    with tempfile.TemporaryFile("w+", errors="replace") as trouble, subprocess.Popen(
            CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=trouble, cwd=path.parent,
            env=environment(folder), start_new_session=True, text=True, encoding="utf-8", errors="replace") as process:
        processes.running.add(process)

        def end():
            late.set()
            processes.kill(process)

        def alarm(seconds):
            timer = threading.Timer(max(0.1, seconds), end)
            timer.daemon = True
            timer.start()
            return timer

        timer = alarm(IMPORTS)
        try:
            with contextlib.suppress(OSError):             # it has ended already
                process.stdin.write(json.dumps(job))
                process.stdin.close()
            for line in process.stdout:
                told = json.loads(line)
                if "begin" in told:                        # the imports before are not the student's
                    timer.cancel()
                    until = until or time.monotonic() + limit
                    share = min(limit * PART, until - time.monotonic())
                    timer = alarm(share)
                step, result = told.get("begin", step), told.get("result", result)
                errors += [told["error"]] if "error" in told else []
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        finally:
            timer.cancel()
            processes.kill(process)
            processes.running.discard(process)
        status = process.wait()
        trouble.seek(0)
        last = (trouble.read().strip().splitlines() or [f"exit status {status}"])[-1]
    if step and late.is_set():
        why = (f"took more than {share:g} s (--limit / {1 / PART:g})" if share == limit * PART else
               f"not done when the hand-in had taken {limit:g} s (--limit)") + ", left out"
    elif step:
        why = f"it ends Python (exit status {status})"
    else:
        why = f"it has not begun within {IMPORTS} seconds" if late.is_set() else f"it could not be started: {last}"
    return result, errors, step, why


def graded(path, student, closed, lessons, limit, processes):
    """What came of one hand-in: {"lesson", "right", "not_answered", "hints", "errors"}."""
    left_out, fates = [], []
    for _ in range(STARTS):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            copy = copied(path, student, folder) if path.exists() else None
            if not copy or not copy.exists():
                why = f"a link, or larger than {LARGEST >> 20} MB: not read" if copy else "a link that leads nowhere"
                return dict(lesson=None, errors=[why])
            job = dict(path=str(copy), lessons=lessons, own=folder, closed=[str(closed)], left_out=left_out)
            result, errors, step, why = start(copy, folder, job, limit, processes)
        if result or processes.ended:
            break
        fates.append(f"{step}: {why}" if step else why)
        if not step:
            break
        left_out.append(step)
    if not result:
        fates.append("no points, since it never came to its end")
        result = dict(lesson=None)
    return dict(right=[], not_answered=[], hints={}) | result | dict(errors=fates + together(errors))


def together(errors):
    """Cells that fail alike, as those do that need one that failed, in one: "cells 8, 12: NameError: ..."."""
    cells = {}
    for error in errors:
        cell, what = re.fullmatch(r"(?s)(?:cell (\d+): )?(.*)", error).groups()
        cells.setdefault(what, []).extend([cell] if cell else [])
    return [f"cell{'s' * (len(at) > 1)} {', '.join(at)}: {what}" if at else what for what, at in cells.items()]


def as_in_solutions(path, number):
    """Names of the exercises whose code in a hand-in is that of solutions/, but for comments and spaces."""
    def functions(texts):
        for text in texts:
            with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
                yield from {node.name: ast.dump(node) for node in ast.parse(text).body
                            if isinstance(node, ast.FunctionDef)}.items()
    try:
        ours = dict(functions(cells_of(Path(__file__).parent / "solutions" / f"lesson_{number}.py")))
        return [name for name, code in dict(functions(cells_of(path))).items() if ours.get(name) == code]
    except (ValueError, OSError):
        return []


# ---- a student, a class ----------------------------------------------------------------------------------------------

def entries(folder):
    """What lies in a folder and is nobody's machinery."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith((".", "__")))


def hand_ins(student):
    if not student.is_dir():
        return [student] if student.suffix in KINDS else []
    return [path for each in entries(student) for path in hand_ins(each)]


def nothing_in(student):
    """What a student is told who handed in no file of code."""
    if student.is_symlink() and not student.exists():
        return "a link that leads nowhere"
    if student.suffix.lower() == ".zip" or any(student.glob("**/*.zip")):
        return "a zip: unpack it"
    return "no .ipynb and no .py in it" if student.is_dir() else "neither .ipynb nor .py"


def results_of(student, closed, lessons, limit, processes):
    """({lesson: what came of it}, errors). Of two hand-ins for one lesson the better counts."""
    results, errors, strangers = {}, [], []
    try:
        paths = hand_ins(student)
        for path in paths:
            result = graded(path, student, closed, lessons, limit, processes)
            number = result["lesson"]
            prefix = f"{f'lesson {number}' if number else path.name}: " if len(paths) > 1 else ""
            told = [prefix + error for error in result["errors"]]
            if number is None:
                strangers += told or [f"{prefix}it has no exercise of a lesson"]
                continue
            if number in results:
                errors.append(f"several files of lesson {number}: the best counts")
            errors += told
            if number not in results or points(result, lessons) > points(results[number], lessons):
                results[number] = result | dict(as_in_solutions=as_in_solutions(path, number))
        if not paths:
            errors.append(nothing_in(student))
    except Exception as error:                             # whatever it is, the class is graded on
        errors.append(f"it cannot be graded: {error}")
    # A .py beside the notebooks may be a module of theirs.
    errors += strangers if not results or any(".ipynb: " in each for each in strangers) else []
    return results, errors


def asked(lesson):
    return lesson["exercises"] | lesson["predictions"]


def points(result, lessons):
    return sum(asked(lessons[result["lesson"]])[name] for name in result["right"])


def table(of_students, lessons):
    """The lines of the CSV, a header first, of {student: (results, errors)}."""
    handed_in = sorted({number for results, _ in of_students.values() for number in results})
    columns = [(number, kind, name, most) for number in handed_in for kind, asked in lessons[number].items()
               for name, most in asked.items()]
    most_of = {kind: sum(most for _, its, _, most in columns if its == kind) for kind in ("exercises", "predictions")}
    titles = [f"{kind} (of {most})" for kind, most in most_of.items()]
    titles += [f"{number} {name} ({most})" for number, _, name, most in columns]
    lines = [["student", f"points (of {sum(most_of.values())})", *titles, "not answered", "hints used",
              "as in solutions", "errors"]]
    for student, (results, errors) in of_students.items():
        cells = [most if number in results and name in results[number]["right"] else 0
                 for number, _, name, most in columns]
        sums = [sum(cell for cell, (_, its, *_) in zip(cells, columns) if its == kind) for kind in most_of]
        missing = [f"lesson {number}" for number in handed_in if number not in results]
        missing += [name for result in results.values() for name in result["not_answered"]]
        hints = [f"{name} {count}" for result in results.values() for name, count in result["hints"].items()]
        same = [name for number in sorted(results) for name in results[number]["as_in_solutions"]]
        told = errors[:ERRORS] + [f"and {len(errors) - ERRORS} more"] * (len(errors) > ERRORS)
        lines.append([student, sum(sums), *sums, *cells, ", ".join(missing), ", ".join(hints), ", ".join(same),
                      "; ".join(told)])
    return lines


def as_csv(lines):
    """In UTF-8, with the mark that spreadsheets know it by; no cell is taken for a formula."""
    text = io.StringIO()
    csv.writer(text).writerows([f"'{cell}" if str(cell)[:1] in ("=", "+", "-", "@") and cell else cell
                                for cell in line] for line in lines)
    return text.getvalue().encode("utf-8-sig", "replace")


def grade(folder, out, limit=300, jobs=1):
    """Writes the CSV `out`, once more after each student. Raises ValueError if there is nothing to grade."""
    names = [path for path in entries(folder) if path.suffix != ".csv"]
    if not names:
        raise ValueError(f"{folder}: no hand-ins in it")
    check_files([], [("--out", out)])
    lessons, processes = lessons_in(Path(students_set.__file__).parent), Processes()
    done = {}
    with ThreadPoolExecutor(jobs) as pool:
        waiting = {pool.submit(results_of, path, folder.resolve(), lessons, limit, processes): path for path in names}
        try:
            for each in as_completed(waiting):
                path = waiting[each]
                done[path] = each.result()
                named = {path.stem if path.is_file() else path.name: done[path] for path in sorted(done)}
                lines = table(named, lessons)
                write(out, as_csv(lines))
                print(f"{path.name}: {len(done)} of {len(names)}", file=sys.stderr)
        finally:
            processes.end()
            pool.shutdown(cancel_futures=True)
