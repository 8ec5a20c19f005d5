"""What edits and inversions cost with a checkpoint, measured in one run: seconds and memory.

    python scripts/benchmark.py [--model weights/toy] [--steps 50] [--size PIXELS] [--repeat 5] [--only CASE ...]
                                [--device cpu|cuda] [--dtype float32]

Repetitions take turns, so that a busy machine slows all of them equally; the table shows medians, and ratios to the
first case. Memory is the peak that a run adds, and with the weights in all: of this process (Linux), or on a GPU what
torch has allocated. full_size.py makes checkpoints of Stable Diffusion's size, with random weights; with them, --steps
2 --repeat 1 will do. fits.py computes memory for machines that one does not have. What one step costs beside other
implementations is on paper.py's page.
"""
import ctrl_c  # noqa: F401, I001 (before the others, which take seconds)

import argparse
import statistics
from dataclasses import replace

import torch
from PIL import Image

import p2p_min as p2p
import proof

PROMPTS = ["a big red bicycle", "a big red car"]           # of 5 and 4 tokens, so that the alignment shifts


def cases(model, steps, size):
    """{name: a function of no arguments}."""
    picture = Image.radial_gradient("L").resize((size, size)).convert("RGB")

    def edit(targets=1, edits=True, **more):
        prompts = PROMPTS[:1] + PROMPTS[1:] * targets
        chosen = (p2p.auto(model.tokenizer, prompts), p2p.self_replace()) if edits else ()
        more = more if "inversion" in more else dict(more, height=size, width=size)
        return p2p.prompt_to_prompt(model, prompts, *chosen, steps=steps, **more)

    def page():
        recorder = p2p.Recorder(model.tokenizer, PROMPTS, per_step=True)
        p2p.explorer(model, edit(recorder=recorder), recorder)

    def invert(method):
        return p2p.invert(model, picture, PROMPTS[0], method, steps, size=size)

    def with_inversion(method):                            # its cost does not depend on how good the embeddings are
        found = invert(method.replace("null-text", "negative-prompt"))
        return lambda: edit(inversion=replace(found, method=method))

    return {
        "no edit": lambda: edit(edits=False), "edit": edit, "4 targets": lambda: edit(4), "page": page,
        "invert, direct": lambda: invert("direct"), "invert, null-text": lambda: invert("null-text"),
        "edit, direct": with_inversion("direct"), "edit, null-text": with_inversion("null-text"),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--model", default="weights/toy")
    add("--steps", type=int, default=50)
    add("--size", type=int, help="of the pictures, in pixels (default: the model's own)")
    add("--repeat", type=int, default=5)
    add("--only", nargs="+", metavar="CASE", help="such as edit and page (default: all)")
    add("--device")
    add("--dtype")
    args = parser.parse_args()
    model = p2p.load(args.model, args.device, args.dtype)
    runs = cases(model, args.steps, args.size or min(model.size))
    if unknown := set(args.only or ()) - set(runs):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(runs)}")
    runs = {name: run for name, run in runs.items() if not args.only or name in args.only}
    weights = sum(p.nbytes for part in (model.unet, model.vae, model.text_encoder, model.text_encoder_2) if part
                  for p in part.parameters())
    print(f"{model}, torch {torch.__version__}, {torch.get_num_threads()} threads; {args.steps} steps")
    print(f"{'':20}{'seconds':>9}{'ratio':>7}{'MiB added':>11}{'GiB in all':>12}")
    seconds = {name: [] for name in runs}
    for _ in range(args.repeat):
        for name, run in runs.items():
            seconds[name].append(proof.timed(run, model.device))
    base = statistics.median(next(iter(seconds.values())))
    for name, run in runs.items():
        median, added = statistics.median(seconds[name]), proof.added_memory(run, model.device)
        memory = "" if added is None else f"{added:11.0f}{weights / 2 ** 30 + added / 1024:12.2f}"
        print(f"{name:20}{median:9.2f}{median / base:7.2f}{memory}", flush=True)


if __name__ == "__main__":
    main()
