"""The paper's edits: one formula, its windows, and what can be said of it without a network."""
import copy
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from p2p_min import auto, refine, replace, reweight, self_replace
from p2p_min.align import align_refine, align_swap, tokens_of
from p2p_min.attention import attend
from p2p_min.edits import inside

PROMPTS = ["a big car next to a river", "a big bicycle next to a river"]
HEADS, HEIGHT, WIDTH, KEYS = 2, 3, 5, 77


def maps(targets=1, keys=KEYS, seed=0):
    """M and M_star, random."""
    generator = torch.Generator().manual_seed(seed)
    M = torch.randn(1 + targets, HEADS, HEIGHT, WIDTH, keys, generator=generator).softmax(-1)
    return M[0], M[1:]


def formula(M, M_star, alignment, c=1.0):
    """M_hat of one target with w = 1, one target token at a time."""
    c = torch.as_tensor(c).expand(KEYS)
    columns = []
    for j in range(KEYS):
        part = sum((alignment.A[i, j] * M[..., i] for i in range(KEYS) if alignment.A[i, j]), torch.zeros(M.shape[:-1]))
        columns.append(c[j] * (part + alignment.own[j] * M_star[..., j]))
    return torch.stack(columns, -1)


# ---- the formula ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("build, align, prompts", [
    (replace, align_swap, PROMPTS), (replace, align_swap, PROMPTS[::-1]),
    (refine, align_refine, ["a castle on snow", "a big castle on the snow"]),
    (refine, align_refine, ["a big red car", "a car"])])
def test_inside_its_window_an_edit_is_M_A_plus_M_star_own(tokenizer, build, align, prompts):
    """Word swap and added phrase are the same formula with another alignment; nothing else happens to the maps."""
    M, M_star = maps()
    M_hat = build(tokenizer, prompts)(M, M_star, 1.0)
    torch.testing.assert_close(M_hat[0], formula(M, M_star[0], align(tokenizer, *prompts)))


@pytest.mark.parametrize("build", [replace, refine, auto])
def test_outside_its_window_an_edit_gives_M_star(tokenizer, build):
    """w = 0: the targets' own maps, exactly."""
    M, M_star = maps()
    edit = build(tokenizer, PROMPTS, steps=0.5)
    assert torch.equal(edit(M, M_star, 0.5), M_star) and not torch.equal(edit(M, M_star, 0.6), M_star)


def test_several_targets_each_get_their_own_alignment(tokenizer):
    """An edit of three targets does to each what the edit of that target alone does."""
    prompts = [PROMPTS[0], PROMPTS[1], "a big red car next to a river", "a burger"]
    M, M_star = maps(3)
    together = auto(tokenizer, prompts)(M, M_star, 1.0)
    for i, target in enumerate(prompts[1:]):
        alone = auto(tokenizer, [prompts[0], target])(M, M_star[i:i + 1], 1.0)
        torch.testing.assert_close(together[i:i + 1], alone)


def test_a_swap_keeps_row_sums(tokenizer):
    """Replaced maps are still distributions: each pixel's attention sums to 1 where every source token is used once."""
    M, M_star = maps()
    M[..., 9:] = 0                                         # no attention on padding, so that none moves
    M = M / M.sum(-1, keepdim=True)
    torch.testing.assert_close(replace(tokenizer, PROMPTS)(M, M_star, 1.0).sum(-1), torch.ones(1, HEADS, HEIGHT, WIDTH))


# ---- windows -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("N", [10, 50, 7])
def test_windows_are_exact_on_the_grid_of_steps(tokenizer, N):
    """Window (a/N, b/N) acts at steps a … b-1 of N, for every a <= b, in every kind of edit, whatever the rounding."""
    times = [(N - i) / N for i in range(N)]
    for a in range(N + 1):
        for b in range(a, N + 1):
            acts = [i for i, t in enumerate(times) if inside(a / N, b / N, t)]
            assert acts == list(range(a, b))
    for b in range(0, N + 1, 3):
        for edit in (replace(tokenizer, PROMPTS, steps=b / N), replace(tokenizer, PROMPTS, {"default_": b / N}),
                     reweight(tokenizer, PROMPTS, {"bicycle": 2.0}, lambda M, M_star, t: M_star, steps=b / N)):
            M, M_star = maps()
            assert [i for i, t in enumerate(times) if not torch.equal(edit(M, M_star, t), M_star)] == list(range(b))
        assert [i for i, t in enumerate(times) if self_replace(b / N).active(4, 4, t)] == list(range(b))


