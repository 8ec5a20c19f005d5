"""What an edit costs, side by side in one run: seconds and memory, each as a ratio to the run without an edit.

    python scripts/benchmark.py [--model weights/toy] [--steps 50] [--size PIXELS] [--repeat 5] [--only PART]

First one attention call of the size of Stable Diffusion's largest (2 rows, 8 heads, 64 × 64 pixels), then a whole edit of
two prompts, then a picture inverted by each method, as a ratio to ddim, and the edit with that inversion. A folder of
Stable Diffusion's size, with random weights, is made by scripts/verify_full_size.py --dir. Repetitions are interleaved, so
that a busy machine slows all alike; medians are shown.
Memory is what the call adds to a process of its own at its peak (read from /proc, so on Linux only).
"""
import argparse
import multiprocessing
import re
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

import p2p_min as p2p
from p2p_min.attention import attend

SIZE = (64, 64)
PROMPTS = ["a big red bicycle", "a big red car"]


def attention_calls():
    """name -> a function of no arguments."""
    q, k, v = (torch.randn(2, 8, SIZE[0] * SIZE[1], 40) for _ in range(3))
    small_maps_only, everywhere = p2p.self_replace(0.4), p2p.self_replace(0.4, max_pixels=64 * 64)
    return {
        "no edit": lambda: attend(q, k, v, SIZE),
        "self_replace(0.4), after its window": lambda: attend(q, k, v, SIZE, everywhere, t=0.5),
        "self_replace(0.4), map over max_pixels": lambda: attend(q, k, v, SIZE, small_maps_only, t=1.0),
        "self_replace(0.4), in its window": lambda: attend(q, k, v, SIZE, everywhere, t=1.0),
        "a lambda that returns M_star": lambda: attend(q, k, v, SIZE, lambda M, M_star, t: M_star, t=0.5),
    }


def whole_edits(path, steps, size):
    model = p2p.load(path)
    options = dict(steps=steps, height=size, width=size)

    def edit(cross_steps, self_steps):
        edits = p2p.auto(model.tokenizer, PROMPTS, cross_steps), p2p.self_replace(self_steps)
        return lambda: p2p.prompt_to_prompt(model, PROMPTS, *edits, **options)

    return {
        "no edit": lambda: p2p.prompt_to_prompt(model, PROMPTS, **options),
        "windows of 0 %": edit(0.0, 0.0),
        "cross 40 %, self 20 %": edit(0.4, 0.2),
        "cross 80 %, self 40 %": edit(0.8, 0.4),
        "cross 100 %, self 100 %": edit(1.0, 1.0),
    }


def inversions(path, steps, size):
    model = p2p.load(path)
    size = size or min(model.size)
    picture = Image.radial_gradient("L").resize((size, size)).convert("RGB")

    def invert(method):
        return lambda: p2p.invert(model, picture, PROMPTS[0], method, steps, size=size)

    def edit(method):                                      # what these cost does not depend on how good the embeddings are
        found = p2p.invert(model, picture, PROMPTS[0], method.replace("null-text", "negative-prompt"), steps, size=size)
        found = replace(found, method=method)
        return lambda: p2p.prompt_to_prompt(model, PROMPTS, steps=steps, inversion=found)

    methods = ("ddim", "direct", "negative-prompt", "null-text")
    return {method: invert(method) for method in methods} | {f"edit with {method}": edit(method) for method in methods}


def peak_memory(make, name):
    """MiB that the call adds to the peak of a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(added_memory, make, name).result()


def added_memory(make, name):
    call = make[0](*make[1:])[name]
    Path("/proc/self/clear_refs").write_text("5")          # the peak begins anew
    before = memory("VmRSS")
    call()
    return (memory("VmHWM") - before) / 1024


def memory(what):
    """A figure of this process in KiB."""
    return int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def compare(title, make, repeat):
    calls = make[0](*make[1:])
    seconds = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    print(f"\n{title}\n{'':42}{'seconds':>9}{'ratio':>7}{'MiB':>8}")
    base = statistics.median(next(iter(seconds.values())))
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:42}{median:9.3f}{median / base:7.2f}{peak_memory(make, name):8.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="weights/toy")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, help="of the pictures, in pixels (the model's own)")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", choices=("attention", "edits", "inversions"), help="one part of the three")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    of_model = args.model, args.steps, args.size
    parts = dict(
        attention=("one self-attention call, 64 × 64 pixels", (attention_calls,)),
        edits=(f"a whole edit, {args.steps} steps, two prompts", (whole_edits, *of_model)),
        inversions=(f"a picture inverted, {args.steps} steps; and edited, two prompts", (inversions, *of_model)))
    for name in [args.only] if args.only else parts:
        compare(*parts[name], args.repeat)


if __name__ == "__main__":
    main()
