from __future__ import annotations

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

from qat.export import pack
from qat.export.pack import pack_codes
from qat.grid import qrange

BITS = range(2, 9)


def random_codes(bits: int, *shape: int) -> torch.Tensor:
    low, high = qrange(bits)
    codes = torch.randint(low, high + 1, shape, generator=torch.Generator().manual_seed(bits)).to(torch.int8)
    codes.view(-1)[0], codes.view(-1)[-1] = low, high
    return codes


@pytest.mark.parametrize("columns", [1, 3, 4, 8, 31, 32, 33, 64, 96, 100])
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("bits", BITS)
def test_words_are_the_librarys(bits, rows, columns):
    codes = random_codes(bits, rows, columns)
    packed = pack_codes(codes, bits)
    assert packed.dtype == torch.int32
    assert torch.equal(packed, pack_to_int32(codes, bits))
    assert torch.equal(unpack_from_int32(packed, bits, codes.shape), codes)


@pytest.mark.parametrize("bits", BITS)
def test_the_stream_by_definition(bits):
    """In integers of Python: code ``i`` lies at bit ``i * bits``, raised to be unsigned."""
    codes = random_codes(bits, 1, 64)
    stream = sum((int(code) + (1 << (bits - 1))) << (bits * index) for index, code in enumerate(codes[0]))
    words = sum((int(word) & 0xFFFFFFFF) << (32 * index) for index, word in enumerate(pack_codes(codes, bits)[0]))
    assert words == stream


@pytest.mark.parametrize("size", [63, 64, 65, 128, 129, 200])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_borders_of_the_chunks_do_not_show(bits, size, monkeypatch):
    monkeypatch.setattr(pack, "_CHUNK", 64)
    codes = random_codes(bits, size, 16)
    assert torch.equal(pack_codes(codes, bits), pack_to_int32(codes, bits))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_one_chunk_of_the_real_size_and_a_word_more(bits):
    codes = random_codes(bits, 1, pack._CHUNK + 32)
    assert torch.equal(pack_codes(codes, bits), pack_to_int32(codes, bits))


@pytest.mark.parametrize("bits", BITS)
def test_codes_need_not_be_contiguous_and_stay_as_they_are(bits):
    codes = random_codes(bits, 64, 32)
    before = codes.clone()
    assert torch.equal(pack_codes(codes.t(), bits), pack_to_int32(codes.t().contiguous(), bits))
    assert torch.equal(pack_codes(codes[::2, 16:], bits), pack_to_int32(codes[::2, 16:].contiguous(), bits))
    assert torch.equal(codes, before)


@pytest.mark.parametrize("columns", [5, 32])
@pytest.mark.parametrize("bits", BITS)
def test_on_meta_only_the_shape_is_made(bits, columns):
    codes = random_codes(bits, 3, columns)
    planned, packed = pack_codes(codes.to("meta"), bits), pack_codes(codes, bits)
    assert planned.is_meta
    assert (planned.shape, planned.dtype) == (packed.shape, packed.dtype)


@pytest.mark.parametrize("shape", [(0, 32), (3, 0)])
def test_nothing_packs_to_nothing(shape):
    assert pack_codes(torch.empty(shape, dtype=torch.int8), 4).shape == (shape[0], shape[1] // 8)


@pytest.mark.parametrize("columns", [5, 32, 100])
@pytest.mark.parametrize("bits", BITS)
def test_words_own_their_memory_which_is_written_as_it_is(bits, columns):
    packed = pack_codes(random_codes(bits, 3, columns), bits)
    assert packed.is_contiguous()
    assert packed.untyped_storage().nbytes() == packed.nbytes
