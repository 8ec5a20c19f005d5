"""Train the small Stable Diffusion of `weights/toy` on the drawn world: VAE, text encoder, UNet, at 128 × 128 pixels.

    python   scripts/toy/train.py data   --work DIR        render the pictures
    python   scripts/toy/train.py old    --work DIR        their latents by the 64-pixel model that this goes on from
    torchrun --nproc-per-node 2 scripts/toy/train.py vae   --work DIR
    torchrun --nproc-per-node 2 scripts/toy/train.py unet  --work DIR
    torchrun --nproc-per-node 2 scripts/toy/train.py decoder --work DIR
    python   scripts/toy/train.py export --work DIR        write weights/toy, fp16, in the diffusers layout

`vae` and `unet` write a checkpoint into DIR every few minutes, a sheet of pictures now and then, and go on from there
when they are started again. One process or several (gradients are averaged), on the CPU or on GPUs (`--device cuda`).
On a CPU set OMP_NUM_THREADS=1 and start one process a core: that is faster than one process with two threads. A
processor without instructions for bfloat16 trains in float32, since it would only imitate the other, ten times slower.

The model goes on from one of 64 × 64 pixels (`--old`; in this project's history, `git archive fba9c16 weights/toy`),
which its own version of this file trained from nothing: VAE 135,000 samples, UNet 400,000, in four hours on two cores.

    vae      has one level more, factor 8 as in Stable Diffusion, so its latents have 16 × 16 cells as before. The new
             level starts as interpolation (`grown`). Both halves are trained together; at first the latents are held
             to what they were, so that the UNet goes on. Noise of up to 0.1 on them, as a UNet's errors.
    unet     goes on from its weights, with more weight on large timesteps, where objects and their colours are
             decided; two objects in nearly half of the samples; what went wrong most (HARD) comes twice as often. With
             --widths it starts from nothing, simple scenes first.
    decoder  half of the VAE, trained on while the latents stay as the UNet knows them.

The rate is flat for 60 % of the samples, then falls to zero; the averaged weights are exported. The maps of object,
colour and place words are taught to lie on what they name. All states behind the words are the empty prompt's in
training, and a small loss keeps the text encoder's own like them, so nothing changes when the replacement is left out.
"""
import argparse
import json
import math
import os
from multiprocessing import Pool
from pathlib import Path
from shutil import copytree

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import world
from loop import Muon, autocast, barrier, fit
from p2p_min.ddim import Schedule, step, timesteps
from p2p_min.networks.unet import UNet
from p2p_min.networks.vae import VAE

