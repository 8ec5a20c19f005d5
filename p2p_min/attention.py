"""Attention, with the paper's Edit(M_t, M*_t, t) as a plain argument of each call.

    Edit = Callable[[M, M_star, t], M_hat]
    M       (heads, height, width, keys)            the source's map at this layer: row 0 of the call
    M_star  (targets, heads, height, width, keys)   the targets' own maps: the rows after it
    t       float in (0, 1]: 1 at pure noise, (N - i)/N at step i of N; `t <= 0.3` is the last 30 % exactly
    M_hat   shaped like M_star: what the targets use instead

Maps are float32, on the model's device, whatever the model's dtype. The keys of a cross-attention map are text tokens;
those of a self-attention map are pixels, row by row.
An edit may have more methods:
    active(height, width, t) -> bool          False: no map is computed here, and the edit is not called
    only_looks(height, width, t) -> bool      True: it returns M_star unchanged, so attention stays the same bit for bit
    attend(q, k, v, size, t) -> out           the whole attention of the source, row 0, and the targets: called instead
                                              of the edit, and no map is computed. q (rows, heads, pixels, d), k and v
                                              (rows, heads, keys, d), size (height, width), out like q
"""
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


def attend(q, k, v, size, edit=None, t=None, rows=None):
    """softmax(Q Kᵀ / √d) V, the targets' maps passed through `edit` (paper, section 3.2 and Algorithm 1).

    q        (all rows, heads, pixels, d)
    k, v     (all rows, heads, keys, d)
    size     (height, width) with height · width = pixels
    rows     how many of the first rows the edit sees: source, then targets; the others are not edited. None: all
    returns  (all rows, heads, pixels, d)
    """
    if not wants(edit, size, t):
        return F.scaled_dot_product_attention(q, k, v)
    rows = len(q) if rows is None else rows
    if only_looks(edit, size, t):
        edit(*maps(q[:rows], k[:rows], size), t)
        return F.scaled_dot_product_attention(q, k, v)
    attend_edited = edit.attend if hasattr(edit, "attend") else partial(edited, edit)
    plain = [F.scaled_dot_product_attention(q[rows:], k[rows:], v[rows:])] if rows < len(q) else []
    return torch.cat([attend_edited(q[:rows], k[:rows], v[:rows], size, t), *plain])


def edited(edit, q, k, v, size, t):
    """M V for the source, row 0, and M_hat V* for the targets, the rows after it: (rows, heads, pixels, d)."""
    M, M_star = maps(q, k, size)                           # softmax(Q Kᵀ / √d)
    source = M.flatten(1, 2).to(v.dtype) @ v[0]            # before the edit, which may modify M in place
    M_hat = apply(edit, M, M_star, t)                      # Edit(M_t, M*_t, t)
    targets = M_hat.flatten(2, 3).to(v.dtype) @ v[1:]
    return torch.cat([source[None], targets])


def maps(q, k, size):
    """M (heads, height, width, keys) of row 0, and M_star (targets, heads, height, width, keys) of the others; fp32."""
    scores = (q.float() / q.shape[-1] ** 0.5) @ k.float().transpose(-1, -2)
    found = scores.softmax(-1).unflatten(2, size)          # (rows, heads, height, width, keys)
    return found[0], found[1:]


def wants(edit, size, t):
    """Whether `edit` should be called for maps of this size at time t. A plain function always should."""
    active = getattr(edit, "active", None)
    return edit is not None and (active is None or active(*size, t))


def only_looks(edit, size, t):
    """Whether `edit`, which wants these maps, leaves them unchanged."""
    return hasattr(edit, "only_looks") and edit.only_looks(*size, t)


def apply(edit, M, M_star, t):
    """M_hat: what `edit` returns for the maps, or M_star itself if the edit is not active.

    Raises ValueError if the edit returns something that is not shaped like M_star.
    """
    if not wants(edit, M.shape[1:3], t):
        return M_star
    return shaped(edit(M, M_star, t), M_star.shape, "an edit must return maps shaped like M_star")


def shaped(returned, shape, rule):
    """What a user's function returned. Raises ValueError, with the rule, if it is not a tensor of this shape."""
    if not isinstance(returned, torch.Tensor) or returned.shape != shape:
        got = tuple(returned.shape) if isinstance(returned, torch.Tensor) else type(returned).__name__
        raise ValueError(f"{rule}, {tuple(shape)}; this one returned {got}")
    return returned


class Edits(NamedTuple):
    """What a call of the network passes, unchanged, to every attention layer."""
    cross_edit: object = None                              # an Edit, or {name prefix: Edit}
    self_edit: object = None
    t: float | None = None
    rows: int | None = None                                # how many of the first rows the edits see; None: all


def choose(edit, name):
    """The edit for the attention layer `name`; if several prefixes match, the longest wins."""
    if not isinstance(edit, dict):
        return edit
    fitting = [prefix for prefix in edit if prefix == "" or f"{name}.".startswith(f"{prefix}.")]
    return edit[max(fitting, key=len)] if fitting else None


class Attention(nn.Module):
    """Multi-head attention from pixels to `context`, or to the pixels themselves if there is none."""

    name = ""                                              # in the network: "mid_block.attentions.0. … .attn2"

    def __init__(self, channels, heads, context_width=None, bias=False, upcast=False):
        super().__init__()
        self.heads = heads
        self.upcast = upcast                               # SD 2.1: its scores overflow in fp16
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(context_width or channels, channels, bias=bias)
        self.to_v = nn.Linear(context_width or channels, channels, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x, size, context=None, edits=Edits()):
        """x (rows, pixels, channels), context (rows, keys, context_width) -> (rows, pixels, channels)."""
        edit = choose(edits.self_edit if context is None else edits.cross_edit, self.name)
        context = x if context is None else context
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2)    # (rows, heads, pixels or keys, d)
                   for y in (self.to_q(x), self.to_k(context), self.to_v(context)))
        if self.upcast:
            q, k, v = q.float(), k.float(), v.float()
        out = attend(q, k, v, size, edit, edits.t, edits.rows)
        return self.to_out[0](out.transpose(1, 2).flatten(2).to(x.dtype))
