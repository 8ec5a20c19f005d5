"""What a new paper needs, without a patch: the whole attention, the unconditional rows, guidance, layers, time."""
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import p2p_min as p2p
from conftest import UNET, refuses
from p2p_min.attention import for_layer
from p2p_min.ddim import step, timesteps
from p2p_min.edits import inside, window
from p2p_min.networks.text import Context, encode
from p2p_min.networks.unet import UNet as Network

PROMPTS = ["a big car next to a river", "a big bicycle next to a river", "a red car on the snow"]


def sample(model, *edits, prompts=PROMPTS, steps=3, **arguments):
    return p2p.prompt_to_prompt(model, prompts, *edits, steps=steps, **arguments)


def inject(M, M_star, t):
    return M.expand_as(M_star)


def assert_same(a, b, tolerance=1e-5):
    assert a.shape == b.shape and (a - b).abs().max() <= tolerance * b.abs().max()


def differ(a, b):
    return (a - b).abs().max() > 1e-3 * b.abs().max()


# ---- the whole attention -------------------------------------------------------------------------------------------

class Mutual:
    """MasaCtrl's mutual self-attention: every row looks at the source's keys and values."""

    def __init__(self):
        self.seen = []

    def attend(self, q, k, v, size, t):
        self.seen.append((q.shape, k.shape, v.shape, size, t))
        return F.scaled_dot_product_attention(q, k[:1].expand_as(k), v[:1].expand_as(v))


def test_an_edit_may_take_the_whole_attention(model, monkeypatch):
    """It is given the source and the targets, never an unconditional row, and no map is made."""
    monkeypatch.setattr("p2p_min.attention.maps", None)
    edit = Mutual()
    result = sample(model, None, edit)
    assert differ(result.latents[1:], sample(model).latents[1:])
    assert_same(result.latents[:1], sample(model).latents[:1])             # the source looks at itself, as ever
    for (rows, heads, pixels, width), k, v, (height, columns), t in edit.seen:
        assert rows == 3 and height * columns == pixels and k == v == (rows, heads, pixels, width)
        assert t in (3 / 3, 2 / 3, 1 / 3)
    assert len(edit.seen) == 3 * len(model.unet.attention_names("self"))


def test_it_equals_the_same_edit_of_maps(model, tokenizer):
    """Word swap is attention with the source's queries and keys, and A V* for values."""
    edit = p2p.replace(tokenizer, PROMPTS[:2], 1.0)

    class Swap:
        def attend(self, q, k, v, size, t):
            v = torch.cat([v[:1], edit.A[0].to(v) @ v[1:]])
            return F.scaled_dot_product_attention(q[:1].expand_as(q), k[:1].expand_as(k), v)
    assert_same(sample(model, Swap(), prompts=PROMPTS[:2]).latents, sample(model, edit, prompts=PROMPTS[:2]).latents)


def test_it_may_be_active_at_times_and_in_layers_like_any_edit(model):
    """`active` and name prefixes choose it as they choose an Edit of maps."""
    class Early(Mutual):
        def active(self, height, width, t):
            return t > 0.5 and height == 4
    edit = Early()
    sample(model, None, {"up_blocks": edit})
    assert {(size, t) for *_, size, t in edit.seen} == {((4, 4), 3 / 3), ((4, 4), 2 / 3)}


@pytest.mark.parametrize("watcher", ["recorder", "blend"])
def test_what_watches_maps_says_that_it_cannot_see_such_an_edit(model, tokenizer, watcher):
    """In one line, where it meets one; an edit that also has maps is watched through them."""
    def run(edit):
        if watcher == "recorder":
            return sample(model, edit, recorder=p2p.Recorder(tokenizer, PROMPTS))
        return sample(model, edit, blend=p2p.LocalBlend(tokenizer, PROMPTS, ["a"] * 3))
    for edit in (Mutual(), {"up_blocks": Mutual()}):
        refuses(lambda edit=edit: run(edit), "a blend or a recorder cannot see the edit Mutual")

    class Both(Mutual):
        def __call__(self, M, M_star, t):
            return M_star
    run(Both())


