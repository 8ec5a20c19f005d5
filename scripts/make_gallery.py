"""The paper's examples on the toy model, with ten seeds each, none cherry-picked: writes scripts/gallery/*.png.

    python scripts/make_gallery.py [--model weights/toy] [--out scripts/gallery]

Each sheet has the source in its first row, then the target from the same noise without injection, then with it.
"""
import ctrl_c  # noqa: F401, I001 (before the others, which take seconds)

import argparse
from pathlib import Path

import p2p_min as p2p
from p2p_min.pictures import sheet

SEEDS = range(10)
GUIDANCE = 5.0
SWAPS = {                                     # name -> source, target, steps of cross- and of self-attention injection
    "word_swap": ("a ball on the grass", "a cake on the grass", 0.6, 0.4),
    "added_phrase": ("a castle next to a river", "children drawing of a castle next to a river", 0.6, 0.4),
}
FLUFFY = "a fluffy red ball"
FACTORS = (-2, -1, 0, 1, 2)


def sample(model, prompts, seed, *edits):
    return p2p.prompt_to_prompt(model, prompts, *edits, seed=seed, guidance=GUIDANCE).images


def swap_sheet(model, source, target, cross_steps, self_steps):
    """Rows: source, target without injection, target with it; a column for each seed."""
    prompts = [source, target]
    edits = p2p.auto(model.tokenizer, prompts, cross_steps), p2p.self_replace(self_steps)
    plain = [sample(model, prompts, seed) for seed in SEEDS]
    edited = [sample(model, prompts, seed, *edits) for seed in SEEDS]
    rows = [pair[0] for pair in plain] + [pair[1] for pair in plain] + [pair[1] for pair in edited]
    names = [f"{name} {seed}" for name in ("seed", "without, seed", "with, seed") for seed in SEEDS]
    return sheet(rows, names, columns=len(SEEDS), side=128)


def fluffy_sheet(model):
    """A row for each factor c of "fluffy", a column for each seed; then the same seeds without the word."""
    prompts = [FLUFFY] * (1 + len(FACTORS))
    edit = p2p.reweight(model.tokenizer, prompts, [{"fluffy": c} for c in FACTORS])
    runs = [sample(model, prompts, seed, edit)[1:] for seed in SEEDS]
    plain = [sample(model, [FLUFFY.replace("fluffy ", "")], seed)[0] for seed in SEEDS]
    rows = [run[i] for i in range(len(FACTORS)) for run in runs] + plain
    names = [f"fluffy={c}" for c in FACTORS for _ in SEEDS] + ["no word, no edit"] * len(SEEDS)
    return sheet(rows, names, columns=len(SEEDS), side=128)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="weights/toy")
    parser.add_argument("--out", type=Path, default=Path("scripts/gallery"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = p2p.load(args.model)
    for name, example in SWAPS.items():
        swap_sheet(model, *example).save(args.out / f"{name}.png", optimize=True)
    fluffy_sheet(model).save(args.out / "reweighting.png", optimize=True)


if __name__ == "__main__":
    main()
