"""The paper's figures on a checkpoint of your own, and the proof that its numbers are right: one page, one command.

    python scripts/paper.py --model CHECKPOINT [--dtype float16] [--out build/paper]
    python scripts/paper.py --model CHECKPOINT --only grid --prompts SOURCE TARGET [--image FILE]
    torchrun --nproc-per-node 4 scripts/paper.py ...

Writes OUT/index.html, one file with all pictures inside, and each figure as a PNG, with the seeds 0 to 3, not cherry-
picked. The examples are in lessons/examples.py; with the toy they are told in its own words. --prompts adds a grid of
injection steps for two prompts of your own, which answers "which steps do I choose?"; with --image, for your picture.
The last tables compare with diffusers (proof.py). A stopped run goes on with the same command, figure by figure.
"""
import ctrl_c  # noqa: F401, I001 (before the others, which take seconds)

import base64
import html
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

import p2p_min as p2p
from p2p_min.cli.options import LOAD, Parser
from p2p_min.files import write
from p2p_min.lessons import examples
from p2p_min.maps import page as explorer_page
from p2p_min.maps.sheet import overlay, word_sheet
from p2p_min.pictures import fit, png, read_picture, sheet

sys.path.append(str(Path(__file__).parent / "edits"))
import proof  # noqa: E402
import store  # noqa: E402

SMALL = 256                                    # pixels of a picture's longer side in a sheet, at most
FRACTIONS = (0, 0.25, 0.5, 0.75, 1)            # of the schedule: the rows and columns of the grid
ENDS = (0, 0.2, 0.4, 0.6, 0.8, 1)              # of the injection, for the sweep of tau


class Figure(NamedTuple):
    name: str
    title: str
    text: str
    runs: int                                  # of the sampler, for the progress bar
    draw: object                               # draw(progress) -> a PIL picture, or the rows of a table


# ---- pictures ------------------------------------------------------------------------------------------------------

def small(image):
    image = image.copy()
    image.thumbnail((SMALL, SMALL))
    return image


def grid_of(rows, side=128):
    """Rows of (picture, caption) as a sheet; a row that is short ends in white."""
    columns = max(map(len, rows))
    blank = Image.new("RGB", small(rows[0][0][0]).size, "white"), ""
    cells = [cell for row in rows for cell in [*row, *[blank] * (columns - len(row))]]
    return sheet([small(image) for image, _ in cells], [caption for _, caption in cells], columns, side)


def joined(*pictures, below=False):
    """Sheets on one page, side by side or one below the other."""
    sizes = np.array([picture.size for picture in pictures])
    width, height = (sizes.max(0)[0], sizes.sum(0)[1]) if below else (sizes.sum(0)[0], sizes.max(0)[1])
    page, at = Image.new("RGB", (int(width), int(height)), "white"), 0
    for picture in pictures:
        page.paste(picture, (0, at) if below else (at, 0))
        at += picture.height if below else picture.width
    return page


def draw_example(model, example, seeds, how, progress):
    """Rows: the source, then each target without Prompt-to-Prompt and with it; a column for each seed."""
    edits, rows = example.edits(model.tokenizer), {}
    for seed in seeds:
        plain = p2p.prompt_to_prompt(model, example.prompts, seed=seed, **how, progress=progress).images
        edited = p2p.prompt_to_prompt(model, example.prompts, seed=seed, **edits, **how, progress=progress).images
        rows.setdefault("source", []).append(plain[0])
        for i, label in enumerate(example.labels(), 1):
            rows.setdefault(f"without: {label}", []).append(plain[i])
            rows.setdefault(f"with: {label}", []).append(edited[i])
    return by_seed(rows, seeds)


def draw_fader(model, example, seeds, how, progress):
    """Rows: the prompt without the word, then the word's map times each factor; a column for each seed."""
    edits, rows = example.edits(model.tokenizer), {}
    without = example.source.replace(f"{example.fader} ", "")
    for seed in seeds:
        plain = p2p.prompt_to_prompt(model, [without], seed=seed, **how, progress=progress).images
        edited = p2p.prompt_to_prompt(model, example.prompts, seed=seed, **edits, **how, progress=progress).images
        for name, image in zip(["no word, no edit", *example.labels()], plain + edited[1:]):
            rows.setdefault(name, []).append(image)
    return by_seed(rows, seeds)