@pytest.mark.parametrize("wrong", [
    lambda q, k, v: q[1:], lambda q, k, v: q[:, :1], lambda q, k, v: q[:, :, :1], lambda q, k, v: None,
    lambda q, k, v: q.mean()], ids=["targets only", "one head", "one pixel", "nothing", "a number"])
@pytest.mark.parametrize("guidance", [1, 7.5])
def test_attend_that_returns_another_shape_is_told(model, wrong, guidance):
    """It would be broadcast, and the source change without a word."""
    edit = SimpleNamespace(attend=lambda q, k, v, size, t: wrong(q, k, v))
    for edits in ((edit, None), (None, edit)):
        refuses(lambda edits=edits: sample(model, *edits, guidance=guidance), "an edit's attend must return a tensor")


@pytest.mark.parametrize("prefix", [None, 0, False, ()])
def test_a_prefix_that_is_no_text_is_told(model, prefix):
    """{None: edit} would edit nothing, silently."""
    for edits in (({prefix: Mutual()}, None), (None, {prefix: Mutual()})):
        refuses(lambda edits=edits: sample(model, *edits), f"-attention has the prefix {prefix!r}")


def test_what_was_built_for_other_prompts_is_told(model, tokenizer):
    """Of the same count, as in a notebook whose prompts were changed: edits, also by prefix and as a base, blends and
    recorders. A function of one's own has no prompts and is not asked.
    """
    other = ["a big car next to a river", "a big dog next to a river", "a red car on the snow"]
    edit = p2p.auto(tokenizer, other, 0.5)
    reweighted = p2p.reweight(tokenizer, other, {"a": 2.0})
    inside = p2p.reweight(tokenizer, PROMPTS, {"a": 2.0}, edit)
    for arguments in (dict(cross_edit=edit), dict(cross_edit={"up_blocks": edit}), dict(cross_edit=reweighted),
                      dict(cross_edit=inside), dict(cross_edit={"": inside}),
                      dict(blend=p2p.LocalBlend(tokenizer, other, ["a"] * 3)),
                      dict(recorder=p2p.Recorder(tokenizer, other))):
        refuses(lambda arguments=arguments: sample(model, **arguments), "was built for", repr(other[1]))
    sample(model, p2p.auto(tokenizer, tuple(PROMPTS), 0.5), prompts=tuple(PROMPTS), steps=1)
    sample(model, inject, steps=1)


def test_a_base_without_maps_is_told(tokenizer):
    """Before the run: re-weighting needs a map to multiply."""
    for base in (Mutual(), {"up_blocks": Mutual()}, 3):
        refuses(lambda base=base: p2p.reweight(tokenizer, PROMPTS, {"a": 2.0}, base), "base must be an edit of maps")


def test_looks_keep_no_gradients(model, tokenizer):
    """Also where the network is asked for some: a recorder does not grow by autograd's graphs."""
    recorder = p2p.Recorder(tokenizer, PROMPTS[:1])
    with torch.enable_grad():
        z = torch.zeros(1, 4, 8, 8, requires_grad=True)
        out = model.unet(z, 500, encode(model, PROMPTS[:1]), t=0.5, looks=[recorder.look])
    assert out.requires_grad and recorder.maps("car").shape == (8, 8)
    assert not any(total.requires_grad for total, _ in recorder.seen.values())


def test_a_wrapper_of_the_unet_can_tell_the_unconditional_rows(model, monkeypatch):
    """`rows` says how many rows of a call are prompts: 0 in the unconditional call, however many prompts there are."""
    calls = []

    class Wrapper:
        def __call__(self, z, timestep, context, cross_edit=None, self_edit=None, t=None, rows=None, looks=()):
            calls.append((len(z), rows))
            return unet(z, timestep, context, cross_edit, self_edit, t, rows, looks)
        __getattr__ = lambda self, name: getattr(unet, name)
    unet = model.unet
    wrapped = dataclasses.replace(model, unet=Wrapper())
    for prompts, expected in ((PROMPTS, [(6, 3)]), (PROMPTS[:1] * 5, [(5, 5), (5, 0)])):
        for edit in (None, inject):
            calls.clear()
            sample(wrapped, edit, prompts=prompts, steps=1)
            assert calls == expected


