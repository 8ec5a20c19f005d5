"""Inversion on a small random model: four ways from a picture to noise, and edits that begin from it."""
import copy
import dataclasses
import functools
import json
from fractions import Fraction
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import p2p_min as p2p
from conftest import refuses
from p2p_min import inversion
from p2p_min.ddim import inverse_step, step, timesteps
from p2p_min.inversion import METHODS
from p2p_min.networks.text import encode
from p2p_min.networks.unet import UNet
from p2p_min.networks.vae import VAE
from p2p_min.pictures import fit, to_image, to_tensor

PROMPTS = ["a big car next to a river", "a big bicycle next to a river", "a red car on the snow"]
SOURCE = PROMPTS[0]
ONE_BLOCK = dict(sample_size=8, block_out_channels=[32], layers_per_block=1, norm_num_groups=8, cross_attention_dim=32,
                 attention_head_dim=2, down_block_types=["CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D"])


def inject(M, M_star, t):
    return M.expand_as(M_star)


def picture(height=32, width=32, seed=0):
    """Soft patches of colour."""
    colors = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return to_image(F.interpolate(colors, (height, width), mode="bicubic")[0])


def invert(model, method="direct", steps=3, prompt=SOURCE, image=None, **arguments):
    return p2p.invert(model, image or picture(), prompt, method, steps, **arguments)


