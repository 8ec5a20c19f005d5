"""Eight published methods, each written with the library's arguments: no patch, no hook; and what they do on the toy.

    python scripts/methods.py [METHOD ...] [--seeds 8] [--out scripts/gallery]     pictures, and numbers for each row
    python scripts/methods.py --table [--seeds 8]                      what each self-attention does: three columns

Each method is followed by a function that tries it on the toy, with the judge of scripts/toy. Seeds are 0, 1, …, none
left out. Prompts and settings were chosen on a few of them, with an earlier toy of 64 pixels, and kept: for MasaCtrl,
of five pairs of prompts (three seeds); for FPE, of three choices of layers and steps (two); for paint-with-words, of
two boxes and five weights (two or three); for Attend-and-Excite, of four prompts (six), and six losses and sizes
(four); for StyleAligned, of six pairs (three); for Perturbed-Attention Guidance, of two prompts and seven choices of
layers (five); for edit-friendly DDPM, of two windows of injection (three).
"""
import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.functional import scaled_dot_product_attention as sdpa
from torch.special import entr

import p2p_min as p2p
from p2p_min.align import tokens_of
from p2p_min.ddim import alphas, change_level, predict, timesteps, to_eps
from p2p_min.editing import decode
from p2p_min.networks.text import Context, encode
from p2p_min.pictures import sheet, to_tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts" / "toy"))
import judge as judging  # noqa: E402
import world  # noqa: E402

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
    """Claim: no object is left out. How often both are there, and the maximum of the map that has the lower one."""
    prompt, words, rows, least = "a house and a castle", ["house", "castle"], {}, {}
    prompts, z = [prompt] * (1 + len(seeds)), noise([0, *seeds])
    excite = attend_and_excite(model, prompt, words, steps)
    for name, blend in (("without", None), ("excited", excite)):
        recorder = p2p.Recorder(model.tokenizer, prompts)
        rows[name] = sample(model, prompts, None, recorder=recorder, steps=steps, latents=z, blend=blend)[1:]
        least[name] = [min(float(recorder.maps(word, 1 + i).max()) for word in words) for i in range(len(seeds))]
    house, castle = (read(judge, rows, kind) for kind in words)
    return rows, {name: dict(both=int((castle[name].there & house[name].there).sum()),
                             least=float(np.mean(least[name]))) for name in rows}


# ---- StyleAligned --------------------------------------------------------------------------------------------------

def style_aligned(adain=True):
    """StyleAligned (Hertz et al. 2023): the targets see the source's keys and values beside their own.

    Where to look is drawn towards the source by AdaIN: each channel of the targets' queries and keys gets the mean and
    standard deviation that it has in the source. The authors do this in every layer and step, and edit the
    unconditional rows too: `edit_unconditional=True`. Each picture has noise of its own.
    adain    whether to do so, or only to share
    returns  a self_edit
    """
    def aligned(x):                                        # (rows, heads, pixels, d)
        mean, std = x.mean(2, keepdim=True), (x.var(2, keepdim=True, unbiased=False) + 1e-5) ** 0.5
        return (x - mean) / std * std[:1] + mean[:1] if adain else x

    def attend(q, k, v, size, t):
        k, v = (torch.cat([x[:1].expand_as(x), x], 2) for x in (aligned(k), v))
        return sdpa(aligned(q), k, v)                      # the source sees its own twice, which changes nothing
    return SimpleNamespace(attend=attend)


def try_style_aligned(model, judge, seeds, steps=20):
    """Claim: another object in the same style. Here its colour: as the judge names it; and how far off, of 255."""
    prompts, rows = [BALL, "a car on the grass"], {}
    for seed in seeds:
        z = noise([seed, 100 + seed])
        source, alone = sample(model, prompts, steps=steps, latents=z)
        shared, aligned = (sample(model, prompts, None, style_aligned(adain), steps=steps, latents=z,
                                  edit_unconditional=True)[1] for adain in (False, True))
        add(rows, {"a ball": source, "a car": alone, "shared": shared, "shared, AdaIN": aligned})
    ball, car = read(judge, rows, "ball")["a ball"], read(judge, rows, "car")

    def color(name, seen):                                 # the mean of the object's cells, which have 8 × 8 pixels
        return np.array([np.asarray(image)[np.kron(where, np.ones((8, 8), bool))].mean(0)
                         for image, where in zip(rows[name], seen.where)])
    return rows, {name: dict(colour_taken=int((seen.colors == ball.colors).sum()), car=int(seen.there.sum()),
                             colour_off=float(abs(color(name, seen) - color("a ball", ball)).mean()))
                  for name, seen in car.items() if name != "a ball"}


