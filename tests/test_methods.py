"""Published methods in scripts/methods.py: each does on the toy what its paper claims, in few steps, and is short."""
import inspect
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

import p2p_min as p2p
from p2p_min.attention import attend

sys.path.append(str(Path(__file__).parents[1] / "scripts"))
import methods  # noqa: E402


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
