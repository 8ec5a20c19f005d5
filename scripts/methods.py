"""Four published methods, each written with the library's arguments: no patch, no hook; and what they do on the toy.

    python scripts/methods.py [METHOD ...] [--seeds 8] [--out scripts/gallery]     pictures, and numbers for each row
    python scripts/methods.py --table [--seeds 8]                      what each self-attention does: three columns

Each method is followed by a function that tries it on the toy, with the judge of scripts/toy. Seeds are 0, 1, …, none
left out. Prompts and settings were chosen on a few of them: for MasaCtrl, of five pairs of prompts (three seeds); for
FPE, of three choices of layers and steps (two); for paint-with-words, of two boxes and five weights (two or three); for
Attend-and-Excite, of four prompts (six), and six losses and sizes (four).
"""
import argparse
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.functional import scaled_dot_product_attention as sdpa

import p2p_min as p2p
from p2p_min.align import tokens_of
from p2p_min.ddim import timesteps
from p2p_min.networks.text import encode
from p2p_min.pictures import sheet

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts" / "toy"))
import judge as judging  # noqa: E402

GUIDANCE = 5.0
BALL, BOX = "a ball on the grass", (slice(7, 14), slice(9, 15))         # rows and columns of the 16 × 16 latent


# ---- MasaCtrl ------------------------------------------------------------------------------------------------------

def masactrl(start=0.92, layers="up_blocks"):
    """MasaCtrl (Cao et al. 2023): the target asks with its own queries, and gets the source's keys and values.

    So its layout is its own prompt's, and what fills it looks like the source. It begins when a layout is there, after
    4 of 50 steps, and only on the way up (in Stable Diffusion from the 11th of 16 layers). The authors edit the
    unconditional rows too: `edit_unconditional=True`.
    start    the t at which it begins
    returns  a self_edit
    """
    def attend(q, k, v, size, t):
        return sdpa(q, k[:1].expand_as(k), v[:1].expand_as(v))

    def active(height, width, t):
        return t <= start
    return {layers: SimpleNamespace(attend=attend, active=active)}


def try_masactrl(model, judge, seeds, steps=20):
    """Claim: pose and place change as the prompt says, the object stays the same one. Its size here; its colour."""
    prompts, rows = ["a big ball on the grass", "a small ball on the grass"], {}
    for seed in seeds:
        source, alone = sample(model, prompts, None, None, steps=steps, seed=seed)
        conditional, both = (sample(model, prompts, None, masactrl(), steps=steps, seed=seed,
                                    edit_unconditional=each)[1] for each in (False, True))
        add(rows, {"a big ball": source, "a small ball": alone, "conditional rows": conditional, "both": both})
    colors, sizes = ({name: getattr(seen, what) for name, seen in read(judge, rows, "ball").items()}
                     for what in ("colors", "size"))
    light = {name: np.array([np.mean(image) for image in images]) for name, images in rows.items()}
    small = judging.SIZES.index("small")
    return rows, {name: dict(colour_kept=int((colors[name] == colors["a big ball"]).sum()),
                             small=int((sizes[name] == small).sum()),
                             brightness_off=float(abs(light[name] - light["a small ball"]).mean())) for name in rows}


# ---- FPE -----------------------------------------------------------------------------------------------------------

def free_prompt_editing(steps=0.8):
    """FPE (Liu et al. 2024): the source's self-attention maps in the middle layers; cross-attention is left alone.

    It is what Prompt-to-Prompt does for Stable Diffusion, without what its paper is about. Middle layers: in the
    authors' code those of at most 32 × 32 pixels; in the toy all. (In Stable Diffusion 1.x by name: {name: edit for
    name in model.unet.attention_names("self")[2:13]}.)
    returns  a self_edit
    """
    return p2p.self_replace(steps, max_pixels=32 * 32)


def try_free_prompt_editing(model, judge, seeds, steps=20):
    """Claim: self-attention alone keeps shape and place. The overlap of the new object with the old one's cells."""
    prompts, rows = [BALL, "a cake on the grass"], {}
    for seed in seeds:
        source, alone = sample(model, prompts, steps=steps, seed=seed)
        crossed = sample(model, prompts, p2p.replace(model.tokenizer, prompts), steps=steps, seed=seed)[1]
        edited = sample(model, prompts, None, free_prompt_editing(), steps=steps, seed=seed)[1]
        add(rows, {"a ball": source, "a cake": alone, "cross-attention": crossed, "FPE": edited})
    ball, cake = read(judge, rows, "ball")["a ball"].where, read(judge, rows, "cake")
    return rows, {name: dict(overlap=float(((seen.where & ball).sum((1, 2)) / (seen.where | ball).sum((1, 2))).mean()),
                             cake=int(seen.there.sum())) for name, seen in cake.items() if name != "a ball"}