# ---- another sampler -----------------------------------------------------------------------------------------------

def test_a_sampler_takes_the_place_of_the_ddim_step(model, tokenizer):
    """`ddim.step` itself gives the same to the bit; another one steps all rows; direct inversion resets the source."""
    edit = p2p.auto(tokenizer, PROMPTS, 0.5)
    assert torch.equal(sample(model, edit, sampler=step).latents, sample(model, edit).latents)
    seen = []

    def noisy(schedule, z_t, output, times, i):
        seen.append((z_t.shape, output.shape, list(times), i))
        return step(schedule, z_t.mul_(1), output, times, i) + 0.1
    result = sample(model, edit, sampler=noisy)
    assert [each[-1] for each in seen] == [0, 1, 2] and seen[0][:2] == ((3, 4, 8, 8),) * 2
    assert differ(result.latents, sample(model, edit).latents)
    source = sample(model, prompts=PROMPTS[:1])
    later = sample(model, edit, sampler=noisy, inversion=source)
    assert torch.equal(later.latents[:1], source.latents) and differ(later.latents[1:], source.latents)


@pytest.mark.parametrize("wrong", [lambda *_: None, lambda schedule, z_t, *_: z_t[1:]])
def test_a_sampler_that_returns_something_else_is_told(model, wrong):
    refuses(lambda: sample(model, sampler=wrong), "a sampler must return latents shaped like z_t", "(3, 4, 8, 8)")


# ---- the unconditional rows ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("kept", [False, True])
def test_the_unconditional_rows_can_be_edited_among_themselves(model, tokenizer, kept):
    """The same Edit, with the source's unconditional row as row 0; also with direct inversion."""
    cross, own = p2p.replace(tokenizer, PROMPTS[:2], 0.7), Mutual()
    prompts, guidance, source = PROMPTS[:2], 4.0, sample(model, prompts=PROMPTS[:1]) if kept else None
    result = sample(model, cross, own, prompts=prompts, guidance=guidance, inversion=source, edit_unconditional=True)
    z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(model.device).expand(2, -1, -1, -1)
    P, empty = encode(model, prompts).states, encode(model, [""] * 2).states
    times = timesteps(model.schedule, 3)
    with torch.no_grad():
        for i in range(3):
            t = (3 - i) / 3
            eps, eps_u = (model.unet(z, times[i], context, cross, own, t) for context in (P, empty))
            z = step(model.schedule, z, eps_u + guidance * (eps - eps_u), times, i)
            if kept:
                z = torch.cat([source.inversion.latents[i + 1].to(z), z[1:]])
    assert_same(result.latents, z)
    assert differ(result.latents[1:], sample(model, cross, own, prompts=prompts, guidance=guidance,
                                             inversion=source).latents[1:])


def test_watchers_never_see_the_unconditional_rows(model, tokenizer):
    """Maps and masks are those of the prompts: the recorder is called as often as without."""
    edit, seen = p2p.replace(tokenizer, PROMPTS[:2], 0.7), []
    for unconditional in (False, True):
        recorder = p2p.Recorder(tokenizer, PROMPTS[:2])
        blend = p2p.LocalBlend(tokenizer, PROMPTS[:2], ["big", "big"])
        sample(model, edit, recorder=recorder, prompts=PROMPTS[:2], blend=blend, edit_unconditional=unconditional)
        seen.append({size: calls for (size, _), (_, calls) in recorder.seen.items()})
    assert seen[0] == seen[1]


@pytest.mark.parametrize("guidance", [1, 5.0])
def test_an_edit_that_changes_nothing_changes_nothing_there(model, guidance):
    own = lambda M, M_star, t: M_star
    assert_same(sample(model, own, own, guidance=guidance, edit_unconditional=True).latents,
                sample(model, guidance=guidance).latents)


# ---- guidance and context ------------------------------------------------------------------------------------------