def by_seed(rows, seeds):
    """{name of a row: a picture for each seed} as a sheet; its first row names the seeds."""
    captions = [[f"{name}, seed {seed}" if i == 0 else name for seed in seeds] for i, name in enumerate(rows)]
    return grid_of([list(zip(*row)) for row in zip(rows.values(), captions)])


def draw_maps(model, example, how, progress):
    """The maps of all words, averaged over the steps; below them one word's, step by step."""
    recorder = p2p.Recorder(model.tokenizer, example.prompts, per_step=True)
    images = p2p.prompt_to_prompt(model, example.prompts, recorder=recorder, **how, progress=progress).images
    steps = sorted(set(np.linspace(0, len(recorder.times) - 1, 6).round().astype(int).tolist()))
    size = next((size for size in [recorder.size, *recorder.sizes] if size[0] * size[1] <= 32 * 32))
    maps = recorder.maps(example.word, size=size, per_step=True)
    row = [(overlay(images[0], maps[i], maps.max()), f"{example.word}, step {i + 1}") for i in steps]
    return joined(word_sheet(recorder, [small(image) for image in images]), grid_of([row], side=160), below=True)


def draw_tau(model, example, how, progress):
    """The target, with maps injected until an ever later step."""
    row = []
    for end in ENDS:
        edits = example._replace(cross=end, self_=min(end, example.self_)).edits(model.tokenizer)
        images = p2p.prompt_to_prompt(model, example.prompts, **edits, **how, progress=progress).images
        row += [(images[0], "source")] * (not row)
        row.append((images[1], f"tau {1 - end:g}: first {end:.0%} of the steps"))
    return grid_of([row], side=160)


def draw_grid(model, prompts, picture, how, progress):
    """A row for each part of the steps in which cross-attention maps are injected, a column for self-attention maps;
    beside them the source, and the maps of the words that changed, of the command line's own settings.
    """
    # The source once, for all: its pictures and maps do not depend on the target.
    if picture is None:
        source = p2p.prompt_to_prompt(model, prompts[:1], **how, progress=progress)
    else:
        source = p2p.invert(model, picture, prompts[0], steps=how["steps"], guidance=how["guidance"],
                            size=(picture.height, picture.width), progress=progress)
    how = {name: how[name] for name in ("steps", "guidance")} | dict(inversion=source, progress=progress)

    def run(cross, self_, **more):
        edits = p2p.auto(model.tokenizer, prompts, cross), p2p.self_replace(self_)
        return p2p.prompt_to_prompt(model, prompts, *edits, **how, **more).images

    cells = [[(run(cross, self_)[1], f"cross {cross:g}, self {self_:g}") for self_ in FRACTIONS] for cross in FRACTIONS]
    recorder = p2p.Recorder(model.tokenizer, prompts)
    images = run(0.8, 0.4, recorder=recorder)
    beside = [(images[0], "source"), (images[1], "target: cross 0.8, self 0.4"), *changed_maps(recorder, images)]
    return joined(grid_of(cells), grid_of([beside[i:i + 2] for i in range(0, len(beside), 2)]))


def changed_maps(recorder, images):
    """Cells for the words that only one of the two prompts has: the source's M, the target's M_star and M_hat."""
    shown = [(recorder.maps(word), images[0], f"{word}: M, source")
             for word in recorder.words() if word not in recorder.words(1)]
    shown += [(recorder.maps(word, 1, edited=edited), images[1], f"{word}: {name}")
              for word in recorder.words(1) if word not in recorder.words()
              for edited, name in ((False, "M_star, its own"), (True, "M_hat, edited"))]
    top = max((maps.max() for maps, _, _ in shown), default=1)
    return [(overlay(image, maps, top), caption) for maps, image, caption in shown]


