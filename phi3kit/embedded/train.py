"""Recipe: train the embedded model from nothing, on the corpus, and examine it.

    python -m phi3kit.embedded.train [--out FOLDER] [--steps N]

Seeded. Writes config.json, generation_config.json, model.safetensors (fp16), the tokenizer, and evaluation.json.
Knows tokens and weights. Does not know the questions (see corpus).
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, Phi3Config, Phi3ForCausalLM

from phi3kit.core.embedded_model import MODEL_FOLDER
from phi3kit.core.records import Message
from phi3kit.embedded import corpus
from phi3kit.embedded.conversations import ConversationSource
from phi3kit.embedded.evaluate import evaluate
from phi3kit.embedded.tokenizer import CONTEXT_TOKENS, save_tokenizer, train_tokenizer

SEED = 11
VOCABULARY = 4096
STEPS = 3800
TOKENS_PER_STEP = 4096  # padding included
PEAK_LEARNING_RATE = 2e-3
WARM_UP_STEPS = 100
INT4_AFTER = 0.5  # share of the steps
_IGNORED = -100  # a position without a loss


def new_model(tokenizer: Tokenizer) -> Phi3ForCausalLM:
    """An untrained Phi-3 of about 5 million parameters."""
    end_of_text, end, assistant = (tokenizer.token_to_id(f"<|{name}|>") for name in ("endoftext", "end", "assistant"))
    config = Phi3Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT_TOKENS,
        original_max_position_embeddings=CONTEXT_TOKENS,
        sliding_window=2047,  # as Phi-3-mini-4k-instruct has it
        bos_token_id=tokenizer.token_to_id("<s>"),
        eos_token_id=[end_of_text, end, assistant],
        pad_token_id=end_of_text,
    )
    model = Phi3ForCausalLM(config)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=end_of_text
    )
    return model


class Encoder:
    """Messages to (ids, targets). Only the assistant's tokens carry a loss, its end token too."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode = lru_cache(maxsize=200_000)(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)

    def __call__(self, messages: list[Message]) -> tuple[list[int], list[int]]:
        ids: list[int] = []
        targets: list[int] = []
        for message in messages:
            head = self._encode(f"<|{message.role}|>\n")
            body = self._encode(message.content.lstrip()) + self._encode("<|end|>\n")
            ids += head + body
            targets += [_IGNORED] * len(head) + (body if message.role == "assistant" else [_IGNORED] * len(body))
        return ids[:CONTEXT_TOKENS], targets[:CONTEXT_TOKENS]


def batches(
    encode: Encoder, source: ConversationSource, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (ids, targets), both of shape (conversations, tokens), rows of like length together."""
    while True:
        rows = sorted((encode(source.draw()) for _ in range(2048)), key=lambda row: len(row[0]))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in rows:
            if groups[-1] and len(row[0]) * (len(groups[-1]) + 1) > TOKENS_PER_STEP:
                groups.append([])
            groups[-1].append(row)
        rng.shuffle(groups)
        for group in groups:
            width = len(group[-1][0])
            ids = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in group])
            targets = torch.tensor([targets + [_IGNORED] * (width - len(targets)) for _, targets in group])
            yield ids, targets


def train(model: Phi3ForCausalLM, tokenizer: Tokenizer, steps: int) -> float:
    """Train the model in place. Returns the seconds that it took."""
    began = time.perf_counter()
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    plain = [parameter for parameter in model.parameters() if parameter.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK_LEARNING_RATE,
        betas=(0.9, 0.98),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP_STEPS, (steps - step) / max(steps - WARM_UP_STEPS, 1))
    )
    stream = batches(Encoder(tokenizer), ConversationSource(SEED), random.Random(SEED))
    quantized = [model.lm_head.weight, *(p for name, p in model.named_parameters() if name.endswith("proj.weight"))]
    coin = random.Random(SEED)
    # bfloat16 products are twice as fast as float32's with AMX, half as fast without; sums stay in float32.
    half_products = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    model.train()
    for step, (ids, targets) in zip(range(1, steps + 1), stream, strict=False):
        # Half of the later steps use the weights as int4 stores them, so that rounding changes no answer.
        rounded = step > steps * INT4_AFTER and coin.random() < 0.5
        exact = [weight.detach().clone() for weight in quantized] if rounded else []
        if rounded:
            _round_to_int4(quantized)
        with torch.autocast("cpu", torch.bfloat16, enabled=half_products):
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
            wanted = targets[:, 1:]
            learned = wanted != _IGNORED  # logits are computed for answers only
            logits = model.lm_head(hidden[learned])
        loss = torch.nn.functional.cross_entropy(logits.float(), wanted[learned])
        loss.backward()
        for weight, value in zip(quantized, exact, strict=False):
            weight.data.copy_(value)  # the gradient of the rounded weights moves the exact ones
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 100 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {loss.item():.4f}  {time.perf_counter() - began:.0f} s", flush=True)
    return time.perf_counter() - began


def _round_to_int4(weights: list[torch.nn.Parameter]) -> None:
    """Round in place as the ONNX export does: blocks of 32, one scale a block, 16 levels."""
    for weight in weights:
        blocks = weight.data.view(-1, 32)
        peak = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True))
        scale = torch.where(peak == 0, torch.ones_like(peak), peak / -8)
        weight.data.copy_(((blocks / scale).round().clamp(-8, 7) * scale).view_as(weight))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the embedded model on the corpus and examine it.")
    parser.add_argument("--out", type=Path, default=MODEL_FOLDER)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.manual_seed(SEED)
    arguments.out.mkdir(parents=True, exist_ok=True)

    tokenizer = train_tokenizer(corpus.texts(), VOCABULARY)
    save_tokenizer(tokenizer, arguments.out)
    model = new_model(tokenizer)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
    seconds = train(model, tokenizer, arguments.steps)
    for path in arguments.out.glob("*.safetensors"):
        path.unlink()  # not written over: logged models have it under a second name
    model.half().save_pretrained(arguments.out)

    report = {"training_seconds": round(seconds), "steps": arguments.steps, "seed": SEED, **evaluate(arguments.out)}
    (arguments.out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
