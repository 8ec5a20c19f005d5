"""How much memory an edit needs, computed: for Stable Diffusion's shapes, whatever this machine has.

    python scripts/fits.py [sd15 sd21 sdxl] [--dtypes float32 float16]

Every tensor that a call of the UNet or the VAE makes is counted, by its shape, while it is alive. Nothing is
calculated, so that a laptop says what a GPU needs. Workspaces of kernels, and what an allocator keeps, come on top.
benchmark.py measures the same with a checkpoint.
"""
import ctrl_c  # noqa: F401, I001 (before the others, which take seconds)

import argparse
import weakref

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import full_size
import p2p_min as p2p
from p2p_min.networks.text import Context
from p2p_min.networks.unet import UNet
from p2p_min.networks.vae import VAE

PROMPTS = ["a big red bicycle", "a big red car"]
GIB = 2 ** 30


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


def computed(kind, dtype):
    """{what: bytes}: the weights of all parts, and what each call adds to them at its peak.

    A whole run takes the weights and the largest of what its calls add: they come one after another.
    """
    configs, tokenizer = full_size.MODELS[kind], p2p.load("weights/toy", "cpu").tokenizer
    of_vae = torch.float32 if configs["vae"].get("force_upcast") else dtype
    weights = sum(bytes_of(network) * dtype.itemsize // 4 for name, network in full_size.networks(configs).items()
                  if name.startswith("text"))
    side = configs["unet"]["sample_size"]
    one, four = ((p2p.replace(tokenizer, PROMPTS[:1] + PROMPTS[1:] * n), p2p.self_replace()) for n in (1, 4))
    recorder = p2p.Recorder(tokenizer, PROMPTS, per_step=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        unet, vae = built(UNet, configs["unet"], dtype), built(VAE, configs["vae"], of_vae)

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
        return {
            "weights": weights + bytes_of(unet) + bytes_of(vae),
            "VAE": decoding.peak,
            "edit": call(4, *one, t=1.0, rows=2),
            "4 targets": call(5, *four, t=1.0, rows=5),
            "direct": call(3, *one, t=1.0, rows=2),
            "null-text": call(1, gradient=True),
            "page": call(4, *one, t=1.0, rows=2, looks=(recorder.look,)),
        }


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


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(full_size.MODELS)} (default: all)")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float16"), default=("float32", "float16"))
    args = parser.parse_args()
    if unknown := set(args.kinds) - set(full_size.MODELS):
        parser.error(f"there is no kind {', '.join(unknown)}")
    for n, (kind, dtype) in enumerate((k, d) for k in args.kinds or full_size.MODELS for d in args.dtypes):
        found = computed(kind, getattr(torch, dtype))
        if n == 0:
            print("GiB: all weights, and what each call adds\n" + " " * 18 + "".join(f"{name:>11}" for name in found))
        print(f"{kind:8}{dtype:10}" + "".join(f"{size / GIB:11.2f}" for size in found.values()), flush=True)


if __name__ == "__main__":
    main()
