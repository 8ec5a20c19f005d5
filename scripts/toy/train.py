"""Train the small Stable Diffusion of `weights/toy` on the drawn world, from nothing: VAE, text encoder, UNet.

    python   scripts/toy/train.py data   --work DIR        render the pictures, train the tokenizer
    torchrun --nproc-per-node 2 scripts/toy/train.py vae   --work DIR
    torchrun --nproc-per-node 2 scripts/toy/train.py unet  --work DIR
    python   scripts/toy/train.py export --work DIR        write weights/toy, fp16, in the diffusers layout

`vae` and `unet` write a checkpoint and a sheet of pictures into DIR every few minutes and go on from there when they
are started again. One process or several (gradients are averaged), on the CPU or on GPUs (`--device cuda`). On a CPU
set OMP_NUM_THREADS=1 and start one process a core: that is faster than one process with two threads.

The recipe that made the shipped weights, on two CPU cores beside other work:

    data   48,000 pictures of 64 × 64: 23,161 of one object without a style, 15,317 with one, 9,522 of two objects
    vae    135,000 samples, batch 2 × 16, AdamW 2e-3, 75 minutes; PSNR of 32 held-out renders 28.6 dB at the end.
           Without the pull towards luma and chroma colours come late.
    unet   400,000 samples, batch 2 × 32, Muon 0.004 for matrices and AdamW 1e-3 for the rest, 2 1/2 hours
           (25 to 60 samples/s, by what else the machine did)

It was one run in three sittings, with no second seed, and not what these commands do in one go:

    first sitting    VAE 75,000 samples (its first 16,000 to 19,000 of earlier drawings), UNet 180,000, each to a rate
                     of zero; on drawings with finer fur, smaller eyes, finer crayon strokes, all pixels weighing alike
    second sitting   from there, optimisers fresh, on today's drawings, objects weighing up to three times (VAE) or
                     twice (UNet) as much as the ground: VAE to 135,000, UNet to 310,000 (330,000 planned till 214,000),
                     each with the rate that this many samples have at that place: first up again, then down to zero
    third sitting    the UNet to 400,000 in the same way, from half of the full rate down to zero; two objects in 35 %
                     of the samples, 15 % before

    samples   UNet's loss   maps (-log share inside the mask)   what one sees
    22,000    0.067         0.16                                colours, places
    42,000    0.055         0.15                                first objects: car, cake
    66,000    0.051         0.16                                most objects; styles come in
    102,000   0.049         0.19                                all objects; two objects share their colours
    137,000   0.043         0.16                                sharper; two objects, often each its own colour
    180,000   0.036         0.15                                rate at zero: places and styles right; no fur, no faces
    221,000   0.055         0.17                                (objects weigh more from here on) eyes, windows, wheels
    259,000   0.048         0.14                                two objects mostly in their own colours
    307,000   0.042         0.14                                rate near zero: fur on balls, cats with faces
    355,000   0.046         0.19                                (more pictures have two objects, whose maps are harder)
    400,000   0.043         0.16                                rate at zero: two objects, each in its own colour

Which of the changes did what was not separated, and no part of the recipe was compared with leaving it out.

The rate is flat for 60 % of the samples, then falls to zero; the averaged weights are shipped. Scenes of one object
come first, styles and second objects between 20 and 50 % of the run. The maps of object, colour and place words are
taught to lie on what they name. All states behind the words are the empty prompt's in training, and a small loss keeps
the text encoder's own like them, so nothing changes when the replacement is left out.
"""
import argparse
import json
import math
import os
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import world
from loop import Muon, barrier, fit
from p2p_min.ddim import Schedule, step, timesteps
from p2p_min.networks.unet import UNet
from p2p_min.networks.vae import VAE

SIZE, FACTOR, LENGTH = 64, 4, 77
WORDS = 24                                     # captions are shorter; behind them stand the empty prompt's states
ROLES = ("object 0", "object 1", "place")
GROUPS = ("simple", "styled", "two")           # one object without a style; with one; two objects
SCALING = 0.18215
VAE_CONFIG = dict(
    _class_name="AutoencoderKL", in_channels=3, out_channels=3, latent_channels=4, block_out_channels=[32, 64, 96],
    layers_per_block=1, down_block_types=["DownEncoderBlock2D"] * 3, up_block_types=["UpDecoderBlock2D"] * 3,
    norm_num_groups=16, act_fn="silu", sample_size=SIZE, scaling_factor=SCALING, mid_block_add_attention=False,
    force_upcast=False)
