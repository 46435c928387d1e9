"""A character-level GPT of a million weights, dense and with a tenth of its connections, on Python's own documentation.

    python examples/char_gpt.py                                   # semi-pruning on spheres
    python examples/char_gpt.py --method rigl
    python examples/char_gpt.py --method dense --steps 200

The text is that of Python's help topics, which comes with the standard library.
"""

import argparse
import json
import math
import time
from pathlib import Path
from pydoc_data.topics import topics

import torch
from torch import nn
from torch.nn import functional

import lpsphere as lp


class Block(nn.Module):
    """Attention, then an MLP, each after a norm and added to what came in."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        """Shape (batch, length, width), as the result."""
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Embeddings, blocks, a norm, and an output layer of its own."""

    def __init__(self, characters, length=128, width=144, heads=4, blocks=4):
        super().__init__()
        self.token, self.position = nn.Embedding(characters, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, characters, bias=False)
        for embedding in (self.token, self.position):
            nn.init.normal_(embedding.weight, std=0.02)
        for name, weight in self.named_parameters():
            if weight.ndim == 2 and name.startswith("blocks"):
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * blocks) if ".out" in name or ".down" in name else 1))

    def forward(self, ids):
        """Shape (batch, length) -> (batch, length, characters)."""
        x = self.token(ids) + self.position.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def load_text():
    """Ids of the characters, of nine tenths to train on and one tenth to validate, and the number of characters."""
    text = "\n\n".join(topics[name] for name in sorted(topics))
    characters = sorted(set(text))
    ids = torch.tensor([characters.index(c) for c in text])
    cut = len(ids) * 9 // 10
    return ids[:cut], ids[cut:], len(characters)


def batches(ids, length, size, steps, seed):
    """Random windows: (inputs, the characters that follow each)."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        starts = torch.randint(len(ids) - length, (size, 1), generator=generator)
        window = ids[starts + torch.arange(length + 1)]
        yield window[:, :-1], window[:, 1:]


def loss_of(model, x, y):
    """Mean cross-entropy of a character, in nats."""
    return functional.cross_entropy(model(x).flatten(0, 1), y.flatten())


@torch.no_grad()
def validate(model, ids, length):
    """Mean loss over the whole validation text, window after window."""
    model.eval()
    windows = ids[: (len(ids) - 1) // length * length + 1]
    x, y = windows[:-1].view(-1, length), windows[1:].view(-1, length)
    losses = [loss_of(model, a, b).item() * len(a) for a, b in zip(x.split(64), y.split(64), strict=True)]
    model.train()
    return sum(losses) / len(x)


def make_optimizer(model, options):
    """SpheresAndAdamW, or AdamW for everything, with the learning rates at their peak."""
    if options.optimizer == "spheres":
        return lp.SpheresAndAdamW.of_model(
            model, p=options.p, lr=options.lr or 0.05, adam_lr=options.adam_lr, radius=options.radius, betas=(0.9, 0.95)
        )
    decayed = [param for param in model.parameters() if param.ndim > 1]
    others = [param for param in model.parameters() if param.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=options.lr or 3e-3, betas=(0.9, 0.95))


def train(options):
    """One training; returns what it showed."""
    torch.manual_seed(options.seed)
    training, validation, characters = load_text()
    model = GPT(characters, options.length, options.width, options.heads, options.blocks)
    optimizer = make_optimizer(model, options)
    methods = {"semi-pruning": lp.SemiPruning, "rigl": lp.RigL, "set": lp.SET}
    topology = None
    if options.method != "dense":
        topology = methods[options.method](model, optimizer, sparsity=options.sparsity, total_steps=options.steps)
    rise = max(1, options.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / rise, 0.5 + 0.5 * math.cos(math.pi * max(0, step - rise) / (options.steps - rise))
        ),
    )
    curve, started, total = [], time.perf_counter(), 0.0
    for step, (x, y) in enumerate(batches(training, options.length, options.batch, options.steps, options.seed), 1):
        loss = loss_of(model, x, y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        total += loss.item()
        if step % options.report == 0 or step == options.steps:
            count = step % options.report or options.report
            curve.append(
                {"step": step, "train": total / count, "validation": validate(model, validation, options.length)}
            )
            total = 0.0
            sparsity = topology.sparsity if topology else 0.0
            print(
                f"step {step}: training loss {curve[-1]['train']:.3f}, validation loss {curve[-1]['validation']:.3f}, "
                f"sparsity {sparsity:.3f}, {(time.perf_counter() - started) / step:.2f} s a step",
                flush=True,
            )
    sparsity = topology.sparsity if topology else 0.0
    if topology is not None:
        topology.finalize()
    return {
        "settings": {key: value for key, value in vars(options).items() if key not in ("out", "report")},
        "parameters": sum(param.numel() for param in model.parameters()),
        "selected_weights": topology.weights if topology else 0,
        "sparsity": sparsity,
        "validation_loss": curve[-1]["validation"],
        "seconds": round(time.perf_counter() - started, 1),
        "torch": torch.__version__,
        "curve": curve,
    }


def parse(words=None):
    """The options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("semi-pruning", "rigl", "set", "dense"), default="semi-pruning")
    parser.add_argument(
        "--optimizer", choices=("spheres", "adamw"), help="default: spheres for semi-pruning, else adamw"
    )
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--p", type=float, default=1.2)
    parser.add_argument("--radius", default="init", help='"init" or a number')
    parser.add_argument("--lr", type=float, help="of the spheres (default 0.05), or of AdamW (default 0.003)")
    parser.add_argument("--adam-lr", type=float, default=3e-3, help="of what is not on a sphere")
    for name, value in {
        "steps": 1500,
        "batch": 32,
        "length": 128,
        "width": 144,
        "heads": 4,
        "blocks": 4,
        "seed": 0,
        "report": 100,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path, help="JSON file for the result")
    options = parser.parse_args(words)
    options.optimizer = options.optimizer or ("spheres" if options.method == "semi-pruning" else "adamw")
    options.radius = options.radius if options.radius == "init" else float(options.radius)
    return options


if __name__ == "__main__":
    options = parse()
    result = train(options)
    print(f"validation loss {result['validation_loss']:.4f} nats a character at sparsity {result['sparsity']:.4f}")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