def figures(model, table, args, how, picture):
    """The figures of the page, in order."""
    seeds, found = range(args.seeds), []
    for example in table["examples"]:
        text = f"“{example.source}”" + " →" * bool(example.targets) + ",".join(f" “{each}”" for each in example.targets)
        draw, runs, arguments = (draw_fader if example.fader else draw_example), 2 * args.seeds, (seeds, how)
        if example.word:
            text += ": where each pixel looks, averaged over steps, layers and heads; below, step by step. Seed 0."
            draw, runs, arguments = draw_maps, 1, (how,)
        elif example.name == "tau":
            text += ". Maps are injected from pure noise on, to ever later steps. Seed 0."
            draw, runs, arguments = draw_tau, len(ENDS), (how,)
        found.append(Figure(example.name, example.title, text, runs, partial(draw, model, example, *arguments)))
    if args.prompts:
        text = (" → ".join(f"“{prompt}”" for prompt in args.prompts) + ": the part of the steps in which maps are "
                "injected. Take the picture that changes what you want and keeps the rest.")
        found.append(Figure("grid", "Which steps do I choose?", text, 2 + len(FRACTIONS) ** 2,
                            partial(draw_grid, model, args.prompts, picture, how)))
    size = how["height"], how["width"]
    if proof.HAS_DIFFUSERS:
        found.append(Figure(
            "parity", "The same numbers as diffusers",
            "Relative errors on these weights, device and dtype, and what rounding alone explains.",
            0, lambda progress: proof.parity(model, *size)))
        found.append(Figure(
            "cost", "What a step costs",
            f"One call for source, target and two unconditional rows; median of {proof.REPEAT}, in turns.",
            0, lambda progress: proof.cost(model, *size, proof.REPEAT)))
    found.append(Figure("versions", "Made with", "", 0, lambda progress: proof.versions(model)))
    found.append(Figure("files", "The checkpoint's files", "", 0, lambda progress: proof.files(model.path)))
    return [figure for figure in found if not args.only or figure.name in args.only]


# ---- the page ------------------------------------------------------------------------------------------------------

def section(figure, result, picture, error):
    """A figure as a part of the page."""
    text = html.escape(figure.text)
    if error is not None:
        body = f"<p><b>This figure failed:</b> {html.escape(error)}</p>"
    elif picture is not None:
        body = f'<img src="{picture}" alt="{html.escape(figure.title)}">'
    else:
        head, *rows = [[html.escape(str(cell)) for cell in row] for row in result["rows"]]
        lines = ["".join(f"<th>{cell}</th>" for cell in head)] * any(head)
        lines += ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
        body = "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
    return (f'<section><h2>{html.escape(figure.title)}</h2>\n<p class="soft">{text}</p>\n'
            f'<div class="card wide">{body}</div></section>')


def write_page(path, model, about, wanted, results, pictures, failed):
    """One file, in the explorer page's look; nothing in it asks for the network."""
    look = Path(explorer_page.__file__).with_name("page.html").read_text(encoding="utf-8")
    urls = {name: "data:image/png;base64," + base64.b64encode(content).decode() for name, content in pictures.items()}
    parts = dict(
        style=look.split("<style>")[1].split("</style>")[0], model=html.escape(str(model.path)),
        about=html.escape(about),
        figures="\n".join(section(figure, results.get(figure.name), urls.get(figure.name), failed.get(figure.name))
                          for figure in wanted))
    page = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    for name, part in parts.items():                       # the figures last: a prompt may say {{style}}
        page = page.replace(f"{{{{{name}}}}}", part)
    write(path, page.encode())


# ---- the run -------------------------------------------------------------------------------------------------------

