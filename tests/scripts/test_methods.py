"""Published methods in scripts/methods.py: each does on the toy what its paper claims, in few steps, and is short."""
import inspect

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

import methods
import p2p_min as p2p
from p2p_min.attention import attend
from p2p_min.ddim import alphas, timesteps


@pytest.fixture(scope="module")
def toy():
    return p2p.load(methods.ROOT / "weights" / "toy", device="cpu")


@pytest.fixture(scope="module")
def judge():
    return methods.judging.load()


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_is_short(name):
    """At most 30 lines, with its docstring, and nothing registered or patched."""
    code = inspect.getsource(getattr(methods, name))
    assert len(code.splitlines()) <= 30
    assert "hook" not in code and "processor" not in code and ".forward" not in code


def test_masactrl_keeps_the_look_and_follows_the_prompt(toy, judge):
    """The small ball has the big one's colour; with the conditional rows alone it is not small."""
    _, numbers = methods.try_masactrl(toy, judge, [1], steps=8)
    alone, conditional, both = (numbers[name] for name in ("a small ball", "conditional rows", "both"))
    assert alone["colour_kept"] < both["colour_kept"] == both["small"] == 1
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


def test_a_neglected_object_is_excited(toy, judge):
    """The castle appears, and its map's maximum grows."""
    _, numbers = methods.try_attend_and_excite(toy, judge, [2, 4, 5], steps=10)
    assert numbers["excited"]["both"] >= numbers["without"]["both"] + 2
    assert numbers["excited"]["maximum"] > 1.5 * numbers["without"]["maximum"]


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