# ---- Perturbed-Attention Guidance ----------------------------------------------------------------------------------

def perturbed_attention(model, guidance, scale=3.0, layers="up_blocks.2.attentions.1"):
    """Perturbed-Attention Guidance (Ahn et al. 2024): eps_c + s (eps_c - eps_p), away from pictures without structure.

    eps_p comes from a second call, in which some self-attention maps are the identity: a pixel sees only itself. The
    run's guidance w will multiply what is added to eps_c here, so that is s/w times the difference; in all it becomes
    eps_u + w (eps_c - eps_u) + s (eps_c - eps_p). With w = 1 it is guidance by itself.
    guidance  w, a number. Not for runs with edit_unconditional: there rows are given in the unconditional call too
    layers    a prefix of names; the authors take "mid_block" of Stable Diffusion, which does next to nothing in the toy
    returns   a model to use in place of this one
    """
    identity = {layers: SimpleNamespace(attend=lambda q, k, v, size, t: v)}

    class Perturbed:
        def __getattr__(self, name):
            return getattr(model.unet, name)

        def __call__(self, z, timestep, context, cross_edit=None, self_edit=None, t=None, rows=None, looks=()):
            eps = model.unet(z, timestep, context, cross_edit, self_edit, t, rows, looks)
            if rows:                                       # 0 in an unconditional call, None in an inversion
                prompts = Context(*(part if part is None else part[:rows] for part in context))
                edits = self_edit if isinstance(self_edit, dict) else {"": self_edit}
                eps_p = model.unet(z[:rows], timestep, prompts, cross_edit, {**edits, **identity}, t, rows)
                eps[:rows] += scale / guidance * (eps[:rows] - eps_p)
            return eps
    return replace(model, unet=Perturbed())


def try_perturbed_attention(model, judge, seeds, steps=20):
    """Claim: better structure, with guidance and without. How much the judge doubts what is there, in bits for each
    picture (chosen after the earlier toy's were seen, which were clearer); and how often both objects are there."""
    prompts, z, rows = ["a house and a castle"] * (1 + len(seeds)), noise([0, *seeds]), {}
    for w in (1.0, GUIDANCE):
        for name, each in (("alone", model), ("perturbed", perturbed_attention(model, w))):
            rows[f"guidance {w:g}, {name}"] = sample(each, prompts, guidance=w, steps=steps, latents=z)[1:]
    house, castle = (read(judge, rows, kind) for kind in ("house", "castle"))
    chances = {name: judging.read(judge, images).kinds.sigmoid() for name, images in rows.items()}
    return rows, {name: dict(doubt=float((entr(p) + entr(1 - p)).sum(1).mean() / math.log(2)),
                             both=int((castle[name].there & house[name].there).sum())) for name, p in chances.items()}


# ---- edit-friendly DDPM inversion ----------------------------------------------------------------------------------

def edit_friendly(model, x_0, steps, seed=0):
    """Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024): noise that makes a picture, and its edits.

    The picture's x_t are drawn, each with noise of its own. What the mean of a DDPM step from x_t lacks to reach
    x_{t-1} is then that step's noise, for the targets too: more than usual, and with something of the picture in it.
    (The authors leave out the last step's, so that the source is nearly exact, and may skip the first steps.)
    x_0      the picture's latents, (1, 4, h, w): the source, to the bit
    returns  latents and sampler of a run
    """
    times, generator = timesteps(model.schedule, steps), torch.Generator().manual_seed(seed)
    x = [x_0]
    for i in reversed(range(steps)):
        alpha, _ = alphas(model.schedule, times, i)
        eps = torch.randn(x_0.shape, generator=generator).to(x_0)
        x.insert(0, alpha ** 0.5 * x_0 + (1 - alpha) ** 0.5 * eps)

    def sampler(schedule, z_t, output, times, i):
        alpha, below = alphas(schedule, times, i)
        variance = (1 - below) / (1 - alpha) * (1 - alpha / below)
        eps = to_eps(schedule, output, z_t, alpha)
        mean = below ** 0.5 * change_level(z_t, eps, alpha, 1.0) + (1 - below - variance) ** 0.5 * eps
        return torch.cat([x[i + 1], mean[1:] + (x[i + 1] - mean[:1])])
    return x[0], sampler


