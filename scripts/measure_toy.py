"""How good the toy model is, as read by a judge that was trained only on renders (scripts/toy/judge.py).

    python scripts/measure_toy.py [--count 200] [--guidance 5] [--cross 0.6] [--self 0.4]     everything
    python scripts/measure_toy.py --guidances 3 5 7      what is read right in pictures, by guidance
    python scripts/measure_toy.py --sweep                word swaps, by setting of the injection
    python scripts/measure_toy.py --maps                 where the object's word attends, in inverted renders
    python scripts/measure_toy.py --vae                  renders through the VAE
    further options: [--sheet FILE.png] [--json FILE.json]

Prompts are full captions of random scenes. Each picture has fresh noise, and none is picked or left out. Read right:
the judge's most likely reading is what the prompt says (if it says no place or style, none is seen). A colour is read
where the picture looks most like the object, even if another object is read there; of two objects, both must be read as
present.

Counted right: the judge counts as many things as the prompt names, one head for each animal, two wheels for each car or
bicycle, and no sun or moon but the one that the beach, the sunset and the night have (a thing may hide it). The judge
reads all pictures at 64 × 64; larger ones are reduced.

Through the VAE: held-out renders, encoded and decoded, compared at 128 × 128 with the drawing (a model of 64 × 64 gets
the drawing reduced, and what it makes of it is enlarged with bicubic interpolation).

Word swaps change the object or the colour of a scene without fur. Each is generated twice from the same noise: with the
source's maps, and from the seed alone. Kept: in whatever the prompts do not say (the captions leave things out at
random), the judge reads the same as in the source picture. Overlap: of the object's box with the source's. Background:
PSNR against the source picture outside the objects' boxes. A box contains all cells of 4 × 4 pixels in which the judge
sees an object, plus one cell on each side. The background is outside the boxes of the source, the edited picture and
the picture from the seed alone, so it is the same pixels for both. If it is less than a tenth of the picture, the pair
has no PSNR.
"""
import ctrl_c  # noqa: F401, I001 (before the others, which take seconds)

import argparse
import json
import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

import p2p_min as p2p
from p2p_min import attention
from p2p_min.networks.text import encode
from p2p_min.pictures import sheet

sys.path += [str(Path(__file__).parent / folder) for folder in ("toy", "edits")]
import judge as judging  # noqa: E402
import world  # noqa: E402
from measures import psnr, ssim  # noqa: E402

FIRST_SEED = 20_000_000                        # far from those of training and of the judge
BATCH = 24                                     # pictures generated together
FACTORS = (-2, -1, 0, 1, 2)                    # of re-weighting
KEPT = ("right", "colour kept", "size kept", "place kept", "style kept", "all kept", "right, all kept")
SWEEP = list(product((0.2, 0.4, 0.6, 0.8), (0.0, 0.2, 0.4)))      # (cross, self) steps of injection


def scenes(count, first=0, **kind):
    """Random scenes whose captions say all of them."""
    found = [world.sample(FIRST_SEED + first + i, **kind) for i in range(count)]
    return [replace(scene, says_place=True, things=tuple(
        replace(thing, named=frozenset({"color", "size", "amount"})) for thing in scene.things)) for scene in found]


def noise(model, seeds):
    size, channels = (model.unet.config[key] for key in ("sample_size", "in_channels"))
    return torch.cat([torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(seed))
                      for seed in seeds])


@dataclass(frozen=True)
class Rows:
    """An edit for each row of a batch of its own: (row of its source, edit), or None for a row generated freely."""
    edits: list

    def active(self, height, width, t):
        return any(each and attention.is_active(each[1], (height, width), t) for each in self.edits)

    def __call__(self, M, M_star, t):
        rows = torch.cat([M[None], M_star])
        return torch.stack([row if each is None else attention.edited_map(each[1], rows[each[0]], row[None], t)[0]
                            for row, each in zip(rows, self.edits)])[1:]


