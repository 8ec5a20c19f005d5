"""What the command line takes: its options, what their texts mean, and all that can be told without the libraries."""
import argparse
from pathlib import Path
from typing import NamedTuple

from ..checks import METHODS, PREDICTIONS, SPACINGS, window
from ..files import check_files

EXAMPLES = """
examples (with the small model that comes with p2p_min):
  python -m p2p_min "a ball on the grass" "a cake on the grass"
      word swap: both prompts have the same number of words, so the cake takes the ball's maps
  python -m p2p_min "a castle next to a river" "children drawing of a castle next to a river"
      added phrase: words that are in both prompts keep the source's maps
  python -m p2p_min "a fluffy red ball" --reweight fluffy=-2,-1,0,1,2
      re-weighting: one target per factor
  python -m p2p_min "a red car on the beach" "a blue car on the beach" --blend car
      local edit: outside the region that the word attends to, the source picture is kept
  python -m p2p_min "a red car on the beach" "a blue car on the beach" --image car.png
      a picture of your own, which is inverted first; add --mask mask.png to limit where it may change
  python -m p2p_min "a red car in the snow" "a red boat in the snow" --page p2p.html
      a page for the browser: point at a word to see its pixels, step by step
  python -m p2p_min --live
      the same page with controls: change a prompt, a window or a weight, and see the new picture

The steps can be a window instead of a fraction (--cross-steps 0.2,0.7), and can be set per word of the target
(--cross-steps 0.8 --cross-steps car=0.4). With both at 0, all prompts share one noise and nothing is injected.
"""

LOAD = ("model", "device", "dtype", "prediction", "spacing", "tokenizer", "vae")         # arguments of `load`


class Parser(argparse.ArgumentParser):
    def error(self, message):                              # argparse would print the usage and exit
        if "required: SOURCE" in message:
            message += "; put the prompts first, because --blend and --subtract take every word after them"
        raise ValueError(f"{message} (see --help)")


def arguments(is_live=False):
    parser = Parser(
        prog="p2p-min", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXAMPLES,
        description="Prompt-to-Prompt: edit a generated picture by editing its prompt (Hertz et al. 2022).\n"
                    "Generates SOURCE, and each TARGET with SOURCE's attention maps, side by side in one picture.")
    add = parser.add_argument
    add("source", metavar="SOURCE", nargs="?" if is_live else None, help="the prompt of the picture to edit")
    add("targets", metavar="TARGET", nargs="*", default=[],
        help="an edited prompt: a word swap if it has as many words as SOURCE, otherwise an added phrase. "
             "Optional with --reweight, or with --maps or --page to look at SOURCE alone")
    add("--model", default="weights/toy", metavar="PATH",
        help="a folder in the diffusers layout, a single .safetensors file, or a model on the hub: "
             "owner/name[@revision] (default: %(default)s)")
    add("--prediction", choices=PREDICTIONS, help="what the UNet predicts (default: as stored)")
    add("--spacing", choices=SPACINGS,
        help="timestep spacing; few-step models (turbo, lightning) need trailing (default: as stored)")
    add("--tokenizer", metavar="DIR",
        help="folder of the tokenizer (default: in the checkpoint's folder; beside a single file, or in the hub cache)")
    add("--vae", metavar="PATH",
        help="a diffusers vae/ folder, or a file with only a VAE (default: the checkpoint's own)")
    add("--out", default="p2p.png", metavar="FILE", type=Path,
        help="the side-by-side picture, a PNG (default: %(default)s)")
    add("--singles", action="store_true", help="also write each picture by itself: FILE-0.png (source), FILE-1.png, …")
    add("--seed", type=int, help="seed of the shared noise (default: 0)")
    add("--steps", type=int, default=50, help="number of DDIM steps (default: %(default)s)")
    add("--guidance", type=float, default=7.5, help="classifier-free guidance scale; 1 is none (default: %(default)s)")
    add("--negative", default="", metavar="TEXT", help="the negative (unconditional) prompt (default: empty)")
    add("--height", type=int, metavar="PIXELS", help="height of the pictures (default: the model's own)")
    add("--width", type=int, metavar="PIXELS", help="width of the pictures (default: the model's own)")
    add("--cross-steps", action="append", default=["0.8"], metavar="[WORD=]STEPS",
        help="fraction of the steps, from pure noise on, that inject cross-attention maps (default: 0.8); repeatable")
    add("--self-steps", metavar="STEPS", help="the same for self-attention maps (default: 0.4)")
    add("--reweight", action="append", default=[], metavar="WORD=C[,C...]",
        help="multiply the maps of a word or phrase of the target by C; several C make one target each; repeatable. "
             "In all options that take a word, red#2 is the second red; <start> and <end> are the start and end tokens")
    add("--blend", nargs="+", metavar="WORD",
        help="change only where these words attend: one word for all prompts, or one per prompt, source first; "
             "- for a prompt without a word")
    add("--subtract", nargs="+", metavar="WORD", help="do not change where these words attend, even if --blend would")
    add("--image", metavar="FILE", type=Path, help="edit this picture instead of a generated one; SOURCE describes it")
    add("--size", metavar="PIXELS", help="resize --image to this shorter side, or to WIDTHxHEIGHT, cropped to fit")
    add("--invert", metavar="METHOD", choices=METHODS,
        help=f"inversion method for --image: {', '.join(METHODS)} (default: direct)")
    add("--mask", metavar="FILE", type=Path, help="a picture, white where it may change; as large as --image")
    add("--maps", metavar="FILE", type=Path, help="write what every word attends to as one picture, a PNG")
    add("--page", metavar="FILE", type=Path,
        help="write the maps of every step as a page for the browser, one .html file; the targets are generated once "
             "more, without injection, to compare")
    add("--live", metavar="PORT", nargs="?", const=0, type=port_argument,
        help="serve the page with controls, to this computer only (default: any free port); SOURCE and TARGET are "
             "optional")
    add("--device", help="cpu, cuda, cuda:1, mps (default: the best available)")
    add("--dtype", help="float32, float16 or bfloat16 (default: as stored; float32 on the CPU)")
    return parser