def arguments():
    parser = Parser(prog="paper", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--model", default="weights/toy", metavar="PATH", help="as for p2p_min (default: %(default)s)")
    for name in LOAD[1:]:
        add(f"--{name}", help="as for p2p_min")
    names = [example.name for example in examples.TOY["examples"]]
    names += ["grid", "parity", "cost", "versions", "files"]
    add("--only", nargs="+", choices=names, metavar="FIGURE", help=f"of {', '.join(names)} (default: all)")
    add("--prompts", nargs=2, metavar=("SOURCE", "TARGET"), help="adds the grid of steps for these two")
    add("--image", metavar="FILE", help="the grid is of this picture, which SOURCE describes")
    add("--seeds", type=int, default=4, metavar="N", help="pictures of each example (default: %(default)s)")
    add("--steps", type=int, metavar="N", help="DDIM steps (default: 50)")
    add("--guidance", type=float, metavar="W", help="(default: 7.5; with the toy 5)")
    add("--size", type=int, metavar="PIXELS", help="of the pictures (default: the model's own)")
    add("--out", type=Path, default=Path("build/paper"), metavar="DIR", help="(default: %(default)s)")
    return parser


def check(args):
    """Raises ValueError for what does not go together."""
    only = set(args.only or ())
    if not args.prompts and (args.image or "grid" in only):
        raise ValueError("the grid and --image need --prompts SOURCE TARGET")
    if args.seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {args.seeds}")
    if {"parity", "cost"} & only and not proof.HAS_DIFFUSERS:
        raise ValueError(f"the comparison {proof.NEEDS_DIFFUSERS}")


def settings_of(args, model, how):
    """What the figures depend on: a folder holds those of one model, made alike. As JSON keeps it."""
    settings = dict(how, model=proof.files(model.path)[1:], seeds=args.seeds, dtype=str(model.dtype),
                    device=model.device.type, p2p_min=p2p.__version__)
    if args.prompts:
        settings["grid"] = [args.prompts, args.image and proof.sha256(args.image)]
    return json.loads(json.dumps(settings))


def run(args):
    """Draws what is missing, and the page. Returns {figure: why} of those that failed.

    Raises ValueError or OSError for whatever the user can mend.
    """
    check(args)
    processes = store.join("gloo")
    model = p2p.load(args.model, store.device(args.device), args.dtype,
                     **{name: getattr(args, name) for name in LOAD[3:]})
    if args.size is None and model.size is None:
        raise ValueError("this model has no size of its own; give --size")
    height, width = (args.size, args.size) if args.size else model.size
    table = examples.table_of(model)
    given = {name: getattr(args, name) for name in ("steps", "guidance") if getattr(args, name) is not None}
    how = table["settings"] | given | dict(height=height, width=width)
    picture = fit(read_picture(args.image), min(height, width), model.vae.factor) if args.image else None

    # What is there already, and what this process has to do.
    wanted, settings = figures(model, table, args, how, picture), settings_of(args, model, how)
    store.open_folder(args.out, settings, "--out")
    names = [figure.name for figure in wanted]
    there = store.done(args.out, names, settings)
    if store.RANK == 0:
        print(f"{model.path} on {model.device}, {str(model.dtype).removeprefix('torch.')}; {len(wanted)} figures, "
              f"{len(there)} of them done already; {processes} process{'es' * (processes > 1)}", flush=True)
    mine = store.share([figure for figure in wanted if figure.name not in there])
    failed = draw(args.out, mine, how["steps"])

    # All of them on one page.
    failed = {name: why for of_process in store.gather(failed) for name, why in of_process.items()}
    results, pictures = store.collect(args.out, [name for name in names if name not in failed], names)
    if store.RANK == 0:
        about = (f"{how['steps']} steps, guidance {how['guidance']:g}, {width} × {height} pixels, seeds 0 to "
                 f"{args.seeds - 1}, not cherry-picked.")
        about += "" if proof.HAS_DIFFUSERS else f" The comparison with diffusers {proof.NEEDS_DIFFUSERS}."
        write_page(args.out / "index.html", model, about, wanted, results, pictures, failed)
        print(args.out / "index.html")
    return failed


def draw(out, mine, steps):
    """Draws the figures into the folder, each as soon as it is done; {figure: why} of those that failed."""
    failed = {}
    total = sum(figure.runs for figure in mine) * steps
    with tqdm(total=total, disable=store.RANK != 0 or not sys.stderr.isatty(), unit="step") as bar:

        def progress(steps, desc):
            for step in steps:
                yield step
                bar.update()

        for figure in mine:
            bar.set_description(figure.name)
            start = time.perf_counter()
            try:
                found = figure.draw(progress)
            except Exception as error:                     # of one figure, which the others need not suffer for
                failed[figure.name] = " ".join(str(error).split()) or type(error).__name__
                torch.cuda.empty_cache()
                continue
            is_picture = isinstance(found, Image.Image)
            if is_picture:
                store.write(store.picture_file(out, figure.name), png(found))
            store.write_json(store.result_file(out, figure.name), dict(
                title=figure.title, rows=None if is_picture else found, seconds=time.perf_counter() - start))
    return failed


def main(argv=None):
    """Exit status: 0; 1 where a figure failed; 2 with one line on standard error."""
    try:
        failed = run(arguments().parse_args(argv))
    except (ValueError, OSError) as error:
        print("paper: error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("paper: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    for name, why in failed.items() if store.RANK == 0 else ():
        print(f"paper: {name} failed: {why}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
