"""Element types as torch objects."""

from __future__ import annotations

import torch

from loaders.format.dtypes import ITEMSIZE

#: By name; a release of torch may lack the newest ones.
BY_NAME: dict[str, torch.dtype] = {
    name: found for name in ITEMSIZE if isinstance(found := getattr(torch, name, None), torch.dtype)
}
#: The other way round.
NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in BY_NAME.items()}
