#!/usr/bin/env python3
"""The same work in PyTorch: what the benches are compared with. On a CPU in f32, on a GPU in fp16.

    pip install torch
    python3 benches/peer_torch.py --threads 2                     # all of it
    python3 benches/peer_torch.py --threads 2 --only inversion
    python3 benches/peer_torch.py --device cuda --only inversion,training

Prints one line per measurement: the bench's name, the median and the fastest time of a call in
seconds. `inversion/base/B` is three evaluations of DiT-base and the score, `training/w256d4/8` a
step with noising, loss, backward, clipping and fused AdamW, on a GPU `training/base/B` and
`training/gigant/B` in mixed precision with a loss scale. On a GPU DiT-base is measured eager and by
torch.compile, inversions then with CUDA graphs, on a CPU in f32 and by autocast in bf16. `features/lite0/4` is EfficientNet-Lite0 to block 10
on the bytes of four images of 256×256 with batch normalisation folded, channels first and channels last,
`features/dinov2-vits14/4` DINOv2's smallest on four of 224×224.
"""
import argparse
import itertools
import math
import statistics
import time

import torch
import torch.nn.functional as F
from torch import nn

CHANNELS, TOKENS = 272, 256


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.modulation = nn.Linear(width, 6 * width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, c):
        b, n, d = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(c)[:, None].chunk(6, -1)
        h = F.layer_norm(x, (d,), eps=1e-6) * (1 + scale1) + shift1
        q, k, v = self.qkv(h).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
        x = x + gate1 * self.proj(h)
        h = F.layer_norm(x, (d,), eps=1e-6) * (1 + scale2) + shift2
        return x + gate2 * self.fc2(F.gelu(self.fc1(h), approximate="tanh"))


class DiT(nn.Module):
    def __init__(self, width, depth, heads):
        super().__init__()
        self.embed = nn.Linear(CHANNELS, width)
        self.position = nn.Parameter(0.02 * torch.randn(TOKENS, width))
        self.time = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, CHANNELS)

    def forward(self, x, t):
        angles = t[:, None] * torch.exp(-math.log(1e4) * torch.arange(128, device=t.device) / 128)
        c = F.silu(self.time(torch.cat([angles.cos(), angles.sin()], 1).to(self.position.dtype)))
        x = self.embed(x.to(self.position.dtype)) + self.position
        for block in self.blocks:
            x = block(x, c)
        shift, scale = self.modulation(c)[:, None].chunk(2, -1)
        return self.output(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)


def measure(name, call, calls):
    def done():
        call()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()

    done()
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        done()
        times.append(time.perf_counter() - start)
    print(f"{name:24} median {statistics.median(times):.4f} s, fastest {min(times):.4f} s", flush=True)


def inversion(calls, device):
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    steps = [0, 500, 999]
    on_gpu = device != "cpu"
    model = DiT(1024, 8, 8).eval().to(device, torch.float16 if on_gpu else torch.float32)
    cases = [(mode, batch) for mode in ("", " bf16") for batch in (1, 4)]
    if on_gpu:
        cases = [(" eager", batch) for batch in (1, 4, 16, 64)] + [(" compiled", batch) for batch in (1, 64)]
    for mode, batch in cases:
        features = torch.randn(batch, TOKENS, CHANNELS, device=device)
        network = torch.compile(model, mode="reduce-overhead", dynamic=False) if mode == " compiled" else model

        @torch.inference_mode()
        @torch.autocast("cpu", torch.bfloat16, enabled=mode == " bf16")
        def call():
            x = features
            for i, t in enumerate(steps):
                here = alphas[t].item()
                there = alphas[steps[i + 1]].item() if i + 1 < len(steps) else 0.0
                eps = network(x, torch.full((batch,), float(t), device=device))
                clean = (x - math.sqrt(1 - here) * eps) / math.sqrt(here)
                x = math.sqrt(there) * clean + math.sqrt(1 - there) * eps
            norm = x.norm(dim=-1)
            nll = 0.5 * x.square().sum((1, 2)) + 0.5 * TOKENS * CHANNELS * math.log(2 * math.pi)
            return norm.amax(1) - norm.amin(1), norm.topk(5).values.mean(1), nll

        measure(f"inversion/base/{batch}{mode}", call, calls)


def training(calls, device):
    if device == "cpu":
        for name, width, depth, heads in (("w256d4", 256, 4, 8), ("w128d2", 128, 2, 2)):
            training_step(f"training/{name}/8", DiT(width, depth, heads), 8, calls)
        return
    for name, width, depth, heads in (("base", 1024, 8, 8), ("gigant", 2048, 16, 8)):
        for batch in (8, 64):
            for mode in ("eager", "compiled") if name == "base" else ("eager",):
                try:
                    training_step(f"training/{name}/{batch} {mode}", DiT(width, depth, heads).to(device), batch, calls)
                except torch.cuda.OutOfMemoryError:
                    print(f"training/{name}/{batch} {mode}: out of memory", flush=True)
                torch.cuda.empty_cache()


