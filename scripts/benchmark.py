"""What an edit costs, measured in one run: seconds and memory, each as a ratio to the run without an edit.

    python scripts/benchmark.py [--model weights/toy] [--steps 50] [--size PIXELS] [--repeat 5] [--only PART]
                                [--device cpu|cuda] [--dtype float32]

It measures one attention call as large as the largest in Stable Diffusion (2 rows, 8 heads, 64 × 64 pixels); then a
whole edit of two prompts; then the inversion of a picture by each method, as a ratio to ddim, and the edit with that
inversion. scripts/verify_full_size.py --dir makes a folder of Stable Diffusion's size, with random weights. Repetitions
are interleaved, so that a busy machine slows all of them equally; the table shows medians.
Memory is the peak that the call adds to a separate process (read from /proc, so only on Linux; on a GPU, what torch has
allocated there).

--only beside needs diffusers, and runs only on request. It compares one denoising step with other implementations: one
call of four rows (source, target, two unconditional) with Stable Diffusion 1.5's shapes, for pictures of 256 and of 512
pixels. All networks have the same random weights. "Every map written out" is diffusers' UNet with what the official
code of Prompt-to-Prompt does in each attention layer, in the network's own dtype; that code also stores the small maps
for its blend, which is left out here. Results that should agree are compared, and the exit status is 1 if they differ
in float32. On a CPU that has more than AVX2, our UNet also runs in bfloat16.
"""
import ctrl_c  # noqa: F401, I001 (before the others, which take seconds)

import argparse
import multiprocessing
import re
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image

import p2p_min as p2p
from p2p_min.attention import attend
from p2p_min.networks.unet import UNet

SIZE = (64, 64)
PROMPTS = ["a big red bicycle", "a big red car"]           # of 5 and 4 tokens, so that the alignment shifts
THEIRS, OFFICIAL = "diffusers, no edit", "diffusers, every map written out, edits"
EDITED, UNEDITED = "p2p_min, edits in their windows", "p2p_min, after the windows"
MAX_ERROR = 1e-4                                           # of what should be equal, of its norm, in float32


def attention_calls(device, dtype):
    """name -> a function of no arguments."""
    q, k, v = (torch.randn(2, 8, SIZE[0] * SIZE[1], 40, device=device, dtype=getattr(torch, dtype)) for _ in range(3))
    small_maps_only, everywhere = p2p.self_replace(0.4), p2p.self_replace(0.4, max_pixels=64 * 64)
    return {
        "no edit": lambda: attend(q, k, v, SIZE),
        "self_replace(0.4), after its window": lambda: attend(q, k, v, SIZE, everywhere, t=0.5),
        "self_replace(0.4), map over max_pixels": lambda: attend(q, k, v, SIZE, small_maps_only, t=1.0),
        "self_replace(0.4), in its window": lambda: attend(q, k, v, SIZE, everywhere, t=1.0),
        "a lambda that returns M_star": lambda: attend(q, k, v, SIZE, lambda M, M_star, t: M_star, t=0.5),
    }


def whole_edits(path, steps, size, device, dtype):
    model = p2p.load(path, device, dtype)
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


def inversions(path, steps, size, device, dtype):
    model = p2p.load(path, device, dtype)
    size = size or min(model.size)
    picture = Image.radial_gradient("L").resize((size, size)).convert("RGB")

    def invert(method):
        return lambda: p2p.invert(model, picture, PROMPTS[0], method, steps, size=size)

    def edit(method):                                      # its cost does not depend on how good the embeddings are
        found = p2p.invert(model, picture, PROMPTS[0], method.replace("null-text", "negative-prompt"), steps, size=size)
        found = replace(found, method=method)
        return lambda: p2p.prompt_to_prompt(model, PROMPTS, steps=steps, inversion=found)

    methods = ("ddim", "direct", "negative-prompt", "null-text")
    return {method: invert(method) for method in methods} | {f"edit with {method}": edit(method) for method in methods}


class EveryMap:
    """An attention processor for diffusers that works as the official Prompt-to-Prompt code does.

    Every attention writes out the maps of all rows, softmax(Q Kᵀ / √d). Row 0 is the source; row 1, the target, takes
    its maps: those of words through the alignment A, those of pixels as they are, up to 32 × 32 of them.
    """

    def __init__(self, A):
        self.A = A                                         # (source tokens, target tokens)

    def __call__(self, attn, x, encoder_hidden_states=None, **unused):
        context = x if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (y.unflatten(-1, (attn.heads, -1)).transpose(1, 2)    # (rows, heads, pixels or keys, d)
                   for y in (attn.to_q(x), attn.to_k(context), attn.to_v(context)))
        maps = (q * attn.scale @ k.transpose(-1, -2)).softmax(-1)
        if encoder_hidden_states is not None:
            maps[1] = maps[0] @ self.A
        elif x.shape[1] <= 32 * 32:
            maps[1] = maps[0]
        return attn.to_out[0]((maps @ v).transpose(1, 2).flatten(2))


def random_weights(tensors, device, dtype):
    """Weights of those names and shapes. Norms and biases are not 1 and 0 either, which would hide their branch."""
    torch.manual_seed(0)
    weights = {}
    for name, like in tensors.items():
        mean, spread = (float(name.endswith("weight")), 0.1) if like.ndim == 1 else (0.0, like[0].numel() ** -0.5)
        weights[name] = torch.empty(like.shape, device=device, dtype=getattr(torch, dtype)).normal_(mean, spread)
    return weights


