"""Output: files are written whole or not at all, and never over an input or over each other."""
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path


def write(path, content):
    """Writes the bytes to a file, whole or not at all. A link stays, and the file that it leads to is written.

    Raises ValueError if the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    unfinished = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, target)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        with suppress(OSError):                            # it is gone if it was renamed
            unfinished.unlink()


def check_files(inputs, outputs):
    """Raises ValueError if an output cannot be written, or is the same file as an input or as another output.

    inputs, outputs  pairs (option, path)
    """
    others = list(inputs)
    for option, path in outputs:
        # A run of minutes must not be lost at its end: only writing shows whether one can write.
        target = Path(os.path.realpath(path))
        try:
            tempfile.TemporaryFile(dir=target.parent).close()
            with suppress(FileNotFoundError):
                open(target, "r+b").close()
        except OSError as error:
            raise ValueError(f"{option}: {path} cannot be written: {error.strerror or error}") from None
        for other, its_path in others:
            if same(path, its_path):
                raise ValueError(f"{option} and {other} are the same file, {path}; one of them needs another name")
        others.append((option, path))


def same(a, b):
    """Whether two paths lead to one file, which may have several names (links, other spellings)."""
    a, b = os.path.realpath(a), os.path.realpath(b)
    return a == b or os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b)
