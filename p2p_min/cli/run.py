"""The command line's run: a model, then pictures and pages, from arguments that fit together (`options`)."""
import json
import os
import sys
import warnings

import torch
import transformers
from PIL import Image, ImageStat, PngImagePlugin

import p2p_min as p2p
from p2p_min.align import unknown_words
from p2p_min.checks import must
from p2p_min.cli.options import LOAD
from p2p_min.files import write
from p2p_min.maps import server
from p2p_min.pictures import fit, png, read_picture, sheet


def run(args, command):
    """Serves a live page, or writes pictures and pages. Raises ValueError or OSError for anything the user can fix."""
    transformers.logging.set_verbosity_error()
    if args.live is not None:
        return server.serve(load(args), args.live, args.first)
    picture = None if args.image is None else read_picture(args.image)     # a wrong file is told before the model loads
    model = load(args)
    prompts, tokenizer = args.prompts, model.tokenizer
    if unknown := unknown_words(tokenizer, *prompts, args.negative):
        known = " ".join(tokenizer.init_kwargs["known_words"])
        warnings.warn(f"this model does not know {', '.join(unknown)}; it knows {known}", stacklevel=1)
    # The edits, where they may act, and who looks at the maps.
    edit = self_edit = blend = recorder = None
    if args.targets:
        edit, self_edit = p2p.auto(tokenizer, prompts, args.cross_steps), p2p.self_replace(args.self_steps)
    if args.reweight:
        edit = p2p.reweight(tokenizer, prompts, args.factors, edit)
    size, mask = args.size or model.size and min(model.size), None
    if args.mask is not None:
        mask = read_picture(args.mask, "black").convert("L")
        if picture is not None:                            # resized and cropped like it
            must(mask.size == picture.size, f"the size of {args.mask}", f"the picture's, {picture.size}", mask.size)
            mask = fit(mask, size, model.vae.factor, Image.Resampling.BOX).convert("L")
        print(f"{args.mask}: {ImageStat.Stat(mask).mean[0] / 255:.0%} of the picture may change")
    if args.blend or mask is not None:
        blend = p2p.LocalBlend(tokenizer, prompts, args.blend, args.subtract, mask=mask)
    if args.maps or args.page:
        recorder = p2p.Recorder(tokenizer, prompts, per_step=args.page is not None)
    # From the seed's noise, or from a picture.
    settings = dict(negative=args.negative, steps=args.steps, guidance=args.guidance, seed=args.seed,
                    height=args.height, width=args.width, progress=sys.stderr.isatty())
    if picture is not None:
        method = args.invert or "direct"
        settings["inversion"] = p2p.invert(model, picture, args.source, method, args.steps, args.guidance, size=size,
                                           progress=settings["progress"])
    result = p2p.prompt_to_prompt(model, prompts, edit, self_edit, blend=blend, recorder=recorder, **settings)
    if picture is not None:
        width, height = result.images[0].size
        print(f"{args.image}: {picture.width} × {picture.height} taken as {width} × {height}, inverted ({method})")
    # The pictures, each of which can tell how it was made.
    made = dict(model=model.path, device=model.device, dtype=model.dtype, torch=torch.__version__,
                p2p_min=p2p.__version__, command=command)
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", json.dumps(vars(args) | made, default=str))
    files = {args.out: png(sheet(result.images, args.captions), info)}
    files |= {path: png(image, info) for path, image in zip(args.singles, result.images)}
    if args.maps:
        files[args.maps] = png(p2p.word_sheet(recorder, result.images), info)
    # The page, with what the seed alone gives, of each different target once.
    if args.page:
        without = None
        if args.targets:
            seen = p2p.Recorder(tokenizer, [args.source, *dict.fromkeys(args.targets)], per_step=True)
            without = p2p.prompt_to_prompt(model, seen.prompts, recorder=seen, **settings), seen
        labels = args.labels if len({"", *args.labels}) > len(args.labels) else None
        files[args.page] = p2p.explorer(model, result, recorder, command, without=without, labels=labels).encode()
    for path, content in files.items():
        write(path, content)
    print(*files, sep="\n")


def load(args):
    model = p2p.load(args.model, **{name: getattr(args, name) for name in LOAD if name != "model"})
    # One thread for a small model on the CPU: more gain little, and wait for each other on a busy machine.
    is_small = sum(each.numel() for each in model.unet.parameters()) < 50_000_000
    if model.device.type == "cpu" and is_small and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    about, dtype = model.about and f" ({model.about})", str(model.dtype).removeprefix("torch.")
    is_slow = (model.device.type, args.dtype, dtype) == ("cuda", None, "float32")
    print(f"{model.path}{about} on {model.device}, {dtype}" + "; --dtype float16 halves time and memory" * is_slow)
    return model