def sample(model, groups, options):
    """Pictures of groups of one size: [(prompt, cross edit, self edit), ...], source first, each with its own noise.

    Groups are generated several at once, which is faster; each as p2p.prompt_to_prompt would generate it by itself.
    """
    size = len(groups[0])
    together = max(1, BATCH // size)
    generated = []
    for first in range(0, len(groups), together):
        rows = [row for group in groups[first:first + together] for row in group]
        edits = [Rows([row[kind] and (i - i % size, row[kind]) for i, row in enumerate(rows)]) for kind in (1, 2)]
        latents = noise(model, [first + i // size for i in range(len(rows))])
        images = p2p.prompt_to_prompt(model, [row[0] for row in rows], *edits, steps=options.steps,
                                      guidance=options.guidance, latents=latents).images
        generated += [images[i:i + size] for i in range(0, len(rows), size)]
    return generated


def sample_prompts(model, prompts, options):
    return [group[0] for group in sample(model, [[(prompt, None, None)] for prompt in prompts], options)]


def share(flags):
    return dict(share=float(np.mean(flags)) if len(flags) else None, of=len(flags))


def mean(values):
    return dict(mean=float(np.mean(values)) if len(values) else None, of=len(values))


# ---- what is read right --------------------------------------------------------------------------------------------

def one_object(model, judge, options):
    """({attribute: share}, the pictures, their prompts)"""
    chosen = scenes(options.count, two=False)
    prompts = [world.caption(scene) for scene in chosen]
    images = sample_prompts(model, prompts, options)
    reading = judging.read(judge, images)
    right = {name: [] for name in ("object", "object and no other", "colour", "place", "place, where said", "style",
                                   "style, where said", "size, where said", "counted right", *judging.COUNTED)}
    for i, scene in enumerate(chosen):
        true, kind = judging.truth(scene), world.KINDS.index(scene.things[0].kind)
        right["object"].append(bool(reading.kinds[i].argmax() == kind))
        right["object and no other"].append(bool(((reading.kinds[i] > 0).numpy() == (true.kinds > 0)).all()))
        if scene.style != world.PENCIL:                    # a pencil sketch has no colours
            right["colour"].append(bool(reading.colors[i, kind].argmax() == true.colors[kind]))
        for name, seen, meant, said in (("place", reading.place, true.place, scene.place),
                                        ("style", reading.style, true.style, scene.style in world.STYLES)):
            right[name].append(bool(seen[i].argmax() == meant))
            right[f"{name}, where said"] += right[name][-1:] if said else []
        for name, flag in counted_right(reading, i, scene).items():
            right[name].append(flag)
        if scene.things[0].size != "medium":
            right["size, where said"].append(bool(reading.size[i].argmax() == true.size))
    return {name: share(flags) for name, flags in right.items()}, images, prompts


def counted_right(reading, i, scene):
    """{what is counted: whether picture i has as many as the scene should}, and "counted right": all of them."""
    kinds = [thing.kind for thing in scene.things]
    has_sun = scene.place in world.WITH_SUN
    wanted = dict(thing=[len(kinds)], sun=[0, 1] if has_sun else [0],
                  head=[sum(kind in ("cat", "dog") for kind in kinds)],
                  wheel=[2 * sum(kind in ("bicycle", "car") for kind in kinds)])
    right = {name: round(reading.counts[i, n].item()) in wanted[name] for n, name in enumerate(judging.COUNTED)}
    return {"counted right": all(right.values()), **right}


def two_objects(model, judge, options):
    """Plain pictures of two objects in two colours."""
    chosen = [scene for scene in scenes(options.count, two=True, styled=False)
              if scene.things[0].color != scene.things[1].color]
    reading = judging.read(judge, sample_prompts(model, [world.caption(scene) for scene in chosen], options))
    both, bound, counted = [], [], []
    for i, scene in enumerate(chosen):
        true = judging.truth(scene)
        there = np.flatnonzero(true.kinds)
        both.append(all(reading.kinds[i, k] > 0 for k in there))
        bound.append(both[-1] and all(reading.colors[i, k].argmax() == true.colors[k] for k in there))
        counted.append(counted_right(reading, i, scene)["counted right"])
    return {"both objects": share(both), "both objects, each its own colour": share(bound),
            "counted right": share(counted)}


@torch.no_grad()
def through_vae(model, count=64):
    """Renders, encoded and decoded, against the drawing of 128 × 128."""
    side, psnrs, ssims = 16 * model.vae.factor, [], []
    for scene in scenes(count, first=2_000_000):
        drawing, seen = world.render(scene)[0], world.render(scene, side)[0]
        z = model.vae.encode(judging.to_tensor(seen)[None].to(model.device))
        decoded = ((model.vae.decode(z)[0].clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        decoded = Image.fromarray(decoded).resize(drawing.size, Image.Resampling.BICUBIC)
        psnrs.append(psnr(decoded, drawing))
        ssims.append(ssim(decoded, drawing))
    return {"PSNR, dB": mean(psnrs), "SSIM": mean(ssims)}


@torch.no_grad()
def maps(model, options):
    """Renders with noise on them: is the maximum of the object word's map inside the object? Chance is its area."""
    cells, f = model.unet.config["sample_size"], model.vae.factor
    chosen = scenes(options.count, two=False)
    rendered = [world.render(scene, cells * f) for scene in chosen]
    pictures = torch.stack([judging.to_tensor(picture) for picture, _ in rendered]).to(model.device)
    latents = torch.cat([model.vae.encode(part) for part in pictures.split(BATCH)])
    masks = torch.stack([torch.from_numpy(of["object 0"]) for _, of in rendered])
    masks = F.avg_pool2d(masks[:, None], f).flatten(1) > 0.25
    found = {}
    for timestep in (300, 500, 700):
        alpha, hits = model.schedule.alphas_cumprod[timestep], []
        for i, scene in enumerate(chosen):
            z = alpha ** 0.5 * latents[i:i + 1] + (1 - alpha) ** 0.5 * noise(model, [i]).to(model.device)
            prompt = world.caption(scene)
            recorder = p2p.Recorder(model.tokenizer, [prompt])
            model.unet(z, timestep, encode(model, [prompt]), t=timestep / 1000, looks=[recorder.look])
            of_word = recorder.maps(scene.things[0].kind, size=(cells, cells))
            hits.append(masks[i, of_word.argmax()].item())
        found[f"peak inside the object, timestep {timestep}"] = share(hits)
    return {**found, "chance": share(masks.float().mean(1).numpy())}


def averaged_maps(model, options):
    """Renders, inverted and generated again: is the peak of the object word's averaged map in the object?

    The same for another word of the prompt, drawn at random; chance is the object's area.
    """
    side, f = model.unet.config["sample_size"] * model.vae.factor, model.vae.factor
    rng, hits, others, areas = np.random.default_rng(0), [], [], []
    for scene in scenes(options.count // 2, two=False):
        picture, of = world.render(scene, side)
        prompt, kind = world.caption(scene), scene.things[0].kind
        inversion = p2p.invert(model, picture, prompt, steps=options.steps)
        recorder = p2p.Recorder(model.tokenizer, [prompt])
        p2p.prompt_to_prompt(model, [prompt], None, recorder=recorder, inversion=inversion, steps=options.steps)
        mask = (F.avg_pool2d(torch.from_numpy(of["object 0"])[None, None], f)[0, 0] > 0.25).numpy()
        other = rng.choice([word for word in recorder.words() if word not in kind])
        for word, found in ((kind, hits), (other, others)):
            found.append(mask.flat[recorder.maps(word, size=mask.shape).argmax()])
        areas.append(mask.mean())
    return {"peak inside the object, averaged map": share(hits), "another word, drawn at random": share(others),
            "chance": share(areas)}


# ---- word swaps ----------------------------------------------------------------------------------------------------

def swaps(count):
    """{attribute: [(source scene, target scene)]}: one attribute of a scene without fur changed.

    The captions say the place, the size and (of object swaps) the colour or not, by chance: the seed and the injection
    decide what is not said.
    """
    rng = np.random.default_rng(0)
    found = {"object": [], "colour": []}
    colorful = [scene for scene in scenes(2 * count, first=1_000_000, two=False) if scene.style != world.PENCIL]
    for scene in colorful[:count]:
        said = frozenset(word for word in ("color", "size") if rng.random() < 0.5)
        thing = replace(scene.things[0], amount=0.0, named=said)
        scene = replace(scene, things=(thing,), says_place=bool(rng.random() < 0.5))
        kind = rng.choice([kind for kind in world.KINDS if kind != thing.kind])
        color = rng.choice([color for color in world.COLORS if color != thing.color])
        found["object"].append((scene, world.change(scene, kind=str(kind))))
        colored = replace(scene, things=(replace(thing, named=said | {"color"}),))
        found["colour"].append((colored, world.change(colored, color=str(color))))
    return found


def word_swaps(model, judge, pairs, options, settings):
    """{setting: {what: number}}, the seed alone first; `pairs` are (source scene, target scene)."""
    groups = []
    for pair in pairs:
        prompts = [world.caption(scene) for scene in pair]
        groups.append([(prompts[0], None, None), (prompts[1], None, None)] + [
            (prompts[1], p2p.auto(model.tokenizer, prompts, cross), p2p.self_replace(own)) for cross, own in settings])
    generated = sample(model, groups, options)
    readings = [judging.read(judge, images) for images in generated]
    names = ["seed alone"] + [f"cross {cross:g}, self {own:g}" for cross, own in settings]
    results = {}
    for i, name in enumerate(names, 1):
        flags = [swap_flags(*pair, reading, i) for pair, reading in zip(pairs, readings)]
        both = filter(None, [backgrounds(images, reading, i) for images, reading in zip(generated, readings)])
        edited, alone = list(zip(*both)) or ((), ())
        overlaps = [overlap(*(foreground(reading.where[n]) for n in (0, i))) for reading in readings]
        results[name] = {key: share([each[key] for each in flags if key in each])
                         for key in KEPT if any(key in f for f in flags)}
        results[name] |= {"overlap": mean(overlaps), "background": mean(edited), "of seed alone": mean(alone)}
    return results


def swap_flags(source, target, reading, i):
    """What is right in picture i, and kept of what its prompt does not say, by the readings of it and of picture 0."""
    old, new = (world.KINDS.index(scene.things[0].kind) for scene in (source, target))
    parts = reading.kinds, reading.place, reading.style, reading.size
    kind, place, style, size = (part.argmax(1).tolist() for part in parts)
    color, old_color = reading.colors[i, new].argmax().item(), reading.colors[0, old].argmax().item()
    said = source.things[0].named
    kept = {}
    if old != new and "color" not in said:
        kept["colour kept"] = color == old_color
    if "size" not in said or source.things[0].size == "medium":
        kept["size kept"] = size[i] == size[0]
    if not (source.place and source.says_place):
        kept["place kept"] = place[i] == place[0]
    if not source.style:
        kept["style kept"] = style[i] == style[0]
    right = kind[i] == new and (old != new or color == tuple(world.COLORS).index(target.things[0].color))
    return dict(right=right, **kept, **({"all kept": all(kept.values())} if kept else {}),
                **{"right, all kept": right and all(kept.values())})


def overlap(first, second):
    """What two boxes have in common, of what they cover together."""
    return (first & second).sum() / max(1, (first | second).sum())


def foreground(where):
    """(kinds, CELLS, CELLS) -> (SIDE, SIDE): the box round all cells that show an object, and one cell further."""
    rows, columns = np.nonzero((where.amax(0) > 0).numpy())
    mask, cell = np.zeros((judging.SIDE, judging.SIDE), bool), judging.SIDE // judging.CELLS
    if len(rows):
        top, left = (max(0, axis.min() - 1) * cell for axis in (rows, columns))
        mask[top:(rows.max() + 2) * cell, left:(columns.max() + 2) * cell] = True
    return mask


def backgrounds(images, reading, i):
    """PSNR of picture i and of the seed alone, picture 1, against the source outside all three boxes; or None."""
    outside = ~np.any([foreground(reading.where[n]) for n in (0, 1, i)], axis=0)
    scale = images[0].width // judging.SIDE
    outside = outside.repeat(scale, 0).repeat(scale, 1)
    if outside.mean() < 0.1:
        return None
    errors = [((np.asarray(images[n], float) - np.asarray(images[0], float)) ** 2)[outside].mean() for n in (i, 1)]
    return [10 * np.log10(255 ** 2 / max(error, 1 / 12)) for error in errors]      # rounding alone makes 1/12


# ---- re-weighting --------------------------------------------------------------------------------------------------

def reweighting(model, judge, options):
    """{kind: the amount read by factor c, how often it is more at c = 2 than at -2, how often the kind is read}"""
    found, colors = {}, list(world.COLORS)
    for kind, word in world.AMOUNT_WORD.items():
        groups = []
        for i in range(-(-options.count // 16)):
            thing = world.Thing(kind, colors[i % len(colors)], amount=1.0, named=frozenset({"color", "amount"}))
            prompt = world.caption(world.Scene(0, things=(thing,)))
            groups.append([(prompt, None, None)] + [
                (prompt, p2p.reweight(model.tokenizer, [prompt] * 2, {word: c}), None) for c in FACTORS])
        k = world.KINDS.index(kind)
        readings = [judging.read(judge, images[1:]) for images in sample(model, groups, options)]
        amounts = np.stack([reading.amounts[:, k].numpy() for reading in readings])
        seen = [bool(flag) for reading in readings for flag in reading.kinds.argmax(1) == k]
        found[kind] = {**{f"{c:+d}": mean(column) for c, column in zip(FACTORS, amounts.T)},
                       "rises": share(amounts[:, -1] > amounts[:, 0]), "object right": share(seen)}
    return found


# ---- printing ------------------------------------------------------------------------------------------------------

def text_of(number):
    if number is None or next(iter(number.values())) is None:
        return "–"
    return f"{100 * number['share']:.1f} %" if "share" in number else f"{number['mean']:.3f} ({number['of']})"


def show(title, table):
    """Rows of numbers: one each, with how many it is of, or several under their names."""
    rows = list(table.values())
    if "of" in rows[0]:
        print(title, *(f"  {name:36}{text_of(value):>8} of {value['of']}" for name, value in table.items()), sep="\n")
    else:
        names = list(max(rows, key=len))
        print(f"{title:38}" + "".join(f"{name:>16}" for name in names))
        for name, row in table.items():
            print(f"  {name:36}" + "".join(f"{text_of(row.get(key)):>16}" for key in names))
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, default=judging.ROOT / "weights" / "toy")
    parser.add_argument("--judge", type=Path, default=judging.FILE)
    parser.add_argument("--count", type=int, default=200, help="number of prompts with one object (%(default)s)")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=5.0)
    parser.add_argument("--cross", type=float, default=0.6, help="steps with cross-attention injection (%(default)s)")
    parser.add_argument("--self", dest="own", type=float, default=0.4, help="the same for self-attention (%(default)s)")
    parser.add_argument("--guidances", type=float, nargs="+", help="only what is read right, for each of these")
    parser.add_argument("--sweep", action="store_true", help="only word swaps, for a grid of --cross and --self")
    parser.add_argument("--maps", action="store_true", help="only maps of inverted renders, half as many as --count")
    parser.add_argument("--vae", action="store_true", help="only renders through the VAE")
    parser.add_argument("--sheet", type=Path, help="write the first 64 pictures of one object above their prompts")
    parser.add_argument("--json", type=Path, help="where to write all numbers")
    options = parser.parse_args()
    try:
        model, judge = p2p.load(options.model, dtype="float32"), judging.load(options.judge)
    except (OSError, ValueError) as problem:
        raise SystemExit(f"measure_toy: {problem}") from None
    results = {}

    def section(title, table):
        results[title] = table
        show(title, table)

    if not (options.maps or options.sweep or options.guidances):
        section("through the VAE", through_vae(model))
    if options.vae:
        return
    if options.maps or not (options.sweep or options.guidances):
        section("averaged maps", averaged_maps(model, options))
    for guidance in [] if options.maps else options.guidances or ([] if options.sweep else [options.guidance]):
        options.guidance = guidance
        numbers, images, prompts = one_object(model, judge, options)
        section(f"one object, guidance {guidance:g}", numbers)
        section(f"two objects, guidance {guidance:g}", two_objects(model, judge, options))
        if options.sheet:
            sheet(images[:64], prompts[:64], columns=8, side=128).quantize(256).save(options.sheet, optimize=True)
    if not (options.maps or options.sweep or options.guidances):
        section("maps", maps(model, options))
        section("re-weighting, amount read", reweighting(model, judge, options))
    if not (options.maps or options.guidances):
        settings = SWEEP if options.sweep else [(options.cross, options.own)]
        for attribute, pairs in swaps(options.count // 2).items():
            section(f"swaps of {attribute}, {len(pairs)} pairs", word_swaps(model, judge, pairs, options, settings))
    if options.json:
        said = {name: str(value) for name, value in vars(options).items()}
        options.json.write_text(json.dumps(dict(options=said, results=results), indent=1) + "\n")


if __name__ == "__main__":
    main()
