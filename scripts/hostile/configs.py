"""Spoils the json files and the merges of a small model at random, and counts what becomes of it.

    python scripts/hostile/configs.py --tries 2000 --seed 1

Each try spoils one file in one place, loads the model and paints one small pair of pictures. (vocab.json and merges.txt
count only where there is no tokenizer.json, so that it is out of the way for them.)
    refused     in one line, when loading: as it should be
    harmless    the same pictures as before
    another     other pictures without a word, listed: a setting that may be as it is, or a fault to refuse
    late        refused in one line, but only when painting
    traceback   any other error, or a message of several lines
    hang        more than --seconds; memory: more than 4 GB
Exits with 1 if there is a traceback or a hang, or if memory runs out.
"""
import argparse
import collections
import contextlib
import faulthandler
import itertools
import json
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

import p2p_min as p2p
from p2p_min import ddim
from p2p_min.networks import text, unet, vae

PROMPTS = ["a red car on the grass", "a blue car on the grass"]
PARTS = dict(unet=unet, vae=vae, text_encoder=text, text_encoder_2=text, scheduler=ddim)
# The settings that their tables know.
KEYS = {part: [key for name, table in vars(module).items() if name.isupper() and isinstance(table, dict)
               for key in table] for part, module in PARTS.items()}
BAD = ("late", "traceback", "hang", "memory")
VALUES = [
    None, True, False, 0, 1, 2, 3, 5, -1, -7, 8.0, 0.5, -0.5, 1e-30, 1e30, 10 ** 8, 5 * 10 ** 8, 2 ** 63, 10 ** 400,
    float("nan"), float("inf"), float("-inf"), "RAW1e400", "", "x", "0.5", "8", "true", "false", "\n", "\x1b[31m",
    "null", "a" * 10 ** 5, [], [[]], [1], [1, 2], [1, 2, 3], [[1, 2], [2, 1], 1], [1] * 10 ** 5, ["x"], [None], [True],
    [0.5], [0.1] * 1000, {}, {"a": 1}, {"type": "BPE"}, [{}], "<|endoftext|>", "cat</w>", "left", "gelu", "linear"]


class Timeout(Exception):
    pass


def time_is_up(*_):
    raise Timeout


def places(content, at=()):
    """Every place in a parsed file, as a path of keys; of a long list or dict, a few."""
    for key, value in list(content.items() if isinstance(content, dict) else enumerate(content)):
        yield (*at, key)
        if isinstance(value, (dict, list)):
            yield from places(value, (*at, key))


def spoil(rng, name, raw):
    """(what was done, the new content) of one file."""
    way = rng.choices(["value", "added", "gone", "twice", "bytes", "cut", "whole"], [12, 6, 3, 1, 1, 1, 1])[0]
    if way == "cut":
        n = rng.randrange(len(raw))
        return f"cut to {n} bytes", raw[:n]
    if way == "bytes":
        data = bytearray(raw)
        for _ in range(3):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return "three bytes", bytes(data)
    if way == "whole":
        data = rng.choice([b"", b"[]", b"null", b"1", b"{}", b"[" * 10 ** 5, b'{"a":' * 10 ** 5, b"\xff\xfe", b"\0"])
        return f"the whole file is {data[:10]!r}", data
    if not name.endswith(".json"):
        return spoil_lines(rng, raw)
    content = json.loads(raw)
    if way == "twice":
        key, value = rng.choice(list(content)), json.dumps(rng.choice(VALUES))
        return f"{key} twice", raw.rstrip()[:-1] + f", {json.dumps(key)}: {value}}}".encode()
    found = list(places(content))
    wide = collections.Counter(path[:2] for path in found)             # the vocabulary does not crowd out the rest
    path, value = rng.choices(found, [1 / wide[path[:2]] for path in found])[0], rng.choice(VALUES)
    keys = KEYS.get(name.split("/")[0])
    if way == "added" and keys and name.endswith("config.json"):
        path = (rng.choice(keys),)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    if way == "gone":
        del inner[path[-1]]
        return f"without {path}", json.dumps(content).encode()
    if rng.random() < 0.2 and isinstance(inner, dict):                 # a value from elsewhere in the file
        value = inner[rng.choice(list(inner))]
    inner[path[-1]] = value
    return f"{path} = {value!r:.60}", json.dumps(content).replace('"RAW1e400"', "1e400").encode()