def of_noise(method, guidance=7.5):
    """An inversion of nothing, in two steps."""
    latents = torch.randn(3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return p2p.Inversion(latents, SOURCE, method, guidance, latents.new_zeros(2, 1, 77, 32) if "-" in method else None)


def sample(model, inv, *edits, prompts=PROMPTS, **arguments):
    """An edit of an inversion, or of a result."""
    steps = getattr(inv, "inversion", inv).steps
    return p2p.prompt_to_prompt(model, prompts, *edits, steps=steps, inversion=inv, **arguments)


def assert_same(a, b, tolerance=1e-5):
    """Latents equal within 1e-5 of their scale."""
    assert a.shape == b.shape and (a - b).abs().max() <= tolerance * b.abs().max()


def differ(a, b):
    return (a - b).abs().max() > 1e-3 * b.abs().max()


def error(z, inv):
    """How far the source's row is from the picture's latents: the norm of the difference over the norm."""
    return float((z[:1] - inv.latents[-1]).norm() / inv.latents[-1].norm())


class Denoiser(nn.Module):
    """The best prediction for Gaussian data of variance 1, and a random UNet's on top of it.

    Bare random networks are too rough: DDIM does not find back at any number of steps that a test could wait for.
    """

    def __init__(self, schedule):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.unet = UNet(ONE_BLOCK).eval().requires_grad_(False)
        self.schedule, self.config, self.map_sizes = schedule, self.unet.config, self.unet.map_sizes

    def forward(self, z, timestep, *rest):
        best = (1 - self.schedule.alphas_cumprod[timestep]) ** 0.5 * z if self.schedule.prediction == "epsilon" else 0
        return best + self.unet(z, timestep, *rest)


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def smooth(request, model):
    """A model that can be inverted: its latents have variance 1, and the prompt matters."""
    schedule, vae = model.schedule._replace(prediction=request.param), VAE({**model.vae.config, "scaling_factor": 4.0})
    vae.load_state_dict(model.vae.state_dict())
    return dataclasses.replace(model, unet=Denoiser(schedule), vae=vae.requires_grad_(False), schedule=schedule)


@pytest.fixture(scope="module")
def inverted(smooth):
    """method -> the inversion of one picture in six steps, made once."""
    return functools.cache(lambda method: invert(smooth, method, 6))


@pytest.fixture
def calls(monkeypatch):
    """A list that every forward call of a UNet is added to: its z, timestep and context, and whether with gradients."""
    seen, forward = [], UNet.forward

    def spy(self, z, timestep, context, *edits):
        seen.append(dict(z=z, timestep=timestep, context=context, gradients=torch.is_grad_enabled()))
        return forward(self, z, timestep, context, *edits)
    monkeypatch.setattr(UNet, "forward", spy)
    return seen


# ---- the trajectory ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", METHODS)
def test_the_trajectory_is_ddim_upward_at_guidance_1(smooth, inverted, method):
    """From the picture's own latents up: the network is asked at the upper timestep, with the source prompt, unguided.

    All four methods walk it; they differ in what they do on the way down.
    """
    inv, P = inverted(method), encode(smooth, [SOURCE])
    times = timesteps(smooth.schedule, 6)
    assert inv.latents.shape == (7, 1, 4, 8, 8) and inv.steps == 6
    assert torch.equal(inv.latents[-1], smooth.vae.encode(to_tensor(picture())))
    for i in range(6):
        z = inv.latents[i + 1]
        assert_same(inv.latents[i], inverse_step(smooth.schedule, z, smooth.unet(z, times[i], P), times, i))
    assert (inv.prompt, inv.method, inv.guidance) == (SOURCE, method, 7.5)


@pytest.mark.parametrize("method, guidance", [
    ("ddim", 7.5), ("negative-prompt", 7.5), ("direct", 7.5), ("null-text", 1)])
def test_the_trajectory_costs_one_row_a_step_and_all_but_null_text_need_nothing_more(model, calls, method, guidance):
    """Also null-text at guidance 1, where nobody asks for the unconditional embedding."""
    inv = invert(model, method, 4, guidance=guidance)
    assert [len(call["z"]) for call in calls] == [1] * 4
    assert [call["timestep"] for call in calls] == timesteps(model.schedule, 4)[::-1]
    assert (inv.unconditional is None) == (method != "negative-prompt")


@pytest.mark.parametrize("method", METHODS)
def test_an_inversion_is_plain_numbers_that_depend_on_its_arguments_only(model, method):
    """fp32, on the CPU, without gradients; twice the same; the global generator is neither used nor moved."""
    torch.manual_seed(5)
    first = invert(model, method, 1)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    again = invert(model, method, 1)
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(first.latents, again.latents)
    tensors = [first.latents] + ([] if first.unconditional is None else [first.unconditional])
    for tensor in tensors:
        assert (tensor.dtype, tensor.device.type, tensor.requires_grad) == (torch.float32, "cpu", False)
    if first.unconditional is not None:
        assert first.unconditional.shape == (1, 1, 77, 32) and torch.equal(first.unconditional, again.unconditional)


@pytest.mark.parametrize("shape, size, becomes", [
    ((32, 32), None, (32, 32)), ((64, 96), None, (32, 48)), ((90, 40), 16, (36, 16)), ((50, 70), (16, 40), (16, 40))])
def test_the_picture_is_resized_first(model, tmp_path, shape, size, becomes):
    """size is pixels of the shorter side, or (height, width); without it the shorter side is the model's own. A path
    serves as a picture does."""
    image = picture(*shape)
    image.save(tmp_path / "it.png")
    inv = invert(model, steps=1, image=image, size=size)
    assert inv.latents.shape == (2, 1, 4, becomes[0] // 4, becomes[1] // 4)
    assert torch.equal(inv.latents[-1], model.vae.encode(to_tensor(fit(image, size or 32, 4))))
    for path in (tmp_path / "it.png", str(tmp_path / "it.png")):
        assert torch.equal(invert(model, steps=1, image=path, size=size).latents, inv.latents)
    assert [generated.size for generated in sample(model, inv).images] == [becomes[::-1]] * 3


# ---- direct --------------------------------------------------------------------------------------------------------

EDITS = {
    "none": lambda t: dict(),
    "guidance 1": lambda t: dict(guidance=1),
    "negative": lambda t: dict(negative="snow", guidance=3),
    "swap and self-attention": lambda t: dict(cross_edit=p2p.auto(t, PROMPTS, 0.8), self_edit=p2p.self_replace(0.4)),
    "refine": lambda t: dict(cross_edit=p2p.refine(t, PROMPTS, (0.2, 0.7))),
    "reweight": lambda t: dict(cross_edit=p2p.reweight(t, PROMPTS, [{"next": -2.0}, {"snow": 3.0}],
                                                       p2p.auto(t, PROMPTS))),
    "functions": lambda t: dict(cross_edit=inject, self_edit={"up_blocks": inject}),
    "blend words": lambda t: dict(cross_edit=p2p.auto(t, PROMPTS),
                                  blend=p2p.LocalBlend(t, PROMPTS, ["car", "bicycle", "snow"], threshold=0.7)),
    "mask": lambda t: dict(blend=p2p.LocalBlend(t, PROMPTS, None, mask=picture(36, 48).convert("L"))),
    "blend function": lambda t: dict(blend=lambda z, z_star, t: 2 * z_star - z),
}


@pytest.mark.parametrize("edits, prediction", [
    *((key, "epsilon") for key in EDITS), ("swap and self-attention", "v_prediction"), ("blend words", "v_prediction")])
def test_direct_gives_the_source_back_exactly(model, tokenizer, edits, prediction):
    """Direct inversion (Ju et al. 2023): whatever the edit, several targets, not square: the source's latents are the
    picture's, and the picture is the VAE's own reconstruction, to the last bit. The targets are other pictures."""
    model = dataclasses.replace(model, schedule=model.schedule._replace(prediction=prediction))
    image = picture(36, 48)
    inv = invert(model, image=image, size=(36, 48))
    result = sample(model, inv, **EDITS[edits](tokenizer))
    z = model.vae.encode(to_tensor(image))
    assert torch.equal(result.latents[:1], z) and torch.equal(inv.latents[-1], z)
    assert result.images[0].tobytes() == to_image(model.vae.decode(z)[0]).tobytes()
    assert differ(result.latents[1], z[0]) and differ(result.latents[2], z[0])


def test_direct_puts_the_source_on_its_trajectory_after_every_step_before_the_blend(model):
    """So that targets take their maps, and a blend its background, from the very picture that was inverted."""
    inv, seen = invert(model, steps=4), []
    sample(model, inv, blend=lambda z, z_star, t: seen.append(z.clone()) or z_star)
    assert torch.equal(torch.stack(seen), inv.latents[1:])


def test_outside_a_mask_an_edited_picture_is_the_picture(model):
    """Direct, with a mask: where it is black, every target's latents are the VAE's own of the picture."""
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 12, 24, 32))
    inv = invert(model)
    z = sample(model, inv, inject, blend=p2p.LocalBlend(None, None, None, mask=mask)).latents
    same = (z == inv.latents[-1]).all(1)
    assert same[0].all()
    for target in same[1:]:
        assert not target[3:8, 2:6].any() and target.sum() == 64 - 5 * 4