# ---- paint-with-words ----------------------------------------------------------------------------------------------

def paint_with_words(model, prompt, painted, steps, weight=0.1):
    """Paint-with-words, in eDiff-I (Balaji et al. 2022): softmax((Q Kᵀ + w A) / √d).

    A is 1 where a word is painted, w = weight · log(1 + σ) · max Q Kᵀ. A bias b before the softmax is M_hat ∝
    M_star · e^b; but only `attend` sees the scores, whose maximum w needs.
    painted  {word: (height, width) of numbers from 0 to 1}, all of one size
    returns  a cross_edit; the source is not painted
    """
    A = torch.zeros(1, model.tokenizer.model_max_length, *next(iter(painted.values())).shape, device=model.device)
    for word, mask in painted.items():
        A[:, tokens_of(model.tokenizer, prompt, word)] = mask.to(A)
    alphas = model.schedule.alphas_cumprod[timesteps(model.schedule, steps)]
    sigmas = ((1 - alphas) / alphas).sqrt().tolist()

    def attend(q, k, v, size, t):
        w = weight * math.log(1 + sigmas[round((1 - t) * steps)]) * (q @ k.mT).amax((2, 3), keepdim=True)
        b = w * F.interpolate(A, size, mode="area").flatten(2).mT.to(q) / q.shape[-1] ** 0.5
        b[0] = 0
        return sdpa(q, k, v, b)                            # (rows, heads, pixels, keys) is added to the scores
    return SimpleNamespace(attend=attend)


def try_paint_with_words(model, judge, seeds, steps=20):
    """Claim: the object comes where it is painted. The share of its cells inside the box."""
    box = torch.zeros(16, 16)
    box[BOX] = 1
    edit = paint_with_words(model, BALL, {"ball": box}, steps)
    prompts, z = [BALL] * (1 + len(seeds)), noise([0, *seeds])
    rows = {"without": sample(model, prompts, steps=steps, latents=z)[1:],
            "painted": sample(model, prompts, edit, steps=steps, latents=z)[1:]}
    return rows, {name: dict(inside=float((seen.where * box).sum() / seen.where.sum()),
                             ball=int(seen.there.sum())) for name, seen in read(judge, rows, "ball").items()}


# ---- Attend-and-Excite ---------------------------------------------------------------------------------------------

def attend_and_excite(model, prompt, words, steps, alpha=20.0, until=0.5, side=16):
    """Attend-and-Excite (Chefer et al. 2023): z_t moves until every word has a pixel that looks at it.

    Its loss is max over words of 1 - max over pixels of the word's smoothed map, averaged over heads and layers. (The
    paper also takes a softmax over the words first, and repeats some steps until a threshold is reached; left out.)
    alpha    the gradient is taken times this; half of it at the end. It acts while t > until, in maps of `side`
    returns  a `blend`: it moves the targets' z for the step that comes next
    """
    times, context = timesteps(model.schedule, steps), encode(model, [prompt])
    tokens = [tokens_of(model.tokenizer, prompt, word) for word in words]
    line = torch.tensor([math.exp(-2), 1, math.exp(-2)], device=model.device)          # a Gaussian of sigma 0.5
    kernel = (line[:, None] * line / line.sum() ** 2)[None, None]

    @torch.enable_grad()
    def gradient(z, z_t, i, t):
        def note(M, M_star, t):
            maps.extend([M_star.mean(1)] if M.shape[1] == side else [])
            return M_star
        maps = []
        model.unet(torch.cat([z, z_t]).to(model.dtype), times[i], context.expand(1 + len(z_t)), note, None, t)
        M = torch.stack([torch.stack(maps).mean(0)[..., each].sum(-1) for each in tokens], 1)
        M = F.conv2d(F.pad(M.flatten(0, 1)[:, None], (1,) * 4, "reflect"), kernel).view(M.shape)
        return torch.autograd.grad((1 - M.amax((2, 3))).amax(1).sum(), z_t)[0]     # M (targets, words, height, width)

    def blend(z, z_star, t):
        i = round((1 - t) * steps) + 1
        if t <= until or i == steps:
            return z_star
        return z_star - alpha * (1 - i / steps / 2) * gradient(z, z_star.clone().requires_grad_(), i, t)
    return blend