def spoil_lines(rng, raw):
    lines = raw.decode().splitlines()
    i = rng.randrange(len(lines))
    new = rng.choice(["", "x", "a b c", "zz qq", lines[rng.randrange(len(lines))], "\u2028", "a\tb", None])
    lines[i:i + 1] = [] if new is None else [new]
    return f"line {i} is {new!r}", "\n".join(lines).encode()


def paint(folder):
    """Loads, paints; the stage that was reached and the pictures as one array, or the error."""
    stage = "load"
    try:
        model = p2p.load(folder, "cpu")
        stage = "paint"
        images = p2p.prompt_to_prompt(model, PROMPTS, p2p.replace(model.tokenizer, PROMPTS), steps=2, height=32,
                                      width=32).images
        return stage, np.stack([np.asarray(image) for image in images])
    except (Timeout, KeyboardInterrupt):
        raise
    except BaseException as error:                         # a panic of the tokenizers library is no Exception
        return stage, error


def judge(stage, result, before):
    if isinstance(result, MemoryError) or "memory" in str(result):
        return "memory"
    if isinstance(result, BaseException):
        if not isinstance(result, (ValueError, FileNotFoundError)) or "\n" in str(result):
            return "traceback"
        return "refused" if stage == "load" else "late"
    return "harmless" if np.array_equal(result, before) else "another"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="then it stops, whatever is left of the tries")
    parser.add_argument("--model", type=Path, default=Path(__file__).resolve().parents[2] / "weights" / "toy")
    parser.add_argument("--seconds", type=int, default=20, help="for one try")
    parser.add_argument("--lines", action="store_true", help="print every refusal too")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, time_is_up)
    counts = collections.defaultdict(collections.Counter)
    with tempfile.TemporaryDirectory() as work:
        folder = Path(shutil.copytree(args.model, Path(work) / "model", symlinks=False))
        names = sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.suffix in (".json", ".txt"))
        _, before = paint(folder)
        assert isinstance(before, np.ndarray), before
        limit = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), limit[1]))
        end = time.monotonic() + 60 * args.minutes
        for i in itertools.takewhile(lambda _: time.monotonic() < end, range(args.tries)):
            rng = random.Random(f"{args.seed} {i}")
            name = rng.choice(names)
            raw = (folder / name).read_bytes()
            what, content = spoil(rng, name, raw)
            (folder / name).write_bytes(content)
            hidden = [folder / file for file in names if name.endswith(("vocab.json", "merges.txt"))
                      and file == str(Path(name).with_name("tokenizer.json"))]         # it would be read instead
            for file in hidden:
                file.rename(file.with_suffix(".hidden"))
            signal.alarm(args.seconds)
            faulthandler.dump_traceback_later(3 * args.seconds, exit=True)     # a hang that no signal reaches
            try:
                with contextlib.redirect_stdout(None), contextlib.redirect_stderr(None):
                    stage, result = paint(folder)
                outcome = judge(stage, result, before)
            except Timeout:
                outcome, result = "hang", ""
            signal.alarm(0)
            faulthandler.cancel_dump_traceback_later()
            (folder / name).write_bytes(raw)
            for file in hidden:
                file.with_suffix(".hidden").rename(file)
            counts[name][outcome] += 1
            if outcome in ("another", *BAD) or args.lines and outcome == "refused":
                told = "" if outcome == "another" else f": {type(result).__name__}: {str(result)[:300]}"
                print(f"{outcome:10} {name} (try {i}) {what}{told}", flush=True)
                if outcome == "traceback":
                    traceback.print_tb(result.__traceback__, -2, sys.stdout)
    columns = ("refused", "harmless", "another", *BAD)
    print(f"\n{'':40}" + "".join(f"{column:>10}" for column in columns))
    for name in names:
        print(f"{name:40}" + "".join(f"{counts[name][column]:10}" for column in columns))
    sys.exit(any(count[bad] for count in counts.values() for bad in BAD[1:]))


if __name__ == "__main__":
    main()
