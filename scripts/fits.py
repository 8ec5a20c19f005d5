"""How much memory an edit needs: computed for Stable Diffusion's shapes, or measured with a checkpoint.

    python scripts/fits.py [--kinds sd15 sd21 sdxl] [--dtypes float32 float16]
    python scripts/fits.py --model FOLDER --dtype float16 [--size 512] [--cases edit ...]

The first computes: every tensor that a call of the UNet or the VAE makes is counted, by its shape, while it is alive;
nothing is calculated, so that a laptop says what a GPU needs. Workspaces of kernels, and what the allocator keeps, come
on top: some 5 to 10 %. The second runs two steps of each case (full_size.py makes checkpoints with random weights).
"""
import ctrl_c  # noqa: F401, I001 (before the others, which take seconds)

import argparse
import time
import weakref

import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import full_size
import p2p_min as p2p
import proof
from p2p_min.networks.text import Context
from p2p_min.networks.unet import UNet
from p2p_min.networks.vae import VAE

PROMPTS = ["a big red bicycle", "a big red car"]
# What each case asks of the UNet, 50 steps: for people, who know how long a call takes them.
CASES = dict(
    edit=("one target", "50 calls of 4 rows"), four=("four targets", "100 of 5"),
    direct=("a picture, `direct`", "50 of 1, 50 of 3"),
    null_text=("a picture, `null-text`", "100 of 1, up to 500 of 1 with gradients, 50 of 4"),
    page=("one target, `--page`", "50 of 4"))
TARGETS, GIB = dict(four=4), 2 ** 30


class Peak(TorchDispatchMode):
    """Counts the bytes of the tensors that operations make, while they are alive; `peak` is the most at a time."""

    def __init__(self, *networks):
        super().__init__()
        self.now = self.peak = 0
        self.known = {id_of(each) for network in networks for each in network.parameters()}

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        made = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and id_of(tensor) not in self.known:
                self.add(tensor.untyped_storage())
        return made

    def add(self, storage):
        size, key = storage.nbytes(), storage._cdata

        def gone():
            self.now -= size
            self.known.discard(key)

        self.known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, gone)


def id_of(tensor):
    return tensor.untyped_storage()._cdata


def bytes_of(network):
    return sum(parameter.nbytes for parameter in network.parameters())


def computed(kind, dtype, cases):
    """{case: bytes}: the weights, and the largest of what its calls of the UNet and the VAE add."""
    configs, tokenizer = full_size.MODELS[kind], p2p.load("weights/toy", "cpu").tokenizer
    of_vae = torch.float32 if configs["vae"].get("force_upcast") else dtype
    weights = sum(bytes_of(network) * dtype.itemsize // 4 for name, network in full_size.networks(configs).items()
                  if name.startswith("text"))
    side, found = configs["unet"]["sample_size"], {}
    edits = {n: (p2p.replace(tokenizer, PROMPTS[:1] + PROMPTS[1:] * n), p2p.self_replace()) for n in (1, 4)}
    recorder = p2p.Recorder(tokenizer, PROMPTS, per_step=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        unet, vae = built(UNet, configs["unet"], dtype), built(VAE, configs["vae"], of_vae)
        weights += bytes_of(unet) + bytes_of(vae)

        def call(count, *edits, gradient=False, **more):
            z, context = torch.empty(count, 4, side, side, dtype=dtype), context_of(configs, count, dtype)
            context.states.requires_grad_(gradient)
            with torch.set_grad_enabled(gradient), Peak(unet) as peak:
                eps = unet(z, 500, context, *edits, **more)
                if gradient:
                    torch.autograd.grad(eps.sum(), context.states)
            return peak.peak

        with torch.no_grad(), Peak(vae) as decoding:
            vae.decode(torch.empty(1, 4, side, side, dtype=of_vae))
        ways = dict(
            edit=lambda: call(4, *edits[1], t=1.0, rows=2), four=lambda: call(5, *edits[4], t=1.0, rows=5),
            direct=lambda: call(3, *edits[1], t=1.0, rows=2),
            null_text=lambda: max(call(1, gradient=True), call(4, *edits[1], t=1.0, rows=2)),
            page=lambda: call(4, *edits[1], t=1.0, rows=2, looks=(recorder.look,)))
        for case in cases:
            found[case] = weights + max(decoding.peak, ways[case]())
    return found


def built(build, config, dtype):
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return build(config).requires_grad_(False)
    finally:
        torch.set_default_dtype(usual)


def context_of(configs, rows, dtype):
    unet = configs["unet"]
    context = Context(torch.empty(rows, 77, unet["cross_attention_dim"], dtype=dtype))
    if "text_encoder_2" not in configs:
        return context
    pooled = torch.empty(rows, configs["text_encoder_2"]["projection_dim"], dtype=dtype)
    return context._replace(pooled=pooled, sizes=torch.empty(rows, 6))


def runs(model, size):
    """{case: a run of two steps}."""
    picture = Image.radial_gradient("L").resize((size, size)).convert("RGB")

    def edit(targets=1, inversion=None, recorder=None):
        prompts = PROMPTS[:1] + PROMPTS[1:] * targets
        edits = p2p.replace(model.tokenizer, prompts), p2p.self_replace()
        return p2p.prompt_to_prompt(model, prompts, *edits, steps=2, height=None if inversion else size,
                                    width=None if inversion else size, inversion=inversion, recorder=recorder)

    def invert(method):
        return lambda: edit(inversion=p2p.invert(model, picture, PROMPTS[0], method, 2, size=size))

    def page():
        recorder = p2p.Recorder(model.tokenizer, PROMPTS, per_step=True)
        return p2p.explorer(model, edit(recorder=recorder), recorder)

    return dict(edit=edit, four=lambda: edit(4), direct=invert("direct"), null_text=invert("null-text"), page=page)


def measured(path, device, dtype, size, cases):
    """Prints a row for each case: memory in all, and seconds of two steps."""
    model = p2p.load(path, device, dtype)
    parts = [getattr(model, name) for name in ("unet", "vae", "text_encoder", "text_encoder_2")]
    weights = sum(bytes_of(part) for part in parts if part is not None)
    size = size or min(model.size)
    print(f"{model}, {size} pixels, weights {weights / GIB:.1f} GiB\n{'':12}{'GiB in all':>12}{'seconds, 2 steps':>20}")
    for case, run in runs(model, size).items():
        if case in cases:
            start = time.perf_counter()
            added = proof.added_memory(run, model.device)
            memory = "unknown" if added is None else f"{weights / GIB + added / 1024:.1f}"
            print(f"{case:12}{memory:>12}{time.perf_counter() - start:20.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--kinds", nargs="+", choices=full_size.MODELS, default=list(full_size.MODELS))
    add("--dtypes", nargs="+", choices=("float32", "float16"), default=("float32", "float16"))
    add("--cases", nargs="+", choices=CASES, default=list(CASES))
    add("--model", help="measures with this checkpoint instead")
    add("--device")
    add("--dtype")
    add("--size", type=int, help="of the pictures that are measured, in pixels")
    args = parser.parse_args()
    if args.model:
        return measured(args.model, args.device, args.dtype, args.size, args.cases)
    print("GiB in all, computed\n" + " " * 20 + "".join(f"{case:>12}" for case in args.cases))
    for kind in args.kinds:
        for dtype in args.dtypes:
            found = computed(kind, getattr(torch, dtype), args.cases)
            print(f"{kind:8}{dtype:12}" + "".join(f"{size / GIB:12.1f}" for size in found.values()), flush=True)


if __name__ == "__main__":
    main()
