"""The command line's run: a model, pictures and pages, from arguments that fit together (`options`)."""
import json
import os
import sys
import warnings
from pathlib import Path

import torch
import transformers
from PIL import Image, ImageStat
from PIL.PngImagePlugin import PngInfo

import p2p_min as p2p
from p2p_min.align import unknown_words
from p2p_min.cli.options import LOAD
from p2p_min.files import say, write
from p2p_min.maps import server
from p2p_min.pictures import fit, png, read_picture, sheet

SMALL = 50_000_000                             # a UNet with fewer parameters needs only one thread


def run(args, plan, command):
    """Raises ValueError or OSError for anything that the user can fix."""
    prompts, (source, *targets) = plan.prompts, plan.prompts
    picture = None if args.image is None else read_picture(args.image)
    model = load(args)
    warn_of_unknown_words(model.tokenizer, prompts)
    edit = p2p.auto(model.tokenizer, prompts, plan.cross_steps) if targets else None
    if args.reweight:
        edit = p2p.reweight(model.tokenizer, prompts, plan.weights, edit)
    size = min(model.size) if plan.size is None and model.size else plan.size
    mask = None if args.mask is None else open_mask(args.mask, picture, size, model.vae.factor)
    blend = None
    if args.blend or args.mask:
        blend = p2p.LocalBlend(model.tokenizer, prompts, plan.blend, plan.subtract, mask=mask)
    recorder = p2p.Recorder(model.tokenizer, prompts, per_step=args.page is not None)
    watched = args.maps is not None or args.page is not None
    inversion, progress = None, sys.stderr.isatty()
    if picture is not None:
        inversion = p2p.invert(model, picture, source, args.invert or "direct", args.steps, args.guidance,
                               size=size, progress=progress)
        height, width = (n * model.vae.factor for n in inversion.latents.shape[-2:])
        say(f"{args.image}: {picture.width} × {picture.height} taken as {width} × {height}, "
            f"inverted ({inversion.method})")
    settings = dict(negative=args.negative, steps=args.steps, guidance=args.guidance, seed=args.seed,
                    height=args.height, width=args.width, inversion=inversion, progress=progress)
    result = p2p.prompt_to_prompt(
        model, prompts, edit, p2p.self_replace(plan.self_steps) if targets else None,
        blend=blend, recorder=recorder if watched else None, **settings)
    without = None
    if args.page is not None and targets:                  # what the seed alone gives, of each different target once
        different = list(dict.fromkeys(targets))
        first, *plain = p2p.prompt_to_prompt(model, [source, *different], **settings).images
        without = [first, *(plain[different.index(target)] for target in targets)]

    info = PngInfo()
    info.add_text("parameters", json.dumps({
        **{name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()},
        "prompts": prompts, "model": model.path, "device": str(model.device), "dtype": str(model.dtype),
        "torch": torch.__version__, "p2p_min": p2p.__version__}))
    info.add_text("command", command)
    captions = [prompt + "".join(f"  [{word}={c:g}]" for word, c in of_target.items())
                for prompt, of_target in zip(prompts, [{}, *plan.weights])]
    files = {args.out: png(sheet(result.images, captions), info)}
    files |= {path: png(image, info) for path, image in zip(plan.singles, result.images)}
    if args.maps is not None:
        files[args.maps] = png(p2p.word_sheet(recorder, result.images), info)
    if args.page is not None:
        files[args.page] = p2p.explorer(model, result, recorder, command, without=without,
                                         labels=tab_labels(plan.weights)).encode()
    for path, content in files.items():
        write(path, content)
        say(path)


def tab_labels(target_weights):
    """What tells the targets apart, "fluffy × −2", or None where their weights do not."""
    labels = [", ".join(f"{word} × " + f"{c:g}".replace("-", "−") for word, c in of_target.items())
              for of_target in target_weights]
    return labels if any(labels) and len(set(labels)) == len(labels) else None


def open_mask(path, picture, size, factor):
    """The mask, resized and cropped like the picture, if there is one; prints how much may change."""
    mask = read_picture(path, "black").convert("L")
    if picture is not None:
        if mask.size != picture.size:
            raise ValueError(f"{path} is {mask.width} × {mask.height}, the picture {picture.width} × {picture.height}; "
                             "they must have the same size")
        mask = fit(mask, size, factor, Image.Resampling.BOX).convert("L")
    white = ImageStat.Stat(mask).mean[0] / 255
    say(f"{path}: {white:.0%} of the picture may change")
    if white > 0.5:
        say(f"p2p-min: warning: white means “may change”; if {path} was meant the other way round, invert it",
            file=sys.stderr)
    return mask


def live(args):
    """Serves the live page until Ctrl-C."""
    model = load(args)
    target = args.targets[0] if args.targets else args.source
    first = {} if args.source is None else dict(source=args.source, target=target)
    server.serve(model, {name: getattr(args, name) for name in LOAD}, args.live, first)


def load(args):
    model = p2p.load(args.model, args.device, args.dtype, prediction=args.prediction, spacing=args.spacing,
                     tokenizer=args.tokenizer, vae=args.vae)
    use_few_threads(model)
    about, dtype = model.about and f" ({model.about})", str(model.dtype).removeprefix("torch.")
    say(f"{model.path}{about} on {model.device}, {dtype}")
    return model


def use_few_threads(model):
    """One thread for a small model on the CPU: more gain little, and wait for each other on a busy machine."""
    small = sum(each.numel() for each in model.unet.parameters()) < SMALL
    if model.device.type == "cpu" and small and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def warn_of_unknown_words(tokenizer, prompts):
    if unknown := unknown_words(tokenizer, *prompts):
        say(f"p2p-min: warning: this model does not know {', '.join(unknown)}; it knows",
            *tokenizer.init_kwargs["known_words"], file=sys.stderr)


def show_our_warnings():
    """Each of ours once, as one line, and those of the libraries not at all."""
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", category=UserWarning, module=r"p2p_min\b")
    warnings.showwarning = show_warning
    transformers.logging.set_verbosity_error()


def show_warning(message, category, filename, lineno, file=None, line=None):
    say(f"p2p-min: warning: {message}", file=sys.stderr)
