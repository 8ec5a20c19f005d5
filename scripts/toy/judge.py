"""A judge of pictures of the drawn world: a small network that says what it sees, and where.

    python scripts/toy/judge.py            render, train, print the table, write weights/judge/judge.safetensors
    python scripts/toy/judge.py --check    print the table of the stored weights

It reads pictures of 64 × 64; larger ones are reduced. Besides what a prompt can say it counts things, suns (and moons),
heads and wheels: two of five renders that it learns from are drawn with a wrong number of them.

It is trained on renders only, never on a model's pictures. Half of them are spoiled (blurred, noisy, their colours
shifted a little), so that the softness of a VAE does not decide. The table says how often it is right on renders that
it has not seen, as they are and after the VAE of `--model`. Training is the same run each time, given the number of
threads (OMP_NUM_THREADS), at 80 to 120 samples/s on one core. The stored judge is one that did not count yet, trained
on in three runs (README.md).
"""
import argparse
import time
from dataclasses import replace
from itertools import count, islice
from multiprocessing import Pool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn

import p2p_min as p2p
import world
from loop import Muon, autocast

COUNTED = ("thing", "sun", "head", "wheel")                          # a moon counts as a sun
KINDS, COLORS, SIZES = world.KINDS, tuple(world.COLORS), ("small", "medium", "big")
PLACES, STYLES = tuple(world.PLACES), ("",) + world.STYLES           # "": plain ground, no style
PARTS = {"bicycle": (1, 3), "car": (1, 3), "cat": (2,), "dog": (0, 2)}   # wrong numbers of wheels or heads
FURRY = tuple(world.AMOUNT_WORD)                                     # the kinds that have an amount
SIDE, CELLS = 64, 16                                                 # pixels and cells a side
TRAIN_SEED, HELD_SEED = 5_000_000, 10_000_000                        # far from those of the toy model's training
ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "weights" / "judge" / "judge.safetensors"


class Reading(NamedTuple):
    """What the judge sees in n pictures: logits, but amounts from 0 to 1."""
    kinds: torch.Tensor        # (n, kinds)                 present if above 0
    colors: torch.Tensor       # (n, kinds, colours)        the colour of each, if it is there
    amounts: torch.Tensor      # (n, kinds)                 its fur or petals
    size: torch.Tensor         # (n, sizes)                 of a single object
    place: torch.Tensor        # (n, places)
    style: torch.Tensor        # (n, styles)
    where: torch.Tensor        # (n, kinds, CELLS, CELLS)   above 0 in the cells that a kind covers by half
    counts: torch.Tensor       # (n, counted)               how many of each; not yet rounded


class Truth(NamedTuple):
    """What a right reading of a scene is; -1 where there is nothing to read."""
    kinds: np.ndarray          # (kinds,)  1 or 0
    colors: np.ndarray         # (kinds,)
    amounts: np.ndarray        # (kinds,)
    size: int
    place: int
    style: int
    counts: np.ndarray         # (counted,)


def truth(scene, parts=()):
    """`parts` are those that can be seen, as world.render_with_parts gives them."""
    kinds, colors, amounts = np.zeros(len(KINDS)), np.full(len(KINDS), -1), np.full(len(KINDS), -1.0)
    for thing in scene.things:
        k = KINDS.index(thing.kind)
        kinds[k] = 1
        if scene.style != world.PENCIL:                    # a pencil sketch has no colours
            colors[k] = COLORS.index(thing.color)
        if thing.kind in FURRY:
            amounts[k] = thing.amount
    size = SIZES.index(scene.things[0].size) if len(scene.things) == 1 else -1
    style = STYLES.index(scene.style) if scene.style in STYLES else 0       # "photo of" looks like no style
    counts = np.array([len(scene.things), *(sum(part[0] == name for part in parts) for name in COUNTED[1:])])
    return Truth(kinds, colors, amounts, size, PLACES.index(scene.place), style, counts)


# ---- the network ---------------------------------------------------------------------------------------------------

def conv(inputs, outputs, stride=1):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = conv(width, width)

    def forward(self, x):
        return x + self.conv(x)


