"""What the paper and its blend say, written out once more for the tests."""
import torch
import torch.nn.functional as F


class WrittenBlend:
    """Does as `edit` does, keeps the source's own and the edited maps of one size, blends by them.

    An independent writing of the local blend: the maps of each step are kept whole, and the mask is made anew.
    """

    def __init__(self, edit, size, words, subtract=None, start=0.2, threshold=(0.3, 0.3)):
        self.edit, self.size, self.words, self.subtract = edit, size, words, subtract
        self.start, self.threshold, self.steps, self.masks = start, threshold, [], []

    def __call__(self, M, M_star, t):
        M = M.clone()
        M_hat = self.edit(M.clone(), M_star.clone(), t)
        if tuple(M.shape[1:3]) == self.size:
            if not self.steps or self.steps[-1][0] != t:
                self.steps.append((t, []))
            self.steps[-1][1].append(torch.cat([M[None], M_hat]))
        return M_hat

    def mask(self, words, pool, side, threshold):
        mean = sum(torch.stack(layers).mean((0, 2)) for _, layers in self.steps)     # over layers and heads; sum over t
        masks = []
        for maps, tokens in zip(mean, words):
            m = sum((maps[..., j] for j in tokens), torch.zeros(self.size))
            if pool:
                wide = F.pad(m, (1, 1, 1, 1), value=-torch.inf)
                m = torch.stack([wide[y:y + m.shape[0], x:x + m.shape[1]] for y in range(3) for x in range(3)]).amax(0)
            rows, columns = (torch.arange(n) * small // n for n, small in zip(side, self.size))
            m = m[rows][:, columns]                        # nearest
            masks.append(m / m.max() > threshold if m.max() > 0 else torch.zeros(side, dtype=torch.bool))
        return [masks[0] | own for own in masks[1:]]

    def blend(self, z, z_star, t):
        if 1 - t < self.start - 1e-6:
            return z_star
        masks = self.mask(self.words, True, z.shape[-2:], self.threshold[0])
        if self.subtract:
            masks = [m & ~s for m, s in zip(masks, self.mask(self.subtract, False, z.shape[-2:], self.threshold[1]))]
        self.masks.append(torch.stack(masks))
        return torch.stack([torch.where(m, own, z[0]) for m, own in zip(masks, z_star)])
