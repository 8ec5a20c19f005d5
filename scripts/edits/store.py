"""Results on disk, one small file each, and processes that share them: a run may be killed at any moment, and goes on.

A result is finished when its JSON file is in the folder: everything is written under a temporary name and renamed.
Under torchrun each process works on its part and writes into its own --work; that may be one folder for all, or one on
each machine. What is done already, and at the end the numbers, go from process to process.
"""
import hashlib
import json
import os
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from p2p_min.files import write

RANK, LOCAL_RANK = (int(os.environ.get(name, 0)) for name in ("RANK", "LOCAL_RANK"))      # torchrun says them
SETTINGS = "settings.json"


def write_json(path, thing):
    write(path, (json.dumps(thing, indent=1, allow_nan=False) + "\n").encode())


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}); delete it to have it made again") from None


def open_folder(folder, settings, option="--work"):
    """Makes the folder that an option gave, or checks that its results were made with these settings; new ones are
    added to its file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{folder} cannot be made: {error.strerror}") from None
    file = folder / SETTINGS
    before = read_json(file) if file.exists() else {}
    agree(settings, before, f"the results in {folder} were made", f"give another {option}")
    if LOCAL_RANK == 0 and before | settings != before:
        write_json(file, before | settings)


def agree(settings, others, where, advice):
    """Raises ValueError that says which settings differ, of those that both have."""
    differing = [name for name in settings if name in others and others[name] != settings[name]]
    if differing:
        name = differing[0]
        more = f" (also other: {', '.join(differing[1:4])})" if differing[1:] else ""
        raise ValueError(f"{where} with {name} = {others[name]}, not {settings[name]}{more}; {advice}")


def digest(*files):
    """Of the contents of files; None where there are none."""
    total = hashlib.sha256()
    for file in files:
        with open(file, "rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return total.hexdigest()[:16] if files else None


# ---- processes -----------------------------------------------------------------------------------------------------

def join(backend):
    """Meets the other processes that torchrun started, if any. Returns how many there are."""
    if "RANK" not in os.environ:
        return 1
    if backend == "nccl":
        torch.cuda.set_device(LOCAL_RANK)
    # A process that is done early waits for the slowest at the end. The group stays: torch 2.6 can hang on ending it.
    dist.init_process_group(backend, timeout=timedelta(days=7))
    return dist.get_world_size()


def share(items):
    """This process's part of them."""
    return items[RANK::dist.get_world_size() if dist.is_initialized() else 1]


def device(given):
    """The device that was asked for; without a wish under torchrun, a GPU for each process of a machine."""
    if given is None and torch.cuda.is_available() and LOCAL_RANK:
        return f"cuda:{LOCAL_RANK % torch.cuda.device_count()}"
    return given


def gather(thing):
    """[what each process gives], for all of them."""
    if not dist.is_initialized():
        return [thing]
    things = [None] * dist.get_world_size()
    dist.all_gather_object(things, thing)
    return things


# ---- results -------------------------------------------------------------------------------------------------------

def result_file(folder, key):
    return Path(folder) / f"{key}.json"


def picture_file(folder, key):
    return Path(folder) / f"{key}.png"


def done(folder, keys, settings):
    """Those of the keys that some process has the result of. Raises ValueError where processes differ in settings."""
    everyones = gather(([key for key in keys if result_file(folder, key).exists()], settings))
    for _, of_process in everyones:
        agree(settings, of_process, "another process works", "start all of them alike")
    return {key for theirs, _ in everyones for key in theirs}


def collect(folder, keys, pictures):
    """All results by key, each once, and the bytes of those of `pictures` that there are."""
    mine = ({key: read_json(result_file(folder, key)) for key in keys if result_file(folder, key).exists()},
            {key: picture_file(folder, key).read_bytes() for key in pictures if picture_file(folder, key).exists()})
    results, images = {}, {}
    for of_process in gather(mine):
        results = of_process[0] | results
        images = of_process[1] | images
    return {key: results[key] for key in keys}, images
