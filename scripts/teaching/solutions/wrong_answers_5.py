"""Wrong answers to the exercises of lesson 5, and other right ones."""
import torch


def up(inner_below=True, root=True, sign=-1, outer="above"):
    def answer(z, eps, alpha_below, alpha):
        inner = alpha_below if inner_below else alpha
        power = 0.5 if root else 1
        z_0 = (z + sign * (1 - inner) ** power * eps) / inner ** power
        to = alpha if outer == "above" else alpha_below
        return to ** power * z_0 + (1 - to) ** power * eps
    return answer


def loss(guided, reduce=lambda square: square.mean()):
    return lambda z, eps, eps_u, w, z_below, step: reduce((step(z, guided(eps, eps_u, w)) - z_below) ** 2)


def right(eps, eps_u, w):
    return eps_u + w * (eps - eps_u)


def put(rows, j):
    def answer(z, trajectory, i):
        z = z.clone()
        z[rows] = trajectory[j(i) % len(trajectory)]
        return z
    return answer


WRONG = dict(
    up={"the step down": up(inner_below=False, outer="below"),
        "both levels the upper": up(inner_below=False),
        "both levels the lower": up(outer="below"),
        "no roots": up(root=False),
        "the noise added where it is taken out": up(sign=1),
        "noise forgotten in the end": lambda z, eps, a, b: b ** 0.5 * (z - (1 - a) ** 0.5 * eps) / a ** 0.5,
        "z_0 itself": lambda z, eps, a, b: (z - (1 - a) ** 0.5 * eps) / a ** 0.5,
        "z as it is": lambda z, eps, a, b: z,
        "a number": 3.0},
    null_text_loss={"guidance the wrong way": loss(lambda eps, eps_u, w: eps + w * (eps_u - eps)),
                    "no guidance": loss(lambda eps, eps_u, w: eps),
                    "eps_u forgotten": loss(lambda eps, eps_u, w: w * (eps - eps_u)),
                    "w one too large": loss(lambda eps, eps_u, w: eps + w * (eps - eps_u)),
                    "a sum": loss(right, torch.sum),
                    "a root": loss(right, lambda square: square.mean().sqrt()),
                    "no step": lambda z, eps, eps_u, w, z_below, step: (right(eps, eps_u, w) - z_below).square().mean(),
                    "without a gradient": loss(right, lambda square: square.mean().detach()),
                    "absolute": lambda z, eps, eps_u, w, z_below, step:
                        (step(z, right(eps, eps_u, w)) - z_below).abs().mean()},
    put_back={"where the step began": put(slice(1), lambda i: i),
              "a step too far": put(slice(1), lambda i: i + 2),
              "counted from the other end": put(slice(1), lambda i: -1 - i),
              "always the picture": put(slice(1), lambda i: -1),
              "every row": put(slice(None), lambda i: i + 1),
              "the target in place of the source": put(slice(1, 2), lambda i: i + 1),
              "nothing": lambda z, trajectory, i: z,
              "the source alone": lambda z, trajectory, i: trajectory[i + 1]})


def in_place(z, trajectory, i):
    z[0] = trajectory[i + 1, 0]
    return z


def up_by_the_difference(z, eps, alpha_below, alpha):
    """z_t / √ᾱ moves by the change of √(1/ᾱ − 1), times eps."""
    noisier = (1 / alpha - 1) ** 0.5 - (1 / alpha_below - 1) ** 0.5
    return alpha ** 0.5 * (z / alpha_below ** 0.5 + noisier * eps)


RIGHT = dict(
    up={"by the difference of two levels": up_by_the_difference},
    null_text_loss={"mse_loss": lambda z, eps, eps_u, w, z_below, step:
                        torch.nn.functional.mse_loss(step(z, eps_u.lerp(eps, w)), z_below),
                    "from eps": loss(lambda eps, eps_u, w: eps + (w - 1) * (eps - eps_u))},
    put_back={"in place": in_place, "cat": lambda z, trajectory, i: torch.cat([trajectory[i + 1], z[1:]])})
