"""Output: files are written whole or not at all, and never over an input or over each other."""
import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path


def write(path, content):
    """Writes bytes to a file, or where a link leads, whole or not at all. Raises ValueError if that is not possible."""
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
    """Raises ValueError if an output, (option, path), cannot be written, or is also an input or another output."""
    others = list(inputs)
    for option, path in outputs:
        # A run of minutes must not be lost at its end: only writing shows whether one can write.
        target = os.path.realpath(path)
        try:
            tempfile.TemporaryFile(dir=os.path.dirname(target)).close()
            with suppress(FileNotFoundError):
                open(target, "r+b").close()
        except OSError as error:
            raise ValueError(f"{option}: {path} cannot be written: {error.strerror or error}") from None
        for other, its_path in others:                     # one file may have several names: links, other spellings
            both = target, os.path.realpath(its_path)
            if both[0] == both[1] or all(map(os.path.exists, both)) and os.path.samefile(*both):
                raise ValueError(f"{option} and {other} are the same file, {path}; one of them needs another name")
        others.append((option, path))
