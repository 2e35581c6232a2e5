"""A model of one parameter, and the averages that a `Belay` holds."""

import torch
from torch import nn

from belay import Belay


class Weight(nn.Module):
    """One parameter, set by hand."""

    def __init__(self, *values: float, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(values, dtype=dtype))

    def set(self, values: torch.Tensor | float) -> None:
        with torch.no_grad():
            self.weight.copy_(torch.as_tensor(values))


def averages_of(average: Belay) -> dict[str, torch.Tensor]:
    return average.state_dict()["average"]
