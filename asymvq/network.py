"""The interface of all that turns a latent into a picture: our autoencoders, and a host's VAEs."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Grid(Protocol):
    """Latents and the pictures they stand for: what `Config` and `Network` both say.

    They may have one more attribute, `context`: the pixels around a mask that a mask-local decode has to see to be like
    a full one (`asymvq.config.CONTEXT` without it), or None where that is all of the picture.
    """

    @property
    def latent_channels(self) -> int: ...

    @property
    def image_channels(self) -> int: ...

    @property
    def factor(self) -> int:
        """Pixels a side of one cell of the latent."""
        ...


class Network(Grid, Protocol):
    """`asymvq.decode` takes any of these. `AsymmetricAutoencoder` is one.

    They may have two more attributes. `reports`: true where `decode` also takes the keyword `report`, a function that
    it calls between two steps with the share of its work that is done (`asymvq.walk.Report`). `sees_errors`: true where
    it takes `plain` and `harmonised` too, as the autoencoder's does.
    """

    @property
    def takes_condition(self) -> bool:
        """Whether `decode` can be given image and mask. Where it cannot, it decodes plainly."""
        ...

    def place(self) -> tuple[torch.device, torch.dtype]:
        """What it computes on, and in."""
        ...

    def decode(self, latent: Tensor, *, image: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) in about [-1, 1] of (B, C, h, w), H = h · factor.

        Args:
            image: (B, 3, H, W) in [-1, 1], 0 where it is edited. Never given where it takes no condition.
            mask: (B, 1, H, W), 0 and 1, 1 = edited; given with `image`.
        """
        ...

    def decode_bytes(
        self, latent_size: tuple[int, int], *, dtype: torch.dtype, device: torch.device, conditioned: bool
    ) -> int:
        """What `decode` takes at its peak for one picture of this latent's height and width, beside the weights."""
        ...