UNET_CONFIG = dict(
    _class_name="UNet2DConditionModel", sample_size=SIZE // FACTOR, in_channels=4, out_channels=4,
    block_out_channels=[64, 128, 192], layers_per_block=1, norm_num_groups=32, cross_attention_dim=192,
    attention_head_dim=4, transformer_layers_per_block=1, use_linear_projection=False,
    down_block_types=["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"])
SCHEDULER_CONFIG = dict(
    _class_name="DDIMScheduler", num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012,
    beta_schedule="scaled_linear", steps_offset=1, set_alpha_to_one=False, clip_sample=False,
    prediction_type="epsilon", timestep_spacing="leading")
PROMPTS = [
    "a big red bicycle", "a big red car", "a castle next to a river",
    "children drawing of a castle next to a river", "a fluffy red ball", "a blue house in the snow",
    "a green boat on the beach", "an orange cat on the grass", "a black dog at sunset", "a pink cake",
    "watercolor of a yellow flower", "pencil sketch of a butterfly", "a purple butterfly at night",
    "a blossom tree on the grass", "a red car and a blue house", "a white castle at sunset"]


# ---- data ----------------------------------------------------------------------------------------------------------

def render(seed):
    scene = world.sample(seed)
    image, masks = world.render(scene, SIZE)
    side = SIZE // FACTOR
    small = [masks.get(role, np.zeros((SIZE, SIZE))).reshape(side, FACTOR, side, FACTOR).mean((1, 3)) for role in ROLES]
    group = 2 if len(scene.things) == 2 else 1 if scene.style in world.STYLES else 0
    return np.asarray(image), np.uint8(255 * np.stack(small)), world.words(scene), group