@pytest.mark.parametrize("guidance", [1, 0, 7.5])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("targets", [0, 1, 2])
def test_rows_a_step(model, calls, method, targets, guidance):
    """n targets: direct costs 1 + 2n rows of the UNet a step, since its source needs no guidance; the other methods
    2 + 2n; guidance 1 costs 1 + n."""
    sample(model, of_noise(method, guidance), prompts=PROMPTS[:1 + targets], guidance=guidance)
    rows = sum(len(call["z"]) for call in calls)
    assert rows == 2 * (1 + targets if guidance == 1 else (1 if method == "direct" else 2) + 2 * targets)
    assert all(len(call["z"]) for call in calls)           # a call of no rows is no call


# ---- create first, edit later --------------------------------------------------------------------------------------

@pytest.mark.parametrize("prediction, arguments", [
    ("epsilon", dict(guidance=7.5)), ("epsilon", dict(guidance=1)), ("epsilon", dict(guidance=3, negative="snow")),
    ("v_prediction", dict(guidance=7.5)), ("v_prediction", dict(guidance=-1.5))], ids=str)
def test_a_result_edited_later_is_the_edit_in_one_go(model, tokenizer, calls, prediction, arguments):
    """Create first, edit later: the source is kept to the last bit, the targets but for rounding (1e-5 of the latents'
    scale), in 1 + 2n rows a step instead of 2 + 2n. With edits of both attentions, a blend, two targets, not square."""
    model = dataclasses.replace(model, schedule=model.schedule._replace(prediction=prediction))
    edits = p2p.auto(tokenizer, PROMPTS, 0.5), p2p.self_replace(0.5)
    blend = p2p.LocalBlend(tokenizer, PROMPTS, ["car", "bicycle", "snow"], threshold=0.7)
    arguments = dict(arguments, blend=blend)
    size = dict(steps=3, seed=3, height=36, width=48)
    together = p2p.prompt_to_prompt(model, PROMPTS, *edits, **size, **arguments)
    rows = sum(len(call["z"]) for call in calls)
    first = p2p.prompt_to_prompt(model, PROMPTS[:1], **size, **{**arguments, "blend": None})
    calls.clear()
    later = sample(model, first, *edits, **arguments)
    assert sum(len(call["z"]) for call in calls) == rows - 3 * (arguments["guidance"] != 1)
    assert torch.equal(later.latents[0], first.latents[0]) and later.images[0].tobytes() == first.images[0].tobytes()
    assert_same(later.latents, together.latents)


@pytest.mark.parametrize("method", METHODS)
def test_every_result_can_be_edited_later(smooth, inverted, method, tmp_path):
    """Also one that came from a picture: what its source was generated as is what later edits keep, at any guidance."""
    guidance = 7.5
    result = sample(smooth, inverted(method), inject, guidance=guidance)
    kept = result.inversion
    assert (kept.prompt, kept.method, kept.steps) == (SOURCE, "direct", 6)
    assert torch.equal(kept.latents[0], inverted(method).latents[0])
    assert torch.equal(kept.latents[-1], result.latents[:1])
    kept.save(tmp_path / "kept")
    loaded = p2p.Inversion.load(tmp_path / "kept")
    later = sample(smooth, loaded, prompts=[SOURCE, "a dog"], guidance=3, negative="snow")
    assert torch.equal(later.latents[0], result.latents[0])
    assert later.images[0].tobytes() == result.images[0].tobytes()
    assert differ(later.latents[1], result.latents[1])
    again = sample(smooth, later, prompts=[SOURCE, "a dog"], guidance=3, negative="snow")       # a result of a result
    assert torch.equal(again.latents, later.latents)


# ---- ddim ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("guidance", [1, 7.5])
def test_ddim_begins_from_the_inverted_noise_and_does_nothing_else(smooth, inverted, guidance):
    """Song et al. 2020: the run is the one whose noise is z_T, with the negative prompt that is given."""
    inv, arguments = inverted("ddim"), dict(guidance=guidance, negative="snow")
    noise = p2p.prompt_to_prompt(smooth, PROMPTS, inject, steps=6, latents=inv.latents[0], **arguments)
    assert torch.equal(sample(smooth, inv, inject, **arguments).latents, noise.latents)


def test_ddim_at_guidance_1_comes_back_the_nearer_the_more_steps(smooth):
    """A method of first order: twice the steps, half the error; 100 steps come back within 3 %."""
    found = []
    for steps in (10, 20, 50, 100):
        inv = invert(smooth, "ddim", steps)
        found.append(steps * error(sample(smooth, inv, prompts=PROMPTS[:1], guidance=1).latents, inv))
    assert all(b < 1.3 * a for a, b in zip(found, found[1:])) and found[-1] / 100 < 0.03


