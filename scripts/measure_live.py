"""How fast the live page answers, and what it leaves behind.

    python scripts/measure_live.py [--model weights/toy] [--repeats 20] [--changes 200] [--steps 20]
    python scripts/measure_live.py --out scripts/gallery/live.png       the picture of the page, with Chromium

Seconds from a request to its answer with all that the page shows: a change of tau alone (the source is kept), and of
the source (nothing is); medians. Then many changes in a row: memory and threads of the process before and after.
"""
import ctrl_c  # noqa: F401, I001 (before the others, which take seconds)

import argparse
import gc
import http.client
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from PIL import Image

import p2p_min as p2p
from p2p_min.maps.live import Session
from p2p_min.maps.server import Server

sys.path.append(str(Path(__file__).parents[1] / "tests" / "maps"))
from browser import Page  # noqa: E402

SHOWN = dict(source="a red car in the snow", target="a red boat in the snow")


def ask(server, settings):
    """(seconds, the last line of the answer, how many lines told of a step)"""
    connection, began = http.client.HTTPConnection(*server.server_address), time.perf_counter()
    connection.request("POST", f"/{server.token}/run", json.dumps(settings))
    lines = connection.getresponse().read().splitlines()
    seconds = time.perf_counter() - began
    last = json.loads(lines[-1])
    assert "data" in last, last
    return seconds, last, sum(b'"said"' in line for line in lines[:-1])


def memory():
    """MiB that this process holds now (Linux)."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2 ** 20


def median(server, settings):
    times, began = [], time.process_time()
    for each in settings:
        times.append(ask(server, each)[0])
    work = (time.process_time() - began) / len(times)      # what one core needs, whatever else the machine does
    return (f"{statistics.median(times):.2f} s (from {min(times):.2f} to {max(times):.2f}), "
            f"{work:.2f} s of a core on average")


def take_picture(server, out):
    """The page as a laptop shows it, small: at most 200 KB."""
    with tempfile.TemporaryDirectory() as folder, Page(server.address, folder, 1440, 900) as page:
        page.wait("Number(document.body.dataset.answers || 0) > 0")
        page.run("change('blend', {target: 'a blue car in the snow', blend: ['car'], weights: {blue: 1.5}})")
        page.wait("Number(document.body.dataset.answers) > 1 && document.querySelectorAll('.mask').length > 0")
        page.run("document.documentElement.style.scrollbarWidth = 'none'")
        page.run("$('status').textContent = ''")              # how long it took is for the measurement to say
        bottom = page.run("Math.max(...[...document.querySelectorAll('.card:not(.below *)')].map("
                          "x => x.getBoundingClientRect().bottom)) + 12")
        page.screenshot(out)
    image = Image.open(out).convert("RGB")
    image = image.crop((0, 0, image.width, int(bottom)))
    image = image.resize((1080, 1080 * image.height // image.width), Image.Resampling.LANCZOS)
    image.quantize(256).save(out, optimize=True)
    assert out.stat().st_size <= 200_000
    print(out, f"{out.stat().st_size / 1000:.0f} KB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="weights/toy")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--changes", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, help="take the picture of the page, and nothing else")
    args = parser.parse_args()
    torch.set_num_threads(1)                               # as the command line does for a small model
    server = Server(Session(p2p.load(args.model), dict(model=args.model)), 0, SHOWN)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    if args.out:
        return take_picture(server, args.out)
    usual = SHOWN | dict(steps=args.steps)
    _, first, steps = ask(server, usual)
    print(f"told {steps} steps", flush=True)
    tau = [usual | dict(cross=[0, round(0.2 + n / 100, 2)]) for n in range(args.repeats)]
    print("a change of tau:", median(server, tau), flush=True)
    sources = [usual | dict(seed=100 + n) for n in range(args.repeats)]
    print("a change of the source:", median(server, sources), flush=True)
    few = usual | dict(steps=2)
    for n in range(20):                                    # until all that is kept is full
        ask(server, few | dict(seed=n))
    before, threads = memory(), threading.active_count()
    for n in range(args.changes):
        ask(server, few | dict(seed=n % 30, cross=[0, n / args.changes], blend=["boat"] * (n % 2)))
    time.sleep(1)
    print(f"{args.changes} changes: {before:.0f} MiB and {threads} threads before, {memory():.0f} MiB and "
          f"{threading.active_count()} after")
    same = json.dumps(ask(server, usual)[1]) == json.dumps(first)
    print("the first settings have", "the same answer" if same else "ANOTHER answer")


if __name__ == "__main__":
    main()
