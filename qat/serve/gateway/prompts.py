"""Whether a prompt fits into what the model can take in."""

from __future__ import annotations

import asyncio
from typing import Any

from qat.engines.serving import PromptCounter
from qat.errors import InputError
from qat.serve.gateway.errors import bad_request


class Prompts:
    """Counts prompts before the engine gets them: some engines compute one that is too long, and what they answer is
    worth nothing; others fail in the middle of their stream.

    Args:
        count: tokens of the prompt that messages make; None: nobody counts.
        context: tokens that prompt and answer may have together; None: no limit is known.
    """

    def __init__(self, count: PromptCounter | None, context: int | None) -> None:
        self._count = count
        self._context = context

    async def fit(self, body: dict[str, Any]) -> int:
        """Tokens of the prompt of an engine's request; 0: nobody counts.

        A request that does not limit its answer is limited to what the context leaves, as most engines do themselves.

        Raises:
            ApiError: 400: prompt and answer do not fit, in Groq's words and with the numbers; or the messages make no
                prompt.
        """
        if self._count is None:
            return 0
        try:
            tokens = await asyncio.to_thread(self._count, body["messages"])
        except InputError as error:
            raise bad_request(str(error)) from None
        if self._context is not None:
            wanted = body.setdefault("max_tokens", max(1, self._context - tokens))
            if tokens + wanted > self._context:
                raise bad_request(
                    f"Please reduce the length of the messages or completion: {tokens} tokens of messages and "
                    f"{wanted} of completion do not fit the context of {self._context}",
                    "context_length_exceeded",
                )
        return tokens
