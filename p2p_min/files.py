"""What is written: files, completely or not at all and never over another; and lines, which cannot end a run."""
import os
import secrets
import stat
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".p2p-min-{}.part"
LEFT = 10                                      # an unfinished file older by so many seconds is what a kill left


def write(path, content):
    """Write the bytes to a file, completely or not at all. Raises ValueError if it cannot be written.

    A link stays, and the file that it leads to is written. A file that is replaced keeps its permissions.
    """
    with told(path):
        try:
            replace(path, content)
        except FileNotFoundError:              # stopped for so long that another run thought the file was left
            replace(path, content)


def replace(path, content):
    target, mode = destination(path)
    with unfinished(target.parent) as file:
        file.write_bytes(content)
        if mode is not None:
            file.chmod(mode)
        now = file.stat().st_mtime             # by the clock of the disk, like the times of the others
        for other in target.parent.glob(UNFINISHED.format("*")):
            with suppress(OSError):
                if other.stat().st_mtime < now - LEFT:
                    other.unlink()
        os.replace(file, target)


@contextmanager
def unfinished(folder):
    """A new file in the folder, whose short name no other run has. At the end it is gone, unless it was renamed."""
    file = folder / UNFINISHED.format(secrets.token_hex(8))
    try:
        file.touch(exist_ok=False)
        yield file
    finally:
        file.unlink(missing_ok=True)


def destination(path):
    """(the file that a path leads to, its permissions or None). Raises OSError if it cannot be replaced."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise OSError(f"there is no folder {target.parent}")
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target, None
    if not stat.S_ISREG(mode):
        raise OSError("it is a folder" if stat.S_ISDIR(mode) else "it is no ordinary file")
    if not os.access(target, os.W_OK):
        raise OSError("it is read-only")
    return target, stat.S_IMODE(mode)


@contextmanager
def told(path):
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from None


def check_files(inputs, outputs):
    """Raises ValueError if an output cannot be written, or is the same file as an input or as another output.

    inputs, outputs  pairs (option, path)
    """
    others = list(inputs)
    for option, path in outputs:
        with told(f"{option}: {path}"):
            target, _ = destination(path)
            with unfinished(target.parent):    # the only way to know
                pass
        for other, there in others:
            if same(path, there):
                raise ValueError(f"{option} and {other} are the same file, {path}; one of them needs another name")
        others.append((option, path))


def same(a, b):
    """Whether two paths lead to one file, which may have several names (links, other spellings)."""
    a, b = os.path.realpath(a), os.path.realpath(b)
    return a == b or os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b)


def say(*words, file=None, end="\n"):
    """Prints a line. Where nobody reads on (`| head -1`), it and all later ones go nowhere, and the run goes on."""
    file = file or sys.stdout
    try:
        print(*words, file=file, end=end, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