class Plan(NamedTuple):
    """What the options of a run mean."""
    prompts: list                      # source first
    weights: list                      # of each target, {word: factor}
    cross_steps: dict
    self_steps: tuple
    blend: list | None                 # a word for each prompt
    subtract: list | None
    size: object                       # of the picture: pixels of the shorter side, (height, width) or None
    singles: list                      # files for each picture by itself


def plan(args):
    """Raises ValueError if the options do not go together, or if the files cannot be written."""
    if args.subtract and not args.blend:
        raise ValueError("--subtract needs --blend")
    check_image_options(args)
    args.seed = args.seed or 0
    targets, factors = spread(args.source, args.targets, weights(args.reweight))
    if not targets:
        check_alone(args)
    args.self_steps = "0.4" if args.self_steps is None else args.self_steps
    prompts = [args.source, *targets]
    singles = [args.out.with_name(f"{args.out.stem}-{i}.png") for i in range(len(prompts) * args.singles)]
    blend, subtract = (per_prompt(getattr(args, name), prompts, f"--{name}") for name in ("blend", "subtract"))
    check_files(named(args, "image", "mask"), outputs(args) + [("--singles", path) for path in singles])
    return Plan(prompts, factors, cross_steps(args.cross_steps), steps_argument(args.self_steps), blend, subtract,
                None if args.size is None else size_argument(args.size), singles)


def named(args, *options):
    """[(option, path)] of those that were given."""
    return [(f"--{option}", getattr(args, option)) for option in options if getattr(args, option) is not None]


def outputs(args):
    """[(option, path)], but for the single pictures. Raises ValueError for a name of another kind of file."""
    files = named(args, "out", "maps", "page")
    for option, path in files:
        suffix, why = (".html", "") if option == "--page" else (".png", " (the parameters are kept in the PNG's text)")
        if path.suffix.lower() != suffix:
            raise ValueError(f"{option} must end in {suffix}{why}, not {path}")
    return files