# ---- negative-prompt -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("guidance", [0, 7.5])
def test_negative_prompt_cancels_the_guidance_of_the_source(smooth, inverted, guidance):
    """Miyake et al. 2023: with the source prompt as the unconditional one, eps_u = eps_c: at any guidance the source is
    sampled as at guidance 1. The targets are guided away from it."""
    z = sample(smooth, inverted("negative-prompt"), guidance=guidance).latents
    unguided = sample(smooth, inverted("ddim"), guidance=1).latents
    assert_same(z[0], unguided[0])
    assert differ(z[1], unguided[1])
    noise = inverted("ddim").latents[0]
    result = p2p.prompt_to_prompt(smooth, PROMPTS, steps=6, latents=noise, guidance=guidance, negative=SOURCE)
    assert_same(z, result.latents)


# ---- null-text -----------------------------------------------------------------------------------------------------

def losses(model, inv):
    """Per step: the squared distance to the trajectory with the embedding that the step began from, and with its own.

    z goes on from where the guided steps with the embeddings found really lead, as in Algorithm 1 of Mokady et al.
    """
    P, begin = encode(model, [SOURCE, ""]).states[:, None]
    times, z, found = timesteps(model.schedule, inv.steps), inv.latents[0], []

    def guided(embedding):
        eps, eps_u = model.unet(z.expand(2, -1, -1, -1), times[i], torch.cat([P, embedding])).split(1)
        return step(model.schedule, z, eps_u + inv.guidance * (eps - eps_u), times, i)

    for i, embedding in enumerate(inv.unconditional):
        found.append([float(((guided(e) - inv.latents[i + 1]) ** 2).mean()) for e in (begin, embedding)])
        z, begin = guided(embedding), embedding
    return torch.tensor(found), z


def test_null_text_brings_every_step_nearer_to_the_trajectory(smooth, inverted):
    """Mokady et al. 2022: at the end of each step's optimisation its loss is smaller than with the embedding that it
    began with; only the last, which hardly moves, may leave it as it was. The first begins from the empty prompt."""
    found, z = losses(smooth, inverted("null-text"))
    began, ended = found.T
    assert (ended[:-1] < 0.99 * began[:-1]).all() and ended[-1] < 1.001 * began[-1] and ended[0] < 0.7 * began[0]
    assert_same(sample(smooth, inverted("null-text")).latents[:1], z)       # what they were found for is what runs


def test_null_text_that_ends_far_from_its_picture_says_so(smooth, inverted, recwarn):
    """In one line; where it comes back, nothing is said."""
    invert(smooth, "null-text", 6)
    assert not [each for each in recwarn if "null-text" in str(each.message)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inversion, "FAR", 0)
        with pytest.warns(UserWarning, match="^null-text ends 0.* away from the picture, .*does the prompt"):
            invert(smooth, "null-text", 6)


def test_null_text_in_inference_mode_says_so(smooth):
    """Its embeddings need gradients; the other methods need none."""
    with torch.inference_mode():
        refuses(lambda: invert(smooth, "null-text", 2), "null-text needs gradients", "inference_mode")
        invert(smooth, "direct", 2)


def test_the_order_of_the_literature(smooth, inverted):
    """Reconstruction at guidance 7.5: direct is exact, then null-text, then negative-prompt; ddim goes astray."""
    direct, null_text, negative_prompt, ddim = (
        error(sample(smooth, inverted(method), inject).latents, inverted(method))
        for method in ("direct", "null-text", "negative-prompt", "ddim"))
    assert 0 == direct < null_text < 0.9 * negative_prompt < 0.9 * 0.9 * ddim


def test_null_text_embeddings_are_what_all_unconditional_rows_see(smooth, inverted, calls):
    """Each step its own, for the source and for the targets."""
    inv = inverted("null-text")
    calls.clear()
    sample(smooth, inv)
    for i in range(6):
        assert torch.equal(calls[i]["context"].states[3:], inv.unconditional[i].expand(3, -1, -1))
    assert differ(inv.unconditional[1], inv.unconditional[0])


@pytest.mark.parametrize("guidance, inner", [(1.0001, 1), (30.0, 10)])
def test_null_text_optimises_until_it_is_enough_and_at_most_ten_times_a_step(smooth, calls, guidance, inner):
    """As published: ten moves of Adam at most, and only one where the error is below 1e-5 already, here because the
    trajectory is that of a sampling; Adam moves by its rate, 0.01 at first and half of it at last. Gradients only where
    needed: the conditional prediction and the step that is taken have none."""
    sampled = p2p.prompt_to_prompt(smooth, [SOURCE], steps=3, guidance=1).inversion
    calls.clear()
    with torch.no_grad():
        context, empty = encode(smooth, [SOURCE]), encode(smooth, [""])
        found = inversion.null_text(smooth, sampled.latents, context, empty, timesteps(smooth.schedule, 3), guidance)
    assert [call["gradients"] for call in calls] == 3 * [False, *[True] * inner, False]
    assert all(len(call["z"]) == 1 for call in calls)
    if inner == 10:                                        # a gradient that keeps its sign: every move is the full rate
        moved = (found - torch.cat([empty.states[None], found[:-1]])).abs().amax((1, 2, 3))
        assert moved == pytest.approx([0.1 * (1 - i / 6) for i in range(3)], rel=0.05)


