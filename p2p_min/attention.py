"""Attention, with the paper's Edit(M_t, M*_t, t) as a plain argument of each call.

    Edit = Callable[[M, M_star, t], M_hat]
    M       (heads, height, width, keys)            the source's map at this layer: row 0 of the call
    M_star  (targets, heads, height, width, keys)   the targets' own maps: the other rows
    t       float in (0, 1]: 1 at pure noise, 1 - i/N at step i of N
    M_hat   like M_star: what the targets use in its place

The keys of a cross-attention map are text tokens, those of a self-attention map are pixels, row by row.
An edit may have a method `active(height, width, t) -> bool`; where it says no, no map is made. One that only looks at
the maps, and may leave the run exactly as it is, has `looks_on(height, width, t) -> bool`; see `Watching`.
"""
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn


def attend(q, k, v, size, edit=None, t=None):
    """softmax(Q Kᵀ / √d) V, the targets' maps passed through `edit` (paper, section 3.2 and Algorithm 1).

    q        (rows, heads, pixels, d)   row 0 is the source, the others are targets
    k, v     (rows, heads, keys, d)
    size     (height, width) with height · width = pixels
    returns  (rows, heads, pixels, d)
    """
    if not wants(edit, size, t):
        return F.scaled_dot_product_attention(q, k, v)
    scores = (q.float() / q.shape[-1] ** 0.5) @ k.float().transpose(-1, -2)
    maps = scores.softmax(-1).unflatten(2, size)           # (rows, heads, height, width, keys)
    M, M_star = maps[0], maps[1:]
    if looks_on(edit, size, t):
        edit(M, M_star, t)
        return F.scaled_dot_product_attention(q, k, v)
    source = M.flatten(1, 2).to(v.dtype) @ v[0]            # before the edit, which may write into M
    M_hat = apply(edit, M, M_star, t)
    targets = M_hat.flatten(2, 3).to(v.dtype) @ v[1:]
    return torch.cat([source[None], targets])


def apply(edit, M, M_star, t):
    """M_hat: what `edit` makes of the maps, or M_star itself where it is not active.

    Raises ValueError if the edit returns something that is not shaped like M_star.
    """
    if not wants(edit, M.shape[1:3], t):
        return M_star
    M_hat = edit(M, M_star, t)
    if not isinstance(M_hat, torch.Tensor) or M_hat.shape != M_star.shape:
        got = tuple(M_hat.shape) if isinstance(M_hat, torch.Tensor) else type(M_hat).__name__
        raise ValueError(f"an edit must return maps shaped like M_star, {tuple(M_star.shape)}; this one returned {got}")
    return M_hat


def wants(edit, size, t):
    """Whether `edit` is to be called for maps of this size at time t. A plain function always is."""
    active = getattr(edit, "active", None)
    return edit is not None and (active is None or active(*size, t))


def looks_on(edit, size, t):
    """Whether `edit`, which wants these maps, only looks at them: then all is as if there were no edit, to the bit."""
    return hasattr(edit, "looks_on") and edit.looks_on(*size, t)


class Watching:
    """An edit that does as `edit` does (None: nothing), and shows the maps of some sizes to note(M, M_star, M_hat, t).

    sizes  sizes(height, width) -> bool: which
    """

    def __init__(self, edit, sizes, note):
        self.edit, self.sizes, self.note = edit, sizes, note

    def active(self, height, width, t):
        return self.sizes(height, width) or wants(self.edit, (height, width), t)

    def looks_on(self, height, width, t):
        return not wants(self.edit, (height, width), t) or looks_on(self.edit, (height, width), t)

    def __call__(self, M, M_star, t):
        if not self.sizes(*M.shape[1:3]):
            return apply(self.edit, M, M_star, t)
        before = M, M_star
        if wants(self.edit, M.shape[1:3], t):
            before = M.clone(), M_star.clone()             # an edit may write into them
        M_hat = apply(self.edit, M, M_star, t)
        self.note(*before, M_hat, t)
        return M_hat


def watch(edit, sizes, note):
    """`edit` as a `Watching` one; of {name prefix: edit} every one, and the attentions that no prefix names too."""
    if not isinstance(edit, dict):
        return Watching(edit, sizes, note)
    return {prefix: Watching(each, sizes, note) for prefix, each in {"": None, **edit}.items()}


class Attention(nn.Module):
    """Multi-head attention from pixels to `context`, or to the pixels themselves where there is none."""

    def __init__(self, channels, heads, context_width=None, bias=False, upcast=False):
        super().__init__()
        self.heads = heads
        self.upcast = upcast                               # SD 2.1: its scores overflow in fp16
        self.to_q = nn.Linear(channels, channels, bias=bias)
        self.to_k = nn.Linear(context_width or channels, channels, bias=bias)
        self.to_v = nn.Linear(context_width or channels, channels, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x, size, context=None, edit=None, t=None):
        """x (rows, pixels, channels), context (rows, keys, context_width) -> (rows, pixels, channels)."""
        context = x if context is None else context
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2)    # (rows, heads, pixels or keys, d)
                   for y in (self.to_q(x), self.to_k(context), self.to_v(context)))
        if self.upcast:
            q, k, v = q.float(), k.float(), v.float()
        out = attend(q, k, v, size, edit, t)
        return self.to_out[0](out.transpose(1, 2).flatten(2).to(x.dtype))


class Edits(NamedTuple):
    """What one network call hands down to its attentions: an edit (or {name prefix: edit}) of each kind, and t."""
    cross_edit: object = None
    self_edit: object = None
    t: float | None = None

    def below(self, name):
        """The part that concerns the child module `name`, its prefixes made relative to it."""
        return Edits(narrow(self.cross_edit, name), narrow(self.self_edit, name), self.t)


def narrow(edit, name):
    """`edit` as the child module `name` sees it: of several prefixes that fit, the longest wins."""
    if not isinstance(edit, dict):
        return edit
    inner = {}
    for prefix in sorted(edit, key=len):
        if prefix == "" or f"{name}.".startswith(f"{prefix}."):
            inner[""] = edit[prefix]
        elif prefix.startswith(f"{name}."):
            inner[prefix[len(name) + 1:]] = edit[prefix]
    return inner if set(inner) - {""} else inner.get("")
