"""The training loop that the toy model's stages share, and the Muon optimiser."""
import time

import torch
import torch.distributed as dist
from torch import nn


def has_bf16(device):
    """Whether bfloat16 is fast there; processors that only imitate it are ten times slower with it."""
    return device != "cpu" or torch.cpu._is_avx512_bf16_supported()


def autocast(device):
    return torch.autocast(device, torch.bfloat16, enabled=has_bf16(device))


def barrier():
    if dist.is_initialized():
        dist.barrier()


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Jordan et al. 2024), for weights of two or more dimensions taken as matrices."""

    def __init__(self, parameters, lr, momentum=0.95, decay=0.01):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, decay=decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            updates = {}                                   # by shape: matrices of one shape are done together
            for p in group["params"]:
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                buffer = self.state[p]["momentum"]
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"]).flatten(1)
                updates.setdefault(update.shape, []).append((p, update))
                p.mul_(1 - group["lr"] * group["decay"])
            for (shape, pairs), steps in zip(updates.items(), shared_orthogonal(updates.values())):
                for (p, _), step in zip(pairs, steps):
                    p.add_(step.view_as(p).to(p.dtype), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)


def shared_orthogonal(lists):
    """For each list of (parameter, matrix), one shape each: the orthogonal matrices. The processes share the work."""
    rank, processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    results, first = [], 0
    for pairs in lists:
        matrices = torch.stack([matrix for _, matrix in pairs])
        own = slice((rank - first) % processes, None, processes)           # every so many of all matrices
        results.append(torch.zeros_like(matrices))
        if len(matrices[own]):
            results[-1][own] = orthogonal(matrices[own]).to(matrices.dtype)
        first += len(pairs)
    if processes > 1:
        flat = torch.cat([result.flatten() for result in results])
        dist.all_reduce(flat)
        results = [part.view_as(result) for part, result in zip(flat.split([r.numel() for r in results]), results)]
    return results


def orthogonal(matrices, steps=5):
    """The nearest orthogonal matrices, nearly: a quintic Newton-Schulz iteration, in bf16 where that is fast."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16() if has_bf16(matrices.device.type) else matrices.float()
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if is_tall else x


def average_gradients(parameters):
    if dist.is_initialized():
        flat = torch.cat([p.grad.flatten() for p in parameters])
        dist.all_reduce(flat)
        for p, g in zip(parameters, flat.split([p.numel() for p in parameters])):
            p.grad.copy_(g.view_as(p) / dist.get_world_size())


def fit(name, model, optimizers, loss_of, sheet, args, total, batch, ema_decay):
    """Train until `total` samples are seen, the rate flat for 60 % of them and then falling to zero.

    With args.minutes, in one process, for so long instead, whatever the speed.

    loss_of(model, indices' generator, batch, progress) -> (loss, {name: number}); sheet(averaged model, path) draws.
    """
    rank = dist.get_rank() if dist.is_initialized() else 0
    world_size = dist.get_world_size() if dist.is_initialized() else 1
    path = args.work / f"{name}.pt"
    parameters = [p for p in model.parameters() if p.requires_grad]
    rates = [[group["lr"] for group in o.param_groups] for o in optimizers]
    average = {k: v.detach().clone().float() for k, v in model.state_dict().items()}
    seen, steps = 0, 0
    if path.exists():
        saved = torch.load(path, map_location=args.device)
        model.load_state_dict(saved["model"])
        for o, state in zip(optimizers, saved["optimizers"]):
            o.load_state_dict(state)
        average, seen, steps = saved["average"], saved["seen"], saved["steps"]
    generator = torch.Generator()
    started, counted, last_save, last_sheet, logged = time.time(), seen, time.time(), time.time(), {}

    def share_done():
        return (time.time() - started) / 60 / args.minutes if args.minutes else seen / total

    progress = share_done()
    while progress < 1:
        generator.manual_seed(1009 * steps + rank)         # so that an interrupted run is the same run
        for o, base in zip(optimizers, rates):
            for group, lr in zip(o.param_groups, base):
                group["lr"] = lr * min(1, (steps + 1) / 50, (1 - progress) / 0.4)
        with autocast(args.device):
            loss, numbers = loss_of(model, generator, batch, progress)
        if not loss.isfinite():
            raise SystemExit(f"{name}: the loss is {loss.item()} after {seen} samples; the last checkpoint stands")
        loss.backward()
        average_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for o in optimizers:
            o.step()
            o.zero_grad()
        steps += 1
        seen += batch * world_size
        decay = min(ema_decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(list(average.values()), [v.float() for v in model.state_dict().values()], 1 - decay)
        for k, v in numbers.items():
            logged[k] = logged.get(k, v) * 0.98 + v * 0.02
        if rank == 0 and steps % 50 == 0:
            speed = (seen - counted) / (time.time() - started)
            print(f"{name} {seen:>8} samples  {speed:6.1f}/s  {time.strftime('%H:%M:%S')}  "
                  + "  ".join(f"{k} {v:.4f}" for k, v in logged.items()), flush=True)
        progress = share_done()
        if rank == 0 and (time.time() - last_save > args.every or progress >= 1):
            state = dict(model=model.state_dict(), optimizers=[o.state_dict() for o in optimizers], average=average,
                         seen=seen, steps=steps)
            torch.save(state, path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)
            last_save = time.time()
            if time.time() - last_sheet > args.sheets or progress >= 1:
                sheet(average, args.work / f"{name}_{seen:08d}.png")
                last_sheet = time.time()
