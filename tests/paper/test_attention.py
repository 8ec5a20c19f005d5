"""attend: the softmax with its Edit; Attention; edits by module-name prefix."""
from collections import Counter

import pytest
import torch
import torch.nn.functional as F

from p2p_min.attention import Attention, Edits, attend, for_layer

SIZE = (3, 5)


def qkv(rows=3, heads=2, keys=7, width=4, dtype=torch.float32, size=SIZE, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(rows, heads, size[0] * size[1], width, generator=generator) * scale
    k, v = (torch.randn(rows, heads, keys, width, generator=generator) for _ in range(2))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def own(M, M_star, t):
    return M_star


class Forbidden:
    """An edit that must not be called: its `active` says no."""

    def __init__(self):
        self.asked = []

    def active(self, height, width, t):
        self.asked.append((height, width, t))
        return False

    def __call__(self, M, M_star, t):
        raise AssertionError("a map was made for an edit that is not active")


def test_without_an_edit_it_is_scaled_dot_product_attention():
    """No edit: the fast path, bit by bit."""
    q, k, v = qkv()
    assert torch.equal(attend(q, k, v, SIZE), F.scaled_dot_product_attention(q, k, v))


def test_an_edit_that_passes_M_star_on_changes_nothing_but_rounding():
    """The written-out softmax is the same attention."""
    q, k, v = qkv()
    torch.testing.assert_close(attend(q, k, v, SIZE, own, 1.0), F.scaled_dot_product_attention(q, k, v))


def test_an_edit_sees_the_source_the_targets_and_the_time():
    """M (heads, height, width, keys), M_star (targets, heads, height, width, keys), t as given; rows sum to 1."""
    seen = []
    attend(*qkv(), SIZE, lambda M, M_star, t: seen.append((M.clone(), M_star.clone(), t)) or M_star, 0.25)
    (M, M_star, t), = seen
    assert M.shape == (2, 3, 5, 7) and M_star.shape == (2, 2, 3, 5, 7) and t == 0.25
    torch.testing.assert_close(M_star.sum(-1), torch.ones(2, 2, 3, 5))
    q, k, _ = qkv()
    torch.testing.assert_close(M, (q[0] @ k[0].mT / 2).softmax(-1).view(2, 3, 5, 7))


@pytest.mark.parametrize("size", [(3, 5), (5, 3), (1, 15), (4, 4)])
def test_a_maps_pixel_is_where_it_should_be(size):
    """Trap 4: no reshaping width first. The query of pixel (y, x) looks at key y or x, and so says the map."""
    height, width = size
    keys = max(size)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    for position in (y, x):
        q = 30 * F.one_hot(position.flatten(), keys).float().expand(2, 1, -1, -1)
        k = 30 * torch.eye(keys).expand(2, 1, -1, -1)
        seen = []
        attend(q, k, k, size, lambda M, M_star, t: seen.append(M.clone()) or M_star, 1.0)
        assert torch.equal(seen[0][0].argmax(-1), position)


def test_an_edit_of_one_pixel_changes_that_pixel_only():
    """Trap 4, on the way back: what is written at (y, x) comes out at pixel y · width + x."""
    q, k, v = qkv(rows=2)

    def edit(M, M_star, t):
        M_star[:, :, 1, 4] = 0
        return M_star
    out = attend(q, k, v, SIZE, edit, 1.0)[1]
    assert (out == 0).all(-1).any(0).nonzero().flatten().tolist() == [1 * 5 + 4]


def test_the_source_is_untouched_even_by_an_edit_that_writes_in_place():
    """Trap 9: row 0 is what it would be without an edit, though the edit overwrites the very maps that it was given."""
    q, k, v = qkv()

    def vandal(M, M_star, t):
        M.zero_()
        M_star.fill_(1e3)
        return M_star
    torch.testing.assert_close(attend(q, k, v, SIZE, vandal, 1.0)[0], F.scaled_dot_product_attention(q, k, v)[0])


def test_maps_kept_from_one_call_are_not_overwritten_by_the_next():
    """Trap 9: what an observer keeps is not a view into memory that a later call or edit writes."""
    q, k, v = qkv()
    kept = []
    attend(q, k, v, SIZE, lambda M, M_star, t: kept.append(M_star) or 2 * M_star, 1.0)
    copy = kept[0].clone()
    attend(q + 1, k - 1, v, SIZE, lambda M, M_star, t: M_star.zero_(), 1.0)
    assert torch.equal(kept[0], copy)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_and_softmax_are_fp32_in_half_precision(dtype):
    """Maps are fp32 though q and k are half, even where fp16 could not hold the scores; the output has v's dtype."""
    q, k, v = qkv(dtype=dtype, scale=1.0)
    big = q * 300, k * 300, v                              # scores near 1e5 · 4: infinite in fp16
    for a, b, c in ((q, k, v), big):
        seen = []
        out = attend(a, b, c, SIZE, lambda M, M_star, t: seen.append(M_star) or M_star, 1.0)
        assert seen[0].dtype == torch.float32 and out.dtype == dtype and out.isfinite().all()
        torch.testing.assert_close(seen[0].flatten(2, 3), (a.float() @ b.float().mT / 2).softmax(-1)[1:])


def test_an_edit_that_is_not_active_costs_no_map():
    """`active(height, width, t)` says no: the edit is not called, the fast path gives the answer."""
    q, k, v = qkv()
    edit = Forbidden()
    assert torch.equal(attend(q, k, v, SIZE, edit, 0.5), F.scaled_dot_product_attention(q, k, v))
    assert edit.asked == [(3, 5, 0.5)]


def test_a_look_sees_the_maps_and_changes_nothing():
    """Where nobody edits, the output is the fast path's to the bit; M_hat is M_star."""
    seen = []
    q, k, v = qkv()
    out = attend(q, k, v, SIZE, None, 0.5, looks=[lambda *maps_and_t: seen.append(maps_and_t)])
    assert torch.equal(out, F.scaled_dot_product_attention(q, k, v))
    (M, M_star, M_hat, t), = seen
    assert (M.shape, M_star.shape, t) == ((2, 3, 5, 7), (2, 2, 3, 5, 7), 0.5) and torch.equal(M_hat, M_star)
    scores = (q / q.shape[-1] ** 0.5) @ k.transpose(-1, -2)
    assert torch.equal(torch.cat([M[None], M_star]), scores.softmax(-1).unflatten(2, SIZE))


def test_a_look_at_an_edit_sees_what_was_before_and_what_is_used():
    """Also if the edit changes its arguments in place; the output is the edit's alone, to the bit."""
    def edit(M, M_star, t):
        return M_star.mul_(0.5).add_(M.mul_(0.5))
    seen, (q, k, v) = [], qkv()
    out = attend(q, k, v, SIZE, edit, 0.5, looks=[lambda *maps_and_t: seen.append(maps_and_t[:3])] * 2)
    assert torch.equal(out, attend(q, k, v, SIZE, edit, 0.5))
    plain = []
    attend(q, k, v, SIZE, looks=[lambda *maps_and_t: plain.append(maps_and_t[:2])])
    for M, M_star, M_hat in seen:
        assert torch.equal(M, plain[0][0]) and torch.equal(M_star, plain[0][1])
        torch.testing.assert_close(M_hat, (M + M_star) / 2)
    assert len(seen) == 2


def test_a_look_is_asked_where_and_when_it_is_active_and_sees_no_other_rows():
    """`active(height, width, t)`; `rows` are the source's and the targets'."""
    class Look:
        active = lambda self, height, width, t: (height, width, t) == (*SIZE, 0.5)
        __call__ = lambda self, M, M_star, M_hat, t: seen.append((len(M_star), t))
    seen, (q, k, v) = [], qkv()
    for t in (0.5, 0.4):
        assert torch.equal(attend(q, k, v, SIZE, None, t, 2, [Look()]), F.scaled_dot_product_attention(q, k, v))
    assert seen == [(1, 0.5)]


def test_an_edit_that_needs_no_maps_attends_by_itself():
    """`attend(q, k, v, size, t)` gets the source's and targets' rows, and what it returns is used; no map is made."""
    class Whole(Forbidden):
        active = lambda self, height, width, t: True

        def attend(self, q, k, v, size, t):
            self.asked.append((len(q), size, t))
            return v[:, :, :1].expand_as(q)
    q, k, v = qkv(rows=4)
    edit = Whole()
    out = attend(q, k, v, SIZE, edit, 0.5, 2)
    assert edit.asked == [(2, SIZE, 0.5)] and torch.equal(out[:2], v[:2, :, :1].expand_as(q[:2]))
    torch.testing.assert_close(out[2:], F.scaled_dot_product_attention(q[2:], k[2:], v[2:]))


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_only_the_first_rows_see_the_edit(rows):
    """`rows`: source and targets; what comes after them (the unconditional rows) is plain attention."""
    q, k, v = qkv(rows=4)
    shapes = []

    def edit(M, M_star, t):
        shapes.append(M_star.shape[0])
        return M.expand_as(M_star)
    out = attend(q, k, v, SIZE, edit, 1.0, rows)
    assert shapes == [rows - 1]
    torch.testing.assert_close(out[:rows], attend(q[:rows], k[:rows], v[:rows], SIZE, edit, 1.0))
    torch.testing.assert_close(out[rows:], F.scaled_dot_product_attention(q[rows:], k[rows:], v[rows:]))


@pytest.mark.parametrize("answer", [
    lambda M, M_star: M, lambda M, M_star: M_star[:1], lambda M, M_star: M_star.flatten(2, 3), lambda M, M_star: None,
    lambda M, M_star: M_star.mT, lambda M, M_star: 1.0])
def test_an_edit_that_returns_something_else_than_maps_is_an_error(answer):
    """The error has the shape that is wanted and what came instead."""
    with pytest.raises(ValueError, match=r"M_star, \(2, 2, 3, 5, 7\)"):
        attend(*qkv(), SIZE, lambda M, M_star, t: answer(M, M_star), 1.0)


def test_a_source_without_targets_is_no_special_case():
    """One row: the edit gets no targets, and the source comes out."""
    q, k, v = qkv(rows=1)
    out = attend(q, k, v, SIZE, lambda M, M_star, t: M.expand_as(M_star), 1.0)
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("upcast", [False, True])
@pytest.mark.parametrize("context_width", [None, 6])
def test_attention_with_and_without_edit_agree(context_width, upcast):
    """Self- and cross-attention, with and without upcasting: passing M_star on gives the fast path's output."""
    torch.manual_seed(0)
    attention = Attention(8, 2, context_width, upcast=upcast).requires_grad_(False)
    x = torch.randn(2, 15, 8)
    context = None if context_width is None else torch.randn(2, 7, 6)
    shapes = []
    edit = lambda M, M_star, t: shapes.append(M.shape) or M_star
    edits = Edits(self_edit=edit, t=1.0) if context is None else Edits(cross_edit=edit, t=1.0)
    edited = attention(x, SIZE, context, edits)
    torch.testing.assert_close(edited, attention(x, SIZE, context))
    assert shapes == [(2, 3, 5, 15 if context is None else 7)]


def test_upcast_attention_is_fp32_inside_and_half_outside():
    """upcast_attention (SD 2.1): scores that overflow fp16 are made in fp32 on the fast path too."""
    torch.manual_seed(0)
    attention = Attention(8, 2, upcast=True).requires_grad_(False)
    x = torch.randn(1, 15, 8)
    expected = attention(x, SIZE)
    out = attention.to(torch.bfloat16)(x.bfloat16(), SIZE)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), expected, atol=0.05, rtol=0.05)