def try_attend_and_excite(model, judge, seeds, steps=20):
    """Claim: no object is left out. How often the castle is there, and its map's maximum."""
    prompt, rows, maxima = "a house and a castle", {}, {}
    prompts, z = [prompt] * (1 + len(seeds)), noise([0, *seeds])
    excite = attend_and_excite(model, prompt, ["house", "castle"], steps)
    for name, blend in (("without", None), ("excited", excite)):
        recorder = p2p.Recorder(model.tokenizer, prompts)
        rows[name] = sample(model, prompts, None, recorder=recorder, steps=steps, latents=z, blend=blend)[1:]
        maxima[name] = float(np.mean([recorder.maps("castle", 1 + i).max() for i in range(len(seeds))]))
    house, castle = (read(judge, rows, kind) for kind in ("house", "castle"))
    return rows, {name: dict(castle=int(castle[name].there.sum()), maximum=maxima[name],
                             both=int((castle[name].there & house[name].there).sum())) for name in rows}


# ---- what each self-attention does ---------------------------------------------------------------------------------

def ablation(model, seeds, steps=20, prompt="a red car on the beach"):
    """{layer: mean change of the picture without it, of 255}; three columns: conditional rows, both, guidance 1.

    One target for each layer: the same prompt and noise as the source, without that self-attention.
    """
    names = model.unet.attention_names("self")

    def without(row):
        def attend(q, k, v, size, t):
            out = sdpa(q, k, v)
            out[row] = 0
            return out
        return SimpleNamespace(attend=attend)
    edits, changes = {name: without(1 + i) for i, name in enumerate(names)}, []
    for seed in seeds:
        runs = [sample(model, [prompt] * (1 + len(names)), None, edits, steps=steps, seed=seed, **arguments)
                for arguments in (dict(), dict(edit_unconditional=True), dict(guidance=1))]
        changes.append([[np.abs(np.subtract(image, run[0], dtype=float)).mean() for image in run[1:]] for run in runs])
    return dict(zip(names, np.mean(changes, 0).T.tolist()))


# ---- helpers -------------------------------------------------------------------------------------------------------

def sample(model, prompts, *edits, guidance=GUIDANCE, **arguments):
    return p2p.prompt_to_prompt(model, prompts, *edits, guidance=guidance, **arguments).images


def noise(seeds):
    """That of `seed=`, a row for each."""
    return torch.cat([torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def add(rows, images):
    for name, image in images.items():
        rows.setdefault(name, []).append(image)


def read(judge, rows, kind):
    """What the judge sees of one kind of object, {row: …}: there, colors, size (n,), where (n, 16, 16), boolean."""
    k, found = judging.KINDS.index(kind), {}
    for name, images in rows.items():
        seen = judging.read(judge, images)
        found[name] = SimpleNamespace(there=seen.kinds[:, k] > 0, colors=seen.colors[:, k].argmax(-1),
                                      size=seen.size.argmax(-1), where=seen.where[:, k] > 0)
    return found


METHODS = dict(masactrl=try_masactrl, free_prompt_editing=try_free_prompt_editing,
               paint_with_words=try_paint_with_words, attend_and_excite=try_attend_and_excite)
SHOWN = 5                                                                # seeds in a picture: it stays below 200 KB


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("names", nargs="*", metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=ROOT / "scripts" / "gallery")
    parser.add_argument("--table", action="store_true")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, not {args.seeds}")
    if unknown := set(args.names) - set(METHODS):
        parser.error(f"no method {', '.join(sorted(unknown))}; there are {', '.join(METHODS)}")
    torch.set_num_threads(1)                               # a small model loses time to more
    model, seeds = p2p.load(ROOT / "weights" / "toy", device="cpu"), range(args.seeds)
    if args.table:
        print(f"{'without':54} conditional   both   guidance 1")
        for name, changes in ablation(model, seeds).items():
            print(f"{name:54} {changes[0]:11.1f} {changes[1]:6.1f} {changes[2]:12.1f}", flush=True)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    for method in args.names or METHODS:
        rows, numbers = METHODS[method](model, judging.load(), seeds)
        cells = [(image, f"{name}, seed {seed}") for name, images in rows.items()
                 for seed, image in list(zip(seeds, images))[:SHOWN]]
        picture = sheet(*zip(*cells), columns=min(SHOWN, len(seeds)), side=128)
        picture.quantize(256).save(args.out / f"{method}.png", optimize=True)
        print(f"{method}, {len(seeds)} seeds")
        for name, found in numbers.items():
            print(f"  {name:18}", "  ".join(f"{what} {x:g}" if isinstance(x, int) else f"{what} {x:.2f}"
                                           for what, x in found.items()), flush=True)


if __name__ == "__main__":
    main()
