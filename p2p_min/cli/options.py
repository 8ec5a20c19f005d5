"""The command line's options: what they are, what their texts mean, and which go together. It needs no torch."""
import argparse
from pathlib import Path

from ..checks import METHODS, PREDICTIONS, SPACINGS, must, window
from ..files import check_files

EXAMPLES = """
examples, with the small model that comes with p2p_min:
  word swap      python -m p2p_min "a ball on the grass" "a cake on the grass"
  added phrase   python -m p2p_min "a castle next to a river" "children drawing of a castle next to a river"
  re-weighting   python -m p2p_min "a fluffy red ball" --reweight fluffy=-2,-1,0,1,2
  local edit     python -m p2p_min "a red car on the beach" "a blue car on the beach" --blend car
  your picture   python -m p2p_min "a red car on the beach" "a blue car on the beach" --image car.png
  what it sees   python -m p2p_min "a red car in the snow" "a red boat in the snow" --page p2p.html
  in a browser   python -m p2p_min --live

STEPS are a fraction of the steps, counted from pure noise (0.8), or a window (0.2,0.7); at 0, nothing is injected.
A WORD may be a phrase; red#2 is the second red; <start> and <end> are the start and end tokens.
"""

LOAD = ("model", "device", "dtype", "prediction", "spacing", "tokenizer", "vae")         # arguments of `load`


class Parser(argparse.ArgumentParser):
    def error(self, message):                              # argparse would print the usage and exit
        raise ValueError(f"{message} (see --help)")


# ---- what a text means ---------------------------------------------------------------------------------------------

def written(form):
    """Makes a function that reads a text a `type` of argparse, which says that other texts "must be `form`"."""
    def decorate(read):
        def convert(text):
            try:
                return read(text)
            except ValueError:
                raise argparse.ArgumentTypeError(f"must be {form}, not {text!r}") from None
        return convert
    return decorate


@written("a fraction of the steps from 0 to 1, such as 0.8, or a window, such as 0.2,0.7")
def steps(text):
    numbers = [float(part) for part in text.split(",")]
    return window(numbers if len(numbers) > 1 else numbers[0])


def word_steps(text):
    word, _, value = text.rpartition("=")
    return word or "default_", steps(value)


@written("WORD=C or WORD=C,C,… with numbers C")
def factors(text):
    word, numbers = text.rsplit("=", 1)
    return word, [float(number) for number in numbers.split(",")]


@written("pixels, such as 512 for the shorter side, or 768x512 for width and height")
def size(text):
    width, x, height = text.partition("x")
    return (int(height), int(width)) if x else int(width)


@written("a port number, from 0 (any free one) to 65535")
def port(text):
    if int(text) not in range(65536):
        raise ValueError
    return int(text)


# ---- the options ---------------------------------------------------------------------------------------------------