def make_data(work, count):
    """Pictures, masks at the latents' size, captions as (words, role) pairs; and the tokenizer that they need."""
    unfinished = work / "pictures.part.npy"
    pictures = np.lib.format.open_memmap(unfinished, "w+", np.uint8, (count, SIZE, SIZE, 3))
    masks = np.lib.format.open_memmap(work / "masks.npy", "w+", np.uint8,
                                      (count, len(ROLES), SIZE // FACTOR, SIZE // FACTOR))
    captions, groups = [], []
    with Pool() as pool:
        for i, (picture, mask, words, group) in enumerate(pool.imap(render, range(count), chunksize=64)):
            pictures[i], masks[i] = picture, mask
            captions.append(words)
            groups.append(group)
    (work / "captions.json").write_text(json.dumps(dict(captions=captions, groups=groups)))
    texts = [" ".join(text for text, _ in words) for words in captions]
    tokenizer = train_tokenizer(texts)
    tokenizer.init_kwargs["known_words"] = sorted({word for text in texts for word in text.split()})
    tokenizer.save_pretrained(work / "tokenizer")
    pictures.flush()
    unfinished.replace(work / "pictures.npy")


def train_tokenizer(captions, split=("bicycle", "butterfly", "watercolor")):
    """CLIP's BPE on these captions. The words in `split` stay in two tokens, so that alignment has something to do."""
    trained = CLIPTokenizer().train_new_from_iterator(captions, vocab_size=2000)
    bpe = json.loads(trained.backend_tokenizer.to_str())["model"]
    whole = {f"{word}</w>" for word in split}
    merges = [tuple(pair) for pair in bpe["merges"] if "".join(pair) not in whole]
    special = ("<|startoftext|>", "<|endoftext|>")
    tokens = sorted(token for token in bpe["vocab"] if len(token.removesuffix("</w>")) == 1)      # their order varies
    tokens += [merged for pair in merges if (merged := "".join(pair)) not in tokens]
    vocab = {token: i for i, token in enumerate([*tokens, *special])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=LENGTH)


def encode_captions(tokenizer, captions):
    """ids (N, WORDS); roles (N, WORDS): which mask a token's map should lie in, -1 for none."""
    ids = np.full((len(captions), WORDS), tokenizer.pad_token_id)
    roles = np.full((len(captions), WORDS), -1)
    for n, words in enumerate(captions):
        row, row_roles = [tokenizer.bos_token_id], [-1]
        for text, role in words:
            for word in text.split():
                tokens = tokenizer(word, add_special_tokens=False).input_ids
                row += tokens
                named = role in ROLES and word not in ("a", "an")
                row_roles += [ROLES.index(role) if named else -1] * len(tokens)
        row.append(tokenizer.eos_token_id)
        ids[n, :len(row)], roles[n, :len(row_roles)] = row, row_roles
    return torch.tensor(ids), torch.tensor(roles)


def grid(pictures, path, columns):
    """uint8 (N, H, W, 3) as one picture, twice enlarged."""
    rows = [np.concatenate(list(pictures[i:i + columns]), 1) for i in range(0, len(pictures), columns)]
    image = Image.fromarray(np.concatenate(rows))
    image.resize((2 * image.width, 2 * image.height), Image.NEAREST).save(path)


def to_pixels(x):
    return ((x.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()


# ---- VAE -----------------------------------------------------------------------------------------------------------

def train_vae(args):
    pictures = np.load(args.work / "pictures.npy", mmap_mode="r")
    masks = np.load(args.work / "masks.npy", mmap_mode="r")
    held = load_pictures(pictures, range(32), args.device)
    vae = VAE(VAE_CONFIG).to(args.device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.99), weight_decay=1e-4)

    def loss_of(vae, generator, batch, progress):
        index = torch.randint(32, len(pictures), (batch,), generator=generator)
        x, things = load_pictures(pictures, index, args.device), object_masks(masks, index, args.device)
        if torch.rand((), generator=generator) < 0.5:
            x, things = x.flip(3), things.flip(3)
        heed = 1 + 2 * F.interpolate(things, scale_factor=FACTOR)      # objects count more than the ground around them
        heed = heed / heed.mean()
        mean, logvar = (y.float() for y in vae.moments(x))
        logvar = logvar.clamp(-20, 10)
        z = mean + (0.5 * logvar).exp() * torch.randn(mean.shape, generator=generator).to(mean.device)
        y = vae.decoder(vae.post_quant_conv(z)).float()
        difference = y - x
        edges = sum((difference.diff(dim=d).abs() * heed.narrow(d, 1, SIZE - 1)).mean() for d in (2, 3))
        chroma = ((difference[:, :2] - difference[:, 1:]).abs() * heed).mean()
        kl = 0.5 * (mean ** 2 + logvar.exp() - 1 - logvar).mean()
        # Early on three latent channels are pulled towards luma and chroma: without that, colours come very late.
        pooled = F.avg_pool2d(x, FACTOR)
        r, g, b = pooled.unbind(1)
        pull = F.mse_loss(mean[:, :3], torch.stack([0.7 * (r + g + b), 1.5 * (r - b), 1.5 * (g - (r + b) / 2)], 1))
        loss = (((difference.abs() + 2 * difference ** 2) * heed).mean() + 0.5 * edges + chroma + 2e-4 * kl
                + max(0.01, 0.3 * (1 - 4 * progress)) * pull)
        psnr = 10 * math.log10(4 / (difference.detach() ** 2).mean().item())
        return loss, dict(loss=loss.item(), psnr=psnr, kl=kl.item())

    @torch.no_grad()
    def sheet(average, path):
        vae = VAE(VAE_CONFIG).to(args.device)
        vae.load_state_dict(average)
        y = vae.decode(vae.encode(held))
        print(f"held-out PSNR {10 * math.log10(4 / F.mse_loss(y.clamp(-1, 1), held).item()):.2f} dB", flush=True)
        rows = (to_pixels(z).reshape(4, 8, SIZE, SIZE, 3) for z in (held, y))
        grid(np.concatenate([np.concatenate(pair) for pair in zip(*rows)]), path, 8)

    fit("vae", vae, [optimizer], loss_of, sheet, args, args.samples or 135_000, args.batch or 16, 0.999)


def load_pictures(pictures, indices, device):
    x = torch.from_numpy(pictures[np.sort(np.asarray(indices))]).to(device)
    return (x.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def object_masks(masks, indices, device):
    """How much of each latent cell is an object, (n, 1, 16, 16), for sorted indices as load_pictures takes them."""
    chosen = torch.from_numpy(masks[np.sort(np.asarray(indices))]).to(device)
    return chosen[:, :2].amax(1, keepdim=True).float() / 255


@torch.no_grad()
def finished_vae(args):
    """The averaged VAE, its latents' mean and deviation folded into the 1×1 convolutions: SD's scaling then fits."""
    vae = VAE(VAE_CONFIG).to(args.device).eval()
    vae.load_state_dict(torch.load(args.work / "vae.pt", map_location=args.device)["average"])
    pictures = np.load(args.work / "pictures.npy", mmap_mode="r")
    means = torch.cat([vae.moments(load_pictures(pictures, range(i, i + 64), args.device))[0]
                       for i in range(0, 2048, 64)])
    shift, spread = means.mean((0, 2, 3)), means.std((0, 2, 3)) * SCALING      # then std(mean latents) · SCALING = 1
    n = len(shift)
    quant, post = vae.quant_conv, vae.post_quant_conv
    quant.weight[:n] /= spread[:, None, None, None]
    quant.bias[:n] = (quant.bias[:n] - shift) / spread
    quant.bias[n:] -= 2 * spread.log()
    post.bias += post.weight[:, :, 0, 0] @ shift
    post.weight *= spread[None, :, None, None]
    return vae


@torch.no_grad()
def encode_latents(args):
    """Scaled mean latents of every picture, (N, 4, 16, 16) in fp16, kept in a file; the processes share the work.

    The file is named after the VAE's samples: a VAE that was trained on makes latents of its own.
    """
    seen = torch.load(args.work / "vae.pt", map_location="cpu")["seen"]
    path, part = args.work / f"latents_{seen:08d}.npy", args.work / "latents.part.npy"
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if not path.exists():
        vae, pictures = finished_vae(args), np.load(args.work / "pictures.npy", mmap_mode="r")
        if rank == 0:
            np.lib.format.open_memmap(part, "w+", np.float16, (len(pictures), 4, SIZE // FACTOR, SIZE // FACTOR))
        barrier()
        latents = np.load(part, mmap_mode="r+")
        for i in range(128 * rank, len(pictures), 128 * processes):
            x = load_pictures(pictures, range(i, min(i + 128, len(pictures))), args.device)
            with torch.autocast(args.device, torch.bfloat16):
                latents[i:i + 128] = vae.encode(x).float().cpu()
        latents.flush()
        barrier()
        if rank == 0:
            part.replace(path)
    barrier()
    return torch.from_numpy(np.load(path))


# ---- text encoder and UNet -----------------------------------------------------------------------------------------

class Painter(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, tokenizer):
        super().__init__()
        self.text = CLIPTextModel(CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=192, intermediate_size=768, num_hidden_layers=3,
            num_attention_heads=4, max_position_embeddings=LENGTH, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, hidden_act="quick_gelu"))
        embeddings = getattr(self.text, "text_model", self.text).embeddings
        nn.init.normal_(embeddings.token_embedding.weight, std=0.5)
        nn.init.normal_(embeddings.position_embedding.weight, std=0.1)
        self.unet = UNet(UNET_CONFIG)
        for module in self.unet.modules():             # residual branches start silent
            for name in ("conv2", "proj_out"):
                if hasattr(module, name):
                    nn.init.zeros_(getattr(module, name).weight)
        nn.init.zeros_(self.unet.conv_out.weight)

    def context(self, ids, empty_ids):
        """Text states (rows, LENGTH, width), every state behind the words replaced by the empty prompt's.

        The words then have to carry the meaning. Attention is causal, so WORDS positions give the words' states
        exactly. The second value is how far the replaced states were from the empty prompt's: as a loss it keeps
        them alike, so that nothing changes when the model is later used without the replacement.
        """
        empty = self.text(empty_ids).last_hidden_state                          # (1, LENGTH, width)
        states = self.text(ids).last_hidden_state                               # (rows, WORDS, width)
        behind = (ids == empty_ids[0, 1])[..., None]
        apart = ((states - empty[:, :WORDS]) ** 2 * behind).sum() / behind.sum() / states.shape[-1]
        states = torch.where(behind, empty[:, :WORDS], states)
        return torch.cat([states, empty[:, WORDS:].expand(len(ids), -1, -1)], dim=1), apart


def map_loss(maps, roles, masks):
    """-log of the share of a named token's map that lies in its mask, over all tokens that have one.

    maps: for each layer (rows, heads, h, w, WORDS); roles (rows, WORDS); masks (rows, roles, 16, 16).
    """
    losses = []
    named = (roles >= 0)
    for layer in maps:
        share = layer.float().mean(1).flatten(1, 2)                                  # (rows, pixels, WORDS)
        small = F.adaptive_avg_pool2d(masks, layer.shape[2:4]).flatten(2)            # (rows, roles, pixels)
        own = small.gather(1, roles.clamp(min=0)[..., None].expand(-1, -1, small.shape[-1]))   # (rows, WORDS, pixels)
        inside = (share.transpose(1, 2) * own).sum(-1) / share.sum(1)
        visible = named & (own.sum(-1) > 0)
        losses.append(-(inside[visible] + 1e-4).log().sum() / visible.sum().clamp(min=1))
    return sum(losses) / len(losses)


def train_unet(args):
    tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")
    saved = json.loads((args.work / "captions.json").read_text())
    ids, roles = encode_captions(tokenizer, saved["captions"])
    groups = torch.tensor(saved["groups"])
    members = [torch.nonzero(groups == g)[:, 0] for g in range(len(GROUPS))]
    latents = encode_latents(args)
    masks = np.load(args.work / "masks.npy")
    empty_ids = torch.full((1, LENGTH), tokenizer.pad_token_id, device=args.device)
    empty_ids[0, 0] = tokenizer.bos_token_id
    schedule = Schedule.from_config(SCHEDULER_CONFIG)
    alphas = schedule.alphas_cumprod.to(args.device)

    painter = Painter(tokenizer).to(args.device)
    painter.unet.to(memory_format=torch.channels_last)
    matrices = [p for n, p in painter.unet.named_parameters()
                if p.ndim > 1 and not n.startswith(("conv_in", "conv_out", "time_embedding"))]
    chosen = {id(p) for p in matrices}
    rest = [p for p in painter.parameters() if id(p) not in chosen]
    optimizers = [Muon(matrices, lr=0.004), torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)]

    def pick(generator, batch, progress):
        """Simple scenes first; styles and second objects come in between 20 % and 50 % of the run."""
        late = min(1, max(0, (progress - 0.2) / 0.3))
        weights = torch.tensor([0.85 - 0.5 * late, 0.15 + 0.15 * late, 0.35 * late])
        which = torch.multinomial(weights, batch, replacement=True, generator=generator).tolist()
        return torch.stack([members[g][torch.randint(len(members[g]), (), generator=generator)] for g in which])

    def loss_of(painter, generator, batch, progress):
        index = pick(generator, batch, progress)
        z = latents[index].float().to(args.device)
        mask = torch.from_numpy(masks[index.numpy()]).to(args.device).float() / 255
        words, role = ids[index].clone(), roles[index].clone()
        dropped = torch.rand(batch, generator=generator) < 0.1
        words[dropped] = empty_ids[:, :WORDS].cpu()
        role[dropped] = -1
        noise = torch.randn(z.shape, generator=generator).to(args.device)
        time_ = torch.randint(0, len(alphas), (batch,), generator=generator).to(args.device)
        a = alphas[time_][:, None, None, None]
        context, apart = painter.context(words.to(args.device), empty_ids)
        maps = []

        def look(M, M_star, t):                        # an Edit that watches: the maps of all rows
            maps.append(torch.cat([M[None], M_star])[..., :WORDS])
            return M_star

        z_t = (a.sqrt() * z + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
        # The second edit changes nothing: it has the softmax written out, whose gradient is faster on a CPU.
        eps = painter.unet(z_t, time_, context, look, lambda M, M_star, t: M_star, t=1.0).float()
        weight = (a / (1 - a)).flatten()
        weight = weight.clamp(max=5) / weight          # min-SNR (Hang et al. 2023)
        heed = 1 + mask[:, :2].amax(1, keepdim=True)   # objects count more than the ground around them
        mse = (((eps - noise) ** 2 * (heed / heed.mean())).mean((1, 2, 3)) * weight).mean()
        inside = map_loss([m for m in maps if m.shape[2] > SIZE // FACTOR // 4], role.to(args.device), mask)
        loss = mse + 0.02 * inside + 0.1 * apart
        return loss, dict(mse=mse.item(), maps=inside.item(), apart=apart.item())

    vae = finished_vae(args)

    @torch.no_grad()
    def sheet(average, path):
        painter = Painter(tokenizer).to(args.device).eval()
        painter.load_state_dict(average)
        context = painter.text(tokenizer(PROMPTS + [""] * len(PROMPTS), padding="max_length", max_length=LENGTH,
                                         return_tensors="pt").input_ids.to(args.device)).last_hidden_state
        z = torch.randn(len(PROMPTS), 4, 16, 16, generator=torch.Generator().manual_seed(0)).to(args.device)
        with torch.autocast(args.device, torch.bfloat16):
            times = timesteps(schedule, 30)
            for i in range(30):
                eps, eps_u = painter.unet(torch.cat([z, z]), times[i], context).float().chunk(2)
                z = step(schedule, z, eps_u + 4 * (eps - eps_u), times, i)
            grid(to_pixels(vae.decode(z)), path, 4)

    fit("unet", painter, optimizers, loss_of, sheet, args, args.samples or 400_000, args.batch or 32, 0.998)


# ---- export --------------------------------------------------------------------------------------------------------

def export(args):
    """The averaged weights as a diffusers folder: fp16 safetensors, json."""
    tokenizer = CLIPTokenizer.from_pretrained(args.work / "tokenizer")
    painter = Painter(tokenizer)
    painter.load_state_dict(torch.load(args.work / "unet.pt", map_location="cpu")["average"])
    vae = finished_vae(args)
    out = args.out
    for folder, config, module in (("unet", UNET_CONFIG, painter.unet), ("vae", VAE_CONFIG, vae)):
        (out / folder).mkdir(parents=True, exist_ok=True)
        (out / folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        save_file({k: v.half().contiguous() for k, v in module.state_dict().items()},
                  out / folder / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    text = painter.text.half()
    text.config.save_pretrained(out / "text_encoder")
    # With the prefix that every transformers reads, although new ones write none.
    tensors = {"text_model." + name.removeprefix("text_model."): v for name, v in text.state_dict().items()}
    save_file(tensors, out / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((out / "text_encoder" / "config.json").read_text())
    config["dtype"] = "float32"            # transformers would run it in fp16 otherwise, diffusers the rest in fp32
    (out / "text_encoder" / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(out / "tokenizer")
    bpe = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    (out / "tokenizer" / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    (out / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, bpe["merges"]), ""]))
    (out / "scheduler").mkdir(exist_ok=True)
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER_CONFIG, indent=2) + "\n")
    (out / "model_index.json").write_text(json.dumps({
        "_class_name": "StableDiffusionPipeline", "requires_safety_checker": False,
        "feature_extractor": [None, None], "safety_checker": [None, None], "image_encoder": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"], "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"], "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"]}, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("stage", choices=["data", "vae", "unet", "export"])
    parser.add_argument("--work", type=Path, required=True, help="folder for data, checkpoints and sheets")
    parser.add_argument("--out", type=Path, default=Path("weights/toy"), help="export: where the model goes")
    parser.add_argument("--samples", type=int, help="data: pictures (48000); vae (135000), unet (400000): all samples")
    parser.add_argument("--batch", type=int, help="samples a step and process")
    parser.add_argument("--every", type=float, default=300, help="seconds between checkpoints")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        if args.device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.manual_seed(0)
    if args.stage == "data":
        make_data(args.work, args.samples or 48_000)
    else:
        dict(vae=train_vae, unet=train_unet, export=export)[args.stage](args)


if __name__ == "__main__":
    main()