@pytest.mark.parametrize("trained", [False, True])
def test_null_text_leaves_no_gradient_in_the_model(folder, trained):
    """No parameter has .grad afterwards, nor requires_grad unless it did before; the weights are what they were."""
    model = p2p.load(folder, "cpu")
    parts = model.unet, model.vae, model.text_encoder
    before = [parameter.clone() for part in parts for parameter in part.requires_grad_(trained).parameters()]
    inv = invert(model, "null-text", 1)
    after = [parameter for part in parts for parameter in part.parameters()]
    assert all(x.grad is None and x.requires_grad == trained for x in after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not inv.unconditional.requires_grad and not inv.latents.requires_grad


@pytest.mark.parametrize("dtype, tolerance", [(torch.float16, 0.03), (torch.bfloat16, 0.15)])
def test_half_precision(folder, model, dtype, tolerance):
    """fp16 and bf16 networks: the inversion is fp32, direct exact, and null-text finds nearly what it finds in fp32:
    its gradients are not too small for fp16, though at this guidance they are small."""
    half = p2p.load(folder, "cpu", dtype)
    model, half = (dataclasses.replace(m, unet=Denoiser(m.schedule).to(m.dtype)) for m in (model, half))
    direct, null_text = (invert(half, method, 2, guidance=1.5) for method in ("direct", "null-text"))
    assert {direct.latents.dtype, null_text.latents.dtype, null_text.unconditional.dtype} == {torch.float32}
    assert torch.equal(sample(half, direct, inject).latents[:1], direct.latents[-1])
    assert sample(half, null_text, guidance=1.5).latents.isfinite().all()
    empty = encode(model, [""]).states
    ours, theirs = (inv.unconditional - empty for inv in (null_text, invert(model, "null-text", 2, guidance=1.5)))
    assert (ours - theirs).norm() < tolerance * theirs.norm()


# ---- an inversion serves many edits --------------------------------------------------------------------------------

@pytest.mark.parametrize("method", METHODS)
def test_an_inversion_serves_many_edits_and_is_not_changed(model, tokenizer, method):
    """Not even by an edit that writes into the maps; the second run is what a first one is."""
    def vandal(M, M_star, t):
        M.zero_()
        return M_star.zero_()
    inv = invert(model, method, 2)
    kept = [None if x is None else x.clone() for x in (inv.latents, inv.unconditional)]
    edits = p2p.auto(tokenizer, PROMPTS), p2p.self_replace(0.5)
    first = sample(model, inv, *edits)
    sample(model, inv, vandal, vandal, prompts=[SOURCE, "a dog"])
    sample(model, inv, prompts=[SOURCE])
    assert torch.equal(sample(model, inv, *edits).latents, first.latents)
    assert torch.equal(inv.latents, kept[0]) and (kept[1] is None or torch.equal(inv.unconditional, kept[1]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        inv.prompt = "a cat"


# ---- files ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", METHODS)
def test_save_and_load_give_it_back_to_the_last_bit(model, tmp_path, method):
    """One safetensors file; any prompt, any name; an older file of the name is replaced, and nothing else is left."""
    made = invert(model, method, 1)
    inv = dataclasses.replace(made, prompt='"größer" 🚗\n{}')
    path = tmp_path / "käse inv"
    path.write_text("older")
    inv.save(path)
    assert list(tmp_path.iterdir()) == [path]
    again = p2p.Inversion.load(str(path))
    assert (again.prompt, again.method, again.guidance) == (inv.prompt, inv.method, inv.guidance)
    assert again.fingerprint == made.fingerprint and made.fingerprint
    assert torch.equal(again.latents, inv.latents) and again.latents.dtype == torch.float32
    assert (again.unconditional is None) == (inv.unconditional is None)
    assert inv.unconditional is None or torch.equal(again.unconditional, inv.unconditional)
    assert torch.equal(sample(model, dataclasses.replace(again, prompt=SOURCE)).latents, sample(model, made).latents)


@pytest.mark.parametrize("stop", [OSError("no space left"), KeyboardInterrupt()], ids=repr)
def test_nothing_half_written_is_left(model, tmp_path, monkeypatch, stop):
    """A save that breaks off leaves the older file as it was, and no other."""
    def broken(path, content):
        path.open("wb").write(content[:50])
        raise stop
    inv, other = invert(model, steps=1), invert(model, steps=2)
    path = tmp_path / "it"
    inv.save(path)
    before = path.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", broken)
        for target in (path, tmp_path / "another"):
            with pytest.raises(ValueError if isinstance(stop, OSError) else type(stop), match="no space left|^$"):
                other.save(target)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == before


def test_a_file_of_an_earlier_version_loads(model, tmp_path):
    """It does not say which model made it; all else is as it was."""
    inv = dataclasses.replace(invert(model, "negative-prompt", 1), fingerprint=None)
    settings = dict(prompt=inv.prompt, method=inv.method, guidance=inv.guidance, facts={"VAE factor": 8})
    save_file(dict(latents=inv.latents, unconditional=inv.unconditional), tmp_path / "old",
              {"p2p_min inversion": json.dumps(settings)})
    again = p2p.Inversion.load(tmp_path / "old")
    assert again.fingerprint is None and torch.equal(sample(model, again).latents, sample(model, inv).latents)


SETTINGS = '{"prompt": "a car", "method": "direct", "guidance": 7.5}'


@pytest.mark.parametrize("tensors, metadata", [
    (dict(latents=torch.zeros(2, 1, 4, 8, 8)), None), (dict(weight=torch.zeros(3)), {"format": "pt"}),
    (dict(weight=torch.zeros(3)), {"p2p_min inversion": SETTINGS}),
    (dict(latents=torch.zeros(2, 1, 4, 8, 8), weight=torch.zeros(3)), {"p2p_min inversion": SETTINGS}),
    (dict(latents=torch.zeros(2, 1, 4, 8, 8)), {"p2p_min inversion": "[]"}),
    (dict(latents=torch.zeros(2, 1, 4, 8, 8)), {"p2p_min inversion": "{}"}),
    (dict(latents=torch.zeros(2, 1, 4, 8, 8)), {"p2p_min inversion": "{"})], ids=range(7))
def test_a_safetensors_file_that_is_no_inversion_says_so(tmp_path, tensors, metadata):
    """One line that names the file."""
    save_file(tensors, tmp_path / "other.safetensors", metadata)
    refuses(lambda: p2p.Inversion.load(tmp_path / "other.safetensors"), "other.safetensors is not an inversion")


@pytest.mark.parametrize("share", [0, 0.001, 0.05, 0.5, 0.999])
def test_a_truncated_file_says_so(model, tmp_path, share):
    """Cut anywhere: in its header, or in its numbers."""
    path = tmp_path / "it.safetensors"
    invert(model, "negative-prompt", 1).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:int(share * len(whole))])
    refuses(lambda: p2p.Inversion.load(path), "it.safetensors is not an inversion")


def test_a_missing_file_says_so(tmp_path):
    """A folder is no file either."""
    for path in (tmp_path / "nowhere", tmp_path):
        refuses(lambda path=path: p2p.Inversion.load(path), f"no inversion at {path}")


Z, STATES, POOLED = torch.zeros(3, 1, 4, 8, 8), torch.zeros(2, 1, 77, 32), torch.zeros(1, 40)
NULL_TEXT = dict(latents=Z, prompt=SOURCE, method="null-text", guidance=7.5, unconditional=STATES, pooled=POOLED)


@pytest.mark.parametrize("name, value, says", [
    ("latents", None, "not None"), ("latents", Z[:1], "of (1, 1, 4, 8, 8)"), ("latents", Z[:, 0], "of (3, 4, 8, 8)"),
    ("latents", Z.half(), "float16"), ("latents", Z + float("nan"), "finite"),
    ("unconditional", None, "(2 steps, 1, tokens, width), not None"), ("unconditional", STATES[:1], "(1, 1, 77, 32)"),
    ("unconditional", STATES + float("inf"), "finite"), ("pooled", POOLED[0], "(40,)"),
    ("method", "magic", "ddim or null-text"), ("prompt", ["a car"], "one text"), ("guidance", "7.5", "finite number")])
def test_a_field_that_cannot_be_is_named(name, value, says):
    """Made by hand, changed, or from a file: checked in one place, before anything is computed with it."""
    refuses(lambda: p2p.Inversion(**{**NULL_TEXT, name: value}), name, "must be", says)
    refuses(lambda: dataclasses.replace(p2p.Inversion(**NULL_TEXT), **{name: value}), name, "must be", says)


@pytest.mark.parametrize("fields, says", [
    (dict(method="direct"), "of direct must be None"),
    (dict(method="ddim", unconditional=None), "of ddim must be None"),
    (dict(method="negative-prompt", unconditional=None, guidance=1), "of negative-prompt must be finite"),
    (dict(unconditional=None), "of null-text must be finite"),
    (dict(method="ddim", unconditional=None, pooled=None), None), (dict(pooled=None), None),
    (dict(unconditional=None, pooled=None, guidance=1), None), (dict(guidance=Fraction(1, 2)), None)])
def test_embeddings_are_there_where_the_method_has_some_and_nowhere_else(tmp_path, fields, says):
    """A null-text file without them must not run with the empty prompt, silently. At guidance 1 it has none."""
    fields = {**NULL_TEXT, **fields}
    if says:
        refuses(lambda: p2p.Inversion(**fields), says)
        return
    p2p.Inversion(**fields).save(tmp_path / "it")
    assert p2p.Inversion.load(tmp_path / "it").guidance == fields["guidance"]


# ---- what cannot be done -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, says", [
    (dict(method="magic"), "method must be ddim or null-text or negative-prompt or direct, not 'magic'"),
    (dict(method=None), "method"), (dict(method=["direct"]), "method"), (dict(method="Direct"), "method"),
    (dict(guidance=float("nan")), "guidance"), (dict(guidance=float("inf")), "guidance"),
    (dict(guidance="7.5"), "guidance"), (dict(guidance=None), "guidance"), (dict(guidance=1e39), "guidance"),
    (dict(guidance=10 ** 400), "guidance"),
    (dict(prompt=[SOURCE]), "prompt must be one text"), (dict(prompt=None), "prompt"),
    (dict(prompt="big " * 80), "82 tokens"), (dict(steps=0), "steps"), (dict(steps=-1), "steps"),
    (dict(steps=2.0), "steps"), (dict(steps=1001), "1 to 1000"), (dict(steps=None), "steps"),
    (dict(steps=True), "steps"), (dict(size=0), "size"), (dict(size=-32), "size"), (dict(size=32.0), "size"),
    (dict(size="32"), "size"), (dict(size=(32,)), "size"), (dict(size=(32, 2)), "size"), (dict(size=5000), "size")])