@pytest.mark.parametrize("a, b, t, acts", [
    (0.2, 0.7, 0.8, True), (0.2, 0.7, 0.8 + 2e-6, False), (0.2, 0.7, 0.8 + 5e-7, True),
    (0.2, 0.7, 0.3, False), (0.2, 0.7, 0.3 + 5e-7, False), (0.2, 0.7, 0.3 + 2e-6, True),
    (0.0, 1.0, 1.0, True), (0.0, 1.0, 0.001, True), (0.0, 0.0, 1.0, False), (0.5, 0.5, 0.5, False)])
def test_the_rule_of_windows_at_their_ends(tokenizer, a, b, t, acts):
    """t is inside (a, b) when a − 1e-6 ≤ 1 − t < b − 1e-6, the same for cross- and self-attention."""
    M, M_star = maps()
    edit = replace(tokenizer, PROMPTS, steps=(a, b))
    assert edit.active(4, 4, t) == acts == (not torch.equal(edit(M, M_star, t), M_star))
    assert self_replace((a, b)).active(4, 4, t) == acts


def test_a_window_per_word_holds_for_all_its_tokens_and_for_no_other(tokenizer):
    """{"default_": 0.8, "bicycle": 0.4}: at 60 % the bicycle's tokens keep their own maps, all others are injected."""
    M, M_star = maps()
    M_hat = replace(tokenizer, PROMPTS, {"default_": 0.8, "bicycle": 0.4})(M, M_star, 0.4)[0]
    expected = formula(M, M_star[0], align_swap(tokenizer, *PROMPTS))
    expected[..., [3, 4]] = M_star[0][..., [3, 4]]
    torch.testing.assert_close(M_hat, expected)


def test_without_default_the_other_words_have_the_whole_schedule(tokenizer):
    """{"bicycle": (0.2, 0.4)}: the other tokens are injected to the end, as in the official code."""
    M, M_star = maps()
    M_hat = replace(tokenizer, PROMPTS, {"bicycle": (0.2, 0.4)})(M, M_star, 0.02)[0]
    changed = (M_hat != M_star[0]).flatten(0, 2).any(0)
    assert changed.nonzero().flatten().tolist() == [0, 1, 2] + list(range(5, KEYS))


def test_a_words_window_concerns_the_targets_that_have_the_word(tokenizer):
    """With several targets, "lion" may be in one only; the other keeps the default window."""
    M, M_star = maps(2)
    edit = replace(tokenizer, ["a big car", "a big lion", "a big dog"], {"default_": 1.0, "lion": 0.0})
    M_hat = edit(M, M_star, 1.0)
    assert torch.equal(M_hat[0][..., 3], M_star[0][..., 3]) and torch.equal(M_hat[1][..., 3], M[..., 3])


@pytest.mark.parametrize("steps", [-0.1, 1.1, (0.7, 0.2), (0.1, 0.2, 0.3), (), float("nan"), float("inf"), "0.8", None,
                                   {"default_": 2}, {"bicycle": -1}, {"bicycle": {"car": 1}}, [0.5]])
@pytest.mark.parametrize("build", [
    replace, refine, auto, lambda t, p, s: reweight(t, p, {"bicycle": 2.0}, steps=s), lambda t, p, s: self_replace(s)])
def test_an_impossible_window_is_an_error(tokenizer, build, steps):
    """steps must be a fraction, a window in order, or a dict of them; the error shows what was given."""
    with pytest.raises(ValueError, match="steps must be"):
        build(tokenizer, PROMPTS, steps)


# ---- re-weighting --------------------------------------------------------------------------------------------------

def plain(M, M_star, t):
    return M_star + 0.25 * M


BASES = {
    "replace": lambda t: replace(t, PROMPTS, steps=1.0), "refine": lambda t: refine(t, PROMPTS, steps=1.0),
    "replace that ends early": lambda t: replace(t, PROMPTS, steps=0.1), "plain": lambda t: plain,
    "reweight": lambda t: reweight(t, PROMPTS, {"river": 3.0})}


