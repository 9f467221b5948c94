"""A child that measures how fast this machine multiplies matrices in bf16 and in fp32."""

from __future__ import annotations

import torch

from inhouse_torch.precision import compute_dtype, gemm_rate
from training.child import answer

SIZE = 2048
"""Large enough that nothing but the products counts."""

if __name__ == "__main__":
    answer(
        bfloat16=gemm_rate(torch.bfloat16, size=SIZE),
        float32=gemm_rate(torch.float32, size=SIZE),
        chosen=str(compute_dtype("auto")).removeprefix("torch."),
        threads=torch.get_num_threads(),
    )
