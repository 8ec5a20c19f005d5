"""Published methods in scripts/methods.py: each does on the toy what its paper claims, in few steps, and is short."""
import inspect

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

import methods
import p2p_min as p2p
from p2p_min.attention import attend
from p2p_min.ddim import alphas, timesteps
from p2p_min.networks.text import encode


@pytest.fixture(scope="module")
def toy():
    return p2p.load(methods.ROOT / "weights" / "toy", device="cpu")


@pytest.fixture(scope="module")
def judge():
    return methods.judging.load()


@pytest.mark.parametrize("name", [*methods.METHODS, "ddcm"])
def test_a_method_is_short(name):
    """At most 30 lines, with its docstring, and nothing registered or patched."""
    code = inspect.getsource(getattr(methods, name))
    assert len(code.splitlines()) <= 30
    assert "hook" not in code and "processor" not in code and ".forward" not in code


def test_masactrl_keeps_the_look_and_follows_the_prompt(toy, judge):
    """The small balls have the big ones' colours; with the conditional rows alone they are not small."""
    _, numbers = methods.try_masactrl(toy, judge, [3, 4], steps=8)
    alone, conditional, both = (numbers[name] for name in ("a small ball", "conditional rows", "both"))
    assert alone["colour_kept"] < both["colour_kept"] == both["small"] == 2
    assert conditional["small"] == 0


def test_free_prompt_editing_keeps_the_shape(toy, judge):
    """The cake stands more where the ball stood, without any cross-attention of the source."""
    _, numbers = methods.try_free_prompt_editing(toy, judge, [1], steps=10)
    assert numbers["FPE"]["overlap"] > numbers["a cake"]["overlap"] + 0.05
    assert numbers["FPE"]["cake"] == 1


def test_words_can_be_painted(toy, judge):
    _, numbers = methods.try_paint_with_words(toy, judge, [0, 1], steps=8)
    assert numbers["painted"]["inside"] > numbers["without"]["inside"] + 0.2
    assert numbers["painted"]["ball"] == 2


@pytest.mark.long
def test_the_word_that_is_looked_at_least_is_excited(toy, judge):
    """The lower of two words' maxima grows, and neither object is lost. (The toy leaves out neither by itself.)"""
    _, numbers = methods.try_attend_and_excite(toy, judge, [2, 4, 5], steps=10)
    assert numbers["excited"]["least"] > 1.15 * numbers["without"]["least"]
    assert numbers["excited"]["both"] == 3


def test_style_aligned_takes_the_colour(toy, judge):
    """The cars come nearer to their balls' colours, more so by AdaIN, which makes one the same; they stay cars."""
    _, numbers = methods.try_style_aligned(toy, judge, [0, 2], steps=6)
    alone, shared, aligned = (numbers[name] for name in ("a car", "shared", "shared, AdaIN"))
    assert alone["colour_off"] > shared["colour_off"] + 10 > aligned["colour_off"] + 20
    assert (alone["colour_taken"], aligned["colour_taken"], aligned["car"]) == (0, 1, 2)


def test_style_aligned_is_attention_to_both():
    """Keys of both, in one softmax; AdaIN forgets the targets' own mean and deviation; the source is itself."""
    q, k, v = torch.randn(3, 3, 2, 16, 8, generator=torch.Generator().manual_seed(0))
    plain, aligned = (methods.style_aligned(adain).attend for adain in (False, True))
    both = (q[1] @ torch.cat([k[0], k[1]], 1).mT / 8 ** 0.5).softmax(-1) @ torch.cat([v[0], v[1]], 1)
    assert torch.allclose(plain(q, k, v, (4, 4), 1.0)[1], both, atol=1e-5)
    moved = [torch.cat([x[:1], 3 * x[1:] + 2]) for x in (q, k)]
    assert torch.allclose(aligned(*moved, v, (4, 4), 1.0), aligned(q, k, v, (4, 4), 1.0), atol=1e-4)
    for attend_ in plain, aligned:
        assert torch.allclose(attend_(q, k, v, (4, 4), 1.0)[0], sdpa(q, k, v)[0], atol=1e-4)


def test_perturbed_attention_is_its_formula(model):
    """eps_c + s/w (eps_c - eps_p), where eps_p is made by an Edit here; other rows are left alone."""
    name, t = "up_blocks.1", 0.5
    z, context = torch.randn(1, 4, 8, 8).expand(3, -1, -1, -1), encode(model, ["a red car"]).expand(3)

    def eye(M, M_star, t):
        return torch.eye(M.shape[-1]).view(M.shape[1:]).expand_as(M_star)
    with torch.no_grad():
        eps, eps_p = model.unet(z, 500, context)[0], model.unet(z, 500, context, None, {name: eye}, t)[1]
        perturbed = methods.perturbed_attention(model, 5.0, 2.0, name).unet(z, 500, context, None, None, None, 2)
    assert (eps - eps_p).abs().max() > 1e-3
    assert torch.allclose(perturbed[0], eps + 2 / 5 * (eps - eps_p), atol=1e-5)
    assert torch.allclose(perturbed[1], perturbed[0], atol=1e-5) and torch.allclose(perturbed[2], eps, atol=1e-5)