def ddcm(x_0, seed=0):
    """DDCM, in InfEdit (Xu et al. 2024): an edit without an inversion, since the source's z_0 is known.

    By how much the model misses it is taken off the targets' z_0 too. Then all get the same new noise, as samplers of
    consistency models do; after the last step none.
    x_0      the picture's latents, (1, 4, h, w): the source, to the bit
    returns  a sampler
    """
    generator = torch.Generator().manual_seed(seed)

    def sampler(schedule, z_t, output, times, i):
        z_0, (_, below) = predict(schedule, z_t, output, times, i), alphas(schedule, times, i)
        z_0 = x_0 + (z_0 - z_0[:1])
        eps = torch.randn(x_0.shape, generator=generator).to(x_0)
        return z_0 if i + 1 == len(times) else below ** 0.5 * z_0 + (1 - below) ** 0.5 * eps
    return sampler


@torch.no_grad()
def try_edit_friendly(model, judge, seeds, steps=20):
    """Claim: the source comes back exactly, and edits keep its structure. Drawn balls become cakes, in P2P's way or by
    the prompt alone. PSNR in dB: of the source; of the edited picture where neither ball nor cake is drawn."""
    rows, numbers, cake = {}, {}, judging.KINDS.index("cake")
    for seed in seeds:
        color = list(world.COLORS)[seed % len(world.COLORS)]
        scene = world.Scene(seed, "", "on the grass", (world.Thing("ball", color, named=frozenset({"color"})),))
        (picture, ball), (_, right) = (world.render(each) for each in (scene, world.change(scene, kind="cake")))
        prompts = [world.caption(scene), world.caption(world.change(scene, kind="cake"))]
        x_0 = model.vae.encode(to_tensor(picture)).float()
        swap = p2p.replace(model.tokenizer, prompts, 0.6), p2p.self_replace(0.4)
        z, sampler = edit_friendly(model, x_0, steps, seed)
        ddim = p2p.invert(model, picture, prompts[0], steps=steps, method="ddim")
        runs = {"from noise": sample(model, prompts, steps=steps, seed=seed),
                "DDIM, word swap": sample(model, prompts, *swap, steps=steps, inversion=ddim),
                "edit-friendly": sample(model, prompts, steps=steps, latents=z, sampler=sampler),
                "edit-friendly, word swap": sample(model, prompts, *swap, steps=steps, latents=z, sampler=sampler),
                "DDCM, word swap": sample(model, prompts, *swap, steps=steps, seed=seed, sampler=ddcm(x_0, seed))}
        stays, drawn = (ball["object 0"] == 0) & (right["object 0"] == 0), decode(model, x_0)[0]      # through the VAE
        add(rows, {"drawn": drawn, **{name: run[1] for name, run in runs.items()}})
        for name, run in runs.items():
            seen = judging.read(judge, run[1:])
            numbers.setdefault(name, []).append((
                psnr(run[0], drawn), psnr(run[1], drawn, stays), seen.kinds[0, cake] > 0,
                list(world.COLORS)[seen.colors[0, cake].argmax()] == color))
    return rows, {name: dict(source=float(np.mean(source)), outside=float(np.mean(outside)), cake=int(sum(there)),
                             colour_kept=sum(kept))
                  for name, of_name in numbers.items() for source, outside, there, kept in [zip(*of_name)]}


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


def psnr(image, other, where=None):
    """In dB, over the pixels where it is true; 100 for equal pictures."""
    off = np.subtract(image, other, dtype=float)[... if where is None else where]
    return min(100.0, 20 * math.log10(255 / max(1e-9, (off ** 2).mean() ** 0.5)))


def read(judge, rows, kind):
    """What the judge sees of one kind of object, {row: …}: there, colors, size (n,), where (n, 16, 16), boolean."""
    k, found = judging.KINDS.index(kind), {}
    for name, images in rows.items():
        seen = judging.read(judge, images)
        found[name] = SimpleNamespace(there=seen.kinds[:, k] > 0, colors=seen.colors[:, k].argmax(-1),
                                      size=seen.size.argmax(-1), where=seen.where[:, k] > 0)
    return found


METHODS = dict(masactrl=try_masactrl, free_prompt_editing=try_free_prompt_editing,
               paint_with_words=try_paint_with_words, attend_and_excite=try_attend_and_excite,
               style_aligned=try_style_aligned, perturbed_attention=try_perturbed_attention,
               edit_friendly=try_edit_friendly)
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
            print(f"  {name:24}", "  ".join(f"{what} {x:g}" if isinstance(x, int) else f"{what} {x:.2f}"
                                           for what, x in found.items()), flush=True)


if __name__ == "__main__":
    main()
