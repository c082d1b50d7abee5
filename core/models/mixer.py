"""MLP-Mixer.

Tolstikhin et al. 2021, "MLP-Mixer: An all-MLP Architecture for Vision" (arXiv:2105.01601), fig. 1 and eq. 1.
Original: https://github.com/google-research/vision_transformer. Widths 256 with 4 blocks and 10 classes:
2,376,458 parameters at patch 2; 2,188,298 at 4; 2,175,818 at 8; 2,310,938 at 16.

Shapes: B batch, N tokens (patches), D channels of a token.
"""

from collections.abc import Callable

from torch import Tensor, nn

_EPSILON = 1e-6  # of LayerNorm, as in the original


class MixerBlock(nn.Module):
    """Mixes tokens, then channels, each by an MLP after a LayerNorm, with a residual connection; keeps [B, N, D]."""

    def __init__(
        self,
        patches: int,
        embed_dim: int,
        token_hidden: int,
        channel_hidden: int,
        activation: Callable[[], nn.Module],
        dropout: float,
    ):
        super().__init__()
        self.norm_tokens = nn.LayerNorm(embed_dim, _EPSILON)
        self.tokens = _mlp(patches, token_hidden, activation, dropout)
        self.norm_channels = nn.LayerNorm(embed_dim, _EPSILON)
        self.channels = _mlp(embed_dim, channel_hidden, activation, dropout)

    def forward(self, x_BND: Tensor) -> Tensor:
        x_BND = x_BND + self.tokens(self.norm_tokens(x_BND).mT).mT
        return x_BND + self.channels(self.norm_channels(x_BND))


class Mixer(nn.Module):
    """Images [batch, *shape] to logits [batch, classes]; patches divide their height and width.

    `token_ratio` and `channel_ratio` are the hidden widths of the two MLPs over `embed_dim`, as in timm.
    """

    def __init__(
        self,
        patch_size: int,
        embed_dim: int,
        blocks: int,
        token_ratio: float,
        channel_ratio: float,
        classes: int,
        activation: Callable[[], nn.Module] = nn.GELU,
        dropout: float = 0.0,
        shape: tuple[int, int, int] = (3, 32, 32),
    ):
        super().__init__()
        channels, height, width = shape
        patches = (height // patch_size) * (width // patch_size)
        token_hidden, channel_hidden = int(token_ratio * embed_dim), int(channel_ratio * embed_dim)
        self.patch_embed = nn.Conv2d(channels, embed_dim, patch_size, patch_size)
        self.blocks = nn.ModuleList(
            MixerBlock(patches, embed_dim, token_hidden, channel_hidden, activation, dropout)
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(embed_dim, _EPSILON)
        self.head = nn.Linear(embed_dim, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BND = self.patch_embed(x_BCHW).flatten(2).mT
        for block in self.blocks:
            x_BND = block(x_BND)
        return self.head(self.norm(x_BND).mean(1))


def _mlp(width: int, hidden: int, activation: Callable[[], nn.Module], dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden),
        activation(),
        nn.Dropout(dropout),
        nn.Linear(hidden, width),
        nn.Dropout(dropout),
    )