# ---- which layers --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("edit, edited", [
    ({"up_blocks": 1}, {"up_blocks.1": 1, "up_blocks.2": 1}),
    ({"up_blocks": 1, "up_blocks.1": 2}, {"up_blocks.1": 2, "up_blocks.2": 1}),
    ({"up_blocks.1": 2, "up_blocks": 1}, {"up_blocks.1": 2, "up_blocks.2": 1}),
    ({"": 3, "up_blocks.2.attentions.0": 2},
     {"down_blocks.0": 3, "down_blocks.1": 3, "mid_block": 3, "up_blocks.1": 3,
      "up_blocks.2.attentions.0": 2, "up_blocks.2.attentions.1": 3}),
    ({"": 3, "up_blocks": None}, {"down_blocks.0": 3, "down_blocks.1": 3, "mid_block": 3}),
    ({"mid_block.attentions.0.transformer_blocks.0.attn2": 5}, {"mid_block.attentions": 5}),
    ({}, {}), (None, {}),
])
def test_the_longest_prefix_that_fits_wins(model, edit, edited):
    """{"up_blocks": a, "up_blocks.1": b}: a in the way up but for block 1, b there, nothing elsewhere; in any order."""
    calls = Counter()

    def counter(number):
        return lambda M, M_star, t: calls.update([number]) or M_star
    given = {prefix: n and counter(n) for prefix, n in edit.items()} if isinstance(edit, dict) else edit
    model.unet(torch.zeros(2, 4, 8, 8), 1, torch.zeros(2, 77, 32), given, None, 1.0)
    attentions = [name for name, _ in model.unet.named_modules() if name.endswith("attn2")]
    expected = Counter(n for name in attentions for prefix, n in edited.items() if name.startswith(f"{prefix}."))
    assert calls == expected