def check_live(args):
    """Raises ValueError for options that do not go with the live page."""
    usual = vars(arguments(is_live=True).parse_args([]))
    for name, value in vars(args).items():
        if name not in ("live", "source", "targets", *LOAD) and value != usual[name]:
            raise ValueError(f"--{name.replace('_', '-')} does not go with --live: the page has controls")
    if len(args.targets) > 1:
        raise ValueError(f"--live takes SOURCE and one TARGET, not {len(args.targets)}")


def port_argument(text):
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port number, from 0 (any free one) to 65535")
    return int(text)


def steps_argument(text):
    """"0.8" -> (0.0, 0.8); "0.2,0.7" -> (0.2, 0.7)"""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not a fraction of the steps; write 0.8, or 0.2,0.7 for a window") from None
    return window(numbers[0] if len(numbers) == 1 else numbers)


def cross_steps(texts):
    """["0.8", "car=0.4"] -> {"default_": (0.0, 0.8), "car": (0.0, 0.4)}"""
    steps = {}
    for text in texts:                                     # later ones override
        word, _, value = text.rpartition("=")
        steps[word or "default_"] = steps_argument(value)
    return steps


def weights(texts):
    """["fluffy=-1,2"] -> {"fluffy": [-1.0, 2.0]}"""
    factors = {}
    for text in texts:
        word, _, values = text.rpartition("=")
        try:
            factors[word] = [float(value) for value in values.split(",")]
        except ValueError:
            word = ""
        if not word:
            raise ValueError(f"--reweight takes WORD=C or WORD=C,C,… with numbers C, not {text!r}")
    return factors


def spread(source, targets, factors):
    """Targets, and one dict of weights for each: several factors make one target each."""
    targets = targets or [source] * bool(factors)
    counts = {len(values) for values in factors.values()} - {1}
    if len(counts) > 1 or (counts and len(targets) not in (1, *counts)):
        raise ValueError(f"--reweight has {' and '.join(map(str, sorted(counts)))} factors for {len(targets)} targets; "
                         "give one factor, or as many as there are targets")
    n = max([len(targets), *counts])
    targets = targets * n if len(targets) == 1 else targets
    return targets, [{word: values[i if len(values) > 1 else 0] for word, values in factors.items()} for i in range(n)]


def per_prompt(words, prompts, option):
    if words is None:
        return None
    if len(words) not in (1, len(prompts)):
        raise ValueError(f"{option} takes one word, or one for each of the {len(prompts)} prompts, not {len(words)}")
    if set(words) == {"-"}:
        raise ValueError(f"{option} names no word: - is for a prompt without one, and at least one prompt needs one")
    words = [None if word == "-" else word for word in words]
    return words * len(prompts) if len(words) == 1 else words


def check_alone(args):
    """For SOURCE without a TARGET. Raises ValueError if an option asks for an edit."""
    for option in ("blend", "mask"):
        if getattr(args, option):
            raise ValueError(f"--{option} says where a target may change, but there is no TARGET; put the prompts "
                             "before the options")
    if len(args.cross_steps) > 1 or args.self_steps is not None:
        raise ValueError("--cross-steps and --self-steps are for injecting maps into a target, but there is no TARGET")
    if args.maps is None and args.page is None:
        raise ValueError("there is nothing to edit: give a TARGET, or --reweight a word of SOURCE; or use --maps or "
                         "--page to look at the maps of SOURCE alone")


def size_argument(text):
    """"512" -> 512; "768x512" -> (512, 768), height first"""
    try:
        numbers = [int(part) for part in text.lower().split("x")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise ValueError(f"--size takes pixels, 512 or 768x512 (width first), not {text!r}")
    return numbers[0] if len(numbers) == 1 else (numbers[1], numbers[0])


def check_image_options(args):
    if args.image is None:
        for option in ("invert", "size"):
            if getattr(args, option) is not None:
                raise ValueError(f"--{option} needs --image")
        return
    for option in ("seed", "height", "width"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option} cannot be used with --image"
                             + ("" if option == "seed" else "; use --size (the shorter side, or WIDTHxHEIGHT)"))
    if args.negative and args.invert in ("null-text", "negative-prompt"):
        raise ValueError(f"--negative cannot be used with --invert {args.invert}, which sets its own")