@pytest.mark.parametrize("c", [-2.0, 0.0, 0.5, 4])
@pytest.mark.parametrize("base", BASES)
def test_reweight_scales_what_its_base_gives_and_only_at_the_word(tokenizer, base, c):
    """c times the base's answer at every token of the word inside the window; outside, the base's answer as it is."""
    M, M_star = maps()
    base = BASES[base](tokenizer)
    edit = reweight(tokenizer, PROMPTS, {"bicycle": c}, base, steps=0.5)
    scale = torch.ones(KEYS)
    scale[[3, 4]] = c
    torch.testing.assert_close(edit(M, M_star, 0.6), base(M, M_star, 0.6) * scale)
    assert torch.equal(edit(M, M_star, 0.5), base(M, M_star, 0.5))


def test_reweight_does_not_call_a_base_that_is_not_active(tokenizer):
    """Where the base asks for no map, the targets' own maps are scaled."""
    class Asleep:
        def active(self, height, width, t):
            return False

        def __call__(self, M, M_star, t):
            raise AssertionError("called though not active")
    M, M_star = maps()
    edit = reweight(tokenizer, PROMPTS, {"big": 3.0}, Asleep())
    assert torch.equal(edit(M, M_star, 1.0)[..., 2], 3 * M_star[..., 2]) and edit.active(3, 5, 1.0)


def test_reweight_alone_scales_the_sources_maps(tokenizer):
    """base None: the aligned maps of the source, in the same window: the paper's c · M at the word, M elsewhere."""
    M, M_star = maps()
    edit = reweight(tokenizer, PROMPTS, {"bicycle": 3.0}, steps=0.5)
    c = torch.ones(KEYS)
    c[[3, 4]] = 3
    torch.testing.assert_close(edit(M, M_star, 0.9)[0], formula(M, M_star[0], align_swap(tokenizer, *PROMPTS), c))
    assert torch.equal(edit(M, M_star, 0.4), M_star)


def test_reweighted_rows_do_not_sum_to_one(tokenizer):
    """Nothing normalises a re-weighted map again: the row sums change by (c − 1) times the word's share."""
    M, M_star = maps()
    M_hat = reweight(tokenizer, PROMPTS, {"big": 3.0}, lambda M, M_star, t: M_star)(M, M_star, 1.0)
    torch.testing.assert_close(M_hat.sum(-1), 1 + 2 * M_star[..., 2])


def test_weights_are_given_once_or_once_per_target(tokenizer):
    """One dict for all targets, or a list with one for each."""
    prompts = ["a big car"] * 3
    M, M_star = maps(2)
    ratio = [reweight(tokenizer, prompts, weights, lambda M, M_star, t: M_star)(M, M_star, 1.0) / M_star
             for weights in ({"big": 2.0}, [{"big": 2.0}, {"car": -1.0, "big car": 5.0, "a": 0.5}])]
    assert torch.allclose(ratio[0][:, 0, 0, 0, :5], torch.tensor([1.0, 1, 2, 1, 1]).expand(2, 5))
    assert torch.allclose(ratio[1][:, 0, 0, 0, :5], torch.tensor([[1.0, 1, 2, 1, 1], [1, 0.5, 5, 5, 1]]))


def test_the_window_of_one_weight_may_be_its_own(tokenizer):
    """steps per word: "big" is re-weighted to the end, "bicycle" for the first half."""
    M, M_star = maps()
    edit = reweight(tokenizer, PROMPTS, {"big": 2.0, "bicycle": 2.0}, lambda M, M_star, t: M_star,
                    steps={"default_": 1.0, "bicycle": 0.5})
    ratio = (edit(M, M_star, 0.2) / M_star)[0, 0, 0, 0]
    assert torch.allclose(ratio[:6], torch.tensor([1.0, 1, 2, 1, 1, 1]))


@pytest.mark.parametrize("weights", [
    {"bicycle": float("nan")}, {"bicycle": float("inf")}, {"bicycle": "2"}, {"bicycle": None}, {3: 2.0}, {"": 2.0},
    [{"bicycle": 2.0}] * 2, [], "bicycle", {"dog": 1.0}])
def test_impossible_weights_are_errors(tokenizer, weights):
    """A weight is a finite number for a word that the target has; a list has one dict per target."""
    with pytest.raises(ValueError):
        reweight(tokenizer, PROMPTS, weights)


@pytest.mark.parametrize("c", [
    1e39, -1e39, 3.41e38, 10 ** 39, -10 ** 400, Fraction(10 ** 400), Fraction(10 ** 39), np.float64(1e39),
    np.longdouble(1e39), float("-inf"), np.float32("nan"), True, np.bool_(True), 1j, "1"], ids=repr)
