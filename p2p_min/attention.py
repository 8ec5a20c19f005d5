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
    attend(q, k, v, size, t) -> out           the whole attention of the source, row 0, and the targets: called instead
                                              of the edit, and no map is computed. q (rows, heads, pixels, d), k and v
                                              (rows, heads, keys, d), size (height, width), out like q

A look sees the maps of a cross-attention and changes nothing; it may have `active` too:

    Look = Callable[[M, M_star, M_hat, t], None]
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


def attend(q, k, v, size, edit=None, t=None, rows=None, looks=()):
    """softmax(Q Kᵀ / √d) V, the targets' maps passed through `edit` (paper, section 3.2 and Algorithm 1).

    q        (all rows, heads, pixels, d)
    k, v     (all rows, heads, keys, d)
    size     (height, width) with height · width = pixels
    rows     how many of the first rows the edit and the looks see: source, then targets; None: all
    looks    functions that see the maps of these rows
    returns  (all rows, heads, pixels, d)
    """
    rows = len(q) if rows is None else rows
    seen = q[:rows], k[:rows], v[:rows]                    # by the edit and the looks
    looks = [look for look in looks if is_active(look, size, t)]
    # Nobody edits: the fast path, whose numbers are the same whether somebody looks or not.
    if not is_active(edit, size, t):
        if looks:
            M, M_star = maps(*seen[:2], size)
            show(looks, M, M_star, M_star, t=t)
        return F.scaled_dot_product_attention(q, k, v)
    # The edit's own attention, or maps that it edits; then the rows that it does not see.
    if hasattr(edit, "attend") and not looks:
        out = edit.attend(*seen, size, t)
        shaped(out, seen[0].shape, "an edit's attend must return a tensor shaped like q")
    else:
        out = attend_edited(edit, looks, *seen, size, t)
    plain = [F.scaled_dot_product_attention(q[rows:], k[rows:], v[rows:])] if rows < len(q) else []
    return torch.cat([out, *plain])


def attend_edited(edit, looks, q, k, v, size, t):
    """M V for the source, row 0, and M_hat V* for the targets, the rows after it: (rows, heads, pixels, d)."""
    if not callable(edit):
        raise ValueError(f"a blend or a recorder cannot see the edit {type(edit).__name__}, which computes attention "
                         "without maps; give it a __call__(M, M_star, t) as well, or leave them out")
    M, M_star = maps(q, k, size)                           # softmax(Q Kᵀ / √d)
    # Before the edit, which may modify its arguments in place.
    source = M.flatten(1, 2).to(v.dtype) @ v[0]
    before = (M.clone(), M_star.clone()) if looks else ()
    M_hat = edited_map(edit, M, M_star, t)                 # Edit(M_t, M*_t, t)
    show(looks, *before, M_hat, t=t)
    targets = M_hat.flatten(2, 3).to(v.dtype) @ v[1:]
    return torch.cat([source[None], targets])


def show(looks, *maps, t):
    """Looks keep no gradients, also where the network is asked for some."""
    for look in looks:
        look(*(each.detach() for each in maps), t)


def maps(q, k, size):
    """M (heads, height, width, keys) of row 0, and M_star (targets, heads, height, width, keys) of the others; fp32."""
    scores = (q.float() / q.shape[-1] ** 0.5) @ k.float().transpose(-1, -2)
    every = scores.softmax(-1).unflatten(2, size)          # (rows, heads, height, width, keys)
    return every[0], every[1:]


def is_active(edit, size, t):
    """Whether an edit or a look wants maps of this size at time t. A plain function always does."""
    active = getattr(edit, "active", None)
    return edit is not None and (active is None or active(*size, t))


def edited_map(edit, M, M_star, t):
    """M_hat: what `edit` returns for the maps, or M_star itself if the edit is not active.
    Raises ValueError if the edit returns something that is not shaped like M_star."""
    if not is_active(edit, M.shape[1:3], t):
        return M_star
    return shaped(edit(M, M_star, t), M_star.shape, "an edit must return maps shaped like M_star")


def shaped(returned, shape, rule):
    """What a user's function returned. Raises ValueError, with the rule, if it is not a tensor of this shape."""
    is_tensor = isinstance(returned, torch.Tensor)
    if not is_tensor or returned.shape != shape:
        got = tuple(returned.shape) if is_tensor else type(returned).__name__
        raise ValueError(f"{rule}, {tuple(shape)}; this one returned {got}")
    return returned


class Edits(NamedTuple):
    """What a call of the network passes, unchanged, to every attention layer."""
    cross_edit: object = None                              # an Edit, or {name prefix: Edit}
    self_edit: object = None
    t: float | None = None
    rows: int | None = None                                # how many of the first rows are seen; None: all
    looks: tuple = ()                                      # at the cross-attention: each a Look, or {name prefix: Look}


def for_layer(edit, name):
    """The edit or look for the attention layer `name`; if several prefixes match, the longest wins."""
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
        # Which edit and which looks are for this layer.
        is_self = context is None
        edit = for_layer(edits.self_edit if is_self else edits.cross_edit, self.name)
        looks = () if is_self else [for_layer(look, self.name) for look in edits.looks]
        # Queries, keys and values: (rows, heads, pixels or keys, d).
        context = x if is_self else context
        projected = self.to_q(x), self.to_k(context), self.to_v(context)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in projected)
        if self.upcast:
            q, k, v = q.float(), k.float(), v.float()
        out = attend(q, k, v, size, edit, edits.t, edits.rows, looks)
        return self.to_out[0](out.transpose(1, 2).flatten(2).to(x.dtype))
