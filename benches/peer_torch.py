#!/usr/bin/env python3
"""The same work in PyTorch: what the benches are compared with. On a CPU in f32, on a GPU in fp16.

    pip install torch
    python3 benches/peer_torch.py --threads 2                     # all of it
    python3 benches/peer_torch.py --threads 2 --only inversion
    python3 benches/peer_torch.py --device cuda --only inversion,training

Prints one line per measurement: the bench's name and the mode, the median, the 99th percentile and the
fastest time of a call in seconds. `inversion/NETWORK/B` is three evaluations of a DiT and the score: on a
GPU eager, by torch.compile with CUDA graphs (reduce-overhead) and with measured kernels too (max-autotune),
on a CPU in f32 and by autocast in bf16. `attention/NETWORK/B` is scaled_dot_product_attention of the packed
projection, by each of its back-ends. `gemm/LAYER/B` is a linear layer with bias and GELU: in fp16 (f32 on a
CPU), and the product alone of integers (torch._int_mm) and of fp8 (torch._scaled_mm), of codes that are there
already. `adamw/base/1` is a step of fused AdamW. `training/NETWORK/B` is one with noising, loss, backward,
clipping and fused AdamW, on a GPU in mixed precision with a loss scale, eager and by torch.compile.
`features/lite0/4` is EfficientNet-Lite0 to block 10 on the bytes of four images of 256×256 with batch
normalisation folded, channels first and channels last, `features/dinov2-vits14/4` DINOv2's smallest on four
of 224×224.

Attention and layers on a GPU are recorded as CUDA graphs of 16 calls, 16 of which are timed together, as the
benches do. With `--serve` it measures what it is asked for: for each line `NAME<tab>MODE<tab>SECONDS` of the
standard input it prints `paced: ` and the figures as JSON, or an error.
"""
import argparse
import contextlib
import gc
import json
import math
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

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


NETWORKS = {"base": (1024, 8, 8), "gigant": (2048, 16, 8), "w256d4": (256, 4, 8), "w128d2": (128, 2, 2)}
LAYERS = {"qkv": (1, 3), "fc1": (1, 4), "fc2": (4, 1)}
RECORDED = 16


def measure(call, seconds, calls=1):
    """Figures of calls that are made for that long, and of no fewer than `calls`."""
    times, start = [], time.perf_counter()
    while len(times) < calls or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        together = call()
        together = together if isinstance(together, int) else 1
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        times.append((time.perf_counter() - before) / together)
    times.sort()
    p50, p99 = (times[math.ceil(share * len(times)) - 1] for share in (0.5, 0.99))
    return {"p50": p50, "p99": p99, "fastest": times[0], "calls": len(times)}


def recorded(call, device):
    """On a GPU, calls that launching takes no part in; they return how many they are."""
    if device == "cpu":
        return call
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(RECORDED):
            call()

    def replay():
        for _ in range(RECORDED):
            graph.replay()
        return RECORDED * RECORDED

    return replay


def made(name, device):
    """A network whose numbers are drawn where they are to be: a host takes seconds for the large one's."""
    with torch.device(device):
        return DiT(*NETWORKS[name])


# Each section has its names and modes, and makes the call that is measured.


def inversions(device):
    if device == "cpu":
        return [(f"inversion/base/{batch}", mode) for mode in ("f32", "bf16") for batch in (1, 4)]
    modes = ("eager", "reduce-overhead", "max-autotune")
    names = [f"inversion/{name}/{batch}" for name in ("base", "gigant") for batch in (1, 8, 64)]
    return [(name, mode) for name in names for mode in modes]


def inversion(name, batch, mode, device):
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    steps = [0, 500, 999]
    network = made(name, device).eval().to(torch.float32 if device == "cpu" else torch.float16)
    if "-" in mode:
        network = torch.compile(network, mode=mode, dynamic=False)
    features = torch.randn(batch, TOKENS, CHANNELS, device=device)

    # In inference mode the second evaluation's x would be of another kind than the first one's, and compiled again.
    @torch.no_grad()
    @torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16")
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
        result[:] = [norm.amax(1) - norm.amin(1), norm.topk(5).values.mean(1), nll]

    result = []
    return call


def attentions(device):
    batches, modes = ((1, 4), ("default",)) if device == "cpu" else ((1, 64), ("flash", "cudnn", "default"))
    return [(f"attention/{name}/{batch}", mode) for name in ("base", "gigant") for batch in batches for mode in modes]


def attention(name, batch, mode, device):
    width, _, heads = NETWORKS[name]
    qkv = torch.randn(batch, TOKENS, 3, heads, width // heads, device=device)
    q, k, v = (qkv if device == "cpu" else qkv.half()).permute(2, 0, 3, 1, 4)
    backends = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
    backend = (lambda: sdpa_kernel(backends[mode])) if mode in backends else contextlib.nullcontext

    @torch.inference_mode()
    def call():
        with backend():
            F.scaled_dot_product_attention(q, k, v)

    return recorded(call, device)


def layers(device):
    batches, modes = ((1, 4), ("f32", "int8")) if device == "cpu" else ((1, 64), ("f16", "int8", "fp8"))
    names = [f"gemm/{name}_{layer}" for name in ("base", "gigant") for layer in LAYERS]
    return [(f"{name}/{batch}", mode) for name in names for batch in batches for mode in modes]


def layer(name, batch, mode, device):
    name, which = name.split("_")
    k, n = (factor * NETWORKS[name][0] for factor in LAYERS[which])
    x, weight = torch.randn(batch * TOKENS, k, device=device), torch.randn(n, k, device=device) / math.sqrt(k)
    if mode == "int8":
        x, weight = (128 * torch.rand_like(x) - 64).to(torch.int8), (128 * torch.rand_like(weight) - 64).to(torch.int8)
        return recorded(lambda: torch._int_mm(x, weight.t()), device)
    if mode == "fp8":
        one = torch.ones((), device=device)
        x, weight = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn)
        return recorded(
            lambda: torch._scaled_mm(x, weight.t(), scale_a=one, scale_b=one, out_dtype=torch.float16), device)
    bias = torch.randn(n, device=device)
    if mode == "f16":
        x, weight, bias = x.half(), weight.half(), bias.half()
    activation = (lambda y: F.gelu(y, approximate="tanh")) if which == "fc1" else (lambda y: y)

    @torch.inference_mode()
    def call():
        activation(F.linear(x, weight, bias))

    return recorded(call, device)


