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

STEPS are a fraction of the steps, counted from pure noise (0.8), or a window (0.2,0.7); at 0, nothing is injected.
A WORD may be a phrase; red#2 is the second red; <start> and <end> are the start and end tokens.
"""
LOAD = ("model", "device", "dtype", "prediction", "spacing", "tokenizer", "vae")         # arguments of `load`


class Parser(argparse.ArgumentParser):
    def error(self, message):                              # argparse would print the usage and exit
        raise ValueError(f"{message} (see --help; prompts go before options)")


def steps(text):
    try:
        numbers = [float(part) for part in text.split(",")]
        return window(numbers if len(numbers) > 1 else numbers[0])
    except ValueError as error:                            # in its own words
        raise argparse.ArgumentTypeError(error) from None


def word_steps(text):
    word, _, value = text.rpartition("=")
    return word or "default_", steps(value)


def factors(text):
    word, numbers = text.rsplit("=", 1)
    return word, [float(number) for number in numbers.split(",")]


def size(text):
    width, x, height = text.partition("x")
    return (int(height), int(width)) if x else int(width)


def build_parser():
    parser = Parser(usage="python -m p2p_min SOURCE TARGET [TARGET ...] [options]", allow_abbrev=False, epilog=EXAMPLES,
                    description="Prompt-to-Prompt: SOURCE, and each TARGET with SOURCE's attention maps (Hertz 2022).",
                    formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("source", metavar="SOURCE", nargs="?", help="the prompt of the picture to edit")
    add("targets", metavar="TARGET", nargs="*", help="an edited prompt: a swap if it has as many words, or an addition")
    add("--live", metavar="PORT", nargs="?", const=0, type=int, help="serve a page with controls (default: any port)")
    add = parser.add_argument_group("the model").add_argument
    add("--model", default="weights/toy", metavar="PATH",
        help="a folder, a .safetensors file, or owner/name[@revision] on the hub (default: %(default)s)")
    add("--prediction", choices=PREDICTIONS, help="what the UNet predicts (default: as stored)")
    add("--spacing", choices=SPACINGS, help="of the timesteps; turbo and lightning need trailing (default: as stored)")
    add("--tokenizer", metavar="DIR", help="its folder (default: the checkpoint's, or one in the hub cache)")
    add("--vae", metavar="PATH", help="a diffusers vae/ folder, or a file of a VAE alone (default: the checkpoint's)")
    add("--device", help="cpu, cuda, cuda:1, mps (default: the best available)")
    add("--dtype", help="float32, float16 or bfloat16 (default: as stored; float32 on the CPU)")
    add = parser.add_argument_group("the pictures").add_argument
    add("--out", default="p2p.png", metavar="FILE", type=Path, help="side by side, a PNG (default: %(default)s)")
    add("--singles", action="store_true", help="also write each by itself: FILE-0.png (source), FILE-1.png, …")
    add("--maps", metavar="FILE", type=Path, help="the map of every word as one picture, a PNG")
    add("--page", metavar="FILE", type=Path, help="the maps of every step as a page for browsers, an .html file")
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
    return parser


def parse(argv):
    """The arguments of a run or of a live page. Raises ValueError for all that can be told without torch."""
    for argument in argv:                                  # Python 3.11 makes an empty list of --
        must(not argument.endswith("=--"), argument.removesuffix("=--"), "given a value", "--")
    args, default = build_parser().parse_intermixed_args(argv), build_parser().parse_args([])
    if args.live is not None:
        others = vars(args).keys() - {"source", "targets", "live", *LOAD}
        others = [each for each in others if getattr(args, each) != getattr(default, each)] + args.targets[1:]
        must(not others, "--live", "alone, or with SOURCE, one TARGET and options of the model", " ".join(others))
        must(0 <= args.live <= 65535, "--live", "a port from 0 (any free one) to 65535", args.live)
        args.first = dict(source=args.source, target=[args.source, *args.targets][-1]) if args.source else {}
        return args
    for option, pairs in named(args, "reweight", "cross_steps"):
        must(len(dict(pairs)) == len(pairs), option, "given once for each word", [word for word, _ in pairs])
    args.targets, args.factors = spread(args.source, args.targets, dict(args.reweight))
    # Options that do not go together.
    is_alone, is_own = not args.targets, args.image is not None
    rules = [                                              # where it is so, these options must not be given
        (is_alone, ("blend", "mask", "cross_steps", "self_steps"), "is for a TARGET; prompts go before options"),
        (not args.blend, ("subtract",), "needs --blend"),
        (not is_own, ("invert", "size"), "needs --image"),
        (is_own, ("seed", "height", "width"), "cannot be used with --image, whose noise and --size are its own"),
        (args.invert in ("null-text", "negative-prompt"), ("negative",), f"cannot be used with --invert {args.invert}")]
    for is_so, names, why in rules:
        for option, _ in named(args, *names) * is_so:
            raise ValueError(f"{option} {why}")
    if args.source is None or is_alone and not named(args, "maps", "page"):
        raise ValueError("there is nothing to edit: give SOURCE and TARGET, or SOURCE and --reweight, --maps or --page")
    # What gets its default only now, so that one could see whether it was given; and a word or a file for each prompt.
    args.seed, args.self_steps = args.seed or 0, args.self_steps or (0.0, 0.4)
    args.cross_steps = {"default_": (0.0, 0.8), **dict(args.cross_steps)}
    args.labels = [", ".join(f"{word}={c:g}" for word, c in each.items()) for each in args.factors]
    args.prompts, n = [args.source, *args.targets], 1 + len(args.targets)
    args.captions = [p + f" [{label}]" * bool(label) for p, label in zip(args.prompts, ["", *args.labels])]
    for option, words in named(args, "blend", "subtract"):
        must(len(words) in (1, n) and set(words) != {"-"}, option,
             f"one word, or one for each of the {n} prompts, - for one that has none", words)
        setattr(args, option[2:], [None if word == "-" else word for word in words * n][:n])
    # Files.
    args.singles = [args.out.with_name(f"{args.out.stem}-{i}.png") for i in range(n * args.singles)]
    outputs = named(args, "out", "maps", "page")
    for option, path in outputs:
        suffix = ".html" if option == "--page" else ".png"
        must(path.suffix.lower() == suffix, option, f"a file that ends in {suffix}", str(path))
    check_files(named(args, "image", "mask"), outputs + [("--singles", path) for path in args.singles])
    return args


def named(args, *names):
    """Those of the options that were given, [(option, value)]."""
    return [(f"--{name.replace('_', '-')}", x) for name in names if (x := getattr(args, name)) not in (None, [], "")]


def spread(source, targets, factors):
    """Targets, and {word: factor} for each: several factors of a word make one target each."""
    targets = targets or [source] * bool(factors)
    lists = [targets, *factors.values()]
    n = max(map(len, lists))
    must(all(len(each) in (1, n) for each in lists if targets), "--reweight",
         f"one factor for a word, or as many as there are targets ({len(targets)}), the same number for all", factors)
    return (targets * n)[:n], [{word: (values * n)[i] for word, values in factors.items()} for i in range(n)]