def test_what_cannot_be_inverted_is_a_ValueError_that_names_it(model, calls, arguments, says):
    """Before the network is asked at all."""
    refuses(lambda: invert(model, **arguments), says)
    assert not calls


def test_a_file_that_is_no_picture_is_an_error(model, tmp_path):
    """With its name."""
    (tmp_path / "text.png").write_text("a car")
    refuses(lambda: invert(model, image=tmp_path / "nowhere.png"), "no picture at", "nowhere.png")
    refuses(lambda: invert(model, image=tmp_path / "text.png"), "text.png cannot be read")


def test_a_model_without_a_size_asks_for_one(model):
    """sample_size is absent in some configs."""
    unet = Denoiser(model.schedule)
    unet.config = {**unet.config, "sample_size": None}
    nameless = dataclasses.replace(model, unet=unet)
    refuses(lambda: invert(nameless), "give size in pixels")
    assert invert(nameless, steps=1, size=16).latents.shape == (2, 1, 4, 4, 4)


@pytest.mark.parametrize("method, arguments, says", [
    ("direct", dict(prompts=["a car", SOURCE]), f"must be the inversion's, '{SOURCE}', not 'a car'"),
    ("direct", dict(steps=3), "steps must be the inversion's, 2, not 3"),
    ("direct", dict(latents=torch.zeros(1, 4, 8, 8)), "latents or an inversion, not both"),
    ("null-text", dict(guidance=3), "must be that of the null-text inversion, 7.5, not 3"),
    ("null-text", dict(guidance=1), "that of the null-text inversion"),
    ("null-text", dict(guidance=lambda eps_c, eps_u, t: eps_c), "that of the null-text inversion"),
    ("null-text", dict(negative="snow"), "leave the negative prompt empty"),
    ("negative-prompt", dict(negative="snow"), "negative-prompt has its own"),
    ("direct", dict(height=64), "height must be 32"), ("direct", dict(width=64), "width must be 32"),
    ("direct", dict(inversion="inv.safetensors"), "inversion must be what invert returns, or a Result, not"),
    ("direct", dict(inversion=torch.zeros(3, 1, 4, 8, 8)), "inversion must be what invert returns")])
