"""Algorithm 1 and the local blend on a small random model."""
import dataclasses
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
import torch
from PIL import Image

import p2p_min as p2p
from conftest import assert_same, differ, inject, own, sample
from p2p_min import editing
from p2p_min.align import tokens_of
from p2p_min.ddim import step, timesteps
from p2p_min.networks.text import encode
from written_out import WrittenBlend

PROMPTS = ["a big car next to a river", "a big bicycle next to a river", "a red car on the snow"]
ATTENTIONS = 7                                             # of each kind, in the model of conftest.py


@pytest.fixture
def calls(model, monkeypatch):
    """A list that every forward call of the UNet is added to: its arguments and its output."""
    seen, forward = [], model.unet.forward

    def spy(z, timestep, context, cross_edit=None, self_edit=None, t=None, rows=None, looks=()):
        out = forward(z, timestep, context, cross_edit, self_edit, t, rows, looks)
        seen.append(dict(z=z, timestep=timestep, context=context, edits=(cross_edit, self_edit), rows=rows, out=out))
        return out
    monkeypatch.setattr(model.unet, "forward", spy)
    return seen


# ---- Algorithm 1 ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("guidance", [1, 7.5])
def test_the_run_is_algorithm_1(model, tokenizer, guidance):
    """The loop of the paper, written out here, gives the same latents."""
    edit, own_edit = p2p.replace(tokenizer, PROMPTS[:2], 0.5), p2p.self_replace(0.25)
    result = sample(model, PROMPTS[:2], edit, own_edit, guidance=guidance, seed=3, negative="snow")
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)).expand(2, -1, -1, -1)
    P = encode(model, PROMPTS[:2]).states
    empty = encode(model, ["snow"] * 2).states
    times = timesteps(model.schedule, 4)
    with torch.no_grad():
        for i in range(4):
            eps = model.unet(z, times[i], P, edit, own_edit, (4 - i) / 4)
            eps_u = model.unet(z, times[i], empty)
            z = step(model.schedule, z, eps_u + guidance * (eps - eps_u), times, i)
    assert_same(result.latents, z)
    pixels = (model.vae.decode(z).clamp(-1, 1) + 1) / 2 * 255
    for image, x in zip(result.images, pixels):
        generated = torch.tensor(list(image.tobytes())).view(32, 32, 3)
        assert (generated - x.permute(1, 2, 0)).abs().max() <= 0.51


@pytest.mark.parametrize("guidance", [1, 7.5])
@pytest.mark.parametrize("edits", [(own, None), (None, own), (own, own), ({"up_blocks": own}, {"mid_block": own})])
def test_an_edit_that_returns_M_star_gives_the_unedited_run(model, edits, guidance):
    """Edit = M_star: the latents of no edit at all, but for rounding; pixels within one level."""
    edited, unedited = sample(model, PROMPTS, *edits, guidance=guidance), sample(model, PROMPTS, guidance=guidance)
    assert_same(edited.latents, unedited.latents)
    for a, b in zip(edited.images, unedited.images):
        assert max(abs(x - y) for x, y in zip(a.tobytes(), b.tobytes())) <= 1


def test_without_an_edit_prompts_share_their_noise_and_nothing_else(model):
    """Trap 7: one noise for all prompts; each is generated as if alone."""
    together = sample(model, PROMPTS).latents
    for i, prompt in enumerate(PROMPTS):
        assert_same(together[i:i + 1], sample(model, [prompt]).latents)
    assert differ(together[0], together[1])


@pytest.mark.parametrize("edits", [
    lambda t, p: (None, None), lambda t, p: (p2p.replace(t, p), p2p.self_replace()),
    lambda t, p: (p2p.refine(t, p, (0.2, 0.7)), None), lambda t, p: (p2p.reweight(t, p, {"car": 1.0}), None),
    lambda t, p: (inject, inject)])
def test_equal_prompts_give_the_source(model, tokenizer, edits):
    """source = target: whatever is injected is already there."""
    prompts = [PROMPTS[0]] * 2
    z = sample(model, prompts, *edits(tokenizer, prompts)).latents
    assert_same(z[1], z[0])


@pytest.mark.parametrize("guidance", [1, 7.5])
@pytest.mark.parametrize("edits", [(inject, None), (None, inject), (inject, inject)])
def test_the_source_is_painted_as_if_alone_and_the_target_is_not(model, edits, guidance):
    """Trap 3: row 0 is the source with guidance and without; edits reach the targets and never the source."""
    z = sample(model, PROMPTS[:2], *edits, guidance=guidance).latents
    unedited = sample(model, guidance=guidance).latents
    assert_same(z[0], unedited[0])
    assert differ(z[1], unedited[1])


