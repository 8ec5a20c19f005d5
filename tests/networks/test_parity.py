"""p2p_min against diffusers, on narrow random models that have the true shapes of Stable Diffusion.

diffusers makes the checkpoint folders and is the oracle; p2p_min never imports it.
"""
import pytest

diffusers = pytest.importorskip("diffusers")

import dataclasses
import functools
import json
import shutil
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import p2p_min as p2p
from p2p_min import ddim, inversion
from p2p_min.attention import Attention
from p2p_min.networks.text import Context, encode, tokens
from p2p_min.networks.unet import UNet

sys.path.append(str(Path(__file__).parents[2] / "scripts"))
from methods import masactrl  # noqa: E402

SOURCE, TARGET = "a photo of a cat riding a bicycle", "a photo of a dog riding a bicycle"
CLOSE = 1e-5
# A wrong eps of a norm changes these networks' answers by less than that: only double precision shows it.
PRECISIONS = [(torch.float32, CLOSE), (torch.float64, 1e-9)]

SD1_UNET = dict(sample_size=16, block_out_channels=(16, 32, 32, 32), norm_num_groups=8, cross_attention_dim=32)
SD2_UNET = dict(SD1_UNET, attention_head_dim=(2, 4, 4, 4), use_linear_projection=True, upcast_attention=True)
THREE = dict(SD1_UNET, block_out_channels=(16, 24, 32),
             down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
             up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"))
XL_UNET = dict(THREE, layers_per_block=2, attention_head_dim=(2, 3, 4), use_linear_projection=True,
               cross_attention_dim=56, transformer_layers_per_block=(1, 2, 3), addition_embed_type="text_time",
               addition_time_embed_dim=8, projection_class_embeddings_input_dim=20 + 6 * 8)
VAE = dict(block_out_channels=(8, 16, 16, 16), down_block_types=("DownEncoderBlock2D",) * 4,
           up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, norm_num_groups=4, sample_size=128)
XL_VAE = dict(VAE, force_upcast=True, scaling_factor=0.13025)
BETAS = dict(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
PNDM = diffusers.PNDMScheduler(**BETAS, set_alpha_to_one=False, skip_prk_steps=True)
DDIM_V = diffusers.DDIMScheduler(**BETAS, set_alpha_to_one=False, clip_sample=False, prediction_type="v_prediction")
EULER = diffusers.EulerDiscreteScheduler(**BETAS, timestep_spacing="leading")
TURBO = diffusers.EulerAncestralDiscreteScheduler(**BETAS, timestep_spacing="trailing")

SHAPES = {                             # UNet, VAE, activation of the text encoder, scheduler
    "sd1": (dict(SD1_UNET, attention_head_dim=8), VAE, "quick_gelu", PNDM),
    "sd2": (SD2_UNET, VAE, "gelu", PNDM),
    "sd2-v": (SD2_UNET, VAE, "gelu", DDIM_V),
    "orders": (dict(THREE, layers_per_block=(1, 2, 3), transformer_layers_per_block=(1, 2, 3), attention_head_dim=4),
               dict(VAE, mid_block_add_attention=False, layers_per_block=1), "gelu", PNDM),
    "uneven": (dict(THREE, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
                    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"),
                    attention_head_dim=(2, 3, 4), transformer_layers_per_block=((2, 1), 1, (1, 2)),
                    reverse_transformer_layers_per_block=((2, 1, 1), 1, (1, 1, 2))), VAE, "gelu", PNDM),
    "sd2-192": (dict(SD2_UNET, sample_size=24), VAE, "gelu", DDIM_V),
    "sd2-turbo": (SD2_UNET, VAE, "gelu", TURBO),
    "sdxl": (XL_UNET, XL_VAE, "quick_gelu", EULER),
    "sdxl-turbo": (dict(XL_UNET, sample_size=8), XL_VAE, "quick_gelu", TURBO),
}
NETWORKS = ["sd1", "sd2", "orders", "uneven", "sdxl"]
SIZES = [(16, 16), (8, 24), (17, 11)]


def long(*values):
    """Values of a parametrized test that are left out by default."""
    return pytest.param(*values, marks=pytest.mark.long)


def randomize(module, seed):
    """Every parameter random and of a noticeable size, so that none that starts at 0 or 1 hides its branch."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1:
            parameter.data += 0.3 * noise
        else:
            parameter.data = noise / parameter[0].numel() ** 0.5
    return module.eval().requires_grad_(False)


@functools.cache
def spelling():
    texts = [SOURCE, TARGET, "blurry, bad!"] * 4
    trained = CLIPTokenizer().train_new_from_iterator(texts, vocab_size=600, show_progress=False)
    bpe = json.loads(trained.backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in bpe["merges"]]
    letters = sorted(set(bpe["vocab"]) - {"".join(pair) for pair in merges})       # the trainer's own order varies
    return {token: i for i, token in enumerate(dict.fromkeys([*letters, *map("".join, merges)]))}, merges


def make_tokenizer(**padding):
    vocab, merges = spelling()
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77, **padding)


def make_text(build, tokenizer, width, activation, seed, **more):
    return randomize(build(CLIPTextConfig(
        hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, hidden_act=activation,
        vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        **more)), seed)


def make_pipeline(unet, vae, activation, scheduler):
    tokenizer = make_tokenizer()
    parts = dict(
        unet=randomize(diffusers.UNet2DConditionModel(**unet), 0), vae=randomize(diffusers.AutoencoderKL(**vae), 1),
        text_encoder=make_text(CLIPTextModel, tokenizer, 32, activation, 2), tokenizer=tokenizer, scheduler=scheduler)
    if "addition_embed_type" in unet:
        second = make_text(CLIPTextModelWithProjection, tokenizer, 24, "gelu", 3, projection_dim=20)
        tokenizer_2 = make_tokenizer()
        tokenizer_2.pad_token = "!"                        # now, so that a typed "!" is no padding in memory …
        pipe = diffusers.StableDiffusionXLPipeline(
            **parts, text_encoder_2=second, tokenizer_2=tokenizer_2, add_watermarker=False)
    else:
        pipe = diffusers.StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """shape name -> (diffusers' pipeline, p2p_min's model), each made once."""
    made = {}

    def get(name):
        if name not in made:
            pipe, folder = make_pipeline(*SHAPES[name]), tmp_path_factory.mktemp(name)
            pipe.save_pretrained(folder)
            # Latents are never clipped; a PNDM config need not say so, and DDIM's default would.
            pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
            made[name] = pipe, p2p.load(folder, "cpu")
        return made[name]
    return get


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def error(ours, theirs):
    """Relative: the norm of the difference over the norm."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).norm() / theirs.norm())


def sample(pipe, prompts, latents, guidance, negative="", steps=10, after_step=lambda: None):
    """diffusers' own run: pictures and final latents."""
    kept = []

    def keep(pipe, i, t, tensors):
        kept.append(tensors["latents"])
        after_step()
        return tensors

    height, width = (pipe.vae_scale_factor * side for side in latents.shape[-2:])
    images = pipe(prompts, height=height, width=width, num_inference_steps=steps, guidance_scale=guidance,
                  callback_on_step_end=keep, latents=latents.expand(len(prompts), -1, -1, -1),
                  negative_prompt=[negative] * len(prompts) if negative else None).images
    return images, kept[-1]


def texts(pipe, prompts, size=(128, 128)):
    """The `Context` of prompts, by diffusers; of None, the empty negative prompt's."""
    if not hasattr(pipe, "text_encoder_2"):
        return Context(pipe.encode_prompt([prompt or "" for prompt in prompts], "cpu", 1, False)[0])
    rows = []
    for prompt in prompts:
        states, negative, pooled, negative_pooled = pipe.encode_prompt(prompt or "", device="cpu")
        rows.append((negative, negative_pooled) if prompt is None else (states, pooled))
    sizes = torch.tensor([(*size, 0, 0, *size)] * len(prompts), dtype=torch.float32)
    return Context(*map(torch.cat, zip(*rows)), sizes)


def ask(unet, z, time, *contexts):
    """What diffusers' UNet says to the rows of all contexts."""
    states, pooled, sizes = (None if part[0] is None else torch.cat(part) for part in zip(*contexts))
    more = {} if pooled is None else dict(added_cond_kwargs=dict(text_embeds=pooled, time_ids=sizes))
    return unet(z, time, states, **more).sample


# The networks

@pytest.mark.parametrize("dtype, close", PRECISIONS, ids=["fp32", "fp64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("shape", NETWORKS)
def test_unet(models, shape, size, dtype, close):
    """Square, non-square and odd sizes; each row with a timestep of its own."""
    pipe, model = models(shape)
    ours, theirs = (deepcopy(unet).to(dtype) for unet in (model.unet, pipe.unet))
    for module in ours.modules():
        if dtype == torch.float64 and isinstance(module, Attention):
            module.upcast = False                          # to fp32, which would be down
    z, timestep = randn(2, 4, *size).to(dtype), torch.tensor([981, 1])
    context = Context(randn(2, 77, theirs.config.cross_attention_dim, seed=1).to(dtype))
    if ours.add_embedding is not None:
        context = context._replace(pooled=randn(2, 20, seed=2).to(dtype),
                                   sizes=torch.tensor([[64, 72, 8, 0, 64, 72]] * 2))
    assert error(ours(z, timestep, context), ask(theirs, z, timestep, context)) <= close


@pytest.mark.parametrize("dtype, close", PRECISIONS, ids=["fp32", "fp64"])
@pytest.mark.parametrize("shape", ["sd1", "orders"])
def test_vae(models, shape, dtype, close):
    """With attention in the middle ("sd1") and without ("orders")."""
    pipe, model = models(shape)
    ours, theirs = (deepcopy(vae).to(dtype) for vae in (model.vae, pipe.vae))
    pictures, z, scale = randn(2, 3, 40, 64).to(dtype), randn(2, 4, 5, 8).to(dtype), theirs.config.scaling_factor
    assert error(ours.encode(pictures), theirs.encode(pictures).latent_dist.mean * scale) <= close
    assert error(ours.decode(z), theirs.decode(z / scale).sample) <= close


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_text(models, shape):
    """Of prompts, empty ones too."""
    pipe, model = models(shape)
    for ours, theirs in zip(encode(model, [SOURCE, ""], 64, 128), texts(pipe, [SOURCE, ""], (64, 128))):
        assert (ours is None and theirs is None) or error(ours, theirs) <= CLOSE


@pytest.mark.parametrize("zeros", [True, False])
def test_negative_text(models, zeros):
    """SDXL's empty negative prompt, pooled too, is zeros unless model_index.json says otherwise; others are text."""
    pipe, model = models("sdxl")
    forced, pipe = dataclasses.replace(model, zeros_for_empty=zeros), diffusers.StableDiffusionXLPipeline(
        **pipe.components, force_zeros_for_empty_prompt=zeros, add_watermarker=False)
    for negative in ("", "blurry, bad!"):
        _, *theirs = pipe.encode_prompt(SOURCE, device="cpu", negative_prompt=negative or None)
        ours = encode(forced, [negative], 64, 64, is_negative=True)
        for a, b in ((ours.states, theirs[0]), (ours.pooled, theirs[2])):
            assert (a - b).norm() <= CLOSE * b.norm() and a.any() == (negative != "" or not zeros)


def test_vae_that_overflows(models):
    """SDXL's is computed in fp32 in an fp16 model, as diffusers upcasts it."""
    pipe, model = models("sdxl")
    z = randn(1, 4, 5, 8)
    ours = p2p.load(model.path, "cpu", torch.float16).vae.decode(z)
    assert error(ours, pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample) <= CLOSE


# Slimmed UNets, as their folders' configs have them

CROSS = dict(down_block_types=("CrossAttnDownBlock2D",) * 3, up_block_types=("CrossAttnUpBlock2D",) * 3)
FOUR = dict(sample_size=64, block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8, cross_attention_dim=768)
XL = dict(XL_UNET, sample_size=128, block_out_channels=(320, 640, 1280), norm_num_groups=32, cross_attention_dim=2048,
          attention_head_dim=(5, 10, 20), addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816)
SLIM = {                               # and how many parameters their makers count, in millions
    "small-sd": (dict(FOUR, layers_per_block=1), 579),
    "tiny-sd": (dict(FOUR, **CROSS, layers_per_block=1, block_out_channels=(320, 640, 1280), mid_block_type=None), 323),
    "bk-sdm-small": (dict(FOUR, layers_per_block=1, mid_block_type=None), 483),
    "SSD-1B": (dict(XL, mid_block_type="UNetMidBlock2D", transformer_layers_per_block=[1, [2, 2], [4, 4]],
                    reverse_transformer_layers_per_block=[[4, 4, 10], [2, 1, 1], 1]), 1300),
    "Segmind-Vega": (dict(XL, mid_block_type="UNetMidBlock2D", transformer_layers_per_block=[1, [1, 1], [2, 2]],
                          reverse_transformer_layers_per_block=[[2, 2, 2], [1, 1, 1], 1]), 745),
    "KOALA-700M": (dict(XL, layers_per_block=1, mid_block_type=None, transformer_layers_per_block=[1, 2, 5]), 782),
}
NARROW = {320: 16, 640: 24, 1280: 32}


@pytest.mark.parametrize("name", SLIM)
def test_slimmed_unet(name):
    """Narrow, of odd size; and at full width the same parameters as diffusers', as many as their makers say."""
    config, millions = SLIM[name]
    with torch.device("meta"):
        theirs = diffusers.UNet2DConditionModel(**config)
        ours = UNet(json.loads(theirs.to_json_string()))
    shapes, expected = ({key: value.shape for key, value in unet.state_dict().items()} for unet in (ours, theirs))
    assert shapes == expected
    assert sum(shape.numel() for shape in shapes.values()) / 1e6 == pytest.approx(millions, rel=0.03)

    config = dict(config, block_out_channels=[NARROW[n] for n in config["block_out_channels"]], norm_num_groups=8,
                  cross_attention_dim=32, attention_head_dim=4)
    context = Context(randn(2, 77, 32, seed=1))
    if "addition_embed_type" in config:
        config.update(addition_time_embed_dim=8, projection_class_embeddings_input_dim=20 + 6 * 8)
        context = context._replace(pooled=randn(2, 20, seed=2), sizes=torch.tensor([[64, 72, 8, 0, 64, 72]] * 2))
    theirs = randomize(diffusers.UNet2DConditionModel(**config), 0)
    ours = UNet(json.loads(theirs.to_json_string()))
    ours.load_state_dict(theirs.state_dict())
    for dtype, close in PRECISIONS:
        z = randn(2, 4, 17, 11).to(dtype)
        context = Context(*(part if part is None else part.to(dtype) for part in context))
        with torch.no_grad():
            assert error(ours.to(dtype)(z, 981, context), ask(theirs.to(dtype), z, 981, context)) <= close


# Whole runs

@pytest.mark.parametrize("shape, size, guidance, negative", [
    ("sd1", (17, 11), 7.5, "blurry, bad"), long("sd1", (16, 16), 7.5, ""), long("sd1", (16, 16), 1, ""),
    long("sd2", (8, 24), 7.5, ""), ("sd2-v", (16, 16), 7.5, "blurry, bad"), ("orders", (16, 8), 7.5, ""),
    ("sdxl", (17, 11), 7.5, "blurry, bad"), long("sdxl", (16, 16), 7.5, ""), ("sdxl", (8, 24), 1, "")], ids=str)
def test_run(models, shape, size, guidance, negative):
    """Ten guided steps without an edit: the pipeline's latents, and its pictures but for rounding."""
    pipe, model = models(shape)
    z = randn(1, 4, *size)
    ours = p2p.prompt_to_prompt(model, [SOURCE, TARGET], steps=10, guidance=guidance, negative=negative, latents=z)
    images, latents = sample(pipe, [SOURCE, TARGET], z, guidance, negative)
    assert error(ours.latents, latents) <= CLOSE
    for a, b in zip(ours.images, images, strict=True):
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 1


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("shape, theirs", [("sd2-turbo", 0.0), ("sdxl-turbo", 0.0), ("sdxl-turbo", 1.0)])
def test_few_steps(models, shape, theirs, steps):
    """As turbo models are used: trailing spacing, no guidance, which diffusers calls 0 or 1 and p2p_min calls 1."""
    pipe, model = models(shape)
    z = randn(1, 4, 16, 8)
    ours = p2p.prompt_to_prompt(model, [SOURCE, TARGET], steps=steps, guidance=1, latents=z)
    assert error(ours.latents, sample(pipe, [SOURCE, TARGET], z, theirs, steps=steps)[1]) <= CLOSE


def test_size_and_seed_left_out(models):
    """A model generates its own size; a seed is the noise of diffusers' generator of that seed."""
    pipe, model = models("sd2-192")
    ours = p2p.prompt_to_prompt(model, [SOURCE], steps=1, seed=5, guidance=3).images[0]
    theirs = pipe(SOURCE, num_inference_steps=1, guidance_scale=3, generator=torch.Generator().manual_seed(5)).images[0]
    assert ours.size == theirs.size == (192, 192)
    assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1


class Inject:
    """diffusers' attention, its softmax written out; in rows [u, u*, c, c*] of a run the map of c goes into c*.

    wanted(is_cross, pixels) says whether to, at this step.
    """
    def __init__(self, wanted):
        self.wanted = wanted

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None):
        context = x if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (y.unflatten(2, (attn.heads, -1)).transpose(1, 2)
                   for y in (attn.to_q(x), attn.to_k(context), attn.to_v(context)))
        maps = (q @ k.transpose(2, 3) * attn.scale).softmax(-1)
        if self.wanted(encoder_hidden_states is not None, q.shape[2]):
            maps[3] = maps[2]
        return attn.to_out[0]((maps @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("shape, cross_steps, self_steps", [
    long("sd1", 8, 0), ("sd1", 8, 4), long("sd2-v", 3, 10), ("sdxl", 8, 4)])
def test_edit(models, shape, cross_steps, self_steps):
    """Word replacement written a second time, inside diffusers: same pictures. Self-attention up to 8 × 8 pixels."""
    pipe, model = models(shape)
    prompts, z, done = [SOURCE, TARGET], randn(1, 4, 16, 16), []
    assert len({len(pipe.tokenizer(prompt).input_ids) for prompt in prompts}) == 1     # the map is then the identity
    ours = p2p.prompt_to_prompt(
        model, prompts, p2p.replace(model.tokenizer, prompts, steps=cross_steps / 10),
        p2p.self_replace(self_steps / 10, max_pixels=64), steps=10, latents=z)

    def wanted(is_cross, pixels):
        return len(done) < cross_steps if is_cross else len(done) < self_steps and pixels <= 64

    plain = pipe.unet.attn_processors
    _, unedited = sample(pipe, prompts, z, 7.5)
    pipe.unet.set_attn_processor(Inject(wanted))
    _, latents = sample(pipe, prompts, z, 7.5, after_step=lambda: done.append(1))
    pipe.unet.set_attn_processor(plain)
    assert error(ours.latents, latents) <= CLOSE
    assert error(ours.latents[:1], unedited[:1]) <= CLOSE
    assert error(ours.latents[1:], unedited[1:]) > 0.01                                # the edit did something


class Mutual(Inject):
    """MasaCtrl in diffusers: in rows [u, u*, c, c*], u* and c* ask with their own queries for what u and c have."""

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None):
        shown = x[[0, 0, 2, 2]] if self.wanted() else x
        q, k, v = (y.unflatten(2, (attn.heads, -1)).transpose(1, 2)
                   for y in (attn.to_q(x), attn.to_k(shown), attn.to_v(shown)))
        maps = (q @ k.transpose(2, 3) * attn.scale).softmax(-1)
        return attn.to_out[0]((maps @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
def test_masactrl(models, shape):
    """A paper that edits the whole attention, in the unconditional rows too: scripts/methods.py, without a patch."""
    pipe, model = models(shape)
    prompts, z, done = [SOURCE, TARGET], randn(1, 4, 16, 16), []
    ours, conditional = (p2p.prompt_to_prompt(model, prompts, None, masactrl(start=0.8), steps=10, latents=z,
                                              edit_unconditional=each) for each in (True, False))
    plain = pipe.unet.attn_processors
    pipe.unet.set_attn_processor({
        name: Mutual(lambda: len(done) >= 2) if name.startswith("up_blocks") and "attn1" in name else processor
        for name, processor in plain.items()})
    _, latents = sample(pipe, prompts, z, 7.5, after_step=lambda: done.append(1))
    pipe.unet.set_attn_processor(plain)
    assert error(ours.latents, latents) <= CLOSE
    assert error(conditional.latents[1:], latents[1:]) > 100 * CLOSE


# Inversion, written a second time as in the published notebooks, on diffusers' networks and alphas_cumprod

def move(scheduler, output, z, time, time_to):
    """`prev_step` and `next_step` of the null-text notebook in one; a v is converted at the level it was asked at."""
    def alpha(t):
        return scheduler.alphas_cumprod[t] if t >= 0 else scheduler.final_alpha_cumprod
    upper = alpha(max(time, time_to))
    if scheduler.config.prediction_type == "v_prediction":
        output = upper ** 0.5 * output + (1 - upper) ** 0.5 * z
    z_0 = (z - (1 - alpha(time)) ** 0.5 * output) / alpha(time) ** 0.5
    return alpha(time_to) ** 0.5 * z_0 + (1 - alpha(time_to)) ** 0.5 * output


def ddim_loop(pipe, z, steps):
    """The trajectory, the picture's latents first."""
    pipe.scheduler.set_timesteps(steps)
    context, found = texts(pipe, [SOURCE], [8 * side for side in z.shape[-2:]]), [z]
    for time in reversed(pipe.scheduler.timesteps.tolist()):
        output = ask(pipe.unet, found[-1], time, context)
        found.append(move(pipe.scheduler, output, found[-1], time - 1000 // steps, time))
    return found


def null_optimization(pipe, latents, steps, guidance):
    """The notebook's, its numbers for 50 steps (i / 100, i · 2e-5) taken to other numbers of steps."""
    size = [8 * side for side in latents[0].shape[-2:]]
    cond, empty = texts(pipe, [SOURCE], size), texts(pipe, [None], size)
    uncond = empty.states
    pipe.scheduler.set_timesteps(steps)
    found, moves, margins, z = [], [], [], latents[-1]
    for i, time in enumerate(pipe.scheduler.timesteps):
        i_of_50 = i * 50 / steps
        uncond = uncond.clone().detach().requires_grad_()
        optimizer = torch.optim.Adam([uncond], lr=1e-2 * (1 - i_of_50 / 100))
        with torch.no_grad():
            output_cond = ask(pipe.unet, z, time, cond)
        moves.append(0)
        margins.append(1.0)
        for _ in range(10):
            moves[-1] += 1
            output_uncond = ask(pipe.unet, z, time, empty._replace(states=uncond))
            output = output_uncond + guidance * (output_cond - output_uncond)
            loss = torch.nn.functional.mse_loss(pipe.scheduler.step(output, time, z).prev_sample, latents[-2 - i])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            limit = 1e-5 + i_of_50 * 2e-5
            margins[-1] = min(margins[-1], abs(loss.item() / limit - 1))
            if loss.item() < limit:
                break
        found.append(uncond.detach())
        with torch.no_grad():
            output_uncond = ask(pipe.unet, z, time, empty._replace(states=uncond))
            z = pipe.scheduler.step(output_uncond + guidance * (output_cond - output_uncond), time, z).prev_sample
    return found, moves, margins


def random_picture(height, width):
    numbers = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(3))
    return Image.fromarray((255 * numbers).byte().numpy())


@pytest.mark.parametrize("shape, size, steps", [
    ("sd1", (128, 128), 10), ("sd1", (136, 88), 7), ("sd2-v", (128, 128), 10), ("orders", (64, 128), 5),
    ("sdxl", (64, 128), 5)], ids=str)
def test_inversion_trajectory(models, shape, size, steps):
    """From the VAE's mean up, at guidance 1, the network asked at the upper timestep.

    diffusers' inverse scheduler takes the same way, but where it converts a v at the lower level.
    """
    pipe, model = models(shape)
    image = random_picture(*size)
    ours = p2p.invert(model, image, SOURCE, "ddim", steps, size=size).latents
    with torch.no_grad():
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
        z = pipe.vae.encode(pixels).latent_dist.mean * pipe.vae.config.scaling_factor
        theirs = ddim_loop(pipe, z, steps)
    for a, b in zip(ours, reversed(theirs), strict=True):
        assert error(a, b) <= CLOSE
    if pipe.scheduler.config.prediction_type == "epsilon" and 1000 % steps == 0:
        back, context = diffusers.DDIMInverseScheduler.from_config(pipe.scheduler.config), texts(pipe, [SOURCE], size)
        back.set_timesteps(steps)
        with torch.no_grad():
            for time in back.timesteps:
                z = back.step(ask(pipe.unet, z, time, context), time, z).prev_sample
        assert error(ours[0], z) <= CLOSE


def assert_null_text(embeddings, theirs):
    """Adam divides a gradient by its size, and so makes rounding larger: 1e-4 of the embeddings."""
    for a, b in zip(embeddings, theirs, strict=True):
        assert error(a, b) <= 1e-4
    assert error(embeddings[-1], embeddings[0]) > 1e-2                                 # which is far more than that


@pytest.mark.parametrize("shape, guidance", [("sd1", 7.5), long("sd2-v", 3), long("sdxl", 7.5)])
def test_null_text(models, shape, guidance):
    """The embeddings of a picture, in four steps: Adam, its falling rate, what each step begins from."""
    pipe, model = models(shape)
    inv = p2p.invert(model, random_picture(64, 72), SOURCE, "null-text", 4, guidance, size=(64, 72))
    theirs, moves, margins = null_optimization(pipe, inv.latents.flip(0), 4, guidance)
    assert_null_text(inv.unconditional, theirs)
    assert moves == [10] * 4


@pytest.mark.long
def test_null_text_stops_as_published(models):
    """Near to the trajectory of a sampling, steps stop early, after as many moves as in the notebook."""
    pipe, model = models("sd2-v")
    latents = p2p.prompt_to_prompt(model, [SOURCE], steps=20, guidance=1, height=64, width=64).inversion.latents
    theirs, moves, margins = null_optimization(pipe, latents.flip(0), 20, 4)
    with torch.no_grad():
        context, empty = encode(model, [SOURCE]), encode(model, [""])
        ours = inversion.null_text(model, latents, context, empty, ddim.timesteps(model.schedule, 20), 4)
    # Where a loss is at its limit, rounding decides, and from there on the two go apart.
    sure = next((i for i, margin in enumerate(margins) if margin < 3e-3), len(margins))
    assert sure >= 2
    assert_null_text(ours[:sure], theirs[:sure])
    assert {1, 10} < set(moves)                                                        # and something between


@pytest.mark.parametrize("method", inversion.METHODS)
@pytest.mark.parametrize("shape, negative", [
    ("sd1", "blurry, bad"), long("sd2-v", ""), long("sdxl", "blurry, bad"), long("sdxl", "")])
def test_edit_of_a_picture(models, shape, negative, method):
    """Inversion, then source and target with word replacement at guidance 2, both inside diffusers.

    direct as published: source and target are guided alike, and then the source is put back on its trajectory.
    """
    pipe, model = models(shape)
    prompts, steps, done = [SOURCE, TARGET], 4, []
    negative = "" if method in ("null-text", "negative-prompt") else negative
    inv = p2p.invert(model, random_picture(64, 128), SOURCE, method, steps, 2, size=64)
    ours = p2p.prompt_to_prompt(model, prompts, p2p.replace(model.tokenizer, prompts, steps=0.5), steps=steps,
                                inversion=inv, negative=negative, guidance=2)
    cond = texts(pipe, prompts, (64, 128))
    uncond = texts(pipe, [SOURCE if method == "negative-prompt" else negative or None], (64, 128))
    pipe.scheduler.set_timesteps(steps)
    plain = pipe.unet.attn_processors
    pipe.unet.set_attn_processor(Inject(lambda is_cross, pixels: is_cross and len(done) < 2))
    z = inv.latents[0].repeat(2, 1, 1, 1)
    for i, time in enumerate(pipe.scheduler.timesteps):
        if method == "null-text":
            uncond = uncond._replace(states=inv.unconditional[i])
        with torch.no_grad():
            output = ask(pipe.unet, torch.cat([z, z]), time, uncond, uncond, cond)
        z = pipe.scheduler.step(output[:2] + 2 * (output[2:] - output[:2]), time, z).prev_sample
        if method == "direct":
            z[0] = inv.latents[i + 1]
        done.append(time)
    pipe.unet.set_attn_processor(plain)
    assert error(ours.latents, z) <= CLOSE
    assert error(ours.latents[:1], ours.latents[1:]) > 0.01                            # the target is another picture


# The schedule

SPACINGS = ["leading", "trailing", "linspace"]
CONFIGS = [dict(BETAS, set_alpha_to_one=False), dict(BETAS, set_alpha_to_one=True), dict(beta_schedule="linear"),
           dict(trained_betas=torch.linspace(0.001, 0.01, 1000).tolist(), set_alpha_to_one=False),
           dict(BETAS, set_alpha_to_one=False, prediction_type="v_prediction")]
STEPS = [1, 2, 7, 10, 30, 50]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_timesteps(spacing, offset):
    """Equal for every number of steps.

    diffusers asks for time 1000 when all 1000 steps have an offset, and adds a step to some "trailing" ones.
    """
    config = dict(beta_schedule="linear", timestep_spacing=spacing, steps_offset=offset)
    theirs, ours = diffusers.DDIMScheduler(**config), ddim.Schedule.from_config(config)
    for steps in range(1, 1000):
        theirs.set_timesteps(steps)
        times = ddim.timesteps(ours, steps)
        assert len(times) == steps
        assert times == theirs.timesteps.tolist()[:steps]
    assert ddim.timesteps(ours, 1000) == list(range(999, -1, -1))


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("config", CONFIGS, ids=range(len(CONFIGS)))
def test_step(config, spacing, steps):
    """Every step equals DDIM's, and `inverse_step` with the same eps takes it back."""
    config = dict(config, timestep_spacing=spacing, clip_sample=False)
    theirs, ours = diffusers.DDIMScheduler(**config), ddim.Schedule.from_config(config)
    theirs.set_timesteps(steps)
    times = ddim.timesteps(ours, steps)
    assert times == theirs.timesteps.tolist()
    z, output = randn(1, 4, 8, 8), randn(1, 4, 8, 8, seed=1)
    eps_schedule = ours._replace(prediction="epsilon")
    for i, time in enumerate(times):
        below = ddim.step(ours, z, output, times, i)
        assert error(below, theirs.step(output, time, z).prev_sample) <= CLOSE
        eps = ddim.to_eps(ours, output, z, ddim.alphas(ours, times, i)[0])
        assert error(ddim.inverse_step(eps_schedule, below, eps, times, i), z) <= CLOSE


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("config", CONFIGS[:-1], ids=range(len(CONFIGS) - 1))
def test_inverse_step(config, spacing, steps):
    """diffusers' inverse scheduler names a step by its upper timestep too: its times are ours, rising.

    It has no "linspace", and converts a v at the lower level: tests/test_ddim.py says why p2p_min does not.
    """
    config = dict(config, timestep_spacing=spacing, clip_sample=False)
    theirs, ours = diffusers.DDIMInverseScheduler(**config), ddim.Schedule.from_config(config)
    theirs.set_timesteps(steps)
    times = ddim.timesteps(ours, steps)
    assert times[::-1] == theirs.timesteps.tolist()
    z, output = randn(1, 4, 8, 8), randn(1, 4, 8, 8, seed=1)
    for i, time in enumerate(times):
        assert error(ddim.inverse_step(ours, z, output, times, i), theirs.step(output, time, z).prev_sample) <= CLOSE


# Folders as people have them

def rewrite(file, change):
    """The safetensors file with every {name: tensor} entry of `change(name, tensor)` in place of each of its own."""
    tensors = {}
    for name, tensor in load_file(file).items():
        tensors.update(change(name, tensor))
    save_file(tensors, file, metadata={"format": "pt"})


def old_vae_names(folder):
    def change(name, tensor):
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            name = name.replace(f"attentions.0.{new}", f"attentions.0.{old}")
        return {name: tensor}
    rewrite(folder / "vae" / "diffusion_pytorch_model.safetensors", change)


def text_names(folder, prefix):
    """The names with the prefix that some versions of transformers write, or without; and the stray position_ids."""
    file = folder / "text_encoder" / "model.safetensors"
    rewrite(file, lambda name, tensor: {prefix + name.removeprefix("text_model."): tensor})
    save_file({**load_file(file), f"{prefix}embeddings.position_ids": torch.arange(77)[None]}, file)


def half_names(folder):
    """*.fp16.safetensors instead of the plain names (the numbers stay fp32 here)."""
    for file in folder.glob("*/*.safetensors"):
        file.rename(file.with_suffix(".fp16.safetensors"))


def old_tokenizer(folder):
    """vocab.json and merges.txt instead of tokenizer.json."""
    file = folder / "tokenizer" / "tokenizer.json"
    bpe = json.loads(file.read_text())["model"]
    file.unlink()
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    merges = "".join(f"{a} {b}\n" for a, b in bpe["merges"])
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n" + merges)


@pytest.mark.parametrize("age", [
    old_vae_names, lambda folder: text_names(folder, "text_model."), lambda folder: text_names(folder, ""),
    half_names, old_tokenizer], ids=["vae", "text-prefix", "text-bare", "fp16-names", "tokenizer"])
def test_old_folder(models, tmp_path, age):
    """Loads, and is the same model: every weight, every token."""
    _, model = models("sd1")
    folder = tmp_path / "old"
    shutil.copytree(model.path, folder)
    age(folder)
    old = p2p.load(folder, "cpu")
    for part in ("unet", "vae", "text_encoder"):
        a, b = getattr(old, part).state_dict(), getattr(model, part).state_dict()
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    states = (encode(m, [SOURCE, "Blurry,  bad!", ""]).states for m in (old, model))
    assert torch.equal(*states)


def test_a_typed_exclamation_mark(models):
    """… but where diffusers reads it from disk, it is, so that its two encoders see other tokens. Ours see the same."""
    _, model = models("sdxl")
    theirs, prompt = diffusers.StableDiffusionXLPipeline.from_pretrained(model.path), "bad!!! a red car"
    first, second = (tokenizer(prompt).input_ids for tokenizer in (theirs.tokenizer, theirs.tokenizer_2))
    assert first != second and first == model.tokenizer(prompt).input_ids
    a, b = (tokens(model.tokenizer, [prompt], encoder.config.pad_token_id)[0].tolist()
            for encoder in (model.text_encoder, model.text_encoder_2))
    assert a[:len(first)] == b[:len(first)] == first
    assert a[len(first):] != b[len(first):] == [theirs.tokenizer_2.pad_token_id] * (77 - len(first))


def test_padding_token(models, tmp_path):
    """SD 2's tokenizer pads with "!" and says so in special_tokens_map.json only."""
    _, model = models("sd2")
    folder = tmp_path / "old"
    shutil.copytree(model.path, folder)
    old_tokenizer(folder)
    (folder / "tokenizer" / "special_tokens_map.json").write_text(json.dumps({"pad_token": "!"}))
    tokenizer = p2p.load(folder, "cpu").tokenizer
    assert tokenizer("", padding="max_length").input_ids[2:] == [tokenizer.convert_tokens_to_ids("!")] * 75


# The model that ships

@pytest.mark.parametrize("guidance", [1, 5.0])
def test_toy(guidance):
    """diffusers opens weights/toy as it is, and generates the same pictures from the same latents: within 2 of 255."""
    folder = Path(__file__).parents[2] / "weights" / "toy"
    pipe = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    z, prompts = randn(1, 4, 16, 16), ["a big red bicycle", "children drawing of a castle next to a river"]
    ours = p2p.prompt_to_prompt(p2p.load(folder, "cpu"), prompts, steps=20, guidance=guidance, latents=z)
    images, latents = sample(pipe, prompts, z, guidance, steps=20)
    assert error(ours.latents, latents) <= CLOSE
    for a, b in zip(ours.images, images, strict=True):
        assert np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= 2