def build_parser(is_live=False):
    """All options, or only those that go with --live."""
    parser = Parser(
        usage="python -m p2p_min SOURCE TARGET [TARGET ...] [options]", epilog=EXAMPLES, allow_abbrev=False,
        description="Prompt-to-Prompt: edit a generated picture by editing its prompt (Hertz et al. 2022).\n"
                    "Generates SOURCE, and each TARGET with SOURCE's attention maps, side by side in one picture.",
        formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", metavar="SOURCE", nargs="?", help="the prompt of the picture to edit")
    add("targets", metavar="TARGET", nargs="?" if is_live else "*", default=[],
        help="an edited prompt: a word swap if it has as many words as SOURCE, otherwise an added phrase")
    add = parser.add_argument_group("the model").add_argument
    add("--model", default="weights/toy", metavar="PATH",
        help="a diffusers folder, a .safetensors file, or owner/name[@revision] on the hub (default: %(default)s)")
    add("--prediction", choices=PREDICTIONS, help="what the UNet predicts (default: as stored)")
    add("--spacing", choices=SPACINGS, help="of the timesteps; turbo and lightning need trailing (default: as stored)")
    add("--tokenizer", metavar="DIR", help="its folder (default: the checkpoint's, or one in the hub cache)")
    add("--vae", metavar="PATH", help="a diffusers vae/ folder, or a file of a VAE alone (default: the checkpoint's)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: the best available)")
    add("--dtype", help="float32, float16 or bfloat16 (default: as stored; float32 on the CPU)")
    add = parser.add_argument_group("a page with controls").add_argument
    add("--live", metavar="PORT", nargs="?", const=0, type=port, help="serve it, to this computer only (default: any)")
    if is_live:
        return parser
    add = parser.add_argument_group("the pictures").add_argument
    add("--out", default="p2p.png", metavar="FILE", type=Path, help="side by side, a PNG (default: %(default)s)")
    add("--singles", action="store_true", help="also write each by itself: FILE-0.png (source), FILE-1.png, …")
    add("--seed", type=int, help="seed of the shared noise (default: 0)")
    add("--steps", type=int, default=50, help="number of DDIM steps (default: %(default)s)")
    add("--guidance", type=float, default=7.5, help="classifier-free guidance scale; 1 is none (default: %(default)s)")
    add("--negative", default="", metavar="TEXT", help="the negative (unconditional) prompt (default: empty)")
    add("--height", type=int, metavar="PIXELS", help="(default: the model's own)")
    add("--width", type=int, metavar="PIXELS", help="(default: the model's own)")
    add = parser.add_argument_group("the edit").add_argument
    add("--cross-steps", action="append", default=[], metavar="[WORD=]STEPS", type=word_steps,
        help="when cross-attention maps are injected, of all words or of one (default: 0.8); repeatable")
    add("--self-steps", metavar="STEPS", type=steps, help="when self-attention maps are injected (default: 0.4)")
    add("--reweight", action="append", default=[], metavar="WORD=C[,C...]", type=factors,
        help="multiply the maps of a word of the target by C; several C make one target each; repeatable")
    add("--blend", nargs="+", metavar="WORD", help="change only where these attend: one for all prompts, or one each")
    add("--subtract", nargs="+", metavar="WORD", help="do not change where these attend, even if --blend would")
    add("--mask", metavar="FILE", help="a picture, white where it may change; as large as --image")
    add = parser.add_argument_group("a picture of your own").add_argument
    add("--image", metavar="FILE", help="edit this picture instead of a generated one; SOURCE describes it")
    add("--size", metavar="PIXELS", type=size, help="first resize it to this shorter side, or crop it to WIDTHxHEIGHT")
    add("--invert", metavar="METHOD", choices=METHODS, help=f"{', '.join(METHODS)} (default: direct)")
    add = parser.add_argument_group("what the words attend to").add_argument
    add("--maps", metavar="FILE", type=Path, help="write the map of every word as one picture, a PNG")
    add("--page", metavar="FILE", type=Path, help="write the maps of every step as a page for browsers, an .html file")
    return parser


# ---- what a command line means -------------------------------------------------------------------------------------

def parse(argv):
    """The arguments of a run or of a live page. Raises ValueError for all that can be told without torch."""
    if any(argument.split("=")[0] == "--live" for argument in argv):
        args, others = build_parser(is_live=True).parse_known_intermixed_args(argv)
        must(not others, "--live", "alone, or with SOURCE, one TARGET and options of the model", " ".join(others))
        return args
    args = build_parser().parse_args(argv)
    args.targets, args.factors = spread(args.source, args.targets, dict(args.reweight))
    check_together(args)

    # What gets its default only now, so that one could see whether it was given; and a word or a file for each prompt.
    args.seed, args.self_steps = args.seed or 0, args.self_steps or (0.0, 0.4)
    args.cross_steps = {"default_": (0.0, 0.8), **dict(args.cross_steps)}
    args.prompts = [args.source, *args.targets]
    args.blend = args.blend and per_prompt("--blend", args.blend, len(args.prompts))
    args.subtract = args.subtract and per_prompt("--subtract", args.subtract, len(args.prompts))
    args.singles = [args.out.with_name(f"{args.out.stem}-{i}.png") for i in range(len(args.prompts) * args.singles)]

    outputs = named(args, "out", "maps", "page")
    for option, path in outputs:
        suffix = ".html" if option == "--page" else ".png"
        must(path.suffix.lower() == suffix, option, f"a file that ends in {suffix}", str(path))
    check_files(named(args, "image", "mask"), outputs + [("--singles", path) for path in args.singles])
    return args


def named(args, *names):
    """Those of the options that were given, [(option, value)]."""
    values = vars(args)
    return [(f"--{name.replace('_', '-')}", values[name]) for name in names if values[name] not in (None, [], "")]


def check_together(args):
    """Raises ValueError for options that do not go together."""
    is_alone, is_own = not args.targets, args.image is not None
    rules = [                                              # where it is so, these options must not be given
        (is_alone, ("blend", "mask", "cross_steps", "self_steps"),
         "is for a TARGET, but there is none; put the prompts before the options"),
        (not args.blend, ("subtract",), "needs --blend"),
        (not is_own, ("invert", "size"), "needs --image"),
        (is_own, ("seed", "height", "width"), "cannot be used with --image, whose noise and --size are its own"),
        (args.invert in ("null-text", "negative-prompt"), ("negative",), f"cannot be used with --invert {args.invert}")]
    for is_so, names, why in rules:
        for option, _ in named(args, *names) * is_so:
            raise ValueError(f"{option} {why}")
    if args.source is None or is_alone and not named(args, "maps", "page"):
        raise ValueError("there is nothing to edit: give SOURCE and TARGET, or SOURCE and --reweight; or, to look at "
                         "SOURCE alone, --maps or --page (see --help)")


def spread(source, targets, factors):
    """Targets, and {word: factor} for each: several factors of a word make one target each."""
    targets = targets or [source] * bool(factors)
    lists = [targets, *factors.values()]
    n = max(map(len, lists))
    must(all(len(each) in (1, n) for each in lists if targets), "--reweight",
         f"one factor for a word, or as many as there are targets ({len(targets)}), the same number for all", factors)
    return (targets * n)[:n], [{word: (values * n)[i] for word, values in factors.items()} for i in range(n)]


def per_prompt(option, words, n):
    """A word for each of n prompts, None for "-"."""
    must(len(words) in (1, n) and set(words) != {"-"}, option,
         f"one word, or one for each of the {n} prompts, - for one that has none", words)
    return [None if word == "-" else word for word in words * n][:n]
