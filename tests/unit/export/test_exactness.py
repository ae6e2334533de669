from __future__ import annotations

import pytest
import torch

from qat.export import exactness
from qat.export.exactness import is_exact, misfit, name_misfits, significand_bits


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ([0.0], 0),
        ([], 0),
        ([1.0, -2.0], 1),
        ([0.75], 2),
        ([7 * 2.0**-130], 3),
        ([127.0 * 129], 14),
        ([1 + 2.0**-23], 24),
    ],
)
def test_significand_bits(values, bits):
    assert significand_bits(torch.tensor(values)) == bits


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_tensor_is_exact_up_to_the_types_own_bits(dtype):
    bits = {torch.float16: 11, torch.bfloat16: 8}[dtype]
    fits, too_many = torch.tensor([2.0**bits - 1]), torch.tensor([2.0**bits + 1])
    assert is_exact(fits, dtype)
    assert not is_exact(too_many, dtype)
    assert misfit(too_many, dtype) == f"needs {bits + 1} significand bits"


def test_numbers_out_of_range_are_named():
    assert misfit(torch.tensor([1.0, 2.0**-30, 2.0**-28]), torch.float16) == "holds 9.31323e-10, out of its range"
    assert misfit(torch.tensor([65536.0]), torch.float16) == "holds 65536, out of its range"


def test_a_number_of_as_many_bits_as_the_type_has_can_still_be_out_of_range():
    assert misfit(torch.tensor([2047 * 2.0**-40]), torch.float16) == "holds 1.86174e-09, out of its range"


@pytest.mark.parametrize("chunk", [1, 8])
def test_the_number_nearest_to_zero_is_named_whatever_its_sign(monkeypatch, chunk):
    monkeypatch.setattr(exactness, "_CHUNK", chunk)
    tensor = torch.tensor([-65536.0, 2.0**-30, -(2.0**-31), 1.0])
    assert misfit(tensor, torch.float16) == "holds -4.65661e-10, out of its range"


def test_a_nan_is_compared_by_its_bits():
    own = torch.tensor([torch.nan]).to(torch.bfloat16).float()  # which one it is depends on the processor
    other = (own.view(torch.int32) ^ 1).view(torch.float32)
    assert is_exact(own, torch.bfloat16)
    assert not is_exact(other, torch.bfloat16)
    assert misfit(other, torch.bfloat16) == "holds numbers that are not finite"


def test_every_number_of_a_large_tensor_is_looked_at(monkeypatch):
    monkeypatch.setattr(exactness, "_CHUNK", 4)
    tensor = torch.ones(3, 3)
    assert is_exact(tensor, torch.float16)
    tensor[2, 2] = 1 + 2.0**-11
    assert not is_exact(tensor, torch.float16)
    assert significand_bits(tensor) == 12
    tensor[2, 2] = 2.0**-30
    assert misfit(tensor, torch.float16) == "holds 9.31323e-10, out of its range"


def test_a_type_is_compared_with_any_other():
    assert not is_exact(torch.tensor([1 + 2.0**-30], dtype=torch.float64), torch.float32)
    assert not is_exact(torch.tensor([1 + 2.0**-10], dtype=torch.float16), torch.bfloat16)
    assert is_exact(torch.tensor([1 + 2.0**-7], dtype=torch.bfloat16), torch.float16)
    assert not is_exact(torch.tensor([2.0**-30], dtype=torch.bfloat16), torch.float16)


def test_the_first_misfits_are_explained_and_all_are_named():
    tensors = {name: torch.full((2,), 1 + 2.0**-11) for name in "abcde"} | {"fits": torch.ones(1)}
    wrong, reasons = name_misfits(tensors.items(), torch.float16, named=2)
    assert wrong == list("abcde")
    assert reasons == "a needs 12 significand bits, b needs 12 significand bits and 3 more"
    assert name_misfits(tensors.items(), torch.float16, named=5)[1].endswith("e needs 12 significand bits")
    assert name_misfits([("fits", torch.ones(1))], torch.float16) == ([], "")


def test_negative_zero_and_integers_are_exact():
    assert is_exact(torch.tensor([-0.0]), torch.float16)
    assert is_exact(torch.tensor([torch.inf, -torch.inf]), torch.float16)
    assert misfit(torch.tensor([torch.inf, 1 + 2.0**-11]), torch.float16) == "needs 12 significand bits"
    assert is_exact(torch.tensor([2**31 - 1]), torch.float16)