def test_guidance_may_be_a_function(model):
    """(eps_c, eps_u, t) -> eps: the formula itself gives the same; a limited interval is as it says."""
    formula = lambda eps_c, eps_u, t: eps_u + 7.5 * (eps_c - eps_u)
    assert torch.equal(sample(model, guidance=formula).latents, sample(model).latents)
    seen = []

    def interval(eps_c, eps_u, t):
        seen.append((tuple(eps_c.shape), tuple(eps_u.shape), eps_c.dtype, t))
        return eps_u + (7.5 if 0.5 < t < 0.9 else 1) * (eps_c - eps_u)
    result = sample(model, guidance=interval)
    assert seen == [((3, 4, 8, 8), (3, 4, 8, 8), torch.float32, t) for t in (3 / 3, 2 / 3, 1 / 3)]
    assert differ(result.latents, sample(model).latents)
    edited = sample(model, guidance=interval, inversion=result)            # direct: the source needs no guidance
    assert seen[-1][0] == (2, 4, 8, 8) and torch.equal(edited.latents[0], result.latents[0])


@pytest.mark.parametrize("wrong", [lambda a, b, t: None, lambda a, b, t: a[:1], lambda a, b, t: 7.5])
def test_guidance_that_returns_something_else_is_told(model, wrong):
    with pytest.raises(ValueError, match=r"^guidance must return .*\(3, 4, 8, 8\); this one returned [^\n]*$"):
        sample(model, guidance=wrong)


def test_null_text_refuses_a_function_by_name(model):
    """Its embeddings were made for one number."""
    image = sample(model, prompts=PROMPTS[:1]).images[0]
    inversion = p2p.invert(model, image, PROMPTS[0], "null-text", steps=2, guidance=3.0)
    with pytest.raises(ValueError, match="guidance must be that of the null-text inversion, 3"):
        sample(model, steps=2, guidance=lambda eps_c, eps_u, t: eps_c, inversion=inversion)
    with pytest.raises(ValueError, match="guidance must be a finite number"):
        p2p.invert(model, image, PROMPTS[0], "null-text", steps=2, guidance=lambda eps_c, eps_u, t: eps_c)


@pytest.mark.parametrize("which", ["model", "xl"])
def test_context_takes_the_place_of_the_encoded_prompts(which, request):
    """The same gives the same; half way between two prompts is neither."""
    model = request.getfixturevalue(which)
    usual, size = sample(model), model.size
    context = encode(model, PROMPTS, *size)
    assert torch.equal(sample(model, context=context).latents, usual.latents)
    between = context._replace(states=context.states.lerp(context.states.flip(0), 0.5))
    assert differ(sample(model, context=between).latents, usual.latents)
    if which == "model":
        assert torch.equal(sample(model, context=context.states).latents, usual.latents)


@pytest.mark.parametrize("which", ["model", "xl"])
@pytest.mark.parametrize("wrong", [
    lambda c: c._replace(states=c.states[:2]), lambda c: c._replace(states=c.states[:, :5]), lambda c: "a cat",
    lambda c: c._replace(pooled=c.states[:, 0, :3]), lambda c: Context(None)])
def test_context_that_does_not_fit_is_told(which, wrong, request):
    model = request.getfixturevalue(which)
    with pytest.raises(ValueError, match="^context must be a Context as networks.text.encode makes it[^\n]*$"):
        sample(model, context=wrong(encode(model, PROMPTS, *model.size)))


# ---- layers --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("which", ["model", "xl"])
def test_attention_layers_have_names(which, request):
    """In the order of their calls; each name chooses that layer alone, and the names together are all of them."""
    model = request.getfixturevalue(which)
    for place, kind in enumerate(("cross", "self")):
        names, calls = model.unet.attention_names(kind), []
        assert len(set(names)) == len(names) > 3
        edits = {name: (lambda M, M_star, t, name=name: calls.append(name) or M_star) for name in names}
        sample(model, *[None] * place, edits, steps=1)
        assert calls == names
    with pytest.raises(ValueError, match="kind must be 'cross' or 'self', not 'both'"):
        model.unet.attention_names("both")