def test_arguments_that_do_not_go_with_the_inversion_are_named(model, calls, method, arguments, says):
    """Before the network is asked at all."""
    arguments = {**dict(prompts=PROMPTS, steps=2, guidance=7.5, inversion=of_noise(method)), **arguments}
    refuses(lambda: p2p.prompt_to_prompt(model, **arguments), says)
    assert not calls


# ---- another model -------------------------------------------------------------------------------------------------

def with_vae(model, **config):
    return dataclasses.replace(model, vae=VAE({**model.vae.config, **config}))


def with_schedule(model, **changes):
    return dataclasses.replace(model, schedule=model.schedule._replace(**changes))


@pytest.mark.parametrize("change, says", [
    (lambda m: with_vae(m, block_out_channels=[16, 16], down_block_types=["DownEncoderBlock2D"] * 2,
                        up_block_types=["UpDecoderBlock2D"] * 2), "kind of model"),
    (lambda m: with_vae(m, scaling_factor=0.13025), "kind of model"),
    (lambda m: dataclasses.replace(m, unet=UNet(dict(ONE_BLOCK, in_channels=16, out_channels=16))),
     "kind of model"),
    (lambda m: with_schedule(m, alphas_cumprod=(1 - torch.linspace(0.0001, 0.02, 1000)).cumprod(0)), "noise schedule"),
    (lambda m: with_schedule(m, spacing="trailing"), "noise schedule"),
    (lambda m: with_schedule(m, offset=0), "noise schedule"),
    (lambda m: with_schedule(m, final_alpha=1.0), "noise schedule"),
    (lambda m: with_schedule(m, prediction="v_prediction"), "kind of model")], ids=range(8))
def test_an_inversion_is_not_run_by_a_model_that_it_does_not_fit(model, tmp_path, calls, change, says):
    """Neither one from a picture, nor a saved one, nor a result: no picture of another size or of other noise."""
    inv, result = invert(model, steps=1), p2p.prompt_to_prompt(model, [SOURCE], steps=1)
    inv.save(tmp_path / "inv")
    calls.clear()
    for each in (inv, p2p.Inversion.load(tmp_path / "inv"), result):
        refuses(lambda each=each: sample(change(model), each), f"made for another {says}; invert the picture again")
    assert not calls


@pytest.mark.parametrize("method", METHODS)
def test_an_inversion_is_not_run_by_a_model_of_other_text(model, xl, calls, method):
    """Its embeddings would not fit; and where it has none, maps and guidance would be another model's."""
    inv = invert(xl, method, 1)
    calls.clear()
    refuses(lambda: sample(model, inv), "another kind of model")
    if inv.unconditional is not None:                      # whose shapes say it, where nothing else does
        refuses(lambda: sample(model, dataclasses.replace(inv, fingerprint=None)), "unconditional of the inversion")
    assert not calls