def test_a_prefix_is_a_whole_name_not_a_beginning_of_letters():
    """"up_blocks.1" does not fit up_blocks.10."""
    assert for_layer({"up_blocks.1": "edit"}, "up_blocks.10.attn2") is None
    assert {for_layer({"up_blocks.1": "edit"}, name) for name in ("up_blocks.1.attn2", "up_blocks.1")} == {"edit"}


def test_each_attention_knows_its_own_name(model):
    """Set when the UNet is built: it is the one under which the checkpoint has it."""
    named = {name: module for name, module in model.unet.named_modules() if isinstance(module, Attention)}
    assert len(named) == 2 * 7 and all(module.name == name for name, module in named.items())


@pytest.mark.parametrize("prefix", ["up_block", "up_blocks.7", "down_blocks.2", "attn2", "up_blocks.", "UP_BLOCKS",
                                    "mid_block.attentions.0.transformer_blocks.0.attn1"])
def test_an_unknown_prefix_is_an_error(model, prefix):
    """A prefix under which no attention of that kind lies is named, with what names look like."""
    layer = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
    with pytest.raises(ValueError, match=f"'{prefix}'.*look like '{layer}'"):
        model.unet(torch.zeros(2, 4, 8, 8), 1, torch.zeros(2, 77, 32), {prefix: own}, None, 1.0)


def test_prefixes_work_for_self_attention_too(model):
    """self_edit may be a dict as well; its names are those of attn1."""
    shapes = []
    edit = {"mid_block": lambda M, M_star, t: shapes.append(tuple(M.shape)) or M_star}
    model.unet(torch.zeros(2, 4, 8, 12), 1, torch.zeros(2, 77, 32), None, edit, 1.0)
    assert shapes == [(2, 2, 3, 6)]