def training_step(name, model, batch, calls):
    device = model.position.device
    mixed = device.type != "cpu"
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).float().to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    scaler = torch.amp.GradScaler(device.type, enabled=mixed)
    features = torch.randn(batch, TOKENS, CHANNELS, device=device)
    network = torch.compile(model) if name.endswith("compiled") else model

    def call():
        t = torch.randint(0, 1000, (batch,), device=device)
        noise, alpha = torch.randn_like(features), alphas[t].view(-1, 1, 1)
        x = alpha.sqrt() * features + (1 - alpha).sqrt() * noise
        with torch.autocast(device.type, torch.float16, enabled=mixed):
            output = network(x, t.float())
        loss = F.mse_loss(output.float(), noise)
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimiser)
        scaler.update()
        return loss.item()

    measure(name, call, calls)


# Kernel, stride, expansion, input and output channels.
B4 = [
    (3, 1, 1, 48, 24), (3, 1, 1, 24, 24), (3, 2, 6, 24, 32), *[(3, 1, 6, 32, 32)] * 3, (5, 2, 6, 32, 56),
    *[(5, 1, 6, 56, 56)] * 3, (3, 2, 6, 56, 112), *[(3, 1, 6, 112, 112)] * 5, (5, 1, 6, 112, 160),
    *[(5, 1, 6, 160, 160)] * 5,
]
LITE0 = [
    (3, 1, 1, 32, 16), (3, 2, 6, 16, 24), (3, 1, 6, 24, 24), (5, 2, 6, 24, 40), (5, 1, 6, 40, 40), (3, 2, 6, 40, 80),
    (3, 1, 6, 80, 80), (3, 1, 6, 80, 80), (5, 1, 6, 80, 112), (5, 1, 6, 112, 112), (5, 1, 6, 112, 112),
]


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "SAME" padding."""

    def forward(self, x):
        (k, _), (s, _) = self.kernel_size, self.stride
        height, width = (max((-(-n // s) - 1) * s + k - n, 0) for n in x.shape[-2:])
        if height % 2 or width % 2:
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
            height = width = 0
        return F.conv2d(x, self.weight, self.bias, s, (height // 2, width // 2), 1, self.groups)


class InvertedResidual(nn.Module):
    def __init__(self, kernel, stride, expand, inputs, outputs, activation, squeeze):
        super().__init__()
        mid = inputs * expand
        self.activation = activation
        self.expand = SameConv(inputs, mid, 1) if expand > 1 else None
        self.depthwise = SameConv(mid, mid, kernel, stride, groups=mid)
        self.reduce, self.excite = (
            (nn.Conv2d(mid, inputs // 4, 1), nn.Conv2d(inputs // 4, mid, 1)) if squeeze else (None, None)
        )
        self.project = SameConv(mid, outputs, 1)
        self.skip = stride == 1 and inputs == outputs

    def forward(self, x):
        y = x if self.expand is None else self.activation(self.expand(x))
        y = self.activation(self.depthwise(y))
        if self.reduce is not None:
            y = y * self.excite(self.activation(self.reduce(F.adaptive_avg_pool2d(y, 1)))).sigmoid()
        y = self.project(y)
        return x + y if self.skip else y


class EfficientNet(nn.Module):
    def __init__(self, blocks, taps, activation, squeeze):
        super().__init__()
        self.taps, self.activation = taps, activation
        self.stem = SameConv(3, blocks[0][3], 3, 2)
        self.blocks = nn.ModuleList(InvertedResidual(*block, activation, squeeze) for block in blocks)

    def forward(self, x):
        x, taps = self.activation(self.stem(x)), []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                taps.append(F.interpolate(x, size=(16, 16), mode="bilinear", align_corners=False))
        return torch.cat(taps, 1)


class VitBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gain1, self.gain2 = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, x):
        b, n, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d)
        x = x + self.gain1 * self.proj(h)
        return x + self.gain2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class Vit(nn.Module):
    def __init__(self, width, depth, heads, patch, tokens):
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.class_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.position = nn.Parameter(0.02 * torch.randn(tokens + 1, width))
        self.blocks = nn.ModuleList(VitBlock(width, heads) for _ in range(depth))

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(x), -1, -1), x], 1) + self.position
        for block in self.blocks:
            x = block(x)
        return x[:, 1:]


def features(calls, _):
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    model = Vit(384, 12, 6, 14, 256).eval()
    images = torch.randint(0, 256, (4, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        measure("features/dinov2-vits14/4", lambda: model((images / 255 - mean) / std), calls)
    networks = {
        "lite0": lambda: EfficientNet(LITE0, (0, 2, 4, 10), F.relu6, False),
        "b4": lambda: EfficientNet(B4, (1, 5, 9, 21), F.silu, True),
    }
    layouts = {"first": torch.contiguous_format, "last": torch.channels_last}
    for network, (name, layout) in itertools.product(networks, layouts.items()):
        model = networks[network]().eval().to(memory_format=layout)
        images = torch.randint(0, 256, (4, 3, 256, 256), dtype=torch.uint8).to(memory_format=layout)
        with torch.inference_mode():
            measure(f"features/{network}/4 {name}", lambda: model((images / 255 - mean) / std), calls)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = {"features": features, "inversion": inversion, "training": training}
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default=",".join(sections), help="sections, separated by commas")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda for inversion and training")
    parser.add_argument("--calls", type=int, default=10, help="timed calls of each measurement")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    names = args.only.split(",")
    if args.device != "cpu" and "features" in names:
        parser.error("on a GPU there is --only inversion,training")
    for section in names:
        sections[section](args.calls, args.device)


if __name__ == "__main__":
    main()