class Judge(nn.Module):
    """Every cell says which kind it shows, in what colour and how furry; each kind asks the cells that show it.

    That binds a colour to its object where there are two. Size, place and style are read from the whole picture.
    """

    def __init__(self):
        super().__init__()
        self.widths = [len(KINDS), len(COLORS), 1, len(COUNTED)]
        self.global_widths = [len(SIZES), len(PLACES), len(STYLES)]
        self.fine = nn.Sequential(
            conv(3, 24), conv(24, 40, 2), Residual(40), conv(40, 80, 2), Residual(80), Residual(80))
        self.coarse = nn.Sequential(conv(80, 96, 2), Residual(96), Residual(96), Residual(96))
        self.merge = nn.Conv2d(96, 80, 1)
        self.cells = nn.Conv2d(80, sum(self.widths), 1)
        self.whole = nn.Sequential(nn.Linear(96 * 2 + 80, 64), nn.ReLU(), nn.Linear(64, sum(self.global_widths)))

    def cell_logits(self, pictures):
        """(n, 3, 64, 64) in [-1, 1] -> each cell's kinds, colours, amount, counts; the whole's size, place, style."""
        fine = self.fine(pictures)
        coarse = self.coarse(fine)
        fine = F.relu(fine + F.interpolate(self.merge(coarse), scale_factor=2))
        pooled = torch.cat([coarse.mean((2, 3)), coarse.amax((2, 3)), fine.mean((2, 3))], 1)
        return self.cells(fine).float().split(self.widths, 1), self.whole(pooled).float().split(self.global_widths, 1)

    def forward(self, pictures):
        return gather(*self.cell_logits(pictures))


def gather(of_cells, of_picture):
    """The cells' opinions as a Reading."""
    where, color, amount, counts = (x.flatten(2) for x in of_cells)
    heed = where.softmax(2)                                # (n, kinds, cells): where each kind looks
    colors = torch.einsum("nkl,ncl->nkc", heed, color)
    amounts = torch.einsum("nkl,nl->nk", heed, amount[:, 0]).sigmoid()
    return Reading(where.amax(2), colors, amounts, *of_picture, of_cells[0], counts.sum(2))


def load(path=FILE):
    """The trained judge, in eval mode. Raises FileNotFoundError where there is none."""
    if not Path(path).exists():
        raise FileNotFoundError(f"{path} is missing; python scripts/toy/judge.py makes it")
    judge = Judge()
    judge.load_state_dict(stored(path))
    return judge.eval()


def stored(path):
    return {k: v.float() if v.is_floating_point() else v for k, v in load_file(path).items()}


def earlier(path):
    """A judge with the weights of another, which may be one that did not count yet."""
    judge, state = Judge(), stored(path)
    for name in ("cells.weight", "cells.bias"):
        missing = sum(judge.widths) - len(state[name])
        state[name] = F.pad(state[name], [0] * (2 * state[name].ndim - 1) + [missing])
    judge.load_state_dict(state)
    return judge


