"""The command line: `python -m p2p_min SOURCE TARGET [TARGET ...]`."""
import argparse
import json
import os
import shlex
import sys
import warnings
from pathlib import Path

import torch
import transformers
from PIL import Image, ImageStat
from PIL.PngImagePlugin import PngInfo

import p2p_min as p2p
from p2p_min.align import words
from p2p_min.ddim import SPACINGS
from p2p_min.explorer import server
from p2p_min.inversion import METHODS
from p2p_min.pictures import fit, png, read, sheet, write

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


SMALL = 50_000_000                             # a UNet with fewer parameters needs only one thread
LOAD = ("model", "device", "dtype", "prediction", "spacing", "tokenizer", "vae")         # arguments of `load`
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")        # CUDA and MPS; CPU; CPU


class Parser(argparse.ArgumentParser):
    def error(self, message):                              # argparse would print the usage and exit
        if "required: SOURCE" in message:
            message += "; put the prompts first, because --blend and --subtract take every word after them"
        raise ValueError(f"{message} (see --help)")


def arguments(is_live=False):
    parser = Parser(
        prog="p2p-min", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXAMPLES,
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
    add("--prediction", choices=("epsilon", "v_prediction"), help="what the UNet predicts (default: as stored)")
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


def port_argument(text):
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port number, from 0 (any free one) to 65535")
    return int(text)


def steps_argument(text):
    """"0.8" -> 0.8; "0.2,0.7" -> (0.2, 0.7)"""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not a fraction of the steps; write 0.8, or 0.2,0.7 for a window") from None
    return numbers[0] if len(numbers) == 1 else numbers


def cross_steps(texts):
    """["0.8", "car=0.4"] -> {"default_": 0.8, "car": 0.4}"""
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


def tab_labels(target_weights):
    """What tells the targets apart, "fluffy × −2", or None where their weights do not."""
    labels = [", ".join(f"{word} × " + f"{c:g}".replace("-", "−") for word, c in of_target.items())
              for of_target in target_weights]
    return labels if any(labels) and len(set(labels)) == len(labels) else None


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


def open_mask(path, picture, size, factor):
    """The mask, resized and cropped like the picture, if there is one; prints how much may change."""
    mask = read(path, "black").convert("L")
    if picture is not None:
        if mask.size != picture.size:
            raise ValueError(f"{path} is {mask.width} × {mask.height}, the picture {picture.width} × {picture.height}; "
                             "they must have the same size")
        mask = fit(mask, size, factor, Image.Resampling.BOX).convert("L")
    white = ImageStat.Stat(mask).mean[0] / 255
    print(f"{path}: {white:.0%} of the picture may change")
    if white > 0.5:
        print(f"p2p-min: warning: white means “may change”; if {path} was meant the other way round, invert it",
              file=sys.stderr)
    return mask


def live(args):
    """Serves the live page until Ctrl-C. Raises ValueError for options that do not go with it."""
    usual = vars(arguments(is_live=True).parse_args([]))
    for name, value in vars(args).items():
        if name not in ("live", "source", "targets", *LOAD) and value != usual[name]:
            raise ValueError(f"--{name.replace('_', '-')} does not go with --live: the page has controls")
    if len(args.targets) > 1:
        raise ValueError(f"--live takes SOURCE and one TARGET, not {len(args.targets)}")
    model = load(args)
    target = args.targets[0] if args.targets else args.source
    first = {} if args.source is None else dict(source=args.source, target=target)
    server.serve(model, {name: getattr(args, name) for name in LOAD}, args.live, first)


def load(args):
    model = p2p.load(args.model, args.device, args.dtype, prediction=args.prediction, spacing=args.spacing,
                     tokenizer=args.tokenizer, vae=args.vae)
    use_few_threads(model)
    about, dtype = model.about and f" ({model.about})", str(model.dtype).removeprefix("torch.")
    print(f"{model.path}{about} on {model.device}, {dtype}")
    return model


def check_outputs(args):
    names = {}
    for option, suffix, why in (("out", ".png", " (the parameters are kept in the PNG's text)"), ("maps", ".png", ""),
                                ("page", ".html", "")):
        path = getattr(args, option)
        if path is None:
            continue
        if path.suffix.lower() != suffix:
            raise ValueError(f"--{option} must end in {suffix}{why}, not {path}")
        if not path.parent.is_dir():
            raise ValueError(f"the folder {path.parent} of --{option} does not exist")
        if not os.access(path.parent, os.W_OK):
            raise ValueError(f"--{option}: the folder {path.parent} is not writable")
        if path.is_dir():
            raise ValueError(f"--{option} {path} is a folder")
        if names.setdefault(path.resolve(), option) != option:
            raise ValueError(f"--{option} and --{names[path.resolve()]} are the same file, {path}")


def use_few_threads(model):
    """One thread for a small model on the CPU: more gain little, and wait for each other on a busy machine."""
    small = sum(each.numel() for each in model.unet.parameters()) < SMALL
    if model.device.type == "cpu" and small and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def warn_of_unknown_words(tokenizer, prompts):
    """A small model may list the words that it was trained with ("known_words" in its tokenizer_config.json)."""
    known = tokenizer.init_kwargs.get("known_words")
    unknown = {unit.text for prompt in prompts for unit in words(tokenizer, prompt)}.difference(known or [])
    if known and unknown:
        print(f"p2p-min: warning: this model does not know {', '.join(sorted(unknown))}; it knows", *known,
              file=sys.stderr)


def single_files(out, prompts):
    return [out.with_name(f"{out.stem}-{i}.png") for i in range(len(prompts))]


def run(args, command):
    """Raises ValueError or OSError for anything that the user can fix."""
    check_outputs(args)
    if args.subtract and not args.blend:
        raise ValueError("--subtract needs --blend")
    check_image_options(args)
    size = None if args.size is None else size_argument(args.size)
    picture = None if args.image is None else read(args.image)
    args.seed = args.seed or 0
    targets, target_weights = spread(args.source, args.targets, weights(args.reweight))
    if not targets:
        check_alone(args)
    args.self_steps = "0.4" if args.self_steps is None else args.self_steps
    prompts = [args.source, *targets]
    if args.singles and args.maps in single_files(args.out, prompts):
        raise ValueError(f"--maps and --singles would both write {args.maps}")
    cross, own = cross_steps(args.cross_steps), steps_argument(args.self_steps)
    blend_words, subtract = (per_prompt(getattr(args, name), prompts, f"--{name}") for name in ("blend", "subtract"))

    model = load(args)
    warn_of_unknown_words(model.tokenizer, prompts)
    edit = p2p.auto(model.tokenizer, prompts, cross) if targets else None
    if args.reweight:
        edit = p2p.reweight(model.tokenizer, prompts, target_weights, edit)
    size = min(model.size) if size is None and model.size else size
    mask = None if args.mask is None else open_mask(args.mask, picture, size, model.vae.factor)
    blend = None
    if args.blend or args.mask:
        blend = p2p.LocalBlend(model.tokenizer, prompts, blend_words, subtract, mask=mask)
    recorder = p2p.Recorder(model.tokenizer, prompts, per_step=args.page is not None)
    watched = args.maps is not None or args.page is not None
    inversion, progress = None, sys.stderr.isatty()
    if picture is not None:
        inversion = p2p.invert(model, picture, args.source, args.invert or "direct", args.steps, args.guidance,
                               size=size, progress=progress)
        height, width = (n * model.vae.factor for n in inversion.latents.shape[-2:])
        print(f"{args.image}: {picture.width} × {picture.height} taken as {width} × {height}, "
              f"inverted ({inversion.method})")
    settings = dict(negative=args.negative, steps=args.steps, guidance=args.guidance, seed=args.seed,
                    height=args.height, width=args.width, inversion=inversion, progress=progress)
    result = p2p.prompt_to_prompt(
        model, prompts, recorder(edit) if watched else edit, p2p.self_replace(own) if targets else None,
        blend=blend, watch=recorder.watch if watched else None, **settings)
    without = None
    if args.page is not None and targets:                  # what the seed alone gives, of each different target once
        different = list(dict.fromkeys(targets))
        source, *plain = p2p.prompt_to_prompt(model, [args.source, *different], **settings).images
        without = [source, *(plain[different.index(target)] for target in targets)]

    info = PngInfo()
    info.add_text("parameters", json.dumps({
        **{name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        "prompts": prompts, "model": model.path, "device": str(model.device), "dtype": str(model.dtype),
        "torch": torch.__version__, "p2p_min": p2p.__version__}))
    info.add_text("command", command)
    captions = [prompt + "".join(f"  [{word}={c:g}]" for word, c in of_target.items())
                for prompt, of_target in zip(prompts, [{}, *target_weights])]
    files = {args.out: png(sheet(result.images, captions), info)}
    if args.singles:
        files |= dict(zip(single_files(args.out, prompts), (png(image, info) for image in result.images)))
    if args.maps is not None:
        files[args.maps] = png(p2p.word_sheet(recorder, result.images), info)
    if args.page is not None:
        files[args.page] = p2p.explorer(model, result, recorder, command, without=without,
                                         labels=tab_labels(target_weights)).encode()
    for path, content in files.items():
        write(path, content)
        print(path)


def show_warning(message, category, filename, lineno, file=None, line=None):
    print(f"p2p-min: warning: {message}", file=sys.stderr)


def main(argv=None):
    """Exit status: 0, or 2 with one line on standard error."""
    argv = sys.argv[1:] if argv is None else argv
    warnings.simplefilter("ignore")                        # hide the libraries' …
    warnings.filterwarnings("default", category=UserWarning, module=r"p2p_min\b")          # … show each of ours once
    warnings.showwarning = show_warning
    transformers.logging.set_verbosity_error()
    try:
        if any(argument.split("=")[0] == "--live" for argument in argv):
            live(arguments(is_live=True).parse_intermixed_args(argv))
        else:
            run(arguments().parse_args(argv), shlex.join(["python", "-m", "p2p_min", *argv]))
    except (ValueError, OSError) as error:
        message = str(error).strip() or type(error).__name__
        print("p2p-min: error: " + " ".join(message.split("\n")[0].split()), file=sys.stderr)
        return 2
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and not any(sign in str(error) for sign in OUT_OF_MEMORY):
            raise
        print("p2p-min: error: not enough memory; try a smaller --height and --width, or --dtype", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
