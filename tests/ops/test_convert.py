from __future__ import annotations

import numpy as np
import pytest
import torch

from stpipe.ops.convert import as_matrix, as_tensor, full_precision, upcast


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.int64, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_upcast(given: torch.dtype, kept: torch.dtype) -> None:
    assert upcast(torch.ones(2, dtype=given)).dtype == kept


def test_upcast_does_not_copy_what_fits() -> None:
    x = torch.ones(2)
    assert upcast(x) is x


def test_lists_are_fp32_and_keep_their_values() -> None:
    x = as_tensor([[1, 2], [3, 4.5]])
    assert x.dtype == torch.float32
    assert x.tolist() == [[1, 2], [3, 4.5]]


def test_a_vector_is_a_matrix_of_one_row() -> None:
    assert as_matrix(np.arange(3.0)).shape == (1, 3)


def test_autocast_is_off_inside() -> None:
    x = torch.ones(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with full_precision(x):
            assert (x @ x).dtype == torch.float32
    with full_precision(torch.ones(2, device="meta")):
        pass
