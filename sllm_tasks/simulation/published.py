"""What the paper's figures say, to be shown beside what is simulated (ServerlessLLM, OSDI '24, section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A published number and where it is."""

    figure: str
    about: str
    value: float
    unit: str


#: Mean startup latency by size, data set and system; the paper does not say at which rate.
PUBLISHED_MEANS_S: Final[Mapping[tuple[str, str, str], float]] = {
    (size, data, system): mean_s
    for size, data, means_s in (
        ("opt-6.7b", "gsm8k", (12.1, 8.2, 0.8)),
        ("opt-13b", "gsm8k", (142.8, 140.1, 0.9)),
        ("opt-30b", "gsm8k", (213.0, 199.2, 7.5)),
        ("opt-6.7b", "sharegpt", (27.6, 17.9, 0.8)),
        ("opt-13b", "sharegpt", (182.2, 162.4, 1.6)),
        ("opt-30b", "sharegpt", (260.2, 261.8, 89.8)),
    )
    for system, mean_s in zip(("ray-serve", "ray-serve-cache", "serverlessllm"), means_s, strict=True)
}

PUBLISHED: Final = (
    Published(figure="8", about="P99 of Shepherd* over ServerlessLLM, GSM8K, 1.4/s", value=1.27, unit="x"),
    Published(figure="8", about="P99 of Serverless over ServerlessLLM, GSM8K, 1.4/s", value=1.95, unit="x"),
    Published(figure="10", about="finished, OPT-30B, ServerlessLLM", value=0.89, unit="share"),
    Published(figure="10", about="finished, OPT-30B, Ray Serve with cache", value=0.26, unit="share"),
    Published(figure="12a", about="mean, ServerlessLLM, 1 gpu per node", value=4.0, unit="s"),
    Published(figure="12a", about="mean, Ray Serve with cache, 4 gpus per node", value=12.0, unit="s"),
)