SIZE, FACTOR, LENGTH = 128, 8, 77
WORDS = 24                                     # captions are shorter; behind them stand the empty prompt's states
ROLES = ("object 0", "object 1", "place")
GROUPS = ("simple", "styled", "two")           # one object without a style; with one; two objects
SHARES = (0.3, 0.25, 0.45)                     # of the groups in the UNet's training
HARD = {"dog", "bicycle", "cat", "fluffy", "blossom", "flower", "beach", "sunset"}     # taken twice as often
SCALING = 0.18215
HELD = 64                                      # the first pictures, never trained on: what the VAE's PSNR is of
VAE_CONFIG = dict(
    _class_name="AutoencoderKL", in_channels=3, out_channels=3, latent_channels=4, block_out_channels=[32, 32, 64, 96],
    layers_per_block=1, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
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
    scene = world.sample(seed, two=seed % 3 == 0)
    image, masks = world.render(scene, SIZE)
    side = SIZE // FACTOR
    small = [masks.get(role, np.zeros((SIZE, SIZE))).reshape(side, FACTOR, side, FACTOR).mean((1, 3)) for role in ROLES]
    group = 2 if len(scene.things) == 2 else 1 if scene.style in world.STYLES else 0
    return np.asarray(image), np.uint8(255 * np.stack(small)), world.words(scene), group


def make_data(work, old, count):
    """Pictures, masks at the latents' size, captions as (words, role) pairs; the old tokenizer, or a new one."""
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
    if (old / "tokenizer").exists():
        copytree(old / "tokenizer", work / "tokenizer", dirs_exist_ok=True)
    else:
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

def grown(old):
    """The weights of today's 64-pixel VAE with one level more: 128 pixels in and out.

    The encoder's first two convolutions together halve the picture and do what the old first one did; the decoder's
    new level interpolates and leaves the rest to its residuals, which start silent. All else is copied.
    """
    new = VAE(VAE_CONFIG).state_dict()
    for name, value in old.items():
        parts = name.split(".")
        if name.startswith("encoder.down_blocks"):
            parts[2] = str(int(parts[2]) + 1)
        if not name.startswith("encoder.conv_in"):
            place = new[".".join(parts)]
            place.zero_()[tuple(map(slice, value.shape))] = value
    first, halving = new["encoder.conv_in.weight"], new["encoder.down_blocks.0.downsamplers.0.conv.weight"]
    first[:27] = torch.eye(27).reshape(27, 3, 3, 3)                    # every colour of the nine pixels around
    halving.zero_()
    # What row u of a window, shifted by a - 1, gives to the old row above, at and below: all rows have two pixels, but
    # the first of the six is out of reach.
    rows = torch.zeros(3, 3, 3)
    rows[0, 0, 0] = 1
    rows[1, 0, 1] = rows[1, 1, 1] = rows[2, 2, 1] = rows[2, 2, 2] = 0.5
    halving[:, :27] = torch.einsum("ocyx,yua,xvb->ocabuv", old["encoder.conv_in.weight"], rows, rows).flatten(1, 3)
    new["encoder.conv_in.bias"].zero_()
    new["encoder.down_blocks.0.downsamplers.0.conv.bias"] = old["encoder.conv_in.bias"].clone()
    last = len(VAE_CONFIG["block_out_channels"]) - 1
    for resnet in ("encoder.down_blocks.0.resnets.0", f"decoder.up_blocks.{last}.resnets.0",
                   f"decoder.up_blocks.{last}.resnets.1"):
        new[f"{resnet}.conv2.weight"].zero_()
        new[f"{resnet}.conv2.bias"].zero_()
    enlarging = f"decoder.up_blocks.{last - 1}.upsamplers.0.conv"
    triangle = torch.tensor([0.25, 0.5, 0.25])         # after the nearest neighbour's enlargement: linear interpolation
    width = len(new[f"{enlarging}.weight"])
    new[f"{enlarging}.weight"].zero_()[range(width), range(width)] = triangle[:, None] * triangle
    new[f"{enlarging}.bias"].zero_()
    had = old["post_quant_conv.weight"].shape[0]
    for i in range(had, VAE_CONFIG["latent_channels"]):                # new channels: the decoder learns to use them
        nn.init.normal_(new["encoder.conv_out.weight"][had + i], std=0.02)
        new["quant_conv.weight"][i] = 0
        new["quant_conv.bias"][i] = 0
        new["quant_conv.weight"][i, had + i] = 1 / SCALING
        new["post_quant_conv.weight"][i, i] = 1
    return new


def train_vae(args):
    pictures = np.load(args.work / "pictures.npy", mmap_mode="r")
    masks = np.load(args.work / "masks.npy", mmap_mode="r")
    old_latents = torch.from_numpy(np.load(args.work / "latents_of_old.npy"))
    held = load_pictures(pictures, range(HELD), args.device)
    vae = VAE(VAE_CONFIG)
    old = weights_of(args.old / "vae")
    vae.load_state_dict(old if old.keys() == vae.state_dict().keys() else grown(old))
    vae.to(args.device)                                    # channels_last would make the norms' gradients slower
    optimizer = torch.optim.AdamW(vae.parameters(), lr=8e-4, betas=(0.9, 0.99), weight_decay=1e-4)

    def loss_of(vae, generator, batch, progress):
        index = torch.randint(HELD, len(pictures), (batch,), generator=generator).sort().values
        x = load_pictures(pictures, index, args.device)
        z = vae.encode(x).float()
        y = vae.decode(spoiled(z, generator)).float()
        loss, psnr = unlikeness(y, x, object_masks(masks, index, args.device))
        # The latents start as today's, so that the UNet goes on, and keep a deviation of 1: they would shrink under the
        # noise, which the UNet cannot use, or grow to drown it.
        anchor = F.mse_loss(z[:, :old_latents.shape[1]], old_latents[index].float().to(z.device))
        width = (z.var((0, 2, 3)) - 1).abs().mean()
        loss = loss + width + max(0.02, 0.3 * (1 - 4 * progress)) * anchor
        return loss, dict(loss=loss.item(), psnr=psnr, anchor=anchor.item())

    @torch.no_grad()
    def sheet(average, path):
        vae = VAE(VAE_CONFIG).to(args.device)
        vae.load_state_dict(average)
        y = torch.cat([vae.decode(vae.encode(part)).clamp(-1, 1) for part in held.split(16)])
        print(f"held-out PSNR {psnr_of(y, held):.2f} dB", flush=True)
        rows = (to_pixels(z[:32]).reshape(4, 8, SIZE, SIZE, 3) for z in (held, y))
        grid(np.concatenate([np.concatenate(pair) for pair in zip(*rows)]), path, 8)

    fit("vae", vae, [optimizer], loss_of, sheet, args, args.samples or 60_000, args.batch or 8, 0.99)


def train_decoder(args):
    """The decoder alone, further, on the latents that the UNet has learnt."""
    pictures = np.load(args.work / "pictures.npy", mmap_mode="r")
    masks, latents = np.load(args.work / "masks.npy", mmap_mode="r"), encode_latents(args)
    held, held_z = load_pictures(pictures, range(HELD), args.device), latents[:HELD].float().to(args.device)
    vae = finished_vae(args)
    decoder = nn.ModuleDict(dict(decoder=vae.decoder, post_quant_conv=vae.post_quant_conv)).requires_grad_(True)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=8e-4, betas=(0.9, 0.99), weight_decay=1e-4)

    def loss_of(decoder, generator, batch, progress):
        index = torch.randint(HELD, len(pictures), (batch,), generator=generator).sort().values
        x, z = load_pictures(pictures, index, args.device), latents[index].float().to(args.device)
        loss, psnr = unlikeness(vae.decode(spoiled(z, generator)).float(), x, object_masks(masks, index, args.device))
        return loss, dict(loss=loss.item(), psnr=psnr)

    @torch.no_grad()
    def sheet(average, path):
        now = {name: value.clone() for name, value in decoder.state_dict().items()}
        decoder.load_state_dict(average)
        y = torch.cat([vae.decode(part).clamp(-1, 1) for part in held_z.split(16)])
        decoder.load_state_dict(now)
        print(f"held-out PSNR {psnr_of(y, held):.2f} dB", flush=True)
        grid(to_pixels(y[:32]), path, 8)

    fit("decoder", decoder, [optimizer], loss_of, sheet, args, args.samples or 30_000, args.batch or 8, 0.99)


