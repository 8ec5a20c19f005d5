"""Watching the maps: an edit that looks at them and changes nothing. This is how a blend and a recorder see them."""
from .attention import apply, only_looks, wants


class Watching:
    """An edit that does what `edit` does (None: nothing), and passes maps of some sizes to note(M, M_star, M_hat, t).

    sizes  sizes(height, width) -> bool: whether to pass maps of this size
    """

    def __init__(self, edit, sizes, note):
        self.edit, self.sizes, self.note = edit, sizes, note

    def active(self, height, width, t):
        return self.sizes(height, width) or wants(self.edit, (height, width), t)

    def only_looks(self, height, width, t):
        return not wants(self.edit, (height, width), t) or only_looks(self.edit, (height, width), t)

    def __call__(self, M, M_star, t):
        if not self.sizes(*M.shape[1:3]):
            return apply(self.edit, M, M_star, t)
        before = M, M_star
        if wants(self.edit, M.shape[1:3], t):
            before = M.clone(), M_star.clone()             # an edit may modify them in place
        M_hat = apply(self.edit, M, M_star, t)
        self.note(*before, M_hat, t)
        return M_hat


def watch(edit, sizes, note):
    """`edit` in a `Watching`; for {name prefix: edit}, each of them, and also the layers that no prefix matches."""
    if not isinstance(edit, dict):
        return Watching(edit, sizes, note)
    return {prefix: Watching(each, sizes, note) for prefix, each in {"": None, **edit}.items()}