def test_threads_that_share_a_model_get_what_they_would_alone(model, tokenizer):
    """To the bit: no tokens of another thread's prompt, no row without its padding."""
    pairs = [["a car", "a big red car next to a river"], ["a dog", "a big dog"], [" ".join(["snow"] * 60), "a house"]]
    alone = [encode(model, pair).states for pair in pairs]
    runs = [sample(model, pair, p2p.auto(tokenizer, pair), steps=1).latents for pair in pairs]
    wrong, stop = [], time.monotonic() + 1.5

    def work(n):
        while time.monotonic() < stop:
            wrong.extend([n] * (not torch.equal(encode(model, pairs[n]).states, alone[n])))
        wrong.extend([n] * (not torch.equal(
            sample(model, pairs[n], p2p.auto(tokenizer, pairs[n]), steps=1).latents, runs[n])))
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(work, range(3)))
    finally:
        sys.setswitchinterval(interval)
    assert not wrong


@pytest.mark.parametrize("blended", [False, True])
def test_a_target_does_not_depend_on_the_other_targets(model, tokenizer, blended):
    """Each target asked for alone gives the latents that it has among others."""
    def edits(prompts):
        blend = p2p.LocalBlend(tokenizer, prompts, ["big" if "big" in p else "red" for p in prompts])
        return dict(cross_edit=p2p.auto(tokenizer, prompts, 0.5), self_edit=p2p.self_replace(0.25),
                    blend=blend if blended else None)
    prompts = [*PROMPTS, "a big river"]
    together = sample(model, prompts, **edits(prompts)).latents
    for i in (1, 2, 3):
        pair = [prompts[0], prompts[i]]
        assert_same(together[[0, i]], sample(model, pair, **edits(pair)).latents)


def test_the_lambda_of_the_design_works_as_it_stands(model):
    """A user's own function serves as cross_edit and as self_edit: M until the last fifth of t, then M_star."""
    edit = lambda M, M_star, t: M_star if t < 0.2 else M.expand_as(M_star)
    z = sample(model, PROMPTS, edit, edit, steps=6).latents
    assert_same(z, sample(model, PROMPTS, inject_until(0.2), inject_until(0.2), steps=6).latents)
    assert not torch.equal(z, sample(model, PROMPTS, inject, inject, steps=6).latents)


def inject_until(tau):
    def edit(M, M_star, t):
        return M.expand_as(M_star).clone() if t >= tau else M_star.clone()
    return edit


@pytest.mark.parametrize("guidance", [1, 7.5])
@pytest.mark.parametrize("N", [1, 3, 7])
def test_edits_are_told_the_time_and_the_rows(model, guidance, N):
    """Trap 3: t is 1 − i/N at step i in every layer, M_star holds the targets: no counted calls, no half batch."""
    seen = [], []
    edits = [lambda M, M_star, t, log=log: log.append((t, len(M_star))) or M_star for log in seen]
    sample(model, PROMPTS, *edits, steps=N, guidance=guidance)
    for log in seen:
        assert log == [((N - i) / N, 2) for i in range(N) for _ in range(ATTENTIONS)]


@pytest.mark.parametrize("guidance, rows", [(1, 2), (1.0, 2), (0, 4), (7.5, 4), (-1.5, 4)])
def test_a_step_is_one_network_call(model, calls, guidance, rows):
    """Source, target, and an unconditional row for each; guidance 1 is the conditional prediction alone."""
    sample(model, steps=3, guidance=guidance)
    assert [(len(call["z"]), call["rows"]) for call in calls] == 3 * [(rows, 2)]


@pytest.mark.parametrize("calls_a_step", [1, 2])
def test_the_unconditional_rows_never_see_an_edit(model, calls, monkeypatch, calls_a_step):
    """They come last, see the negative prompt's text, and what they give is what the bare network gives."""
    if calls_a_step == 2:                                  # too many rows for one call: then in a call of their own
        monkeypatch.setattr(editing, "ONE_CALL", 5)
    sample(model, PROMPTS, inject, inject, negative="snow")
    empty = encode(model, ["snow"]).states.expand(3, -1, -1)
    assert len(calls) == 4 * calls_a_step
    if calls_a_step == 2:
        assert all(call["edits"] == (None, None) and call["rows"] == 0 for call in calls[1::2])
    call = calls[-1]
    assert torch.equal(call["context"].states[-3:], empty)
    with torch.no_grad():
        bare = model.unet(call["z"][-3:], call["timestep"], empty)
    assert_same(call["out"][-3:], bare)
    assert calls_a_step == 1 or torch.equal(call["out"], bare)


def test_guidance_0_is_warned_of(model):
    """Source and target would be the same picture; in turbo recipes elsewhere 0 means none."""
    with pytest.warns(UserWarning, match="guidance 0 leaves the prompts out, .* without guidance is 1 here"):
        sample(model, steps=1, guidance=0)


