"""Watching the maps: an edit that looks at them and changes nothing. This is how a blend and a recorder see them."""
from .attention import apply, choose, only_looks, wants


class Looking:
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


def look(edit, sizes, note, layers=""):
    """`edit` (or {name prefix: edit}) in a `Looking`, in the layers whose names begin with `layers`; "": in all.

    Raises ValueError for an edit that has only `attend`: it makes no maps that one could look at.
    """
    edits = {"": None, **edit} if isinstance(edit, dict) else {"": edit}
    edits[layers] = choose(edits, layers)
    inside = [prefix for prefix in edits if f"{prefix}.".startswith(f"{layers}.") or not layers]
    for each in (edits[prefix] for prefix in inside):
        if not (each is None or callable(each)):
            raise ValueError(f"a blend or a recorder cannot see the edit {type(each).__name__}, which computes "
                             "attention without maps; give it a __call__(M, M_star, t) as well, or leave them out")
    edits |= {prefix: Looking(edits[prefix], sizes, note) for prefix in inside}
    return edits if len(edits) > 1 else edits[""]


def unseen(edit):
    """The edit, or {name prefix: edit}, without any `Looking` around it."""
    if isinstance(edit, dict):
        return {prefix: unseen(each) for prefix, each in edit.items()}
    return unseen(edit.edit) if isinstance(edit, Looking) else edit
