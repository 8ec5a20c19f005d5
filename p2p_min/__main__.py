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
      word swap: as many words in both prompts, so the cake takes the ball's maps
  python -m p2p_min "a castle next to a river" "children drawing of a castle next to a river"
      added phrase: the words that both prompts have keep the source's maps
  python -m p2p_min "a fluffy red ball" --reweight fluffy=-2,-1,0,1,2
      re-weighting: one target for each factor
  python -m p2p_min "a red car on the beach" "a blue car on the beach" --blend car
      local edit: outside of what the word lights up, the picture stays the source's
  python -m p2p_min "a red car on the beach" "a blue car on the beach" --image car.png
      a picture of your own, inverted first; add --mask mask.png to say where it may change
  python -m p2p_min "a red car in the snow" "a red boat in the snow" --page p2p.html
      a page for the browser: point at a word and see its pixels, step by step
  python -m p2p_min --live
      the same page with controls: change a prompt, a window or a weight, and see what becomes of the picture

A window may be given instead of a fraction (--cross-steps 0.2,0.7) and per word of the target
(--cross-steps 0.8 --cross-steps car=0.4). Both at 0 generate the prompts from one noise without any injection.
"""


SMALL = 50_000_000                             # parameters of a UNet for which one thread is enough
LOAD = ("model", "device", "dtype", "prediction", "spacing", "tokenizer", "vae")         # arguments of `load`
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")        # CUDA, MPS; the CPU, twice


class Parser(argparse.ArgumentParser):
    def error(self, message):                              # argparse would print the usage, and exit by itself
        if "required: SOURCE" in message:
            message += "; prompts come first, since --blend and --subtract take all that follows them"
        raise ValueError(f"{message} (--help tells more)")


def arguments(is_live=False):
    parser = Parser(
        prog="p2p-min", formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EXAMPLES,
        description="Prompt-to-Prompt: edit a generated picture by editing its prompt (Hertz et al. 2022).\n"
                    "Generates SOURCE, then each TARGET with the attention maps of SOURCE: one picture of all.")
    add = parser.add_argument
    add("source", metavar="SOURCE", nargs="?" if is_live else None, help="the prompt of the picture to edit")
    add("targets", metavar="TARGET", nargs="*", default=[],
        help="the edited prompt. With as many words as SOURCE it is a word swap, otherwise an added phrase. "
             "May be left out with --reweight, and to look at the --maps or the --page of SOURCE alone")
    add("--model", default="weights/toy", metavar="PATH",
        help="a folder in the diffusers layout, a single .safetensors file, or a model on the hub: "
             "owner/name[@revision] (%(default)s)")
    add("--prediction", choices=("epsilon", "v_prediction"), help="what the UNet predicts (as the folder or file says)")
    add("--spacing", choices=SPACINGS,
        help="how the timesteps lie; few-step models (turbo, lightning) want trailing (as the folder or file says)")
    add("--tokenizer", metavar="DIR", help="the tokenizer (the folder's; beside a single file, or in the hub's cache)")
    add("--vae", metavar="PATH", help="a diffusers folder vae/, or a file of a VAE alone (the checkpoint's own)")
    add("--out", default="p2p.png", metavar="FILE", type=Path, help="the side-by-side picture, a PNG (%(default)s)")
    add("--singles", action="store_true", help="each picture on its own too, as FILE-0.png (source), FILE-1.png, …")
    add("--seed", type=int, help="of the shared noise (0)")
    add("--steps", type=int, default=50, help="DDIM steps (%(default)s)")
    add("--guidance", type=float, default=7.5, help="classifier-free guidance, 1 is none (%(default)s)")
    add("--negative", default="", metavar="TEXT", help="the unconditional prompt (empty)")
    add("--height", type=int, metavar="PIXELS", help="of the pictures (the model's own)")
    add("--width", type=int, metavar="PIXELS", help="of the pictures (the model's own)")
    add("--cross-steps", action="append", default=["0.8"], metavar="[WORD=]STEPS",
        help="part of the steps in which cross-attention maps are injected, from the noise on (0.8); repeatable")
    add("--self-steps", metavar="STEPS", help="the same for self-attention maps (0.4)")
    add("--reweight", action="append", default=[], metavar="WORD=C[,C...]",
        help="times C for the maps of a word or phrase of the target; several C make one target each; repeatable. "
             "Where a word is named, here and elsewhere: red#2 is the second red, <start> and <end> those tokens")
    add("--blend", nargs="+", metavar="WORD",
        help="change only where these words look: one for all prompts, or one per prompt, source first; "
             "- for a prompt without one")
    add("--subtract", nargs="+", metavar="WORD", help="taken out of what --blend may change")
    add("--image", metavar="FILE", type=Path, help="edit this picture, which SOURCE describes, not a generated one")
    add("--size", metavar="PIXELS", help="of --image: its shorter side, or WIDTHxHEIGHT; cropped to fit")
    add("--invert", metavar="METHOD", choices=METHODS, help=f"of --image: {', '.join(METHODS)} (direct)")
    add("--mask", metavar="FILE", type=Path, help="a picture as large as --image, white where something may change")
    add("--maps", metavar="FILE", type=Path, help="what every word looks at, as one picture, a PNG")
    add("--page", metavar="FILE", type=Path, help="the maps of every step as a page for the browser, one .html file; "
        "the targets are generated once more, without injection, to compare")
    add("--live", metavar="PORT", nargs="?", const=0, type=port_argument,
        help="a page with controls, served to this computer alone (at any free port); SOURCE, TARGET may be left out")
    add("--device", help="cpu, cuda, cuda:1, mps (the best there is)")
    add("--dtype", help="float32, float16 or bfloat16 (as stored; float32 on the cpu)")
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
        raise ValueError(f"{text!r} is no fraction of the steps; write 0.8, or 0.2,0.7 for a window") from None
    return numbers[0] if len(numbers) == 1 else numbers


def cross_steps(texts):
    """["0.8", "car=0.4"] -> {"default_": 0.8, "car": 0.4}"""
    steps = {}
    for text in texts:                                     # a later one overrides
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
        raise ValueError(f"{option} names no word: - is for a prompt without one, and one prompt at least needs one")
    words = [None if word == "-" else word for word in words]
    return words * len(prompts) if len(words) == 1 else words


def check_alone(args):
    """Raises ValueError where SOURCE is alone and something is to be edited."""
    for option in ("blend", "mask"):
        if getattr(args, option):
            raise ValueError(f"--{option} says where a target may change, and there is no TARGET; prompts come first, "
                             "before the options")
    if len(args.cross_steps) > 1 or args.self_steps is not None:
        raise ValueError("--cross-steps and --self-steps say how long maps go into a target, and there is no TARGET")
    if args.maps is None and args.page is None:
        raise ValueError("there is nothing to edit: give a TARGET, or --reweight a word of SOURCE; or --maps or --page "
                         "to look at the maps of SOURCE alone")


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
            raise ValueError(f"--{option} does not go with --image"
                             + ("" if option == "seed" else "; use --size, of the shorter side or WIDTHxHEIGHT"))
    if args.negative and args.invert in ("null-text", "negative-prompt"):
        raise ValueError(f"--negative does not go with --invert {args.invert}, which brings its own")


def open_mask(path, picture, size, factor):
    """The mask, resized and cropped as the picture is, if there is one; what it allows is told."""
    mask = read(path, "black").convert("L")
    if picture is not None:
        if mask.size != picture.size:
            raise ValueError(f"{path} is {mask.width} × {mask.height}, the picture {picture.width} × {picture.height}; "
                             "they must lie on each other")
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
            raise ValueError(f"--{option}: nothing can be written in the folder {path.parent}")
        if path.is_dir():
            raise ValueError(f"--{option} {path} is a folder")
        if names.setdefault(path.resolve(), option) != option:
            raise ValueError(f"--{option} and --{names[path.resolve()]} are the same file, {path}")


def use_few_threads(model):
    """One thread for a small model on the CPU: more gain little, and on a busy machine they wait for each other."""
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
    """Raises ValueError or OSError for whatever the user can mend."""
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
    warnings.simplefilter("ignore")                        # the libraries' …
    warnings.filterwarnings("default", category=UserWarning, module=r"p2p_min\b")          # … but not ours, each once
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