def test_guidance_is_w_in_the_formula_at_every_value(model):
    """guidance 0 is the negative prompt's picture, guidance 1 the prompt's."""
    unconditional = sample(model, ["a car"], guidance=0, negative="snow").latents
    assert_same(unconditional, sample(model, ["snow"], guidance=1).latents)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_edits_and_blend_work_in_half_precision(folder, tokenizer, dtype):
    """fp16 and bf16 networks: maps and latents are fp32; equal prompts stay equal, M_star edits nothing."""
    model = p2p.load(folder, "cpu", dtype)
    dtypes = set()

    def look(M, M_star, t):
        dtypes.update([M.dtype, M_star.dtype])
        return M_star
    blend = p2p.LocalBlend(tokenizer, PROMPTS[:2], ["car", "bicycle"], threshold=0.0)
    z = sample(model, PROMPTS[:2], look, p2p.self_replace(0.0), blend=blend, steps=2, guidance=2).latents
    assert dtypes == {torch.float32} and z.dtype == torch.float32 and z.isfinite().all()
    assert_same(z, sample(model, steps=2, guidance=2).latents, 0.1)
    z = sample(model, PROMPTS[:1] * 2, p2p.replace(tokenizer, PROMPTS[:1] * 2), p2p.self_replace(), steps=2).latents
    assert_same(z[1], z[0], 0.1)