def test_a_weight_beyond_float32_is_refused_by_name(tokenizer, c):
    """It would be infinite where it is used, and the picture's fault an edit's."""
    with pytest.raises(ValueError, match="the weight of 'bicycle' must be a finite number in float32, not ") as caught:
        reweight(tokenizer, PROMPTS, {"bicycle": c})
    assert repr(c)[:90] in str(caught.value)


@pytest.mark.parametrize("c", [3.4e38, -3.4e38, 10 ** 38, Fraction(1, 3), np.float16(2), np.float32(3.4028235e38),
                               np.int8(-128), np.longdouble(2), 1e-50], ids=repr)
@pytest.mark.filterwarnings("error")
def test_a_weight_is_any_number_that_float32_holds(tokenizer, c):
    found = reweight(tokenizer, PROMPTS, {"bicycle": c}).c
    assert found.isfinite().all() and found[0, 3] == torch.tensor(float(c), dtype=torch.float32)


# ---- self-attention ------------------------------------------------------------------------------------------------

def test_self_replace_gives_the_sources_maps_in_small_maps_for_a_while(tokenizer):
    """Inside the window and up to max_pixels, every target takes M; else each keeps its own."""
    M, M_star = maps(2, keys=HEIGHT * WIDTH)
    edit = self_replace(0.4, max_pixels=HEIGHT * WIDTH)
    assert torch.equal(edit(M, M_star, 0.7), M.expand_as(M_star))
    assert torch.equal(edit(M, M_star, 0.6), M_star)
    assert torch.equal(self_replace(0.4, max_pixels=HEIGHT * WIDTH - 1)(M, M_star, 1.0), M_star)


@pytest.mark.parametrize("height, width, t, active", [
    (32, 32, 1.0, True), (16, 64, 1.0, True), (33, 32, 1.0, False), (64, 64, 1.0, False), (16, 16, 0.6, False),
    (16, 16, 0.62, True)])
def test_self_replace_says_where_it_is_active(height, width, t, active):
    """By default 40 % of the steps and at most 32 × 32 pixels, whatever the shape: elsewhere no map need be made."""
    assert self_replace().active(height, width, t) is active


@pytest.mark.parametrize("max_pixels", [-1, 2.5, True, None, "1024"])
def test_impossible_max_pixels_are_errors(max_pixels):
    """max_pixels is a whole number."""
    with pytest.raises(ValueError, match="max_pixels"):
        self_replace(max_pixels=max_pixels)


# ---- manners -------------------------------------------------------------------------------------------------------

def test_the_callers_dicts_and_lists_are_left_alone(tokenizer):
    """Trap 7: the official code pops "default_" from the caller's dict, so that a second call does something else."""
    steps, weights, prompts = {"default_": 0.8, "bicycle": 0.4}, [{"bicycle": 2.0}], list(PROMPTS)
    given = copy.deepcopy((steps, weights, prompts))
    for _ in range(2):
        reweight(tokenizer, prompts, weights, replace(tokenizer, prompts, steps), steps)
        auto(tokenizer, prompts, steps), refine(tokenizer, prompts, steps)
    assert (steps, weights, prompts) == given


@pytest.mark.parametrize("build", [
    lambda t: replace(t, PROMPTS), lambda t: refine(t, PROMPTS), lambda t: reweight(t, PROMPTS, {"river": 2.0}),
    lambda t: self_replace()])
def test_an_edit_writes_into_neither_map(tokenizer, build):
    """Trap 9: maps that somebody keeps are not overwritten by the edits of this package."""
    keys = HEIGHT * WIDTH if build(tokenizer) == self_replace() else KEYS
    M, M_star = maps(keys=keys)
    kept = M.clone(), M_star.clone()
    build(tokenizer)(M, M_star, 1.0)
    assert torch.equal(M, kept[0]) and torch.equal(M_star, kept[1])


@pytest.mark.parametrize("build", [replace, refine, auto, lambda t, p, **k: reweight(t, p, {}, **k),
                                   lambda t, p, **k: self_replace(**k)])
def test_unknown_keyword_arguments_are_not_swallowed(tokenizer, build):
    """Trap 7: a misspelt argument is an error, not a silent default."""
    with pytest.raises(TypeError):
        build(tokenizer, PROMPTS, cross_replace_steps=0.4)


@pytest.mark.parametrize("prompts", ["a car", [], ["a car"]])
@pytest.mark.parametrize("build", [replace, refine, auto, lambda t, p: reweight(t, p, {})])
def test_an_edit_needs_a_source_and_a_target(tokenizer, build, prompts):
    """prompts is a list: the source, then at least one target."""
    with pytest.raises(ValueError, match="prompts"):
        build(tokenizer, prompts)