def spoiled(z, generator):
    """Latents with noise of up to 0.1 on them: a UNet's errors."""
    share = 0.1 * torch.rand(len(z), 1, 1, 1, generator=generator) ** 2
    return z + (share * torch.randn(z.shape, generator=generator)).to(z.device)


def unlikeness(y, x, things):
    """(loss, PSNR) of decoded pictures y and the drawings x; objects count more than the ground around them."""
    heed = 1 + 2 * F.interpolate(things, scale_factor=FACTOR)
    heed, difference = heed / heed.mean(), y - x
    edges = sum((difference.diff(dim=d).abs() * heed.narrow(d, 1, SIZE - 1)).mean() for d in (2, 3))
    chroma = ((difference[:, :2] - difference[:, 1:]).abs() * heed).mean()
    loss = ((difference.abs() + 2 * difference ** 2) * heed).mean() + 0.5 * edges + chroma
    return loss, 10 * math.log10(4 / (difference.detach() ** 2).mean().item())


def psnr_of(y, x):
    """The mean over pictures in [-1, 1] of each one's PSNR."""
    return (10 * (4 / ((y - x) ** 2).mean((1, 2, 3))).log10()).mean().item()


def padded(old, module):
    """Old weights in a module that has more channels at some ends; what is new starts as zero."""
    new = {}
    for name, value in module.state_dict().items():
        more = [extra for have, want in zip(old[name].shape, value.shape) for extra in (want - have, 0)]
        new[name] = F.pad(old[name], more[::-1])
    return new


def weights_of(folder):
    return {name: value.float() for name, value in load_file(folder / "diffusion_pytorch_model.safetensors").items()}