# ---- sizes, noise, seeds -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("height, width", [(32, 48), (64, 16), (20, 28), (4, 4), (36, 52)])
def test_any_multiple_of_the_factor_is_a_size(model, tokenizer, height, width):
    """Trap 4: no 512 pixels, no squares: pictures have the size asked for, and maps the shape of their layer."""
    shapes = set()

    def look(M, M_star, t):
        shapes.add(tuple(M.shape[1:3]))
        return M_star
    blend = p2p.LocalBlend(tokenizer, PROMPTS[:2], ["car", "bicycle"])
    result = sample(model, PROMPTS[:2], look, p2p.self_replace(), blend=blend, height=height, width=width, steps=2)
    assert [image.size for image in result.images] == [(width, height)] * 2
    h, w = height // 4, width // 4
    assert result.latents.shape == (2, 4, h, w)
    assert shapes == {(h, w), (-(-h // 2), -(-w // 2)), (-(-h // 4), -(-w // 4))}
    assert shapes == set(model.unet.map_sizes(h, w))


def test_the_size_left_out_is_the_models_own(model):
    """height and width default to the model's size, each on its own."""
    assert sample(model, ["a car"], steps=1, width=16).images[0].size == (16, 32)


def test_the_same_seed_paints_the_same_picture_and_another_a_different_one(model):
    """The noise comes from the seed alone, and the global generator is neither used nor moved."""
    torch.manual_seed(5)
    first = sample(model, seed=11)
    torch.manual_seed(6)
    state = torch.get_rng_state()
    again = sample(model, seed=11)
    assert torch.equal(first.latents, again.latents) and torch.equal(torch.get_rng_state(), state)
    assert [a.tobytes() for a in first.images] == [b.tobytes() for b in again.images]
    assert differ(sample(model, seed=12).latents, first.latents)


def test_latents_are_the_shared_noise_or_one_per_prompt(model):
    """latents (1, …) stand for the seed's; (prompts, …) give each prompt its own; their size is the pictures'."""
    noise = torch.randn(3, 4, 8, 12, generator=torch.Generator().manual_seed(0))
    kept = noise.clone()
    shared = sample(model, PROMPTS, latents=noise[:1]).latents
    each = sample(model, PROMPTS, latents=noise).latents
    assert_same(each[0], shared[0])
    for i in (1, 2):
        assert_same(each[i:i + 1], sample(model, PROMPTS[i:i + 1], latents=noise[i:i + 1]).latents)
        assert differ(each[i], shared[i])
    assert torch.equal(noise, kept)
    seeded = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    assert torch.equal(sample(model, latents=seeded, height=32).latents, sample(model, seed=7).latents)


def test_a_source_alone_is_painted(model):
    """No target: the edits have nothing to do, and the source comes."""
    assert_same(sample(model, PROMPTS[:1], inject, inject).latents, sample(model, PROMPTS[:1]).latents)


@pytest.mark.parametrize("arguments, says", [
    (dict(prompts="a car"), "prompts must be a list"), (dict(prompts=[]), "prompts must be a list"),
    (dict(prompts=["a car", 3]), "must be text"), (dict(negative=None), "must be text"),
    (dict(prompts=["a car", "big " * 76]), "78 tokens"), (dict(negative="big " * 76), "78 tokens"),
    (dict(steps=0), "steps"), (dict(steps=1001), "1 to 1000"), (dict(steps=2.5), "steps"), (dict(steps="5"), "steps"),
    (dict(steps=True), "steps"), (dict(height=30), "height.*multiple of 4"), (dict(width=0), "width"),
    (dict(width=-32), "width"), (dict(height=32.0), "height"), (dict(height="32"), "height"),
    (dict(seed=-1), "seed"), (dict(seed=2 ** 63), "seed"), (dict(seed=1.5), "seed"), (dict(seed=None), "seed"),
    (dict(guidance=float("nan")), "guidance"), (dict(guidance=float("inf")), "guidance"),
    (dict(guidance="7.5"), "guidance"), (dict(guidance=None), "guidance"),
    (dict(guidance=1e39), "guidance must be a finite number in float32, .* not 1e.39"),
    (dict(guidance=-10 ** 400), "guidance"), (dict(guidance=True), "guidance"),
    (dict(guidance=1e38), r"the latents are not finite numbers: .* or guidance 1e\+38 caused this"),
    (dict(guidance=-1e30, cross_edit=inject), r"guidance -1e\+30 caused this"),
    (dict(latents=torch.full((1, 4, 8, 8), 1e39, dtype=torch.float64)), "latents must be a tensor of finite numbers"),
    (dict(latents=torch.zeros(3, 4, 8, 8)), "latents"), (dict(latents=torch.zeros(1, 3, 8, 8)), "latents"),
    (dict(latents=torch.zeros(4, 8, 8)), "latents"), (dict(latents=torch.zeros(1, 4, 8, 8), width=64), "width"),
    (dict(latents=[0.0]), "latents"), (dict(latents=torch.full((1, 4, 8, 8), float("nan"))), "latents"),
    (dict(latents=torch.zeros(1, 4, 0, 8)), "latents"),
    (dict(cross_edit={"nowhere": own}), "nowhere"), (dict(self_edit={"nowhere": own}), "nowhere"),
    (dict(cross_edit=0.8), "cross_edit must be a function, not 0.8"),
    (dict(self_edit={"up_blocks": 1}), "self_edit must be a function"), (dict(blend="car"), "blend must be a function"),
    (dict(height=2 ** 40), "height"), (dict(cross_edit=lambda M, M_star, t: M), "M_star"),
    (dict(cross_edit=lambda M, M_star, t: M_star * float("nan")), "not finite")])
def test_what_cannot_be_done_is_a_ValueError_that_names_it(model, arguments, says):
    """Sizes, steps, seeds, prompts, guidance, latents, edits: refused with the argument's name, no black picture."""
    with pytest.raises(ValueError, match=says):
        sample(model, **{"prompts": ["a car", "a cat"], "steps": 2, **arguments})


@pytest.mark.parametrize("number", [Fraction, np.float16, np.float64])
def test_numbers_of_every_kind_are_numbers(model, tokenizer, number):
    """Guidance, windows and thresholds: a fraction or NumPy's as Python's own."""
    def run(guidance, half):
        blend = p2p.LocalBlend(tokenizer, PROMPTS[:2], ["car", "bicycle"], None, half, half)
        edit = p2p.replace(tokenizer, PROMPTS[:2], {"default_": half, "bicycle": (half / 2, half)})
        return sample(model, PROMPTS[:2], edit, p2p.self_replace(half), blend=blend, guidance=guidance).latents
    assert torch.equal(run(number(7.5), number(0.5)), run(7.5, 0.5))


def test_unknown_keyword_arguments_are_errors(model):
    """Trap 7: keyword arguments are not swallowed."""
    with pytest.raises(TypeError):
        sample(model, num_inference_steps=5)


@pytest.mark.parametrize("steps", [999, 1000])
def test_as_many_steps_as_the_schedule_has_are_possible(model, steps):
    """N = 1000 with an offset of 1 asks for no time that does not exist, and N steps give exactly N."""
    times = timesteps(model.schedule, steps)
    assert len(times) == len(set(times)) == steps and max(times) <= 999 and min(times) >= 0
    assert times == sorted(times, reverse=True)


def test_v_prediction_and_epsilon_are_different_readings_of_one_output(model):
    """The schedule's prediction type is heeded by the whole run."""
    v = dataclasses.replace(model, schedule=model.schedule._replace(prediction="v_prediction"))
    assert differ(sample(v).latents, sample(model).latents)


# ---- blend ---------------------------------------------------------------------------------------------------------

def test_a_plain_function_serves_as_blend(model):
    """blend(z, z_star, t) is called at the end of each step with the source's row, the targets' and the step's time."""
    seen = []

    def blend(z, z_star, t):
        seen.append((tuple(z.shape), tuple(z_star.shape), t))
        return z_star if t > 0.5 else z.expand_as(z_star)
    z = sample(model, PROMPTS, blend=blend).latents
    assert seen == [((1, 4, 8, 8), (2, 4, 8, 8), (4 - i) / 4) for i in range(4)]
    assert torch.equal(z[1:], z[:1].expand(2, -1, -1, -1))


@pytest.mark.parametrize("write", [lambda z, z_star: z.zero_(), lambda z, z_star: z_star.copy_(z),
                                   lambda z, z_star: (z.fill_(float("nan")), z_star.mul_(2))], ids=range(3))
def test_a_blend_that_writes_into_what_it_gets_changes_nothing(model, write):
    """What it returns counts, not what it leaves behind: neither in the source, nor in its trajectory."""
    def vandal(z, z_star, t):
        kept = z_star.clone()
        write(z, z_star)
        return kept
    plain, blended = sample(model), sample(model, blend=vandal)
    assert torch.equal(blended.latents, plain.latents)
    assert torch.equal(blended.inversion.latents, plain.inversion.latents)


@pytest.mark.parametrize("returned, got", [
    (lambda z_star: None, "NoneType"), (lambda z_star: z_star[:1], r"\(1, 4, 8, 8\)"),
    (lambda z_star: z_star[..., :-1], r"\(2, 4, 8, 7\)"), (lambda z_star: z_star.numpy(), "ndarray"),
    (lambda z_star: 0.5, "float"), (lambda z_star: (z_star, z_star), "tuple"),
    (lambda z_star: torch.cat([z_star, z_star]), r"\(4, 4, 8, 8\)")], ids=range(7))
def test_a_blend_that_returns_something_else_says_so(model, returned, got):
    """Like an edit: in its first step, with what it must return and what it returned."""
    says = rf"^a blend must return latents shaped like z_star, \(2, 4, 8, 8\); this one returned {got}$"
    with pytest.raises(ValueError, match=says):
        sample(model, PROMPTS, blend=lambda z, z_star, t: returned(z_star))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_blend_may_compute_in_another_dtype(model, dtype):
    """Latents stay float32."""
    result = sample(model, blend=lambda z, z_star, t: z_star.to(dtype))
    assert result.latents.dtype == result.inversion.latents.dtype == torch.float32


def test_a_blend_that_overflows_is_named(model):
    with pytest.raises(ValueError, match="latents are not finite numbers: an edit, a blend or guidance 7.5 caused"):
        sample(model, blend=lambda z, z_star, t: z_star * float("inf"))


def test_what_a_run_is_made_of_can_be_compared_and_kept_in_sets(model, tokenizer):
    """Each is equal to itself alone, though it holds tensors, whose comparison is no answer."""
    def made():
        result = sample(model, steps=1)
        edit = p2p.replace(tokenizer, PROMPTS[:2])
        return (result, result.inversion, edit, p2p.reweight(tokenizer, PROMPTS[:2], {"bicycle": 2}, edit),
                dataclasses.replace(model, schedule=model.schedule._replace(alphas_cumprod=torch.ones(1000) / 2)))
    for one, other in zip(made(), made()):
        assert one == one and one != other and one in [other, one] and one not in [other]
        assert len({one, other, one}) == 2


@pytest.mark.parametrize("size, at, start, threshold, subtract, words", [
    (None, (8, 8), 0.2, 0.7, None, ["car", "bicycle", "red car"]),
    ((48, 80), (12, 20), 0.0, 0.75, None, ["car", "bicycle", ["red", "car"]]),
    ((92, 100), (12, 13), 0.5, 0.6, None, [["car", "river"], "river", "snow"]),
    (None, (8, 8), 0.2, (0.5, 0.85), ["river", "river", "snow"], ["car", "bicycle", "car"]),
    (None, (8, 8), 0.2, (0.5, 0.8), [[], "a", []], ["car", "bicycle", "car"]),
    (None, (8, 8), 0.2, 0.7, None, [None, "bicycle", ["red", "car"]]),
    (None, (8, 8), 0.2, (0.6, 0.85), ["river", None, None], ["car", None, "snow"]),
])
def test_local_blend_is_what_the_design_says(model, tokenizer, size, at, start, threshold, subtract, words):
    """Also trap 4: a mask written independently, from recorded maps, gives the same latents; also not square, and where
    a prompt has no word, so that the other's mask is all."""
    height, width = size or (None, None)
    edit = p2p.auto(tokenizer, PROMPTS, 0.5)

    def tokens(words):
        return words and [sorted({j for word in ([one] if isinstance(one, str) else one or ())
                                  for j in tokens_of(tokenizer, p, word)}) for p, one in zip(PROMPTS, words)]
    pair = threshold if isinstance(threshold, tuple) else (threshold, threshold)
    recorder = WrittenBlend(edit, at, tokens(words), tokens(subtract), start, pair)
    arguments = dict(height=height, width=width, steps=5, seed=2)
    expected = sample(model, PROMPTS, recorder, blend=recorder.blend, **arguments).latents
    blend = p2p.LocalBlend(tokenizer, PROMPTS, words, subtract, start, threshold)
    assert_same(sample(model, PROMPTS, edit, blend=blend, **arguments).latents, expected)
    masks = torch.stack(recorder.masks).float()
    assert 0.02 < masks.mean() < 0.98                      # the mask is neither nothing nor everything
    assert differ(expected, sample(model, PROMPTS, edit, **arguments).latents)


@pytest.mark.parametrize("latent, size", [
    ((64, 64), (16, 16)), ((128, 128), (32, 32)), ((96, 96), (24, 24)), ((24, 24), (12, 12)), ((8, 8), (8, 8)),
    ((64, 96), (16, 24)), ((96, 64), (24, 16)), ((64, 192), (16, 48)), ((36, 40), (18, 20))])
def test_the_blend_watches_maps_of_the_size_nearest_to_a_quarter_and_at_least_16(tokenizer, latent, size):
    """Trap 4: max(side/4, 16) of the shorter side: not always 16 × 16, and no map of another size is made."""
    blend = p2p.LocalBlend(tokenizer, PROMPTS[:2], ["car", "bicycle"])
    sizes = [tuple(-(-side // 2 ** i) for side in latent) for i in range(4)]
    look, _ = blend.begin(sizes, latent)
    assert [s for s in sizes if look.active(*s, 0.5)] == [size]


def test_outside_the_mask_the_target_is_the_source(model, tokenizer):
    """From its start to the end, the latents outside the mask are exactly the source's."""
    blend = p2p.LocalBlend(tokenizer, PROMPTS[:2], ["car", "bicycle"], threshold=0.9)
    z = sample(model, blend=blend).latents
    same = (z[0] == z[1]).all(0).float().mean()
    assert 0.05 < same < 1


def test_one_blend_object_serves_two_runs_equally(model, tokenizer):
    """A run leaves no trace in a LocalBlend: not in a second run of it, and not after one of another size."""
    blend = p2p.LocalBlend(tokenizer, PROMPTS[:2], ["car", "bicycle"], subtract=["river", "river"], threshold=0.6)
    edit = p2p.replace(tokenizer, PROMPTS[:2])
    first = sample(model, PROMPTS[:2], edit, blend=blend).latents
    sample(model, PROMPTS[:2], edit, blend=blend, height=48, width=64, seed=9)
    assert torch.equal(sample(model, PROMPTS[:2], edit, blend=blend).latents, first)


def test_the_blend_sees_the_sources_own_maps_whatever_an_edit_writes(model, tokenizer):
    """Trap 9: an edit that writes into M changes neither the source's picture nor the mask."""
    def vandal(M, M_star, t):
        M.zero_()
        return M_star
    blend = p2p.LocalBlend(tokenizer, PROMPTS[:2], ["car", "bicycle"], threshold=0.7)
    assert_same(*(sample(model, PROMPTS[:2], edit, blend=blend).latents for edit in (vandal, own)))


@pytest.mark.parametrize("cross_edit", [{"up_blocks": inject}, {"": inject, "mid_block": None}, {}, {"mid_block": own}])
def test_a_blend_watches_every_layer_also_under_prefixes(model, tokenizer, cross_edit):
    """The mask does not depend on how the edits are given: a dict by prefix blends as the equal plain edit does."""
    blend = p2p.LocalBlend(tokenizer, PROMPTS[:2], ["car", "bicycle"], threshold=0.7)
    filled = {"": own, **{prefix: edit or own for prefix, edit in cross_edit.items()}}
    everywhere = sample(model, PROMPTS[:2], filled, blend=blend).latents
    assert_same(sample(model, PROMPTS[:2], cross_edit, blend=blend).latents, everywhere)


def test_a_blend_does_not_change_what_an_edit_does(model, tokenizer):
    """With a mask of everything, the blended run is the run without blend."""
    everything = p2p.LocalBlend(tokenizer, PROMPTS[:2], ["car", "bicycle"], threshold=0.0)
    edit = p2p.replace(tokenizer, PROMPTS[:2], 0.5)
    assert_same(sample(model, PROMPTS[:2], edit, blend=everything).latents, sample(model, PROMPTS[:2], edit).latents)


@pytest.mark.parametrize("arguments, says", [
    (dict(words=["car", "dog"]), "'dog'.*bicycle"), (dict(words=["car"]), "one entry for each of the 2 prompts"),
    (dict(words="car"), "one entry for each of the 2 prompts"),
    (dict(words=["car", []]), "each a word or a list of words"),
    (dict(words=["car", ()]), "each a word or a list of words"),
    (dict(words=[None, None]), "no word for 'a big bicycle next to a river', nor for the source"),
    (dict(subtract=["river", "snow"]), "'snow'"), (dict(subtract=["river"]), "subtract"),
    (dict(threshold=1.5), "threshold"), (dict(threshold=(0.1, 0.2, 0.3)), "threshold"),
    (dict(threshold="0.3"), "threshold"), (dict(threshold=float("nan")), "threshold"), (dict(start=1.5), "start"),
    (dict(start=-0.1), "start"), (dict(start=None), "start")])
def test_an_impossible_blend_is_an_error(tokenizer, arguments, says):
    """Trap 2: words absent from their prompt are errors, not an empty mask (0/0); numbers out of range are named."""
    with pytest.raises(ValueError, match=says):
        p2p.LocalBlend(tokenizer, PROMPTS[:2], **{"words": ["car", "bicycle"], **arguments})


def test_a_blend_for_other_prompts_says_so(model, tokenizer):
    """A blend built for two prompts refuses three."""
    blend = p2p.LocalBlend(tokenizer, PROMPTS[:2], ["car", "bicycle"])
    with pytest.raises(ValueError, match="the run.s prompts must be those that its LocalBlend was built for"):
        sample(model, PROMPTS, blend=blend)


# ---- a mask of one's own -------------------------------------------------------------------------------------------

def ramp(height=32, width=32):
    """A mask whose left third is black, whose right third is white, and between them every grey."""
    shares = np.clip(np.linspace(-1, 2, width), 0, 1)
    return Image.fromarray((255 * np.tile(shares, (height, 1))).round().astype(np.uint8))


def cells(mask, height, width):
    """The share of white in each latent cell, written out."""
    white = torch.from_numpy(np.array(mask.convert("L"))).float() / 255
    return white.reshape(height, white.shape[0] // height, width, white.shape[1] // width).mean((1, 3))


def masked(mask, start=0.0, **arguments):
    return p2p.LocalBlend(None, None, None, mask=mask, start=start, **arguments)


@pytest.mark.parametrize("guidance", [1, 7.5])
@pytest.mark.parametrize("edits", [(None, None), (own, own), (inject, None)])
def test_outside_a_mask_the_target_is_the_source_exactly(model, edits, guidance):
    """mask alone needs no words, no tokenizer and no count of prompts. Where it is black, the latents are the source's
    to the last bit; where it has any white, they are not."""
    z = sample(model, PROMPTS, *edits, blend=masked(ramp(36, 48)), height=36, width=48, guidance=guidance).latents
    share = cells(ramp(36, 48), 9, 12)
    assert (share == 0).any() and (share == 1).any() and ((share > 0) & (share < 1)).any()
    assert torch.equal((z[0] == z[1:]).all(1), (share == 0).expand(2, -1, -1))
    assert_same(z[:1], sample(model, PROMPTS[:1], height=36, width=48, guidance=guidance).latents)


@pytest.mark.parametrize("scale", [1, 4, 5])
def test_grey_cells_blend_linearly(scale):
    """z* = z + w (z* − z), w the share of white in a cell of the latents, at its edge too, however fine the mask is."""
    mask = ramp(8 * scale, 12 * scale)
    z, z_star = torch.randn(3, 4, 8, 12, generator=torch.Generator().manual_seed(0)).split([1, 2])
    _, blend = masked(mask).begin([(8, 12)], (8, 12))
    share = cells(mask, 8, 12)
    wrong = blend(z, z_star, 0.5) - (z + share * (z_star - z))
    assert (wrong.abs() <= 1 / 255 * (z_star - z).abs() + 1e-6).all()                  # a grey has 8 bits
    assert torch.equal(blend(z, z_star, 0.5)[..., share[0] == 1], z_star[..., share[0] == 1])
    half = Image.fromarray(np.repeat(np.uint8([[0, 255]]), [21, 75], axis=1).repeat(64, 0))     # 96 × 64: cells of 8
    _, blend = masked(half).begin([(8, 12)], (8, 12))
    moved = ((blend(z, z_star, 0.5) - z) / (z_star - z)).mean((0, 1, 2))
    assert (moved - torch.tensor([0, 0, 3 / 8] + [1] * 9)).abs().max() <= 1 / 255


@pytest.mark.parametrize("subtract, start", [(None, 0.0), (None, 0.5), (["river", "river", "snow"], 0.2)])
def test_a_mask_with_words_is_where_both_are(model, tokenizer, subtract, start):
    """What the words light up, and of that only what is white; both act from the start on."""
    mask, words = ramp(8, 8), ["car", "bicycle", "red car"]
    edit = p2p.auto(tokenizer, PROMPTS, 0.5)

    def tokens(words):
        return words and [tokens_of(tokenizer, prompt, word) for prompt, word in zip(PROMPTS, words)]
    recorder = WrittenBlend(edit, (8, 8), tokens(words), tokens(subtract), start, (0.6, 0.8))

    def both(z, z_star, t):
        return z_star if 1 - t < start - 1e-6 else z.lerp(recorder.blend(z, z_star, t), cells(mask, 8, 8))
    expected = sample(model, PROMPTS, recorder, blend=both, steps=5).latents
    blend = p2p.LocalBlend(tokenizer, PROMPTS, words, subtract, start, (0.6, 0.8), mask=mask)
    z = sample(model, PROMPTS, edit, blend=blend, steps=5).latents
    assert_same(z, expected)
    same = (z[0] == z[1:]).all(1)
    of_words, white = torch.stack(recorder.masks)[-1], cells(mask, 8, 8) > 0
    assert torch.equal(same, ~(of_words & white))
    assert (of_words & ~white).any() and (~of_words & white).any() and not same.all()


@pytest.mark.parametrize("start, free", [(0.0, []), (0.2, [1.0]), (0.5, [1.0, 0.75]), (1.0, [1.0, 0.75, 0.5, 0.25])])
def test_a_mask_acts_from_its_start_on(start, free):
    """Before it, targets are left alone."""
    z, z_star = torch.zeros(1, 4, 8, 8), torch.ones(2, 4, 8, 8)
    _, blend = masked(ramp(), start).begin([(8, 8)], (8, 8))
    assert [t for t in (1.0, 0.75, 0.5, 0.25) if torch.equal(blend(z, z_star, t), z_star)] == free


def test_a_mask_alone_asks_for_no_maps():
    """Without words nothing looks, so that attention keeps its fast path."""
    assert masked(ramp()).begin([(8, 8)], (8, 8))[0] is None


def test_a_white_mask_changes_nothing(model, tokenizer):
    """Alone it is no blend at all; with words it is the words'."""
    white = Image.new("L", (8, 8), 255)
    assert torch.equal(sample(model, blend=masked(white)).latents, sample(model).latents)
    of_words = [p2p.LocalBlend(tokenizer, PROMPTS[:2], ["car", "bicycle"], threshold=0.7, mask=mask)
                for mask in (None, white)]
    assert torch.equal(*(sample(model, blend=blend).latents for blend in of_words))


def alpha_only(mask):
    """White all over, seen only where the mask is."""
    return Image.merge("LA", [Image.new("L", mask.size, 255), mask])


@pytest.mark.parametrize("generated", [
    lambda mask: mask.convert("RGB"), lambda mask: mask.convert("P"), alpha_only,
    lambda mask: alpha_only(mask).convert("RGBA"),
    lambda mask: Image.fromarray(np.asarray(mask, np.uint16) * 257)], ids=["RGB", "P", "LA", "RGBA", "16 bits"])
def test_a_mask_may_be_painted_in_any_way(model, tmp_path, generated):
    """Also as a PNG with alpha only: what is transparent is black. The picture given is not changed, and the blend
    serves runs of other sizes of its shape."""
    mask = generated(ramp())
    path = tmp_path / "mask.png"
    mask.save(path)
    mask = Image.open(path)
    before = mask.mode, mask.tobytes()
    blend, expected = masked(mask), masked(ramp())
    for side in (32, 16, 32):
        z = sample(model, blend=blend, steps=2, height=side, width=side).latents
        assert torch.equal(z, sample(model, blend=expected, steps=2, height=side, width=side).latents)
    assert (mask.mode, mask.tobytes()) == before


@pytest.mark.parametrize("arguments, says", [
    (dict(words=None), "give words, or a mask"), (dict(words=None, subtract=["car", "car"]), "subtract needs words"),
    (dict(words=None, subtract=["car", "car"], mask=ramp()), "subtract needs words"),
    (dict(mask=Image.new("L", (32, 32))), "the mask has no white"),
    (dict(mask=Image.fromarray(np.eye(32, dtype=np.uint8))), "no white, .* .multiply an array of 0 and 1 by 255"),
    (dict(mask=Image.fromarray(np.eye(32, dtype=np.uint16))), "no white, .*multiply"),
    (dict(mask=Image.fromarray(np.eye(32, dtype=np.int32))), "8 bits"),
    (dict(mask=Image.fromarray(np.eye(32, dtype=np.float32))), "8 bits"),
    (dict(words=None, mask=Image.new("1", (32, 32))), "no white"),
    (dict(words=None, mask=Image.new("RGBA", (32, 32), (255, 255, 255, 0))), "no white"),
    (dict(words=None, mask=ramp(), start=2), "start")])
def test_a_mask_that_lets_nothing_change_is_an_error(tokenizer, arguments, says):
    """Black, or wholly transparent; or neither mask nor words; or words to subtract from nothing."""
    with pytest.raises(ValueError, match=says):
        p2p.LocalBlend(tokenizer, PROMPTS[:2], **{"words": ["car", "bicycle"], **arguments})


@pytest.mark.parametrize("words", [None, ["car", "bicycle"]])
@pytest.mark.parametrize("size", [(32, 36), (36, 32), (1, 2)])
def test_a_mask_of_another_shape_says_so(model, tokenizer, words, size):
    """It must have the shape of the picture; how fine it is does not matter."""
    blend = p2p.LocalBlend(tokenizer, PROMPTS[:2], words, mask=ramp(*size))
    says = f"the mask is {size[1]} × {size[0]}; it must have the aspect ratio of the picture, "
    with pytest.raises(ValueError, match=says):
        sample(model, blend=blend)
