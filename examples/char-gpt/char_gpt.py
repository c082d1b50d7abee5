"""A small GPT that predicts the next character of a text file."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mixsweep import Run, field


@dataclass(frozen=True, kw_only=True)
class Config:
    """The fields of a trial."""

    text: str = field("text.txt", doc="file to learn, beside this one or in the data folder")
    width: int = field(32, low=4, doc="channels of a character")
    heads: int = field(2, low=1, doc="attention heads; they divide the width")
    blocks: int = field(1, low=1)
    context: int = field(32, low=2, doc="characters that a prediction sees")
    lr: float = field(3e-3, above=0, mutable=True)
    batch_size: int = field(16, low=1)
    steps: int = field(20, low=1, doc="optimizer steps of a round")
    rounds: int = field(5, low=1, budget=True)
    seed: int = 0


class CharGPT:
    """Train on nine tenths of a text; `bits_per_char` is measured on the rest."""

    Config = Config
    metrics = {
        "bits_per_char": {"better": "min", "unit": "bits", "doc": "of the held-out text"},
        "train_bits_per_char": {"better": "min", "unit": "bits"},
    }

    def __init__(self, config: Config, run: Run):
        self.config, self.device = config, run.device
        text = _find(config.text, run.data_dir).read_text(encoding="utf-8")
        letters = sorted(set(text))
        codes = torch.tensor([letters.index(letter) for letter in text], device=run.device)
        self.train_codes, self.valid_codes = codes[: len(codes) * 9 // 10], codes[len(codes) * 9 // 10 :]
        self.model = GPT(config, len(letters)).to(run.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=config.lr)
        self.round = 0
        run.log(f"{len(text)} characters, {len(letters)} different ones")

    def train(self) -> Iterator[dict[str, Any]]:
        """Yield a record a round."""
        while self.round < self.config.rounds:
            total = sum(self._step() for _ in range(self.config.steps))
            self.round += 1
            yield {
                "step": self.round * self.config.steps,
                "train_bits_per_char": total / self.config.steps,
                "bits_per_char": self._bits(self.valid_codes),
            }

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "round": self.round,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.round = state["round"]

    def _step(self) -> float:
        starts = torch.randint(len(self.train_codes) - self.config.context, (self.config.batch_size,))
        loss = self._loss(self.train_codes, starts)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item() / math.log(2)

    def _loss(self, codes: Tensor, starts: Tensor) -> Tensor:
        windows = torch.stack([codes[start : start + self.config.context + 1] for start in starts])
        logits = self.model(windows[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())

    @torch.no_grad()
    def _bits(self, codes: Tensor) -> float:
        starts = torch.arange(0, len(codes) - self.config.context, self.config.context)
        return self._loss(codes, starts).item() / math.log(2)


class GPT(nn.Module):
    """Causal transformer blocks over learned embeddings of characters and positions."""

    def __init__(self, config: Config, letters: int):
        super().__init__()
        self.letters = nn.Embedding(letters, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        block = nn.TransformerEncoderLayer(
            config.width, config.heads, 4 * config.width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(block, config.blocks, enable_nested_tensor=False)
        self.head = nn.Linear(config.width, letters)

    def forward(self, codes: Tensor) -> Tensor:
        """Logits of the next character [batch, time, letters] for codes [batch, time]."""
        time = codes.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(time, device=codes.device)
        x = self.letters(codes) + self.positions(torch.arange(time, device=codes.device))
        return self.head(self.blocks(x, mask=mask, is_causal=True))


def _find(name: str, data_dir: Path | None) -> Path:
    beside = Path(__file__).with_name(name)
    return beside if data_dir is None or beside.is_file() else data_dir / name