def test_perturbed_attention_does_not_depend_on_the_number_of_prompts(toy):
    """Alone, or among five, whose unconditional rows get a call of their own."""
    guided, prompts = methods.perturbed_attention(toy, 5.0), ["a house and a castle", *["a red car on the beach"] * 4]
    alone, among, without = (p2p.prompt_to_prompt(each, prompts[:n], steps=2, guidance=5.0).latents[0]
                             for each, n in ((guided, 1), (guided, 5), (toy, 1)))
    assert (alone - among).abs().max() < 1e-3 < 0.1 < (alone - without).abs().max()


@pytest.mark.long
def test_perturbed_attention_mends_the_structure(toy, judge):
    """Without guidance, the judge doubts less what it sees. (With guidance it doubts little, perturbed or not.)"""
    _, numbers = methods.try_perturbed_attention(toy, judge, [0, 1, 2, 3], steps=8)
    alone, perturbed = (numbers[f"guidance 1, {name}"] for name in ("alone", "perturbed"))
    assert perturbed["doubt"] < 0.5 * alone["doubt"] and perturbed["both"] > alone["both"]


@pytest.mark.parametrize("name", ["edit_friendly", "ddcm"])
def test_a_known_source_comes_back_to_the_bit(model, name):
    """And a target with the source's prompt is the source: their noise is the same."""
    x_0, prompts = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), ["a red car", "a blue car"]
    latents, sampler = methods.edit_friendly(model, x_0, 5) if name == "edit_friendly" else (None, methods.ddcm(x_0))
    result = p2p.prompt_to_prompt(model, prompts, steps=5, latents=latents, sampler=sampler)
    assert torch.equal(result.latents[:1], x_0) and (result.latents[1] - x_0).abs().max() > 0.01
    same = p2p.prompt_to_prompt(model, prompts[:1] * 2, steps=5, latents=latents, sampler=sampler).latents
    assert torch.allclose(same[1], x_0, atol=1e-3)


@pytest.mark.long
def test_the_noise_of_a_picture_keeps_it(toy, judge):
    """The source is exact, which DDIM inversion is not; the cake is there, and word swap keeps more around it."""
    _, numbers = methods.try_edit_friendly(toy, judge, [3], steps=6)
    alone, swapped, ddcm = (numbers[name] for name in
                            ("edit-friendly", "edit-friendly, word swap", "DDCM, word swap"))
    assert alone["source"] == swapped["source"] == ddcm["source"] == 100 > numbers["DDIM, word swap"]["source"]
    assert swapped["cake"] == ddcm["cake"] == 1
    assert swapped["outside"] > alone["outside"] + 2


@pytest.mark.long
def test_a_layer_is_judged_with_both_kinds_of_rows_or_without_guidance(toy):
    """Ablation in the conditional rows alone overrates every layer together; the other two columns agree better."""
    changes = torch.tensor(list(methods.ablation(toy, [0], steps=6).values()))
    conditional, both, unguided = changes.mean(0)
    assert len(changes) == len(toy.unet.attention_names("self"))
    assert conditional > 1.5 * max(both, unguided) and min(both, unguided) > 1


def test_a_bias_before_the_softmax_is_a_factor_of_the_map():
    """M_hat ∝ M_star · e^b: what a method adds to the scores, an Edit of maps multiplies."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, b = (torch.randn(shape, generator=generator)
                  for shape in ((2, 4, 64, 16), (2, 4, 77, 16), (2, 4, 77, 16), (64, 77)))

    def bias(M, M_star, t):
        M_hat = M_star * b.exp().view(8, 8, 77)
        return M_hat / M_hat.sum(-1, keepdim=True)
    assert torch.allclose(attend(q, k, v, (8, 8), bias, 1.0)[1], sdpa(q, k, v, b)[1], atol=1e-5)


def test_watch_and_blend_are_a_sampler(model):
    """Plain functions: z_0 from one, z_{t-1} by the other. So DDIM is DDIM; with noise it is another sampler."""
    prompts, steps = ["a red car", "a blue car"], 5
    times, kept = timesteps(model.schedule, steps), {}

    def run(eta):
        def blend(z, z_star, t):
            above, below = alphas(model.schedule, times, round((1 - t) * steps))
            eps = (kept["z_t"] - above ** 0.5 * kept["z_0"]) / (1 - above) ** 0.5
            eps = (1 - eta) ** 0.5 * eps + eta ** 0.5 * torch.randn(eps.shape, generator=generator).to(eps)
            kept["z_t"] = below ** 0.5 * kept["z_0"] + (1 - below) ** 0.5 * eps
            return kept["z_t"]
        generator = torch.Generator().manual_seed(0)
        z = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).to(model.device)
        kept["z_t"] = z
        return p2p.prompt_to_prompt(model, prompts, steps=steps, latents=z, blend=blend,
                                    watch=lambda z_0, t: kept.update(z_0=z_0[1:])).latents
    ddim, usual = run(0), p2p.prompt_to_prompt(model, prompts, steps=steps, seed=1).latents
    assert torch.allclose(ddim, usual, atol=1e-4 * usual.abs().max())
    assert (run(1)[1] - usual[1]).abs().max() > 0.1 * usual.abs().max()
