"""Pictures inverted and edited with every method, and measured against a known right answer.

    python scripts/benchmark_edits.py [--count 112] [--preset ours published] [--json FILE] [--sheet FILE.png]
    python scripts/benchmark_edits.py --pie FOLDER --model CHECKPOINT [--clip FOLDER]
    torchrun --nproc-per-node 4 scripts/benchmark_edits.py ...
    python scripts/benchmark_edits.py --round-trip 10 20 50 100 200      how exact DDIM inversion alone is

The first command edits scenes of the drawn world, whose right answer can be rendered; the toy world's judge says
whether the edit was made and the rest preserved. The second edits PIE-Bench and reports its columns. Every result is
stored in --work: to resume a stopped run, give the same command again. Processes share the remaining work.
"""
import ctrl_c  # noqa: F401, I001 (before the others, which take seconds)

import io
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import torch
import transformers
from tqdm import tqdm

import p2p_min as p2p
from p2p_min.editing import decode
from p2p_min.inversion import METHODS
from p2p_min.cli.options import Parser
from p2p_min.pictures import to_tensor

sys.path += [str(Path(__file__).parent / name) for name in ("edits", "toy")]
import drawn_scenes  # noqa: E402
import judge as judging  # noqa: E402
import measures  # noqa: E402
import pie_bench  # noqa: E402
import presets as protocols  # noqa: E402
import report  # noqa: E402
import store  # noqa: E402

ORDER = ("direct", "null-text", "negative-prompt", "ddim")                # of the rows
SHOWN = 2                                      # items of each kind on the contact sheet
SMALL = 256                                    # pixels a side, at most, of the pictures kept for it