@pytest.mark.parametrize("edit", [None, "plain", "dict"])
def test_a_recorder_may_watch_some_layers(model, tokenizer, edit):
    """Its maps are those of these layers; all layers of a size, one by one, average to what one recorder of all has.
    The run is the same."""
    swap = p2p.auto(tokenizer, PROMPTS, 0.7)
    edit = dict(plain=swap, dict={"up_blocks": swap, "mid_block": None}).get(edit)
    whole = p2p.Recorder(tokenizer, PROMPTS)
    usual = sample(model, edit, recorder=whole).latents
    maps, heads = [], []
    for name in model.unet.attention_names("cross"):
        one = p2p.Recorder(tokenizer, PROMPTS, layers=name)
        assert torch.equal(sample(model, edit, recorder=one).latents, usual)
        if one.sizes == [(4, 4)]:
            maps.append(one.maps("big", 1))
            heads.append(one.maps("big", 1, per_head=True))
            np.testing.assert_allclose(heads[-1].mean(0), maps[-1], rtol=1e-5)
    np.testing.assert_allclose(np.mean(maps, 0), whole.maps("big", 1, size=(4, 4)), rtol=1e-5)
    part = p2p.Recorder(tokenizer, PROMPTS, layers="up_blocks.1")
    sample(model, edit, recorder=part)
    assert len(part.sizes) == 1
    with pytest.raises(ValueError, match="no cross-attention has the prefix 'up_blocks.7'"):
        sample(model, edit, recorder=p2p.Recorder(tokenizer, PROMPTS, layers="up_blocks.7"))


def test_heads_of_several_layers_are_not_averaged(model, tokenizer):
    """Head h of one layer has nothing to do with head h of another."""
    recorder = p2p.Recorder(tokenizer, PROMPTS)
    sample(model, None, recorder=recorder)
    with pytest.raises(ValueError, match="several layers, whose heads have nothing in common; build .*layers="):
        recorder.maps("big", per_head=True, size=(4, 4))


@pytest.mark.parametrize("name, chosen", [("up_blocks.1.x", "b"), ("up_blocks.10.x", "a"), ("down_blocks.1", "a")])
def test_the_longest_prefix_wins(name, chosen):
    assert for_layer({"": "a", "up_blocks.1": "b"}, name) == chosen


# ---- time ----------------------------------------------------------------------------------------------------------

def test_t_at_most_tau_is_a_window_without_luck(model):
    """`M_star if t <= tau` injects for as many steps as the window 1 - tau: every N to 200, tau in hundredths."""
    for N in range(1, 201):
        times = [(N - i) / N for i in range(N)]
        for hundredths in range(101):
            tau, (start, end) = hundredths / 100, window((100 - hundredths) / 100)
            injected = [not t <= tau for t in times]
            assert injected == [inside(start, end, t) for t in times]
            assert sum(injected) == -(-N * (100 - hundredths) // 100)
    seen = []
    sample(model, lambda M, M_star, t: seen.append(t) or M_star, steps=7, guidance=1)
    assert list(dict.fromkeys(seen)) == [(7 - i) / 7 for i in range(7)]


# ---- compilers -----------------------------------------------------------------------------------------------------

@pytest.mark.skipif(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 13), reason="2.6 compiles edits wrongly")
@pytest.mark.parametrize("edited, most", [(False, 1), pytest.param(True, 4, marks=pytest.mark.long)])
def test_a_compiled_unet_is_not_compiled_anew_each_step(model, tokenizer, edited, most):
    """Ten steps need a few graphs, with and without what an edit does at that t, not one for each t; twenty need no
    more. The latents are the same.
    """
    small = Network(dict(UNET, block_out_channels=[32], down_block_types=["CrossAttnDownBlock2D"],
                      up_block_types=["CrossAttnUpBlock2D"])).requires_grad_(False).to(model.device)
    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward
    torch._dynamo.reset()
    plain, compiled = (dataclasses.replace(model, unet=unet)
                       for unet in (small, torch.compile(small, backend=backend)))
    edits = (p2p.auto(tokenizer, PROMPTS, 0.5), p2p.self_replace(0.3)) if edited else ()
    for steps in (10, 20):
        assert_same(sample(compiled, *edits, steps=steps).latents, sample(plain, *edits, steps=steps).latents)
        assert 1 <= len(graphs) <= most
    torch._dynamo.reset()