@torch.no_grad()
def encode_old(args):
    """The latents that the 64-pixel model's VAE gives all pictures, reduced to its size, in `latents_of_old.npy`."""
    vae = VAE(json.loads((args.old / "vae" / "config.json").read_text())).to(args.device).eval()
    vae.load_state_dict(weights_of(args.old / "vae"))
    pictures = np.load(args.work / "pictures.npy", mmap_mode="r")
    latents = np.zeros((len(pictures), vae.config["latent_channels"], SIZE // FACTOR, SIZE // FACTOR), np.float16)
    for i in range(0, len(pictures), 64):
        x = load_pictures(pictures, range(i, min(i + 64, len(pictures))), args.device)
        latents[i:i + 64] = vae.encode(F.avg_pool2d(x, FACTOR // vae.factor)).float().cpu()
    np.save(args.work / "latents_of_old.npy", latents)


def load_pictures(pictures, indices, device):
    x = torch.from_numpy(pictures[np.asarray(indices)]).to(device)
    return (x.permute(0, 3, 1, 2).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def object_masks(masks, indices, device):
    """How much of each latent cell is an object, (n, 1, 16, 16)."""
    chosen = torch.from_numpy(masks[np.asarray(indices)]).to(device)
    return chosen[:, :2].amax(1, keepdim=True).float() / 255


def finished_vae(args):
    """The averaged VAE; as its latents' deviation, which nothing here uses, a constant: the noise that it can bear."""
    vae = VAE(VAE_CONFIG).to(args.device).eval().requires_grad_(False)
    state = torch.load(args.work / "vae.pt", map_location=args.device)["average"]
    if (args.work / "decoder.pt").exists():
        state |= torch.load(args.work / "decoder.pt", map_location=args.device)["average"]
    vae.load_state_dict(state)
    channels = VAE_CONFIG["latent_channels"]
    vae.quant_conv.weight[channels:] = 0
    vae.quant_conv.bias[channels:] = 2 * math.log(0.05 / SCALING)
    return vae


@torch.no_grad()
def encode_latents(args):
    """Scaled mean latents of every picture, (N, channels, 16, 16) in fp16, in a file; the processes share the work.

    The file is named after the VAE's samples: a VAE that was trained on makes latents of its own.
    """
    seen = torch.load(args.work / "vae.pt", map_location="cpu")["seen"]
    path, part = args.work / f"latents_{seen:08d}.npy", args.work / f"latents_{seen:08d}.part.npy"
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if not path.exists():
        vae, pictures = finished_vae(args), np.load(args.work / "pictures.npy", mmap_mode="r")
        if rank == 0 and not part.exists():
            shape = len(pictures), VAE_CONFIG["latent_channels"], SIZE // FACTOR, SIZE // FACTOR
            np.lib.format.open_memmap(part, "w+", np.float16, shape)
        barrier()
        latents = np.load(part, mmap_mode="r+")
        for i in range(128 * rank, len(pictures), 128 * processes):
            here = range(i, min(i + 128, len(pictures)))
            if latents[here[-1]].any():                    # done before an interruption
                continue
            with autocast(args.device):
                latents[i:i + 128] = vae.encode(load_pictures(pictures, here, args.device)).float().cpu()
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


def named_like(module, tensors):
    """Tensors of a CLIP text model under the names of this version of transformers: with "text_model." or without."""
    prefix = "text_model." if any(name.startswith("text_model.") for name in module.state_dict()) else ""
    return {prefix + name.removeprefix("text_model."): value.float() for name, value in tensors.items()}


def chances_of(captions, groups):
    """How often each picture is taken: by its group, and twice as often if it shows what is hard to draw."""
    share = torch.tensor(SHARES) / torch.bincount(groups, minlength=len(GROUPS))
    hard = [bool(HARD & {word for text, _ in words for word in text.split()}) for words in captions]
    return share[groups] * (1 + torch.tensor(hard).float())


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
    latents = encode_latents(args)
    masks = np.load(args.work / "masks.npy")
    empty_ids = torch.full((1, LENGTH), tokenizer.pad_token_id, device=args.device)
    empty_ids[0, 0] = tokenizer.bos_token_id
    schedule = Schedule.from_config(SCHEDULER_CONFIG)
    alphas = schedule.alphas_cumprod.to(args.device)

    painter = Painter(tokenizer)
    fresh = args.widths is not None                    # a wider UNet starts from nothing
    if not fresh:
        painter.unet.load_state_dict(padded(weights_of(args.old / "unet"), painter.unet))
        text = load_file(args.old / "text_encoder" / "model.safetensors")
        painter.text.load_state_dict(named_like(painter.text, text))
    painter.to(args.device)
    painter.unet.to(memory_format=torch.channels_last)
    matrices = [p for n, p in painter.unet.named_parameters()
                if p.ndim > 1 and not n.startswith(("conv_in", "conv_out", "time_embedding"))]
    chosen = {id(p) for p in matrices}
    rest = [p for p in painter.parameters() if id(p) not in chosen]
    optimizers = [Muon(matrices, lr=0.004), torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01)]
    chances, simple = chances_of(saved["captions"], groups), (groups == 0).float()

    def loss_of(painter, generator, batch, progress):
        # A fresh UNet sees simple scenes first; styles and second objects come in between 20 % and 50 % of the run.
        late = min(1, max(0, (progress - 0.2) / 0.3)) if fresh else 1
        index = torch.multinomial(chances * simple.clamp(min=late), batch, replacement=True, generator=generator)
        z = latents[index].float().to(args.device)
        mask = torch.from_numpy(masks[index.numpy()]).to(args.device).float() / 255
        words, role = ids[index].clone(), roles[index].clone()
        dropped = torch.rand(batch, generator=generator) < 0.1
        words[dropped] = empty_ids[:, :WORDS].cpu()
        role[dropped] = -1
        noise = torch.randn(z.shape, generator=generator).to(args.device)
        is_large = torch.rand(batch, generator=generator) < 0.3    # where objects and their colours are decided
        time_ = torch.rand(batch, generator=generator)
        time_ = torch.where(is_large, 400 + (len(alphas) - 400) * time_, len(alphas) * time_)
        time_ = time_.long().to(args.device)
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
        # Min-SNR (Hang et al. 2023); and more where the signal is weak, since a wrong colour changes eps little there.
        weight = weight.clamp(max=5) / weight * weight.rsqrt().clamp(1, 3)
        heed = 1 + mask[:, :2].amax(1, keepdim=True)   # objects count more than the ground around them
        mse = (((eps - noise) ** 2 * (heed / heed.mean())).mean((1, 2, 3)) * weight).mean()
        inside = map_loss([m for m in maps if m.shape[2] > SIZE // FACTOR // 4], role.to(args.device), mask)
        loss = mse + 0.06 * inside + 0.1 * apart
        return loss, dict(mse=mse.item(), maps=inside.item(), apart=apart.item())

    vae = finished_vae(args)

    @torch.no_grad()
    def sheet(average, path):
        painter = Painter(tokenizer).to(args.device).eval()
        painter.load_state_dict(average)
        context = painter.text(tokenizer(PROMPTS + [""] * len(PROMPTS), padding="max_length", max_length=LENGTH,
                                         return_tensors="pt").input_ids.to(args.device)).last_hidden_state
        z = torch.randn(len(PROMPTS), *latents.shape[1:], generator=torch.Generator().manual_seed(0)).to(args.device)
        with autocast(args.device):
            times = timesteps(schedule, 20)
            for i in range(20):
                eps, eps_u = painter.unet(torch.cat([z, z]), times[i], context).float().chunk(2)
                z = step(schedule, z, eps_u + 4 * (eps - eps_u), times, i)
            grid(to_pixels(vae.decode(z)), path, 4)

    fit("unet", painter, optimizers, loss_of, sheet, args, args.samples or 200_000, args.batch or 32, 0.996)


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
    parser.add_argument("stage", choices=["data", "old", "vae", "decoder", "unet", "export"])
    parser.add_argument("--work", type=Path, required=True, help="folder for data, checkpoints and sheets")
    parser.add_argument("--out", type=Path, default=Path("weights/toy"), help="export: where the model goes")
    parser.add_argument("--old", type=Path, default=Path("weights/toy"), help="the model to start from")
    parser.add_argument("--channels", type=int, default=4, help="of the latents (%(default)s)")
    parser.add_argument("--widths", type=int, nargs=3, help="of the UNet's blocks, if other than today's: from nothing")
    parser.add_argument("--samples", type=int, help="data: pictures (54000); vae (60000), unet (200000): all samples")
    parser.add_argument("--batch", type=int, help="samples a step and process")
    parser.add_argument("--minutes", type=float, help="vae, unet, in one process: train for so long instead")
    parser.add_argument("--every", type=float, default=300, help="seconds between checkpoints")
    parser.add_argument("--sheets", type=float, default=1200, help="seconds between sheets of pictures")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    VAE_CONFIG["latent_channels"] = UNET_CONFIG["in_channels"] = UNET_CONFIG["out_channels"] = args.channels
    UNET_CONFIG["block_out_channels"] = args.widths or UNET_CONFIG["block_out_channels"]
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
        if args.device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.manual_seed(0)
    if args.stage == "data":
        make_data(args.work, args.old, args.samples or 54_000)
    else:
        dict(old=encode_old, vae=train_vae, decoder=train_decoder, unet=train_unet, export=export)[args.stage](args)


if __name__ == "__main__":
    main()