@pytest.mark.parametrize("method", ["null-text", "negative-prompt"])
def test_pooled_text_that_the_model_has_not_or_lacks_is_told(model, xl, calls, method):
    """Also of a file of an earlier version, or one made by hand."""
    states = {m: torch.zeros(2, 1, 77, m.unet.config["cross_attention_dim"]) for m in (model, xl)}
    for each, pooled in ((model, POOLED), (xl, None), (xl, POOLED[:, :8])):
        made = p2p.Inversion(Z, SOURCE, method, 7.5, states[each], pooled)
        refuses(lambda each=each, made=made: sample(each, made), "unconditional of the inversion")
    assert not calls
    assert sample(xl, p2p.Inversion(Z, SOURCE, method, 7.5, states[xl], POOLED), prompts=[SOURCE]).images


def test_another_number_of_latent_channels_is_told(model, calls):
    """By the latents themselves, where nothing else says it."""
    refuses(lambda: sample(model, p2p.Inversion(Z[:, :, :3], SOURCE, "ddim", 7.5)), "latents must be", "(1, 3, 8, 8)")
    assert not calls


def test_another_checkpoint_of_the_same_shapes_is_a_warning(folder, recwarn):
    """Told by the weights: the same ones elsewhere, or in another precision, are the same checkpoint."""
    load = functools.partial(p2p.load, folder, "cpu", spacing="trailing")
    inv = invert(load("float16"), steps=1)
    for dtype in ("float32", "bfloat16"):
        sample(load(dtype), inv, prompts=[SOURCE])
    assert not recwarn.list
    for part, name in (("unet", "conv_out.weight"), ("vae", "decoder.conv_in.weight"),
                       ("text_encoder", "text_model.final_layer_norm.weight")):
        tuned = load()
        parameter, = (p for key, p in getattr(tuned, part).named_parameters() if f"text_model.{key}".endswith(name))
        parameter.data = parameter * 1.01
        with pytest.warns(UserWarning, match="made by another checkpoint, .* invert it again"):
            again = sample(tuned, inv, prompts=[SOURCE])
        assert torch.equal(again.latents, inv.latents[-1])


# ---- numbers that are not finite -----------------------------------------------------------------------------------

def spoilt(network, name, value):
    """A copy of a network, one of its parameters being `value` all over."""
    network = copy.deepcopy(network)
    network.get_parameter(name).data.fill_(value)
    return network


@pytest.mark.parametrize("method, dtype, value", [
    ("direct", "float16", 6e4), ("null-text", "float16", 6e4), ("direct", "float32", float("nan"))])
def test_a_vae_that_overflows_is_told_before_the_walk_up(folder, calls, method, dtype, value):
    """As SDXL's does in fp16; what is wrong is named, and neither the walk nor null-text begins."""
    half = p2p.load(folder, "cpu", dtype)
    half = dataclasses.replace(half, vae=spoilt(half.vae, "encoder.conv_in.weight", value))
    says = ["the VAE's latents of the picture are not finite numbers", "the weights are not finite"]
    says += ["torch.float16 is too narrow", "bfloat16"] * (dtype == "float16")
    refuses(lambda: invert(half, method), *says)
    assert not calls


def test_a_unet_that_overflows_is_told_after_the_walk_up(folder, calls):
    """The steps of the walk and no more: null-text has nothing to optimise for."""
    half = p2p.load(folder, "cpu", "float16")
    half = dataclasses.replace(half, unet=spoilt(half.unet, "conv_out.weight", 6e4))
    says = "the latents of the inversion are not finite numbers: torch.float16 is too narrow", "bfloat16"
    refuses(lambda: invert(half, "null-text", 2), *says)
    assert len(calls) == 2


def test_embeddings_that_are_not_finite_are_told_at_their_step(model, calls, monkeypatch):
    """Gradients that overflow end null-text in its first step."""
    monkeypatch.setattr(inversion, "GRADIENT_SCALE", float("inf"))
    refuses(lambda: invert(model, "null-text", 2), "the null-text embeddings are not finite numbers")
    assert len(calls) == 2 + 1 + inversion.INNER_STEPS


@pytest.mark.parametrize("guidance", [1e38, -1e30])
def test_guidance_under_which_null_text_overflows_is_named(model, guidance):
    says = f"the null-text embeddings are not finite numbers: guidance {guidance:g} caused this"
    refuses(lambda: invert(model, "null-text", 2, guidance=guidance), says)


# ---- what goes together --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method, arguments", [
    ("ddim", dict(guidance=3, negative="snow")), ("direct", dict(guidance=3, negative="snow")),
    ("negative-prompt", dict(guidance=3)), ("null-text", dict(guidance=7.5, negative="")),
    ("direct", dict(height=32, width=32, seed=-1))])
def test_what_goes_with_an_inversion_is_not_refused(model, method, arguments):
    """Only null-text is bound to its guidance; sizes that agree are fine, and the seed is not used."""
    assert sample(model, of_noise(method), **arguments).latents.shape == (3, 4, 8, 8)