def save(judge, path):
    """In fp16, under a temporary name first, so that no half-written file is ever in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file({k: v.half().contiguous() if v.is_floating_point() else v for k, v in judge.state_dict().items()}, part)
    part.replace(path)


def to_tensor(image):
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float() / 127.5 - 1


@torch.no_grad()
def read_tensors(judge, pictures, batch=200):
    """(n, 3, 64, 64) in [-1, 1] -> Reading"""
    parts = [judge(part.contiguous(memory_format=torch.channels_last)) for part in pictures.split(batch)]
    return Reading(*map(torch.cat, zip(*parts)))


def read(judge, images):
    """PIL pictures -> Reading; larger ones are reduced to 64 × 64. Raises ValueError where that is no whole factor."""
    for image in images:
        if image.width != image.height or image.width % SIDE:
            raise ValueError(f"the judge reads pictures of {SIDE} × {SIDE} pixels, or of a multiple of that, "
                             f"not {image.width} × {image.height}")
    return read_tensors(judge, torch.stack([to_tensor(image.convert("RGB").reduce(image.width // SIDE))
                                            for image in images]))


# ---- data ----------------------------------------------------------------------------------------------------------

def example(scene):
    """The picture with a channel that says what is where, 0 or a kind's number + 1, and one for each that is counted.

    Those hold 255 at its place: the middle of a thing, of a sun, head or wheel.
    """
    image, masks, parts = world.render_with_parts(scene, SIDE)
    label = np.zeros((SIDE, SIDE), np.uint8)
    for i, thing in enumerate(scene.things):               # the later object is in front
        rows, columns = np.nonzero(masks[f"object {i}"] > 0.5)
        label[rows, columns] = KINDS.index(thing.kind) + 1
        parts.append(("thing", columns.mean() / SIDE, rows.mean() / SIDE))
    points = np.zeros((SIDE, SIDE, len(COUNTED)), np.uint8)
    for name, x, y in parts:
        points[min(SIDE - 1, int(y * SIDE)), min(SIDE - 1, int(x * SIDE)), COUNTED.index(name)] = 255
    return np.dstack([np.asarray(image), label, points]).transpose(2, 0, 1), truth(scene, parts)


def mistaken(scene):
    """The scene with a wrong number of things, suns, wheels or heads, so that counting is learnt."""
    rng = world.stream(scene.seed, "mistake")
    first, *others = scene.things
    if rng.random() < 0.5:                                 # a second thing of the same kind
        others = [replace(first, color=rng.choice(COLORS)) if len(scene.things) == 1 else
                  replace(others[0], kind=first.kind, amount=first.amount)]
    if first.kind in PARTS and rng.random() < 0.7:
        first = replace(first, parts=rng.choice(PARTS[first.kind]))
    return replace(scene, things=(first, *others), suns=rng.choice([0, 1, 2, 2]))


def learnt_from(first):
    """Scenes without end. Four of five have heads, wheels or a sun to count, and half of those a wrong number."""
    for i in count(first):
        scene = world.sample(TRAIN_SEED + i, two=i % 3 == 0)
        if scene.place in world.WITH_SUN or any(thing.kind in PARTS for thing in scene.things):
            yield mistaken(scene) if i % 2 else scene
        elif i % 2:
            yield scene


def examples(scenes, processes):
    """uint8 (n, 8, 64, 64), and a Truth of tensors."""
    with Pool(processes) as pool:
        pictures, truths = zip(*pool.map(example, scenes, chunksize=64))
    return torch.from_numpy(np.stack(pictures)), Truth(*(torch.from_numpy(np.stack(part)) for part in zip(*truths)))


def pixels(pictures):
    return pictures[:, :3].float() / 127.5 - 1


def moved(pictures, generator):
    """Some mirrored, all shifted by up to three pixels."""
    flip = torch.rand(len(pictures), generator=generator) < 0.5
    pictures = torch.where(flip[:, None, None, None], pictures.flip(3), pictures)
    dx, dy = torch.randint(0, 7, (2,), generator=generator).tolist()
    return F.pad(pictures.float(), (3, 3, 3, 3), mode="replicate")[..., dy:dy + SIDE, dx:dx + SIDE]


def spoiled(pictures, generator):
    """Half of them blurred, noisy and of slightly wrong colours, as a VAE or an unfinished model might paint them."""
    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(*shape, generator=generator)

    half = pictures[::2]
    n = len(half)
    sigma = uniform(0.3, 1.4, 1)
    kernel = (-torch.arange(-3, 4) ** 2 / (2 * sigma ** 2)).exp()
    kernel = (kernel / kernel.sum()).view(1, 1, 1, 7)
    soft = F.pad(half.flatten(0, 1)[:, None], (3, 3, 3, 3), mode="replicate")
    soft = F.conv2d(F.conv2d(soft, kernel), kernel.transpose(2, 3)).view_as(half)
    grain = torch.randn(n, 3, SIDE, SIDE, generator=generator) * uniform(0, 0.08, n, 1, 1, 1)
    blotches = torch.randn(n, 3, SIDE // 4, SIDE // 4, generator=generator) * uniform(0, 0.08, n, 1, 1, 1)
    tint = uniform(0.93, 1.07, n, 3, 1, 1), uniform(-0.05, 0.05, n, 3, 1, 1)
    half = (half + uniform(0, 1, n, 1, 1, 1) * (soft - half)) * tint[0] + tint[1]
    half = half + grain + F.interpolate(blotches, scale_factor=4, mode="bilinear")
    return torch.cat([half.clamp(-1, 1), pictures[1::2]])


# ---- training ------------------------------------------------------------------------------------------------------

def loss_of(judge, pictures, target):
    """Of pictures with their labels, (n, 8, 64, 64): cells are taught what is where, the reading what there is."""
    labels = F.one_hot(pictures[:, 3].long(), len(KINDS) + 1)[..., 1:].permute(0, 3, 1, 2).float()
    cover = (2 * F.avg_pool2d(labels, SIDE // CELLS)).clamp(max=1)     # (n, kinds, CELLS, CELLS)
    points = F.avg_pool2d(pictures[:, 4:] / 255, SIDE // CELLS, divisor_override=1)
    spread = F.avg_pool2d(points, 3, 1, 1)                             # a ninth of a part in each of nine cells
    with autocast("cpu"):
        of_cells, of_picture = judge.cell_logits(pictures[:, :3].contiguous(memory_format=torch.channels_last))
    reading = gather(of_cells, of_picture)
    own = torch.einsum("nkyx,nk->nyx", cover, (target.colors >= 0).float())
    own_color = torch.einsum("nkyx,nkc->ncyx", cover, F.one_hot(target.colors.clamp(min=0), len(COLORS)).float())
    cell_color = -(of_cells[1].log_softmax(1) * own_color).sum(1) * (own > 0)
    known = target.amounts >= 0
    parts = dict(
        where=20 * F.binary_cross_entropy_with_logits(of_cells[0], cover),
        kinds=10 * F.binary_cross_entropy_with_logits(reading.kinds, target.kinds.float()),
        cells=cell_color.sum() / own.sum(),
        colors=F.cross_entropy(reading.colors.flatten(0, 1), target.colors.flatten(), ignore_index=-1),
        amounts=5 * ((reading.amounts - target.amounts.float())[known] ** 2).mean(),
        size=0.5 * F.cross_entropy(reading.size, target.size, ignore_index=-1),
        counts=20 * F.mse_loss(of_cells[3], spread) + 0.5 * F.smooth_l1_loss(reading.counts, points.sum((2, 3))),
        place=F.cross_entropy(reading.place, target.place), style=F.cross_entropy(reading.style, target.style))
    return sum(parts.values()), {name: value.item() for name, value in parts.items()}


def train(judge, pictures, target, samples, rate, batch=64, average_over=200):
    """The averaged weights after `samples` pictures; the rate rises for 100 steps and then falls to zero."""
    generator = torch.Generator().manual_seed(0)
    judge.to(memory_format=torch.channels_last)
    matrices = [p for p in judge.parameters() if p.ndim == 4 and p.shape[-1] == 3]
    rest = [p for p in judge.parameters() if not any(p is q for q in matrices)]
    optimizers = Muon(matrices, lr=0.01 * rate), torch.optim.AdamW(rest, lr=3e-3 * rate, weight_decay=0.01)
    full = [o.param_groups[0]["lr"] for o in optimizers]
    average = {k: v.detach().clone() for k, v in judge.state_dict().items()}
    order, steps, started, logged = torch.empty(0, dtype=torch.long), samples // batch, time.time(), {}
    for step in range(steps):
        if len(order) < batch:
            order = torch.randperm(len(pictures), generator=generator)
        index, order = order[:batch], order[batch:]
        for o, most in zip(optimizers, full):
            o.param_groups[0]["lr"] = most * min(1, (step + 1) / 100, (1 - step / steps) / 0.8)
        x = moved(pictures[index], generator)
        x = torch.cat([spoiled(x[:, :3] / 127.5 - 1, generator), torch.cat([x[::2, 3:], x[1::2, 3:]])], 1)
        index = torch.cat([index[::2], index[1::2]])       # as `spoiled` orders them
        loss, numbers = loss_of(judge, x, Truth(*(part[index] for part in target)))
        for o in optimizers:
            o.zero_grad()
        loss.backward()
        for o in optimizers:
            o.step()
        for k, v in judge.state_dict().items():
            average[k].lerp_(v, 1 / min(step + 1, average_over)) if v.is_floating_point() else average[k].copy_(v)
        logged = {k: 0.98 * logged.get(k, v) + 0.02 * v for k, v in numbers.items()}
        if (step + 1) % 100 == 0:
            print(f"{(step + 1) * batch:>7} pictures  {(step + 1) * batch / (time.time() - started):5.1f}/s  "
                  + "  ".join(f"{k} {v:.3f}" for k, v in logged.items()), flush=True)
    judge.load_state_dict(average)
    return judge.eval()


# ---- the table -----------------------------------------------------------------------------------------------------

def scores(judge, pictures, target):
    """{attribute: share read right}, and the mean error of the amounts."""
    reading = read_tensors(judge, pictures)
    right = ((reading.kinds > 0) == (target.kinds > 0)).all(1)
    two, there, known = target.kinds.sum(1) == 2, target.colors >= 0, target.amounts >= 0
    color = reading.colors.argmax(-1) == target.colors
    shares = dict(
        objects=right, two_objects=right[two], colour=color[there], colour_of_two=color[there & two[:, None]],
        place=reading.place.argmax(-1) == target.place, style=reading.style.argmax(-1) == target.style,
        size=(reading.size.argmax(-1) == target.size)[target.size >= 0],
        amount_error=(reading.amounts - target.amounts).abs()[known])
    counted = reading.counts.round() == target.counts
    shares |= {f"{name}s": counted[:, i] for i, name in enumerate(COUNTED)}
    return {name.replace("_", " "): values.float().mean().item() for name, values in shares.items()}


def picture(scene, side):
    return np.asarray(world.render(scene, side)[0]).transpose(2, 0, 1)


@torch.no_grad()
def after_vae(vae, scenes, processes):
    """Renders of 16 latents a side, through the VAE and reduced to what the judge reads."""
    side = 16 * vae.factor
    with Pool(processes) as pool:
        pictures = torch.from_numpy(np.stack(pool.starmap(picture, [(scene, side) for scene in scenes], chunksize=16)))
    decoded = (vae.decode(vae.encode(part.float() / 127.5 - 1)).clamp(-1, 1) for part in pictures.split(50))
    return torch.cat([F.avg_pool2d(part, side // SIDE) for part in decoded])


def table(judge, vae, held, processes):
    """Prints how often the judge is right; a fifth of the scenes have two objects, as in the toy model's training."""
    scenes = [world.sample(HELD_SEED + i) for i in range(held)]
    pictures, target = examples(scenes, processes)
    columns = [scores(judge, pixels(pictures), target), scores(judge, after_vae(vae, scenes, processes), target)]
    wrong, counts = examples([mistaken(world.sample(HELD_SEED + held + i)) for i in range(held // 4)], processes)
    found = scores(judge, pixels(wrong), counts)
    print(f"{held} renders not seen in training  {'clean':>8}{'after the VAE':>16}")
    for name in columns[0]:
        print(f"  {name:32}{columns[0][name]:8.4f}{columns[1][name]:16.4f}")
    print(f"{held // 4} renders with something wrong, counted right")
    for name in COUNTED:
        print(f"  {name + 's':32}{found[name + 's']:8.4f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=FILE)
    parser.add_argument("--model", type=Path, default=ROOT / "weights" / "toy", help="whose VAE the table is about")
    parser.add_argument("--check", action="store_true", help="no training, only the table of what is in --out")
    parser.add_argument("--start", type=Path, help="weights of a judge to train on from")
    parser.add_argument("--first", type=int, default=0, help="number of the first scene; to train on, take new ones")
    parser.add_argument("--pictures", type=int, default=40_000, help="renders to learn from (%(default)s)")
    parser.add_argument("--samples", type=int, default=120_000, help="pictures to see in training (%(default)s)")
    parser.add_argument("--held", type=int, default=3000, help="renders of the table (%(default)s)")
    parser.add_argument("--processes", type=int, help="that render; as many as there are cores")
    args = parser.parse_args()
    try:
        vae = p2p.load(args.model, "cpu").vae              # before the training, which would be in vain
        if not args.check:
            scenes = list(islice(learnt_from(args.first), args.pictures))
            torch.manual_seed(0)
            judge, rate = (earlier(args.start), 0.3) if args.start else (Judge(), 1)
            save(train(judge, *examples(scenes, args.processes), args.samples, rate), args.out)
        table(load(args.out), vae, args.held, args.processes)
    except (OSError, ValueError) as problem:
        raise SystemExit(f"judge: {problem}") from None


if __name__ == "__main__":
    main()
