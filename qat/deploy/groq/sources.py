"""Who says what the rules say."""

from __future__ import annotations

LORA = "console.groq.com/docs/lora"
API = "console.groq.com/docs/openai, and the types of the groq SDK 1.7.0"
GROQFLOW = "github.com/groq/groqflow 4.3.1"
POLICY = "our own policy: Groq is silent on it"