def optimisers(_):
    return [("adamw/base/1", "fused")]


def optimiser(name, _, __, device):
    count = sum(parameter.numel() for parameter in made(name, "meta").parameters())
    parameter = nn.Parameter(torch.zeros(count, device=device))
    parameter.grad = 1e-3 * torch.randn(count, device=device)
    return torch.optim.AdamW([parameter], lr=1e-4, fused=True).step


def trainings(device):
    if device == "cpu":
        return [(f"training/{name}/8", "f32") for name in ("w256d4", "w128d2")]
    modes = {"base": ("eager", "compiled"), "gigant": ("eager",)}
    return [(f"training/{name}/{batch}", mode) for name in modes for batch in (8, 64) for mode in modes[name]]


def training(name, batch, mode, device):
    model, mixed = made(name, device), device != "cpu"
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).float().to(device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.0, fused=True)
    scaler = torch.amp.GradScaler(device, enabled=mixed)
    features = torch.randn(batch, TOKENS, CHANNELS, device=device)
    network = torch.compile(model) if mode == "compiled" else model

    def call():
        t = torch.randint(0, 1000, (batch,), device=device)
        noise, alpha = torch.randn_like(features), alphas[t].view(-1, 1, 1)
        x = alpha.sqrt() * features + (1 - alpha).sqrt() * noise
        with torch.autocast(device, torch.float16, enabled=mixed):
            output = network(x, t.float())
        loss = F.mse_loss(output.float(), noise)
        optimiser.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimiser)
        scaler.update()
        result[:] = [loss.item()]

    result = []
    return call


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


def backbones(device):
    if device != "cpu":
        return []
    layouts = [(f"features/{name}/4", layout) for name in ("lite0", "b4") for layout in ("first", "last")]
    return [("features/dinov2-vits14/4", "f32"), *layouts]


def backbone(name, batch, mode, _):
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    if name == "dinov2-vits14":
        model, size = Vit(384, 12, 6, 14, 256), 224
    elif name == "lite0":
        model, size = EfficientNet(LITE0, (0, 2, 4, 10), F.relu6, False), 256
    else:
        model, size = EfficientNet(B4, (1, 5, 9, 21), F.silu, True), 256
    layout = torch.channels_last if mode == "last" else torch.contiguous_format
    model = model.eval().to(memory_format=layout)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8).to(memory_format=layout)

    @torch.inference_mode()
    def call():
        model((images / 255 - mean) / std)

    return call


SECTIONS = {
    "features": (backbones, backbone),
    "inversion": (inversions, inversion),
    "attention": (attentions, attention),
    "gemm": (layers, layer),
    "adamw": (optimisers, optimiser),
    "training": (trainings, training),
}


def prepare(name, mode, device):
    section, what, batch = name.split("/")
    torch.manual_seed(0)
    call = SECTIONS[section][1](what, int(batch), mode, device)
    call()  # Compiles.
    call()
    return call


def forget():
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def serve(device):
    """The calls of one name at a time are kept, all of its modes, until another name or an empty line."""
    ready, current = {}, None
    for line in sys.stdin:
        name, mode, seconds = line.rstrip("\n").split("\t") if line.strip() else (None, None, 0)
        if name != current:
            ready.clear()
            forget()
            current = name
        if not name:
            continue
        try:
            if mode not in ready:
                ready[mode] = prepare(name, mode, device)
            figures = ready[mode] if isinstance(ready[mode], dict) else measure(ready[mode], float(seconds))
        except Exception as error:  # What one mode cannot do says nothing of others.
            figures = ready[mode] = {"error": f"{type(error).__name__}: {error}"[:300]}
        print("paced:", json.dumps(figures), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections, separated by commas")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--calls", type=int, default=10, help="timed calls of each measurement, or more")
    parser.add_argument("--seconds", type=float, default=0.3, help="how long each is measured, or longer")
    parser.add_argument("--serve", action="store_true", help="measure what the standard input asks for")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.serve:
        return serve(args.device)
    for section in args.only.split(","):
        for name, mode in SECTIONS[section][0](args.device):
            try:
                figures = measure(prepare(name, mode, args.device), args.seconds, args.calls)
                times = ", ".join(f"{key} {figures[key]:.3g} s" for key in ("p50", "p99", "fastest"))
                print(f"{name:26} {mode:16} {times}, {figures['calls']} calls", flush=True)
            except Exception as error:
                print(f"{name:26} {mode:16} {type(error).__name__}: {error}", flush=True)
            forget()


if __name__ == "__main__":
    main()