def arguments():
    parser = Parser(prog="benchmark_edits", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--model", metavar="DIR", help="checkpoint in the diffusers layout (default: weights/toy)")
    add("--count", type=int, metavar="N",
        help=f"edits (default: {drawn_scenes.COUNT} of the drawn world, all of PIE-Bench)")
    add("--preset", nargs="+", choices=protocols.PRESETS, metavar="PRESET",
        help="settings of the edits: ours, published or both (default: ours; for --pie, published)")
    add("--methods", nargs="+", choices=METHODS, default=ORDER, metavar="METHOD",
        help=f"inversion methods: {', '.join(ORDER)} (default: all)")
    add("--steps", type=int, metavar="N", help="DDIM steps, instead of the preset's")
    add("--size", type=int, metavar="PIXELS", help="shorter side of the pictures (default: the model's own)")
    add("--work", type=Path, default=Path("build/edits"), metavar="DIR",
        help="where results are stored (default: %(default)s)")
    add("--json", type=Path, metavar="FILE", help="where to write all numbers")
    add("--sheet", type=Path, metavar="FILE.png", help="where to write a contact sheet")
    add("--judge", type=Path, metavar="FILE", default=judging.FILE,
        help="weights of the judge (default: weights/judge)")
    add("--pie", type=Path, metavar="DIR", help="edit PIE-Bench, from the folder with its mapping_file.json")
    add("--clip", type=Path, metavar="DIR", help="a CLIP model, for the CLIP similarity")
    add("--round-trip", type=int, nargs="+", metavar="STEPS",
        help="only this: invert pictures with ddim and generate them again at guidance 1, for each number of steps")
    add("--device", help="cpu, cuda, cuda:1, mps (default: the best available; under torchrun, one per process)")
    add("--dtype", help="float32, float16 or bfloat16 (default: as stored; float32 on the CPU)")
    add("--backend", choices=("gloo", "nccl"), default="gloo",
        help="communication between processes (default: %(default)s)")
    return parser


def key_of(item, method, preset):
    return ".".join(filter(None, (item.key, method, preset)))


# ---- one item ------------------------------------------------------------------------------------------------------

@dataclass
class Cost:
    rows: int = 0                              # that the UNet was given
    seconds: float = 0.0


@contextmanager
def measured(unet):
    """The Cost of what happens meanwhile."""
    cost = Cost()

    def count(module, arguments):
        cost.rows += len(arguments[0])

    hook, start = unet.register_forward_pre_hook(count), time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        hook.remove()


@torch.no_grad()
def through_vae(model, image):
    dtype = next(model.vae.parameters()).dtype
    return decode(model, model.vae.encode(to_tensor(image).to(model.device, dtype)).float())[0]


def ceiling(model, item, opened, judge):
    """What the VAE alone makes of source and right answer: no method can be expected to do better."""
    source, right, mask = opened
    seen = through_vae(model, source)
    numbers = dict(reconstruction=measures.psnr(source, seen), **measures.outside(source, seen, mask))
    return numbers if right is None else numbers | against_right(item, right, through_vae(model, right), judge)


def against_right(item, right, edited, judge):
    numbers = dict(right=measures.psnr(right, edited)) if item.compares_with_right else {}
    return numbers | item.read(judge, edited) if judge else numbers


def quality(item, opened, reconstructed, edited, judge, clip):
    source, right, mask = opened
    numbers = dict(reconstruction=measures.psnr(source, reconstructed), **measures.outside(source, edited, mask))
    if right is not None:
        numbers |= against_right(item, right, edited, judge)
    if clip:
        prompt = item.prompts[1]
        numbers |= dict(clip=clip(edited, prompt), clip_edited=clip(measures.only(edited, mask), prompt))
    return numbers


def results(model, item, opened, wanted, steps, judge, clip):
    """Yields (method, preset, numbers, skipped words, edited picture) for each wanted (method, preset)."""
    source, _, mask = opened
    inversions = {}
    for method, preset in wanted:
        if method == "vae":
            yield method, preset, ceiling(model, item, opened, judge), [], None
            continue
        settings = protocols.settings(preset, item.kind, steps)
        how, skipped = protocols.arguments(model.tokenizer, item, mask, settings)
        # An inversion serves all presets with as many steps, and of null-text those with its guidance.
        same = method, settings["steps"], settings["guidance"] if method == "null-text" else None
        if same not in inversions:
            with measured(model.unet) as cost:
                inversion = p2p.invert(model, source, item.prompts[0], method, settings["steps"], settings["guidance"],
                                       size=(source.height, source.width))
            inversions[same] = inversion, cost
        inversion, before = inversions[same]
        with measured(model.unet) as cost:
            images = p2p.prompt_to_prompt(model, item.prompts, inversion=inversion, **how).images
        numbers = quality(item, opened, *images, judge, clip)
        numbers |= dict(seconds=before.seconds + cost.seconds, rows=before.rows + cost.rows)
        yield method, preset, numbers, skipped, images[1]


def small(image):
    """PNG bytes of the picture, made smaller where it is large."""
    image, file = image.copy(), io.BytesIO()
    image.thumbnail((SMALL, SMALL))
    image.save(file, "PNG")
    return file.getvalue()


def round_trip(model, item, opened, steps):
    """(error of the latents of the inverted and regenerated source, relative to their size; PSNR of the picture)"""
    source, prompt = opened[0], item.prompts[0]
    inversion = p2p.invert(model, source, prompt, "ddim", steps, size=(source.height, source.width))
    result = p2p.prompt_to_prompt(model, [prompt], steps=steps, guidance=1, inversion=inversion)
    latents = inversion.latents[-1]
    return ((result.latents.cpu() - latents).norm() / latents.norm()).item(), measures.psnr(source, result.images[0])


# ---- all items -----------------------------------------------------------------------------------------------------

def shown(items):
    """The first few of each kind, of items."""
    return [item for i, item in enumerate(items) if sum(other.kind == item.kind for other in items[:i]) < SHOWN]


def load(args):
    """The model, the judge and CLIP, each of the last two None where there is none."""
    model = p2p.load(args.model or "weights/toy", store.device(args.device), args.dtype)
    judge = judging.load(args.judge) if args.pie is None and args.judge.exists() else None
    return model, judge, None if args.clip is None else measures.clip_similarity(args.clip, model.device)


def settings_of(args, model, size, kinds, presets):
    """What results depend on: two runs with the same can share them."""
    folders = dict(model=Path(model.path), clip=args.clip)
    files = {name: [] if folder is None else sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.json")])
             for name, folder in folders.items()}
    files["judge"] = [args.judge] if args.pie is None and args.judge.exists() else []
    found = {name: store.digest(*of_name) for name, of_name in files.items()}
    found |= dict(data=drawn_scenes.fingerprint() if args.pie is None else pie_bench.fingerprint(args.pie), size=size,
                  dtype=str(model.dtype), p2p_min=p2p.__version__)
    return found | {f"{preset}, {kind}": protocols.settings(preset, kind, args.steps)
                    for preset in presets for kind in kinds}


def check(args):
    if args.pie is not None and args.model is None:
        raise ValueError("--pie needs --model: the toy model knows nothing of photos")
    if args.count is not None and args.count < 1:
        raise ValueError(f"--count must be at least 1, not {args.count}")
    if args.sheet is not None and args.sheet.suffix.lower() != ".png":
        raise ValueError(f"--sheet must end in .png, not {args.sheet}")
    for option in ("json", "sheet"):
        path = getattr(args, option)
        if path is not None and not path.parent.is_dir():
            raise ValueError(f"the folder {path.parent} of --{option} does not exist")


def run(args):
    """Raises ValueError or OSError for whatever the user can mend."""
    check(args)
    processes = store.join(args.backend)
    presets = list(dict.fromkeys(args.preset or ["ours" if args.pie is None else "published"]))
    items = drawn_scenes.items(args.count) if args.pie is None else pie_bench.items(args.pie, args.count)
    kinds = list(dict.fromkeys(item.kind for item in items))
    model, judge, clip = load(args)
    if args.size is None and model.size is None:
        raise ValueError("this model has no size of its own; give --size")
    size = args.size or min(model.size)
    if args.round_trip:
        print(f"{len(items)} pictures, up and down again by DDIM at guidance 1\n"
              f"{'steps':>5}{'error of latents':>20}{'PSNR':>8}")
        opened = [item.pictures(size, model.vae.factor) for item in items]
        for steps in args.round_trip:
            errors, psnrs = zip(*(round_trip(model, item, pictures, steps) for item, pictures in zip(items, opened)))
            print(f"{steps:5}{fmean(errors):20.4f}{fmean(psnrs):8.2f}", flush=True)
        return
    settings = settings_of(args, model, size, kinds, presets)
    store.open_folder(args.work, settings)

    wanted = [("vae", None), *((method, preset) for method in dict.fromkeys(args.methods) for preset in presets)]
    keys = [key_of(item, *each) for item in items for each in wanted]
    done = store.done(args.work, keys, settings)
    left = [(item, rest) for item in items if (rest := [each for each in wanted if key_of(item, *each) not in done])]
    if store.RANK == 0:
        print(f"{model.path} on {model.device}, {str(model.dtype).removeprefix('torch.')}; {len(items)} edits, "
              f"{len(keys)} results, {len(done)} of them done already; {processes} process{'es' * (processes > 1)}")
        if args.pie is None and judge is None:
            print(f"without the judge, since there is none at {args.judge}: nobody reads whether the edits are there")
    kept = {item.key for item in shown(items)}
    for item, rest in tqdm(store.share(left), desc="edits", disable=store.RANK != 0 or not sys.stderr.isatty()):
        try:
            opened = item.pictures(size, model.vae.factor)
            for method, preset, numbers, skipped, edited in results(model, item, opened, rest, args.steps, judge, clip):
                key = key_of(item, method, preset)
                if edited is not None and item.key in kept:
                    store.write(store.picture_file(args.work, key), small(edited))
                store.write_json(store.result_file(args.work, key), dict(
                    item=item.key, kind=item.kind, method=method, preset=preset, prompts=item.prompts, numbers=numbers,
                    skipped=skipped))
        except ValueError as error:
            raise ValueError(f"{item.key}: {error}") from None

    everything, images = store.collect(args.work, keys, keys if args.sheet else [])
    if store.RANK == 0:
        finish(args, list(everything.values()), images, items, kinds, presets, settings, size, model.vae.factor)


def finish(args, everything, images, items, kinds, presets, settings, size, factor):
    """The table, and the files that were asked for."""
    methods = list(dict.fromkeys(args.methods))
    summary = report.summary(everything, presets, methods, kinds)
    skipped = list(dict.fromkeys(f"{r['item']}: {line}" for r in everything for line in r["skipped"]))
    notes = {preset: protocols.describe(preset, args.steps) for preset in presets}
    print(report.table(summary, notes, skipped, hidden=("mse",) if args.pie is None else ()))
    if args.json:
        store.write_json(args.json, dict(settings=settings, summary=summary, skipped=skipped, results=everything))
        print(args.json)
    if args.sheet:
        # Where --count changed in between, not all of the items to be shown have their pictures.
        there = [item for item in items if all(key_of(item, m, p) in images for m in methods for p in presets)]
        page = report.contact_sheet(shown(there), images, key_of, presets, methods,
                                    lambda item: item.pictures(size, factor))
        file = io.BytesIO()
        page.quantize(256).save(file, "PNG", optimize=True)
        store.write(args.sheet, file.getvalue())
        print(args.sheet)


def main(argv=None):
    """Exit status: 0, or 2 with one line on standard error."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        run(arguments().parse_args(argv))
    except (ValueError, OSError) as error:
        message = str(error).strip() or type(error).__name__
        print("benchmark_edits: error: " + " ".join(message.split("\n")[0].split()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("benchmark_edits: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
