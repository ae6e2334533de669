"""What the workers share that hold a causal language model of transformers, in whatever release their Python has."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class CausalLM:
    """The loaded model, behind the methods of the protocol."""

    model: Any
    """A ``PreTrainedModel`` on the CPU; its worker's ``load`` sets it."""

    @torch.inference_mode()
    def logits(self, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 [batch, length, vocabulary] of int64 [batch, length]."""
        result: NDArray[np.float32] = self.model(input_ids=torch.from_numpy(tokens)).logits.float().numpy()
        return result

    def weight(self, module: str) -> NDArray[np.float32]:
        """The weight of a linear layer or an embedding, [out, in]."""
        found = self.model.get_submodule(module)
        weight = found.weight.detach()
        values: NDArray[np.float32] = (weight.t() if type(found).__name__ == "Conv1D" else weight).float().numpy()
        return values

    @torch.inference_mode()
    def continue_greedily(self, prompt: NDArray[np.int64], new_tokens: int) -> list[int]:
        """The most likely next tokens, one by one; a stop token is the last."""
        ids = torch.from_numpy(prompt[None])
        out = self.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            temperature=None,  # the export's own options of sampling, which a release may complain of
            top_p=None,
            top_k=None,
            pad_token_id=0,  # pads nothing: there is one row
        )
        return [int(token) for token in out[0, len(prompt) :]]
