"""The command line: `python -m p2p_min SOURCE TARGET [TARGET ...]`."""
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
from p2p_min.align import unknown_words
from p2p_min.explorer import server
from p2p_min.options import (
    LOAD,
    arguments,
    check_alone,
    check_image_options,
    cross_steps,
    per_prompt,
    size_argument,
    spread,
    steps_argument,
    weights,
)
from p2p_min.pictures import fit, png, read, sheet, write

SMALL = 50_000_000                             # a UNet with fewer parameters needs only one thread
OUT_OF_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")        # CUDA and MPS; CPU; CPU


def tab_labels(target_weights):
    """What tells the targets apart, "fluffy × −2", or None where their weights do not."""
    labels = [", ".join(f"{word} × " + f"{c:g}".replace("-", "−") for word, c in of_target.items())
              for of_target in target_weights]
    return labels if any(labels) and len(set(labels)) == len(labels) else None


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
    if unknown := unknown_words(tokenizer, *prompts):
        print(f"p2p-min: warning: this model does not know {', '.join(unknown)}; it knows",
              *tokenizer.init_kwargs["known_words"], file=sys.stderr)


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