def network_calls(path, device, dtype, size):
    """name -> a call of four rows; the tokenizer is the model's at `path`, all else Stable Diffusion 1.5's."""
    from diffusers import UNet2DConditionModel  # here, since only this part needs it

    from verify_full_size import UNET
    torch.backends.cudnn.allow_tf32 = False                # float32 is to mean it
    tokenizer = p2p.load(path, "cpu").tokenizer
    edits = p2p.replace(tokenizer, PROMPTS, 0.8), p2p.self_replace(0.4)
    with torch.device("meta"):                             # shapes alone; the weights are in memory once, for all three
        theirs, official = (UNet2DConditionModel.from_config(UNET) for _ in range(2))
        ours = UNet(UNET)
    weights = random_weights(ours.state_dict(), device, dtype)
    for network in (theirs, official, ours):
        network.load_state_dict(weights, assign=True)
        network.eval().requires_grad_(False)
    z = torch.randn(2, 4, size // 8, size // 8).repeat(2, 1, 1, 1).to(weights["conv_in.weight"])
    context = torch.randn(4, tokenizer.model_max_length, UNET["cross_attention_dim"]).to(z)
    official.set_attn_processor(EveryMap(edits[0].A[0].to(z)))
    return {
        THEIRS: lambda: theirs(z, 500, context).sample,
        OFFICIAL: lambda: official(z, 500, context).sample,
        EDITED: lambda: ours(z, 500, context, *edits, t=1.0, rows=2),
        UNEDITED: lambda: ours(z, 500, context, *edits, t=0.1, rows=2),
    }


def precisions(path, size):
    """dtype -> a call of our UNet."""
    return {dtype: network_calls(path, "cpu", dtype, size)[UNEDITED] for dtype in ("float32", "bfloat16")}


def beside_others(path, device, dtype, sizes, repeat):
    """Prints the tables; whether theirs and ours agree."""
    passed = True
    for size in sizes:
        passed &= agree(compare(f"one step of four rows, {size} pixels, {device}, {dtype}",
                                (network_calls, path, device, dtype, size), repeat), dtype)
    if device == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        print("\nbfloat16: not measured, since this processor has no instructions for it and takes many times as long")
    elif device == "cpu":
        compare(f"our UNet without edits, four rows, {sizes[0]} pixels", (precisions, path, sizes[0]), repeat)
    return passed


def agree(answers, dtype):
    """Prints how far ours are from theirs; whether that is within the limit, which half precision does not have."""
    limit = MAX_ERROR if dtype == "float32" else float("inf")
    errors = {(ours, theirs): float((answers[ours] - answers[theirs]).float().norm() / answers[theirs].float().norm())
              for ours, theirs in ((EDITED, OFFICIAL), (UNEDITED, THEIRS), (EDITED, UNEDITED))}
    of_edits = errors.pop((EDITED, UNEDITED))              # has to be large, or the first error would say nothing
    print(f"relative error, at most {limit:g} (the edits make a difference of {of_edits:.1e})")
    for (ours, theirs), error in errors.items():
        print(f"{ours:42}{error:9.1e}   from: {theirs}")
    return all(error <= limit for error in errors.values())


def peak_memory(make, name):
    """MiB that the call adds to the peak of a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(added_memory, make, name).result()


def added_memory(make, name):
    calls = make[0](*make[1:])                             # all are kept: what is given up now would be used again
    if torch.cuda.is_initialized():                        # the networks are on the GPU
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        calls[name]()
        return (torch.cuda.max_memory_allocated() - before) / 2 ** 20
    Path("/proc/self/clear_refs").write_text("5")          # the peak begins anew
    before = memory("VmRSS")
    calls[name]()
    return (memory("VmHWM") - before) / 1024


def memory(what):
    """A figure of this process in KiB."""
    return int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def clock():
    """Seconds, when a GPU has done what it was told."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(make, repeat):
    """name -> the seconds of each repetition; name -> what the last one returned."""
    calls, answers = make[0](*make[1:]), {}
    seconds = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            start = clock()
            answers[name] = call()
            seconds[name].append(clock() - start)
    return seconds, answers


def compare(title, make, repeat):
    """Prints the table; name -> what the call returned."""
    seconds, answers = timed(make, repeat)
    torch.cuda.empty_cache()                               # the networks are gone: peak_memory has room for its own
    print(f"\n{title}\n{'':42}{'seconds':>9}{'ratio':>7}{'MiB':>8}")
    base = statistics.median(next(iter(seconds.values())))
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:42}{median:9.3f}{median / base:7.2f}{peak_memory(make, name):8.0f}", flush=True)
    return answers


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="weights/toy")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--size", type=int, help="of the pictures, in pixels (default: the model's own)")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", choices=("attention", "edits", "inversions", "beside"),
                        help="only one part (default: the first three)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    if args.only == "beside":
        if find_spec("diffusers") is None:
            sys.exit("--only beside needs diffusers: pip install p2p_min[parity]")
        sizes = [args.size] if args.size else [256, 512]
        sys.exit(0 if beside_others(args.model, args.device, args.dtype, sizes, args.repeat) else "FAILED")
    where = args.device, args.dtype
    of_model = args.model, args.steps, args.size, *where
    parts = dict(
        attention=("one self-attention call, 64 × 64 pixels", (attention_calls, *where)),
        edits=(f"a whole edit, {args.steps} steps, two prompts", (whole_edits, *of_model)),
        inversions=(f"a picture inverted, {args.steps} steps; and edited, two prompts", (inversions, *of_model)))
    for name in [args.only] if args.only else parts:
        compare(*parts[name], args.repeat)


if __name__ == "__main__":
    main()