@pytest.mark.parametrize("build", [replace, lambda t, p: reweight(t, p, {"river": 2.0}, lambda M, M_star, t: M_star)])
def test_an_edit_for_other_prompts_says_so(tokenizer, build):
    """Maps of another number of targets or tokens than the edit was built for are an error with the numbers."""
    with pytest.raises(ValueError, match="1 targets and 77 tokens; the maps have 3 and 77"):
        build(tokenizer, PROMPTS)(*maps(3), 1.0)
    with pytest.raises(ValueError, match="77 tokens; the maps have 1 and 15"):
        build(tokenizer, PROMPTS)(*maps(1, keys=15), 1.0)


@pytest.mark.parametrize("weights, steps, t, active", [
    ({"big": 2.0}, 0.5, 0.9, True), ({"big": 2.0}, 0.5, 0.5, False), ({"big": 1.0}, 0.5, 0.9, False),
    ({"big": 2.0}, {"default_": 1.0, "big": 0.2}, 0.5, False)])
def test_reweight_is_active_only_where_it_changes_something(tokenizer, weights, steps, t, active):
    """Outside its windows, over a base that has ended, re-weighting asks for no map."""
    edit = reweight(tokenizer, PROMPTS, weights, replace(tokenizer, PROMPTS, 0.0), steps)
    assert edit.active(16, 16, t) is active


# ---- linear edits of maps are edits of values ----------------------------------------------------------------------

@pytest.fixture
def qkv():
    """Rows source and target: (2, heads, pixels or keys, 8)."""
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(2, HEADS, HEIGHT * WIDTH, 8, generator=generator),
            *torch.randn(2, 2, HEADS, KEYS, 8, generator=generator))


def edited(qkv, edit):
    return attend(*qkv, (HEIGHT, WIDTH), edit, 1.0)[1]


def test_replacing_a_map_is_attention_with_the_sources_queries_and_keys(qkv):
    """M V* = SDPA(q, k, V*)."""
    q, k, v = qkv
    torch.testing.assert_close(edited(qkv, lambda M, M_star, t: M.expand_as(M_star)),
                               F.scaled_dot_product_attention(q[0], k[0], v[1]))


@pytest.mark.parametrize("targets", [1, 3])
def test_self_replace_needs_no_map_and_gives_what_its_map_gives(targets):
    """It attends with the source's queries and keys; every row is what M_hat = M gives, the source's its own."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, 1 + targets, HEADS, HEIGHT * WIDTH, 8, generator=generator)
    edit = self_replace()
    for t in (1.0, 0.1):
        by_maps = attend(q, k, v, (HEIGHT, WIDTH), lambda M, M_star, t: edit(M, M_star, t), t)
        torch.testing.assert_close(attend(q, k, v, (HEIGHT, WIDTH), edit, t), by_maps)


def test_a_word_swap_is_an_edit_of_the_values(tokenizer, qkv):
    """(M A) V* = SDPA(q, k, A V*)."""
    q, k, v = qkv
    A = align_swap(tokenizer, *PROMPTS).A
    torch.testing.assert_close(edited(qkv, replace(tokenizer, PROMPTS)),
                               F.scaled_dot_product_attention(q[0], k[0], A @ v[1]))


def test_a_refinement_is_a_sum_of_two_attentions(tokenizer, qkv):
    """(M A + M* own) V* = SDPA(q, k, A V*) + SDPA(q*, k*, diag(own) V*)."""
    q, k, v = qkv
    prompts = ["a castle on snow", "a big castle on the snow"]
    A, own = align_refine(tokenizer, *prompts)
    torch.testing.assert_close(edited(qkv, refine(tokenizer, prompts)),
                               F.scaled_dot_product_attention(q[0], k[0], A @ v[1])
                               + F.scaled_dot_product_attention(q[1], k[1], own[:, None] * v[1]))


def test_re_weighting_is_a_scaling_of_the_values(tokenizer, qkv):
    """(M diag(c)) V* = SDPA(q, k, diag(c) V*)."""
    q, k, v = qkv
    c = torch.ones(KEYS, 1)
    c[tokens_of(tokenizer, "a big car", "big")] = -2
    torch.testing.assert_close(edited(qkv, reweight(tokenizer, ["a big car"] * 2, {"big": -2.0})),
                               F.scaled_dot_product_attention(q[0], k[0], c * v[1]))
